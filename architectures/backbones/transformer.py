"""A decoder-only transformer: RMSNorm, rotary positions, QK-norm, SwiGLU, causal SDPA; its residual is whatever scheme it is given."""

from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resbench.architectures.backbones.initialise import Embedding, Linear, initialise
from resbench.architectures.linear_cross_entropy import LossKind, linear_cross_entropy
from resbench.architectures.norm import RMSNorm
from resbench.architectures.recompute import best_block_length
from resbench.architectures.scheme import SchemeFactory
from resbench.architectures.sizes import default_ffn_width, find_size
from resbench.architectures.stack import Observer, run_stack
from resbench.kernels import functional


class Attention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys (QK-norm, arXiv 2010.04245); causal, with rotary positions, unless told otherwise."""

    rotation: Tensor | None

    def __init__(self, width: int, n_heads: int, rotation: Tensor | None, causal: bool = True) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.causal = causal
        self.register_buffer("rotation", rotation, persistent=False)
        self.qkv = Linear(width, 3 * width)
        self.query_norm = RMSNorm(width // n_heads)
        self.key_norm = RMSNorm(width // n_heads)
        self.out = Linear(width, width)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, heads, T, D], as they are multiplied."""
        qkv = self.qkv(x).unflatten(-1, (3, self.n_heads, -1))
        query, key, value = functional.rotary(
            qkv, self.query_norm.weight, self.key_norm.weight, self.rotation, self.query_norm.eps
        )
        return query.transpose(-3, -2), key.transpose(-3, -2), value.transpose(-3, -2)

    def max_logit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The largest logit q . k / sqrt(D) of x [B, T, C], of all pairs of which one sees the other (``mask`` as in `forward`): a scalar."""
        query, key, _ = self.heads(x)
        if mask is None:
            seen = torch.ones(1, 1, x.shape[-2], x.shape[-2], dtype=torch.bool, device=x.device)
            mask = seen.tril() if self.causal else seen
        unseen = (~mask).expand(len(x), -1, -1, -1)
        # A sequence at a time: the scores of all of them are what the attention kernel exists not to hold.
        largest = [
            (q @ k.mT).masked_fill_(hidden, float("-inf")).amax()
            for q, k, hidden in zip(query, key, unseen, strict=True)
        ]
        return torch.stack(largest).amax() * query.shape[-1] ** -0.5

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, T, C]; ``mask`` [B, 1, T, T], true where a position (second to last) may see another, in place of the causal one."""
        query, key, value = self.heads(x)
        y = F.scaled_dot_product_attention(query, key, value, mask, is_causal=self.causal and mask is None)
        return self.out(y.transpose(-3, -2).flatten(-2))


class SwiGLU(nn.Module):
    """``W_down(silu(W_gate x) * W_up x)`` (arXiv 2002.05202), gate and up in one matrix."""

    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.gate_up = Linear(width, 2 * ffn_width)
        self.out = Linear(ffn_width, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * up)


class Branch(nn.Module):
    """The scheme's choice of norm, then attention or MLP."""

    def __init__(self, norm: nn.Module, inner: Attention | SwiGLU) -> None:
        super().__init__()
        self.norm = norm
        self.inner = inner

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.inner(self.norm(u), mask) if isinstance(self.inner, Attention) else self.inner(self.norm(u))

    def max_attention_logit(self, u: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """The largest attention logit on the branch's input u [B, T, C], ``mask`` as in `Attention.forward`; None for an MLP."""
        return self.inner.max_logit(self.norm(u), mask) if isinstance(self.inner, Attention) else None


class Transformer(nn.Module):
    """Embedding, ``2 x depth`` sublayers joined by a residual scheme, a final RMSNorm and the output projection.

    Parameters
    ----------
    scheme: the residual scheme; called with (width, number of sublayers).
    vocab_size: V.
    context_length: T, the longest sequence.
    size: a name from the ladder (`resbench list`); depth, width, n_heads and ffn_width override parts of it.
    depth: layers, each one attention and one MLP sublayer.
    width: C, the size of a hidden vector.
    n_heads: attention heads; must divide the width into an even size.
    ffn_width: hidden size of SwiGLU; default 8/3 of the width, rounded up to a multiple of 32.
    tie_embeddings: use the embedding as output projection.
    rope_base: base of the rotary frequencies.
    stream_dtype: ``compute`` keeps the residual state in the autocast dtype, ``float32`` in full precision.
    recompute: sublayers that keep one residual state between them and compute the others again in the backward pass; 0 keeps every state,
        ``auto`` takes the length with the least memory, about sqrt(n L / (n + 2)) for n streams and L sublayers.

    Raises ValueError for an unknown size, a missing or impossible dimension.
    """

    inputs: ClassVar[tuple[str, ...]] = ("tokens", "documents")

    def __init__(
        self,
        scheme: SchemeFactory,
        vocab_size: int,
        context_length: int,
        size: str | None = "1m",
        depth: int | None = None,
        width: int | None = None,
        n_heads: int | None = None,
        ffn_width: int | None = None,
        tie_embeddings: bool = False,
        rope_base: float = 10000.0,
        stream_dtype: Literal["compute", "float32"] = "compute",
        recompute: int | Literal["auto"] = 0,
    ) -> None:
        super().__init__()
        depth, width, n_heads, base_ffn = shape_of(size, depth, width, n_heads, ffn_width)
        if vocab_size < 1 or context_length < 1:
            raise ValueError(f"vocab_size={vocab_size}, context_length={context_length}: expected at least 1 each")
        self.depth, self.width, self.n_heads = depth, width, n_heads
        self.context_length, self.vocab_size = context_length, vocab_size
        self.stream_dtype = stream_dtype
        if recompute != "auto" and recompute < 0:
            raise ValueError(f"recompute={recompute}: expected at least 0, or auto")

        self.scheme = scheme(width, 2 * depth)
        n_streams = int(getattr(self.scheme, "n_streams", 1))
        self.recompute = best_block_length(n_streams, 2 * depth) if recompute == "auto" else recompute
        self.ffn_widths = widened(base_ffn, width, depth, *self.scheme.widening())
        self.embedding = Embedding(vocab_size, width)
        self.branches = nn.ModuleList()
        rotation = rotation_table(context_length, width // n_heads, rope_base)
        for layer in range(depth):
            self.branches.append(Branch(self.scheme.branch_norm(2 * layer), Attention(width, n_heads, rotation)))
            self.branches.append(Branch(self.scheme.branch_norm(2 * layer + 1), SwiGLU(width, self.ffn_widths[layer])))
        self.final_norm = RMSNorm(width)
        self.head = Linear(width, vocab_size)
        if tie_embeddings:
            self.head.weight = self.embedding.weight
        initialise(self, output_scale=self.scheme.output_init_scale * (2 * depth) ** -0.5)

    def forward(
        self,
        tokens: Tensor,
        documents: Tensor | None = None,
        observe: Observer | None = None,
        targets: Tensor | None = None,
        loss: LossKind = "auto",
    ) -> Tensor:
        """tokens: int64 [B, T] -> logits [B, T, V]; with ``targets`` [B, T] the mean loss instead, without all logits at once.

        ``documents`` [B, T] numbers the document of each token: attention then stays within a document. ``observe`` sees every sublayer
        (`resbench.architectures.stack`), ``loss`` is as in `linear_cross_entropy`.
        """
        if tokens.shape[-1] > self.context_length:
            raise ValueError(
                f"a sequence of {tokens.shape[-1]} tokens: the model was built for context_length={self.context_length}"
            )
        x = self.embedding(tokens)
        device = x.device.type
        if self.stream_dtype == "compute" and torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        mask = self.attention_mask(tokens, documents)
        masked = None if mask is None else partial_masks(self.branches, mask)
        hidden = run_stack(self.scheme, masked or self.branches, x, observe, self.recompute)
        hidden = self.final_norm(hidden)
        if targets is not None:
            return linear_cross_entropy(hidden, self.head.weight, targets, loss)
        return self.head(hidden)

    def attention_mask(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor | None:
        """[B, 1, T, T], true where a position may see another; None for the causal mask. Arguments as in `forward`."""
        return None if documents is None else same_document(documents)

    def params_total(self) -> int:
        """Every trained parameter, shared ones once."""
        return sum(p.numel() for p in self.parameters())

    def params_connection(self) -> int:
        """What the residual scheme adds; part of `params_total`."""
        return self.scheme.connection_params()

    def flops_per_token(self, context_length: int | None = None) -> int:
        """Forward FLOPs per token, a multiply-add as two; a training step costs three times as much.

        Matrix products of attention and MLPs, scores and their application over the causal average of (T + 1) / 2 positions, the output
        projection, and the connections. Embedding look-ups, norms, rotary positions and activations are left out.
        """
        length = self.context_length if context_length is None else context_length
        projections = 2 * 4 * self.width**2 * self.depth
        attention = 2 * 2 * self.width * (length + 1) // 2 * self.depth
        mlps = sum(2 * 3 * self.width * ffn for ffn in self.ffn_widths)
        return projections + attention + mlps + 2 * self.width * self.vocab_size + self.scheme.connection_flops()

    def no_weight_decay(self) -> set[str]:
        """Norms, the embedding (each row is touched rarely, decay would shrink it unseen) and what the scheme names."""
        own = {name for name, p in self.named_parameters() if p.ndim < 2 and not name.startswith("scheme.")}
        return own | {"embedding.weight"} | {f"scheme.{name}" for name in self.scheme.no_weight_decay()}


def shape_of(
    size: str | None, depth: int | None, width: int | None, n_heads: int | None, ffn_width: int | None
) -> tuple[int, int, int, int]:
    """Depth, width, heads and MLP width: those of the named size where they are not given. Raises ValueError for what is missing or impossible."""
    named = find_size(size) if size is not None else None
    if named is not None:
        depth = named.depth if depth is None else depth
        n_heads = (named.n_heads if width is None else None) if n_heads is None else n_heads
        width = named.width if width is None else width
    for field, value in (("depth", depth), ("width", width), ("n_heads", n_heads)):
        if value is None:
            raise ValueError(f"{field} is not set: give a size with no own width, or depth, width and n_heads together")
        if value < 1:
            raise ValueError(f"{field}={value}: expected at least 1")
    assert depth is not None
    assert width is not None
    assert n_heads is not None
    if width % n_heads or (width // n_heads) % 2:
        raise ValueError(
            f"width={width} with n_heads={n_heads}: expected heads of equal, even size (width divisible by 2 x n_heads)"
        )
    return depth, width, n_heads, ffn_width if ffn_width is not None else default_ffn_width(width)


def same_document(documents: Tensor) -> Tensor:
    """[B, T] document numbers -> bool [B, 1, T, T]: whether position t (third axis) may see s: no later, and of its own document."""
    return (documents[:, :, None] == documents[:, None, :]).tril().unsqueeze(1)


def partial_masks(branches: nn.ModuleList, mask: Tensor) -> list[partial[Tensor]]:
    """The branches with the mask bound."""
    return [partial(branch, mask=mask) for branch in branches]


def widened(
    ffn_width: int, width: int, depth: int, extra_params: int, extra_flops: int, multiple: int = 8
) -> list[int]:
    """MLP widths per layer that absorb ``extra_params`` parameters and ``extra_flops`` forward FLOPs per token.

    A hidden unit of SwiGLU has 3 x width parameters and 6 x width FLOPs. Widths stay multiples of ``multiple`` where they were (tensor
    cores need it) and the remainder goes to the first layers one multiple at a time, so the match is exact to half of one such step.
    """
    units = extra_params / (3 * width) + extra_flops / (6 * width)
    steps = round(units / multiple)
    return [ffn_width + multiple * (steps // depth + (layer < steps % depth)) for layer in range(depth)]


def rotation_table(length: int, head_width: int, base: float) -> Tensor:
    """cos and sin of position x frequency, float32 [2, T, D / 2] (RoPE, arXiv 2104.09864)."""
    frequency = base ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), frequency)
    return torch.stack([angle.cos(), angle.sin()])

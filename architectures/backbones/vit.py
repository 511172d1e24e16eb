"""A vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) in the plain form of Beyer et al. 2022 (arXiv 2205.01580).

Patches are embedded linearly, fixed two-dimensional sine-cosine positions are added, attention sees all patches, and the mean over patches is
classified. Sublayers are the transformer's (RMSNorm, QK-norm, SwiGLU), so that sizes of the ladder mean the same in both.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from resbench.architectures.backbones.initialise import initialise
from resbench.architectures.backbones.transformer import Attention, Branch, SwiGLU, shape_of, widened
from resbench.architectures.norm import RMSNorm
from resbench.architectures.scheme import SchemeFactory
from resbench.architectures.stack import Observer, run_stack


class VisionTransformer(nn.Module):
    """Images [B, 3, H, W] -> logits [B, classes]: patches, ``2 x depth`` sublayers joined by a residual scheme, mean over patches.

    Parameters
    ----------
    scheme: the residual scheme; called with (width, number of sublayers).
    n_classes: number of logits.
    image_size: H = W in pixels.
    patch_size: side of a patch; divides the image size.
    size: a name from the ladder (`resbench list`); depth, width, n_heads and ffn_width override parts of it.
    depth: layers, each one attention and one MLP sublayer.
    width: C; divisible by 4, for the positions.
    n_heads: attention heads; must divide the width into an even size.
    ffn_width: hidden size of SwiGLU; default 8/3 of the width, rounded up to a multiple of 32.
    stream_dtype: ``compute`` keeps the residual state in the autocast dtype, ``float32`` in full precision.

    Raises ValueError for an unknown size, a missing or impossible dimension.
    """

    inputs: ClassVar[tuple[str, ...]] = ("images",)
    positions: Tensor

    def __init__(
        self,
        scheme: SchemeFactory,
        n_classes: int,
        image_size: int,
        patch_size: int = 4,
        size: str | None = "1m",
        depth: int | None = None,
        width: int | None = None,
        n_heads: int | None = None,
        ffn_width: int | None = None,
        stream_dtype: Literal["compute", "float32"] = "compute",
    ) -> None:
        super().__init__()
        depth, width, n_heads, base_ffn = shape_of(size, depth, width, n_heads, ffn_width)
        if width % 4:
            raise ValueError(f"width={width}: expected a multiple of 4, for sines and cosines of two coordinates")
        if n_classes < 1:
            raise ValueError(f"n_classes={n_classes}: expected at least 1")
        if patch_size < 1 or image_size % patch_size:
            raise ValueError(f"patch_size={patch_size}: expected a divisor of image_size={image_size}")
        self.depth, self.width, self.n_heads = depth, width, n_heads
        self.image_size, self.patch_size = image_size, patch_size
        self.stream_dtype = stream_dtype
        self.n_patches = (image_size // patch_size) ** 2
        self.scheme = scheme(width, 2 * depth)
        self.ffn_widths = widened(base_ffn, width, depth, *self.scheme.widening())
        self.embedding = nn.Linear(3 * patch_size**2, width, bias=False)
        self.register_buffer("positions", sine_cosine(image_size // patch_size, width), persistent=False)
        self.branches = nn.ModuleList()
        for layer in range(depth):
            attention = Attention(width, n_heads, rotation=None, causal=False)
            self.branches.append(Branch(self.scheme.branch_norm(2 * layer), attention))
            self.branches.append(Branch(self.scheme.branch_norm(2 * layer + 1), SwiGLU(width, self.ffn_widths[layer])))
        self.final_norm = RMSNorm(width)
        self.head = nn.Linear(width, n_classes)
        initialise(self, output_scale=self.scheme.output_init_scale * (2 * depth) ** -0.5)

    def forward(self, images: Tensor, observe: Observer | None = None) -> Tensor:
        """images: float [B, 3, H, W] -> logits [B, classes]. ``observe`` sees every sublayer (`resbench.architectures.stack`)."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"images of {images.shape[-2]} x {images.shape[-1]} pixels: the model was built for image_size={self.image_size}"
            )
        x = self.embedding(patches(images, self.patch_size))
        x = x + self.positions.to(x.dtype)
        device = x.device.type
        if self.stream_dtype == "float32":
            x = x.float()
        elif torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        hidden = run_stack(self.scheme, self.branches, x, observe)
        return self.head(self.final_norm(hidden).mean(-2))

    def params_total(self) -> int:
        """Every trained parameter."""
        return sum(p.numel() for p in self.parameters())

    def params_connection(self) -> int:
        """What the residual scheme adds; part of `params_total`."""
        return self.scheme.connection_params()

    def flops_per_token(self) -> int:
        """Forward FLOPs per image, a multiply-add as two: matrix products, scores and their application over all patches, the connections."""
        per_patch = 2 * self.embedding.in_features * self.width
        per_patch += 2 * 4 * self.width**2 * self.depth + 2 * 2 * self.width * self.n_patches * self.depth
        per_patch += sum(2 * 3 * self.width * ffn for ffn in self.ffn_widths) + self.scheme.connection_flops()
        return self.n_patches * per_patch + 2 * self.width * self.head.out_features

    def no_weight_decay(self) -> set[str]:
        """Norms and biases, and what the scheme names."""
        own = {name for name, p in self.named_parameters() if p.ndim < 2 and not name.startswith("scheme.")}
        return own | {f"scheme.{name}" for name in self.scheme.no_weight_decay()}


def patches(images: Tensor, side: int) -> Tensor:
    """[B, 3, H, W] -> [B, (H / side) (W / side), 3 side^2], rows of patches from the top."""
    cut = images.unflatten(-1, (-1, side)).unflatten(-3, (-1, side))  # [B, 3, rows, side, columns, side]
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def sine_cosine(side: int, width: int, base: float = 10000.0) -> Tensor:
    """[side^2, width] float32: sines and cosines of the row, then of the column, width / 4 frequencies each."""
    frequency = base ** (-torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    angle = torch.outer(torch.arange(side, dtype=torch.float32), frequency)
    one = torch.cat([angle.sin(), angle.cos()], dim=-1)  # [side, width / 2]
    rows, columns = one[:, None].expand(side, side, -1), one[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)

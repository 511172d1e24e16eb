"""A language model under training: a backbone joined by a residual scheme, cross-entropy, AdamW and a warm-up-stable-decay schedule."""

import contextlib
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from resbench.architectures.linear_cross_entropy import LossKind
from resbench.architectures.scheme import ResidualScheme
from resbench.harness.compilation import CompileMode, compiled
from resbench.harness.schedule import WarmupStableDecay
from resbench.harness.sharding import FullyShardedStrategy
from resbench.tasks.task import model_inputs

SchemeFactory = Callable[[int, int], ResidualScheme]
Attention = Literal["auto", "torch", "cudnn", "flash"]
BackboneFactory = Callable[[SchemeFactory, int, int], nn.Module]
"""``(scheme, vocab_size, context_length) -> backbone``: a backbone with its own arguments already bound."""


class LanguageModel(LightningModule):
    """Next-token prediction with any scheme in any backbone.

    Parameters
    ----------
    scheme: the residual scheme: a name from `resbench list` or a class path, with its arguments.
    backbone: the network around it, likewise.
    learning_rate: peak learning rate of AdamW.
    weight_decay: AdamW's decoupled decay of weight matrices. Norms, biases, embeddings and what the scheme names in `no_weight_decay` (the static
        connection parameters) are left alone.
    betas: AdamW's decay rates of the two moments.
    eps: added to the root of AdamW's second moment.
    warmup_fraction: part of the run over which the learning rate rises linearly.
    decay_fraction: part of the run, at its end, over which it falls linearly.
    final_learning_rate_fraction: what it falls to, as a fraction of the peak.
    loss_bound: a training or validation loss (nats) above this counts as divergence; null means four times the loss of a uniform guess.
    loss: how the loss and its gradient come from the output projection: ``chunked`` never holds the logits of all tokens, ``plain`` does,
        ``auto`` is ``chunked`` for vocabularies from 4096 on. A backbone that only gives logits has the plain one.
    attention: kernels of scaled_dot_product_attention to try first on a GPU: ``torch`` leaves it to torch, ``auto`` is ``cudnn`` on Hopper and later,
        where it is the fastest, unless the run is deterministic.
    compile: compile the network with torch.compile, as one graph; null compiles on a GPU.
    compile_mode: of torch.compile; ``reduce-overhead`` replays CUDA graphs, for models so small that launching kernels takes longer than they run.

    Raises ValueError for a value out of range.
    """

    def __init__(
        self,
        scheme: SchemeFactory,
        backbone: BackboneFactory,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        warmup_fraction: float = 0.05,
        decay_fraction: float = 0.2,
        final_learning_rate_fraction: float = 0.0,
        loss_bound: float | None = None,
        loss: LossKind = "auto",
        attention: Attention = "auto",
        compile: bool | None = None,
        compile_mode: CompileMode = "default",
    ) -> None:
        super().__init__()
        if not (learning_rate > 0 and math.isfinite(learning_rate)):
            raise ValueError(f"model.learning_rate={learning_rate}: expected a positive number")
        if weight_decay < 0:
            raise ValueError(f"model.weight_decay={weight_decay}: expected at least 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"model.betas={list(betas)}: expected two numbers from 0 up to, not including, 1")
        for name, fraction in (("warmup", warmup_fraction), ("decay", decay_fraction)):
            if not 0 <= fraction <= 1:
                raise ValueError(f"model.{name}_fraction={fraction}: expected a number from 0 to 1")
        if warmup_fraction + decay_fraction > 1:
            raise ValueError(
                f"model.warmup_fraction={warmup_fraction} and model.decay_fraction={decay_fraction} add up to more than the whole run"
            )
        if not 0 <= final_learning_rate_fraction <= 1:
            raise ValueError(
                f"model.final_learning_rate_fraction={final_learning_rate_fraction}: expected a number from 0 to 1"
            )
        choices = (
            ("loss", loss, LossKind),
            ("attention", attention, Attention),
            ("compile_mode", compile_mode, CompileMode),
        )
        for name, value, known in choices:
            if value not in get_args(known):
                raise ValueError(f"model.{name}={value!r}: expected one of {', '.join(get_args(known))}")
        self._scheme, self._backbone = scheme, backbone
        self.learning_rate, self.weight_decay, self.betas, self.eps = learning_rate, weight_decay, betas, eps
        self.warmup_fraction, self.decay_fraction = warmup_fraction, decay_fraction
        self.final_learning_rate_fraction = final_learning_rate_fraction
        self.loss_bound = loss_bound
        self.loss_kind, self.attention = loss, attention
        self.compile_network, self.compile_mode = compile, compile_mode
        self.network: nn.Module | None = None
        self._forward: Callable[..., Tensor] | None = None
        self._knows_loss = False
        self.init_seed = torch.initial_seed()
        self._broken: Tensor | None = None
        self.grad_norm: Tensor | None = None
        """Norm of all gradients before clipping at the last optimizer step, a scalar on the device."""

    def build(self, vocab_size: int, context_length: int) -> nn.Module:
        """Construct the network; the same seed gives the same weights whatever drew random numbers before.

        Raises ValueError for a configuration no network can have.
        """
        if self.network is None:
            # The CPU's generator alone: asking for a GPU's would initialise CUDA in processes that others are forked from.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(self.init_seed)
                network = self._backbone(self._scheme, vocab_size, context_length)
            self.network = network
            self._run_with(network)
            self._knows_loss = "targets" in inspect.signature(network.forward).parameters
        return self.network

    def bound_for(self, vocab_size: int) -> float:
        """The loss above which the run has diverged."""
        return 4.0 * math.log(max(vocab_size, 2)) if self.loss_bound is None else self.loss_bound

    def configure_model(self) -> None:
        """Called by Lightning. Weights are drawn on the CPU, so that a seed means the same weights on every device; Lightning moves them."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        with torch.device("cpu"):
            self.build(data.vocab_size, data.context_length)
        self.compile_for(self.trainer.strategy.root_device)

    def compile_for(self, device: torch.device) -> None:
        """Compile the built network if it is to be compiled on such a device."""
        assert self.network is not None
        if self.compile_network or (self.compile_network is None and device.type == "cuda"):
            # The network alone: compiling the LightningModule would trace Lightning's own bookkeeping.
            sharded = self._trainer is not None and isinstance(self.trainer.strategy, FullyShardedStrategy)
            self._run_with(compiled(self.network, self.compile_mode, whole=not sharded))

    def _run_with(self, forward: Callable[..., Tensor]) -> None:
        # Past nn.Module, which would take it for a second submodule, and its weights for further weights of every checkpoint.
        object.__setattr__(self, "_forward", forward)

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the task gives (tokens, say: int64 [B, T]) -> logits [B, T, V], or [B, V] for images."""
        assert self._forward is not None
        return self._forward(*inputs)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        return self.loss(batch)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy over the scored targets, in nats, float32; a target of -100 is not scored."""
        assert self._forward is not None
        if self.compile_mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
            return self._loss(self._forward, batch).clone()  # the graph's own is overwritten by its next replay
        return self._loss(self._forward, batch)

    def evaluate(self, batch: dict[str, Tensor]) -> Tensor:
        """`loss` without compiling: validation is a small part of a run, and a graph of its own would take longer to compile than it saves."""
        assert self.network is not None
        return self._loss(self.network, batch)

    def _loss(self, forward: Callable[..., Tensor], batch: dict[str, Tensor]) -> Tensor:
        inputs, targets = model_inputs(batch), batch["targets"]
        with attention_kernels(self.attention, targets.device):
            if self._knows_loss:
                return forward(*inputs, targets=targets, loss=self.loss_kind)
            logits = forward(*inputs)
        return F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), ignore_index=-100)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Measure the gradient norm at every step, on the device, and clip to ``trainer.gradient_clip_val`` if that is set.

        From the first gradient that is not finite the fused AdamW leaves the weights alone, without the host having to know: when the losses are
        read some steps later, they are still those of the step that broke, and can be looked at.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradient_clip_algorithm == "value" and gradient_clip_val:
            self.grad_norm = nn.utils.get_total_norm([p.grad for p in parameters])
            nn.utils.clip_grad_value_(parameters, float(gradient_clip_val))
        else:
            self.grad_norm = nn.utils.get_total_norm([p.grad for p in parameters])
            if gradient_clip_val:
                scaled = self.trainer.precision in ("16-mixed", "16-true")
                clip(optimizer, parameters, self.grad_norm / float(gradient_clip_val), scaled)
        self._spare_weights(optimizer, self.grad_norm)

    def _spare_weights(self, optimizer: Optimizer, norm: Any) -> None:
        whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        broken = ~whole.detach().isfinite()
        self._broken = broken if self._broken is None else self._broken | broken
        if optimizer.param_groups[0].get("fused") and self.trainer.precision not in ("16-mixed", "16-true"):
            optimizer.found_inf = self._broken.float()  # type: ignore[attr-defined]

    def configure_optimizers(self) -> Any:
        steps = self.trainer.max_steps
        fused = all(p.device.type in ("cpu", "cuda") for p in self.parameters())
        optimizer = AdamW(
            self.parameter_groups(), lr=self.learning_rate, betas=self.betas, eps=self.eps, fused=fused or None
        )
        schedule = WarmupStableDecay(
            steps, self.warmup_fraction, self.decay_fraction, self.final_learning_rate_fraction
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, schedule), "interval": "step"},
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Two groups: what is decayed, and what is not."""
        assert self.network is not None
        spared: set[str] = getattr(self.network, "no_weight_decay", set)()
        decayed: list[nn.Parameter] = []
        kept: list[nn.Parameter] = []
        for name, parameter in self.network.named_parameters():
            (kept if name in spared or parameter.ndim < 2 else decayed).append(parameter)
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": kept, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]


def clip(optimizer: Optimizer, parameters: list[nn.Parameter], excess: Tensor, scaled: bool = False) -> None:
    """Divide all gradients by ``excess`` (their norm over the limit) where that is above one.

    The fused AdamW does it on its way, saving a pass over the gradients; not for sharded ones, nor where loss scaling (``scaled``) needs that way.
    """
    if optimizer.param_groups[0].get("fused") and type(excess) is Tensor and not scaled:
        optimizer.grad_scale = excess.clamp(min=1.0).float()  # type: ignore[attr-defined]
    else:
        nn.utils.clip_grads_with_norm_(parameters, 1.0, excess)


def attention_kernels(choice: Attention, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """The order in which scaled_dot_product_attention tries its kernels inside."""
    if choice == "auto":
        hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
        choice = "cudnn" if hopper and not torch.are_deterministic_algorithms_enabled() else "torch"
    if choice == "torch" or device.type != "cuda":
        return contextlib.nullcontext()
    first = SDPBackend.CUDNN_ATTENTION if choice == "cudnn" else SDPBackend.FLASH_ATTENTION
    others = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel([first, *(kind for kind in others if kind != first)], set_priority=True)

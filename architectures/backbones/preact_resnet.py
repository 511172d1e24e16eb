"""The pre-activation convolutional ResNet for small images (He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv 1603.05027).

A 3x3 convolution, three stages of width w, 2w, 4w at full, half and quarter resolution, a norm and ReLU, global average pooling, a linear layer.
A stage's sublayers are units at constant shape,

    basic       u -> ReLU -> 3x3 -> BN -> ReLU -> 3x3                          depth 6n + 2, stages n units long
    bottleneck  u -> ReLU -> 1x1 (C/4) -> BN -> ReLU -> 3x3 -> BN -> ReLU -> 1x1     depth 9n + 2, stages four times as wide

and a residual scheme joins them: its state is [B, H W, C], pixels as positions and channels as width. Where channels or resolution change, the
unit is He's own, ``x' = P a + F(a)`` with ``a = ReLU(BN(x))`` and P a 1x1 projection, for every scheme (why: `resbench.architectures.stages`); that
stage has one sublayer less. With `resnet` the network is He's but for one thing: the norm in front of a unit is the scheme's, RMSNorm over the
channels of each pixel in place of batch norm over images and pixels. Norms inside units, in transitions and at the end are batch norms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resbench.architectures.backbones.initialise import initialise
from resbench.architectures.scheme import SchemeFactory
from resbench.architectures.stack import Observer
from resbench.architectures.stages import Stage, StagedScheme

Block = Literal["basic", "bottleneck"]
SIZES: dict[str, tuple[int, Block]] = {
    **{f"resnet-{depth}": (depth, "basic") for depth in (20, 32, 44, 56, 110)},
    "resnet-164": (164, "bottleneck"),
}
"""Name -> (depth, block): the CIFAR networks of the papers."""


@dataclass(frozen=True)
class Convolution:
    """A convolution's shape, for building and counting it; ``side`` is that of its output."""

    inputs: int
    outputs: int
    kernel: int
    side: int
    stride: int = 1

    def build(self) -> nn.Conv2d:
        return nn.Conv2d(self.inputs, self.outputs, self.kernel, self.stride, self.kernel // 2, bias=False)

    @property
    def params(self) -> int:
        return self.inputs * self.outputs * self.kernel**2

    @property
    def flops(self) -> int:
        """Per image, a multiply-add as two; padding counts as pixels, as it does on the hardware."""
        return 2 * self.params * self.side**2


def convolutions(block: Block, inputs: int, width: int, hidden: int, side: int, stride: int = 1) -> list[Convolution]:
    """Those of one unit in order; the 3x3 (of a basic block: the first) has the stride."""
    if block == "basic":
        return [Convolution(inputs, hidden, 3, side, stride), Convolution(hidden, width, 3, side)]
    return [
        Convolution(inputs, hidden, 1, side * stride),
        Convolution(hidden, hidden, 3, side, stride),
        Convolution(hidden, width, 1, side),
    ]


class Unit(nn.Module):
    """The branch of a unit on images [B, C, H, W], from its first ReLU (not included) to its last convolution."""

    def __init__(self, shapes: list[Convolution]) -> None:
        super().__init__()
        *inner, last = shapes
        self.inner = nn.ModuleList(shape.build() for shape in inner)
        self.norms = nn.ModuleList(nn.BatchNorm2d(shape.outputs) for shape in inner)
        self.out = last.build()

    def forward(self, activated: Tensor) -> Tensor:
        for convolution, norm in zip(self.inner, self.norms, strict=True):
            activated = F.relu(norm(convolution(activated)))
        return self.out(activated)


class Sublayer(nn.Module):
    """A unit as a scheme's branch: [B, H W, C] -> [B, H W, C], the scheme's choice of norm first."""

    def __init__(self, norm: nn.Module, shapes: list[Convolution]) -> None:
        super().__init__()
        self.norm = norm
        self.unit = Unit(shapes)
        self.side = shapes[-1].side

    def forward(self, u: Tensor) -> Tensor:
        return as_positions(self.unit(as_images(F.relu(self.norm(u)), self.side)))


class Transition(nn.Module):
    """He's unit where the shape changes: images [B, C, H, W] -> [B, C', H / stride, W / stride], ``P a + F(a)`` with ``a = ReLU(BN(x))``."""

    def __init__(self, projection: Convolution, shapes: list[Convolution]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(projection.inputs)
        self.projection = projection.build()
        self.unit = Unit(shapes)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.norm(x))
        return self.projection(activated) + self.unit(activated)


class PreActResNet(nn.Module):
    """Images [B, 3, H, W] -> logits [B, classes] through three stages of convolutional units joined by a residual scheme.

    Parameters
    ----------
    scheme: the residual scheme; called once per stage with (channels, sublayers of the stage).
    n_classes: number of logits.
    image_size: H = W in pixels; divisible by 4.
    size: resnet-20, -32, -44, -56, -110 (basic) or -164 (bottleneck).
    depth: layers, in place of the size's: 6n + 2 for basic, 9n + 2 for bottleneck blocks, n >= 2.
    block: basic or bottleneck, in place of the size's.
    width: channels of the first stage's basic block; the later ones have twice and four times as many.
    stream_dtype: ``compute`` keeps the residual state in the autocast dtype, ``float32`` in full precision.

    Raises ValueError for an unknown size or an impossible dimension.
    """

    inputs: ClassVar[tuple[str, ...]] = ("images",)

    def __init__(
        self,
        scheme: SchemeFactory,
        n_classes: int,
        image_size: int,
        size: str | None = "resnet-20",
        depth: int | None = None,
        block: Block | None = None,
        width: int = 16,
        stream_dtype: Literal["compute", "float32"] = "compute",
    ) -> None:
        super().__init__()
        if size is not None:
            if size not in SIZES:
                raise ValueError(f"size={size!r} is not a known size: choose one of {', '.join(SIZES)}, or give depth")
            depth, block = depth or SIZES[size][0], block or SIZES[size][1]
        block = block or "basic"
        per_unit = 6 if block == "basic" else 9
        if depth is None or depth < 2 * per_unit + 2 or (depth - 2) % per_unit:
            raise ValueError(
                f"depth={depth}: expected {per_unit}n + 2 with n >= 2 for block={block!r}, such as {3 * per_unit + 2}"
            )
        for field, value in (("n_classes", n_classes), ("width", width)):
            if value < 1:
                raise ValueError(f"{field}={value}: expected at least 1")
        if image_size < 4 or image_size % 4:
            raise ValueError(f"image_size={image_size}: expected a multiple of 4, for two halvings of the resolution")
        self.depth, self.block, self.width, self.image_size = depth, block, width, image_size
        self.stream_dtype = stream_dtype
        units = (depth - 2) // per_unit
        expansion = 1 if block == "basic" else 4
        widths = [width * expansion * 2**s for s in range(3)]
        sides = [image_size // 2**s for s in range(3)]
        # A stage whose first unit changes the shape has one sublayer less.
        counts = [units if width == widths[0] else units - 1, units - 1, units - 1]
        self.scheme = StagedScheme(
            scheme, [Stage(c, n, side**2) for c, n, side in zip(widths, counts, sides, strict=True)]
        )
        self._counted: list[Convolution] = []
        self.stem = self._convolution(Convolution(3, width, 3, image_size))
        self.transitions = nn.ModuleList()
        self.branches = nn.ModuleList()
        self.hidden_widths: list[list[int]] = []
        before = width
        for s, (channels, side) in enumerate(zip(widths, sides, strict=True)):
            hidden = channels // expansion
            stride = 1 if s == 0 else 2
            if counts[s] < units:
                shapes = convolutions(block, before, channels, hidden, side, stride)
                projection = Convolution(before, channels, 1, side, stride)
                self._counted += [projection, *shapes]
                self.transitions.append(Transition(projection, shapes))
            else:
                self.transitions.append(nn.Identity())
            own = self.scheme.of(s)
            self.hidden_widths.append(widened(block, channels, hidden, side, counts[s], *own.widening()))
            stage = nn.ModuleList()
            for i, units_hidden in enumerate(self.hidden_widths[s]):
                shapes = convolutions(block, channels, channels, units_hidden, side)
                self._counted += shapes
                stage.append(Sublayer(own.branch_norm(i), shapes))
            self.branches.append(stage)
            before = channels
        self.final_norm = nn.BatchNorm2d(before)
        self.head = nn.Linear(before, n_classes)
        initialise(self, output_scale=self.scheme.output_init_scale)
        # Before training the running statistics of the batch norms are those of no image; zero keeps the first validation at ln(classes).
        nn.init.zeros_(self.head.weight)

    def _convolution(self, shape: Convolution) -> nn.Conv2d:
        self._counted.append(shape)
        return shape.build()

    def forward(self, images: Tensor, observe: Observer | None = None) -> Tensor:
        """images: float [B, 3, H, W] -> logits [B, classes]. ``observe`` sees every sublayer, numbered through all stages."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"images of {images.shape[-2]} x {images.shape[-1]} pixels: the model was built for image_size={self.image_size}"
            )
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        device = x.device.type
        if self.stream_dtype == "float32":
            x = x.float()
        elif torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        for s, (transition, branches) in enumerate(zip(self.transitions, self.branches, strict=True)):
            x = transition(x)
            assert isinstance(branches, nn.ModuleList)
            if self.stream_dtype == "float32":
                x = x.float()
            side = x.shape[-1]
            x = as_images(self.scheme.run(s, list(branches), as_positions(x), observe), side)
        pooled = F.relu(self.final_norm(x)).mean((-2, -1))
        return self.head(pooled)

    def params_total(self) -> int:
        """Every trained parameter."""
        return sum(p.numel() for p in self.parameters())

    def params_connection(self) -> int:
        """What the residual scheme adds, over all stages; part of `params_total`."""
        return self.scheme.connection_params()

    def flops_per_token(self) -> int:
        """Forward FLOPs per image, a multiply-add as two: convolutions, the linear layer and the connections.

        Norms, activations and pooling are left out.
        """
        return (
            sum(c.flops for c in self._counted)
            + 2 * self.head.in_features * self.head.out_features
            + self.scheme.connection_flops()
        )

    def no_weight_decay(self) -> set[str]:
        """Norms and biases, and what the scheme names."""
        own = {name for name, p in self.named_parameters() if p.ndim < 2 and not name.startswith("scheme.")}
        return own | {f"scheme.{name}" for name in self.scheme.no_weight_decay()}


def as_images(x: Tensor, side: int) -> Tensor:
    """[B, H W, C] -> [B, C, H, W] in channels-last memory: a view."""
    return x.unflatten(1, (side, side)).permute(0, 3, 1, 2)


def as_positions(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H W, C]; a view when x is in channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def widened(
    block: Block, width: int, hidden: int, side: int, units: int, extra_params: int, extra_flops: int
) -> list[int]:
    """Hidden channels of a stage's units that absorb ``extra_params`` parameters and ``extra_flops`` FLOPs per pixel.

    One channel at a time, in turn: the match is exact to half of what the last channel adds.
    """
    widths = [hidden] * units

    def params(h: int) -> float:
        norms = 2 * h * (1 if block == "basic" else 2)
        return sum(c.params for c in convolutions(block, width, width, h, side)) + norms

    def flops(h: int) -> float:
        return sum(c.flops for c in convolutions(block, width, width, h, side)) / side**2

    costs: tuple[tuple[int, Callable[[int], float]], ...] = ((extra_params, params), (extra_flops, flops))
    for wanted, cost in costs:
        left, unit = float(wanted), 0
        while left > 0.5 * (step := cost(widths[unit] + 1) - cost(widths[unit])):
            widths[unit] += 1
            left -= step
            unit = (unit + 1) % units
    return widths

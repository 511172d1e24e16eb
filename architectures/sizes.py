"""The ladder of model sizes: one name fixes depth, width, heads and MLP width.

Names are the parameters of attention and MLPs, roughly 12 x depth x width^2; embeddings come on top and depend on the vocabulary. Heads are
64 wide, the MLP is the usual 8/3 of the width for SwiGLU, rounded up to a multiple of 32. Widths grow a little faster than depths, as in
published families. ``100k`` and ``400k`` are below the ladder: they exist for the demo and for tests.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """``depth`` counts layers; a layer is two sublayers, attention and MLP."""

    name: str
    depth: int
    width: int
    n_heads: int

    @property
    def ffn_width(self) -> int:
        return default_ffn_width(self.width)

    @property
    def params(self) -> int:
        """Parameters of the attention and MLP matrices."""
        return self.depth * (4 * self.width**2 + 3 * self.width * self.ffn_width)


def default_ffn_width(width: int) -> int:
    """8/3 of the width rounded up to a multiple of 32."""
    return -(-8 * width // (3 * 32)) * 32


SIZES: dict[str, Size] = {
    size.name: size
    for size in (
        Size("100k", 2, 64, 2),
        Size("400k", 4, 96, 3),
        Size("1m", 5, 128, 2),
        Size("3m", 7, 192, 3),
        Size("7m", 9, 256, 4),
        Size("15m", 12, 320, 5),
        Size("30m", 13, 448, 7),
        Size("60m", 15, 576, 9),
        Size("125m", 18, 768, 12),
        Size("250m", 20, 1024, 16),
        Size("500m", 25, 1280, 20),
        Size("1b", 30, 1664, 26),
    )
}


def find_size(name: str) -> Size:
    """The named size. Raises ValueError that lists the known names."""
    if name not in SIZES:
        raise ValueError(
            f"size={name!r} is not a known size: choose one of {', '.join(SIZES)}, or give depth, width and n_heads instead"
        )
    return SIZES[name]

"""Tile shapes of the Triton kernels, by rule: measured on an H200 and written down, so that no run spends time on tuning."""

from dataclasses import dataclass

INTERPRETED_TOKENS = 16
"""Tokens per program in the interpreter, whose cost is per operation."""


ONE_STAGE = 1
"""No software pipeline where a product has 64 rows or more: triton 3.6 lets the copies of such a loop overtake its warpgroup products, and
results then change from run to run (seen on an H200 with two and three stages: up to 2e-2 off)."""


RESIDENT = 264
"""Programs at a time of the kernels that fit twice on a multiprocessor, on an H100 or H200."""


PARTIAL_GRADIENTS = 1056
"""Programs, each with its own partial gradient of a weight, where every token adds to it: eight per multiprocessor of an H100 or H200."""


@dataclass(frozen=True)
class Tile:
    """Tokens and columns per step of a program, its warps, and the depth of its software pipeline."""

    tokens: int
    columns: int
    warps: int
    stages: int = 1
    parts: int = 1


def power_of_two(size: int, least: int = 1) -> int:
    """The smallest power of two that is at least ``size`` and ``least``."""
    return max(least, 1 << max(size - 1, 0).bit_length())


def coefficient_tile(rows: int) -> int:
    """K rounded up to what a tensor-core product takes."""
    return power_of_two(rows, 16)


def even_parts(total: int, block: int, programs: int, least: int, most: int) -> int:
    """A power of two of parts, at most ``most``, that makes ``programs`` programs of ``total`` blocks; no part is under ``least`` of them."""
    parts = 1
    while parts < most and block * parts < programs and total // (2 * parts) >= least:
        parts *= 2
    return parts


def balanced_parts(total: int, block: int, resident: int, least: int, most: int) -> int:
    """Parts, at most ``most``, that leave the fewest of ``resident`` places empty when programs of ``total`` blocks run in waves; the fewest
    such parts within 2 % of the best. No part is under ``least`` blocks.
    """

    def filled(parts: int) -> float:
        programs = block * parts
        return programs / (-(-programs // resident) * resident)

    choices = [parts for parts in range(1, most + 1) if parts == 1 or total // parts >= least]
    best = max(map(filled, choices))
    return next(parts for parts in choices if filled(parts) >= 0.98 * best)


def rotary_tile(head_width: int) -> Tile:
    """Rows (a head of a token each) and entries of half a row of the kernels before attention."""
    half = power_of_two(head_width // 2)
    return Tile(max(1, 1024 // half), half, 4)


def write_tile(n: int, width: int) -> Tile:
    """Tile of the write kernel."""
    columns = min(power_of_two(width, 16), 1024)
    return Tile(max(1, 1024 // columns), columns, 4, 1)


def project_tile(rows: int, n: int, width: int, tokens: int, itemsize: int) -> Tile:
    """Tile of the projection on ``rows`` rows of phi; ``parts`` is the number of column ranges a block of tokens is cut into."""
    columns = min(power_of_two(width, 16), 64 if itemsize == 2 and n * rows <= 128 else 32)
    parts = even_parts(-(-width // columns), -(-tokens // 64), 200, 4, 8)
    return Tile(64, columns, 4, ONE_STAGE, parts)


def gates_tile(splits: int = 1) -> Tile:
    """Tokens per program of the gates kernels, one per lane. More warps only help to add up many splits of the projections."""
    return Tile(32, 1, 4 if splits > 4 else 1)


def wide_tile() -> Tile:
    """Tokens per program of the Sinkhorn kernels that spread a matrix over a warp."""
    return Tile(4, 1, 1)


def write_parts(width: int) -> int:
    """Programs that share a block of tokens in the fused write: each then takes about four turns of 32 columns."""
    return max(1, min(32, -(-width // 32) // 4))


def gradient_parts(width: int) -> int:
    """The same for the fused backward pass, which has more to set up per program: about eight turns."""
    return max(1, min(16, -(-width // 32) // 8))


def pieces(width: int, size: int, tokens: int, warps: int) -> Tile:
    """``tokens`` whole rows, in as many pieces of ``size`` columns as they take (at most 32); ``parts`` is their number."""
    size = min(power_of_two(width, 16), size)
    while -(-width // size) > 32:
        size *= 2
    return Tile(tokens, size, warps, parts=-(-width // size))


def read_tile(width: int) -> Tile:
    """Tile of the read: whole tokens, since the norm needs them."""
    return pieces(width, 1024, 1, 8 if width > 3072 else 4) if width > 512 else pieces(width, 256, 4, 4)


def read_sums_tile(width: int) -> Tile:
    """Tile of the sums behind the read's backward: one token at a time, or a few narrow ones; the norm weight's gradient lives in registers."""
    if width <= 512:
        return pieces(width, 256, 4, 4)
    return pieces(width, 512, 1, 2) if width <= 4096 else pieces(width, 1024, 1, 4)


def read_sums_programs(width: int) -> int:
    """Ranges of tokens there, each with its own partial gradient of the norm's weight: as few as keep the memory busy."""
    return 512 if width <= 512 else 1024 if width <= 1024 else 2048


def gather_tile(rows: int, n: int, width: int, tokens: int, itemsize: int) -> Tile:
    """Tile of the gathered gradient of x'; ``rows`` are phi's, ``parts`` is the number of token ranges."""
    columns = min(power_of_two(width, 16), 64 if n * rows <= 128 and itemsize == 2 else 16)
    parts = even_parts(-(-tokens // 32), -(-width // columns), 1000, 8, 128)
    stages = 2
    if itemsize == 2 and n <= 4:
        stages = 3
    elif itemsize > 2 and n > 4:
        stages = ONE_STAGE  # of two, eight float32 streams would take more shared memory than an A100 has
    return Tile(32, columns, 4, stages, parts)


def learn_tile(rows: int, n: int, width: int, tokens: int, itemsize: int) -> Tile:
    """Tile of phi's gradient; ``parts`` is the number of token ranges, each of which leaves a partial sum of phi's size in float32."""
    if itemsize > 2:
        columns = min(power_of_two(width, 16), 16)
        return Tile(32, columns, 4, 2, even_parts(-(-tokens // 32), -(-width // columns), 500, 8, 32))
    columns = min(power_of_two(width, 16), 64 if n * rows <= 128 else 32)
    stages = 3 if rows < 64 else ONE_STAGE
    return Tile(64, columns, 8, stages, balanced_parts(-(-tokens // 64), -(-width // columns), RESIDENT, 8, 32))


def scatter_tile(n: int, width: int) -> Tile:
    """Tile of the write's backward, a warp per token."""
    return Tile(4, min(power_of_two(width, 16), 256 if n <= 4 else 128), 4, 2 if width > 256 and n <= 4 else 1)


def wide_project_tile(width: int, tokens: int) -> Tile:
    """Tile of the Gluon projection for n = 8; ``width`` counts the columns of all streams, ``parts`` the ranges they are cut into."""
    return Tile(128, 64, 4, 3, even_parts(-(-width // 64), -(-tokens // 128), 250, 16, 16))


def wide_learn_tile(width: int, tokens: int) -> Tile:
    """Tile of phi's gradient for n = 8; ``parts`` is the number of token ranges, two programs per multiprocessor."""
    return Tile(64, 256, 8, 2, max(1, min(32, RESIDENT // -(-width // 256), -(-tokens // 512))))


def norm_tile(width: int) -> Tile:
    """Tile of add + RMSNorm; the whole row is in one program."""
    columns = power_of_two(width, 16)
    return Tile(max(1, 1024 // columns), columns, 4 if columns <= 1024 else 8)

"""What the Gluon kernels share: copies into shared memory ahead of their use, and streams that lie side by side in registers."""
# mypy: ignore-errors
# (Gluon's language in Python's syntax: arguments have no annotations.)

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

# triton 3.9 renamed it
copy = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared


@gluon.jit
def copy_streams(tile, ptr, base, start, M, n: gl.constexpr, C: gl.constexpr, layout: gl.constexpr):
    """Columns ``start ...`` of all n streams of the tokens ``base ...`` into tile [n, BT, BC]; zeros outside."""
    stream = gl.arange(0, n, layout=gl.SliceLayout(1, gl.SliceLayout(2, layout)))
    row = base + gl.arange(0, tile.shape[1], layout=gl.SliceLayout(0, gl.SliceLayout(2, layout)))
    column = start + gl.arange(0, tile.shape[2], layout=gl.SliceLayout(0, gl.SliceLayout(1, layout)))
    at = row[None, :, None] * (n * C) + stream[:, None, None] * C + column[None, None, :]
    mask = (row < M)[None, :, None] & (column < C)[None, None, :] & (stream < n)[:, None, None]
    copy(tile, ptr + at, mask=mask)


@gluon.jit
def copy_rows(tile, ptr, base, start, M, C: gl.constexpr, layout: gl.constexpr):
    """The same for one vector per token, into tile [BT, BC]."""
    row = base + gl.arange(0, tile.shape[0], layout=gl.SliceLayout(1, layout))
    column = start + gl.arange(0, tile.shape[1], layout=gl.SliceLayout(0, layout))
    copy(tile, ptr + row[:, None] * C + column[None, :], mask=(row < M)[:, None] & (column < C)[None, :])


@gluon.jit
def copy_block(tile, ptr, start, stop, layout: gl.constexpr):
    """A contiguous block into tile [rows, columns], or zeros once ``start`` has reached ``stop``."""
    row = gl.arange(0, tile.shape[0], layout=gl.SliceLayout(1, layout))
    column = gl.arange(0, tile.shape[1], layout=gl.SliceLayout(0, layout))
    copy(tile, ptr + row[:, None] * tile.shape[1] + column[None, :], mask=(row[:, None] >= 0) & (start < stop))


@gluon.jit
def streams_of(block, n: gl.constexpr, layout: gl.constexpr):
    """[n, BT, BC] with all n streams of an element in one thread -> n tensors [BT, BC]; nothing moves."""
    if n == 4:
        block = gl.permute(gl.reshape(block, (2, 2, block.shape[1], block.shape[2])), (2, 3, 0, 1))
        even, odd = gl.split(block)
        first, third = gl.split(even)
        second, fourth = gl.split(odd)
        found = (
            gl.convert_layout(first, layout, assert_trivial=True),
            gl.convert_layout(second, layout, assert_trivial=True),
            gl.convert_layout(third, layout, assert_trivial=True),
            gl.convert_layout(fourth, layout, assert_trivial=True),
        )
    else:
        gl.static_assert(n == 2)
        first, second = gl.split(gl.permute(block, (1, 2, 0)))
        found = (
            gl.convert_layout(first, layout, assert_trivial=True),
            gl.convert_layout(second, layout, assert_trivial=True),
        )
    return found


@gluon.jit
def following(stage, STAGES: gl.constexpr):
    return gl.where(stage + 1 >= STAGES, 0, stage + 1)

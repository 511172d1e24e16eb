"""What is left of a compiled file when the process that wrote it is killed: it is done to a real one here."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import nn
from torch._inductor import config
from torch._inductor.cpu_vec_isa import valid_vec_isa_list
from torch._inductor.utils import clear_caches

from resbench.harness.compilation import compiled
from resbench.harness.compiled_files import cut_short, remove_broken


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 2).sin()


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """No libraries that try the CPU's instructions, which take seconds each, and no headers compiled for later use."""
    with config.patch({"cpp.vec_isa_ok": False, "cpp_cache_precompile_headers": False}):
        yield
    valid_vec_isa_list.cache_clear()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, quick: None) -> Path:
    """A cache into which a small function was compiled; no test writes to it, since its libraries are mapped into this process."""
    folder = tmp_path_factory.mktemp("inductor")
    with pytest.MonkeyPatch.context() as patch:
        _start_with(patch, folder)
        compiled(Doubled())(torch.ones(4))
    return folder


def _start_with(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """As a new process would: what compilers keep in memory is forgotten."""
    patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    torch._dynamo.reset()
    clear_caches()


def _damage(cache: Path, size: int) -> list[Path]:
    libraries = sorted(cache.glob("*/*.so"))
    assert libraries
    for library in libraries:
        library.write_bytes(library.read_bytes()[:size])
    return libraries


def test_a_half_written_library_is_removed_and_compiled_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    mine = shutil.copytree(cache, tmp_path / "inductor")
    _start_with(monkeypatch, mine)
    run = compiled(Doubled())
    # After the cache was looked at, as if another process were killed right now. What is cut within its header is "file too short" to the
    # system; further on it may crash the process, hence the look beforehand.
    broken = _damage(mine, 40)
    x = torch.linspace(0, 1, 4)
    assert torch.allclose(run(x), (2 * x).sin())
    said = [line for line in capfd.readouterr().err.splitlines() if "half-written" in line]
    assert len(said) == 1
    assert broken[0].name in said[0]
    assert not any(cut_short(library) for library in mine.glob("*/*.so"))
    assert broken[0].stat().st_size > 40


@pytest.mark.parametrize("kept", [0, 63, 1000, -1])
def test_every_way_of_being_cut_short_is_noticed(cache: Path, tmp_path: Path, kept: int) -> None:
    mine = shutil.copytree(cache, tmp_path / "inductor")
    assert remove_broken(mine) == []
    broken = _damage(mine, kept)
    assert sorted(remove_broken(mine)) == broken
    assert not any(library.exists() for library in broken)


def test_what_another_process_is_compiling_is_left_alone(cache: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(cache, tmp_path / "inductor")
    (library,) = _damage(mine, 0)
    with FileLock(mine / "locks" / f"{library.name.partition('.')[0]}.lock"):
        assert remove_broken(mine) == []
    assert remove_broken(mine) == [library]

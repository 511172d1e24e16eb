"""The token cache: built once, whole or not at all, by one of any number of processes; damage is noticed."""

import json
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from resbench.tasks import cache
from resbench.tasks.cache import default_cache_dir, load_or_build
from resbench.tasks.corpus import CorpusWriter
from resbench.tasks.encoding import ByteEncoding

SPAWN = multiprocessing.get_context("spawn")


def build(directory: Path) -> dict[str, Any]:
    writer = CorpusWriter(directory, ByteEncoding(), val_fraction=0.5)
    writer.add(b"some words to learn from", "train")
    writer.add(b"others to be asked", "validation")
    return writer.finish()


def slow_counted_build(directory: Path) -> dict[str, Any]:
    """Leaves one mark per build beside the cache, and takes long enough for another process to come by."""
    marks = directory.parent.parent.parent / "marks"
    marks.mkdir(exist_ok=True)
    (marks / str(os.getpid())).touch()
    time.sleep(1.5)
    return build(directory)


def fail_if_built(directory: Path) -> dict[str, Any]:
    raise AssertionError("built again")


def build_in_process(cache_dir: Path) -> None:
    corpus = load_or_build(cache_dir, "key", slow_counted_build)
    assert len(corpus.train) == 25


def hang_after_half_a_build(cache_dir: Path) -> None:
    def half(directory: Path) -> dict[str, Any]:
        build(directory)
        (cache_dir / "half").touch()
        time.sleep(600)
        raise AssertionError("not reached")

    load_or_build(cache_dir, "key", half)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def test_built_once_then_read(tmp_path: Path) -> None:
    built = load_or_build(tmp_path, "key", build)
    again = load_or_build(tmp_path, "key", fail_if_built)
    # 24 bytes and a separator; 18 and one.
    assert (len(again.train), len(again.validation)) == (25, 19)
    assert bytes(again.train.array[:-1].astype("u1")) == b"some words to learn from"
    assert again.train.array[-1] == 256
    assert again.fingerprint == built.fingerprint
    assert again.train_counts.sum() == 25
    assert sorted(p.name for p in (tmp_path / "tokens").iterdir()) in (["key"], ["key", "key.lock"])


def test_two_processes_build_once(tmp_path: Path) -> None:
    processes = [SPAWN.Process(target=build_in_process, args=(tmp_path / "cache",)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list((tmp_path / "marks").iterdir())) == 1


def test_a_killed_build_leaves_nothing_half_written_and_no_lock(tmp_path: Path) -> None:
    process = SPAWN.Process(target=hang_after_half_a_build, args=(tmp_path,))
    process.start()
    wait_for(tmp_path / "half")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert not (tmp_path / "tokens" / "key").exists()

    started = time.monotonic()
    corpus = load_or_build(tmp_path, "key", build)
    assert time.monotonic() - started < 30  # no lock that is waited for
    assert len(corpus.train) == 25
    assert not list((tmp_path / "tokens").glob("*.building-*"))


def test_a_failed_build_leaves_nothing_and_its_error_comes_through(tmp_path: Path) -> None:
    def broken(directory: Path) -> dict[str, Any]:
        build(directory)
        raise ValueError("the source is empty")

    with pytest.raises(ValueError, match="the source is empty"):
        load_or_build(tmp_path, "key", broken)
    assert not list((tmp_path / "tokens").glob("key*building*"))
    assert len(load_or_build(tmp_path, "key", build).train) == 25


@pytest.mark.parametrize(
    "name", ["train.bin", "validation.bin", "validation_bytes.bin", "train_counts.npy", "meta.json"]
)
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damage_is_noticed_and_repaired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    whole = load_or_build(tmp_path, "key", build)
    file = tmp_path / "tokens" / "key" / name
    content = bytearray(file.read_bytes())
    if damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    else:
        file.unlink()
    with caplog.at_level(logging.WARNING):
        repaired = load_or_build(tmp_path, "key", build)
    assert "damaged" in caplog.text
    assert repaired.fingerprint == whole.fingerprint
    assert repaired.train.array.tolist() == load_or_build(tmp_path, "key", fail_if_built).train.array.tolist()


def test_a_cache_of_another_format_is_built_again(tmp_path: Path) -> None:
    load_or_build(tmp_path, "key", build)
    meta = tmp_path / "tokens" / "key" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "format": cache.FORMAT + 1}))
    assert len(load_or_build(tmp_path, "key", build).train) == 25


def test_large_files_are_checked_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CHECK_WHOLE_BYTES", 40)
    monkeypatch.setattr(cache, "CHECK_BLOCK_BYTES", 10)
    file = tmp_path / "f"
    file.write_bytes(bytes(range(100)))
    whole = cache._measure(file)
    for changed, noticed in ((0, True), (99, True), (15, False)):  # blocks at 0, 30, 60 and 90
        content = bytearray(range(100))
        content[changed] ^= 1
        file.write_bytes(content)
        assert (cache._measure(file) != whole) is noticed


def test_a_cached_corpus_is_read_from_a_directory_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_or_build(tmp_path, "key", build)
    monkeypatch.setattr(os, "access", lambda *args, **kwargs: False)
    assert len(load_or_build(tmp_path, "key", fail_if_built).train) == 25


def test_unwritable_directory_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cache_dir.*RESBENCH_CACHE") as caught:
        load_or_build(tmp_path / "file" / "cache", "key", build)
    assert str(tmp_path / "file") in str(caught.value)
    monkeypatch.setattr(os, "access", lambda *args, **kwargs: False)  # the tests may run as root
    with pytest.raises(PermissionError, match=r"cache_dir.*RESBENCH_CACHE"):
        load_or_build(tmp_path / "closed", "key", build)


def test_full_disk_says_what_to_set(tmp_path: Path) -> None:
    def on_a_full_disk(directory: Path) -> dict[str, Any]:
        with open("/dev/full", "wb") as full:
            full.write(b"x" * 10**6)
        raise AssertionError("not reached")

    with pytest.raises(OSError, match=r"no space left .*cache_dir.*RESBENCH_CACHE"):
        load_or_build(tmp_path, "key", on_a_full_disk)


def test_default_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RESBENCH_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "resbench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "resbench"
    monkeypatch.setenv("RESBENCH_CACHE", str(tmp_path / "ours"))
    assert default_cache_dir() == tmp_path / "ours"

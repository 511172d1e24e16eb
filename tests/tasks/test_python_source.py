"""The default task: the standard library's own source, or any other directory of Python files."""

import sys
import sysconfig
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from resbench.tasks.python_source import MAX_FILE_BYTES, PythonSource


def make(root: Path, cache: Path, **arguments: Any) -> PythonSource:
    task = PythonSource(str(root), cache_dir=str(cache), **{"context_length": 8, "val_fraction": 0.3, **arguments})
    task.prepare_data()
    task.setup("fit")
    return task


def texts(task: PythonSource) -> tuple[list[str], list[str]]:
    """The documents of train and validation."""
    split = []
    for stream in (task._corpus.train, task._corpus.validation):
        joined = "".join(chr(token) if token < 256 else "\0" for token in stream.array)
        split.append(joined.split("\0")[:-1])
    return split[0], split[1]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Forty small modules in two packages."""
    root = tmp_path / "tree"
    for i in range(40):
        file = root / f"package{i % 2}" / f"module{i:02}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"def function_{i}():\n    return {i}\n")
    return root


def test_each_file_once_in_one_split_in_the_order_of_paths(tree: Path, tmp_path: Path) -> None:
    train, validation = texts(make(tree, tmp_path / "cache"))
    expected = [file.read_text() for file in sorted(tree.rglob("*.py"))]
    assert not set(train) & set(validation)
    assert sorted(train + validation) == sorted(expected)
    assert train == [text for text in expected if text in set(train)]


def test_what_is_left_out(tree: Path, tmp_path: Path) -> None:
    plain = make(tree, tmp_path / "cache")
    (tree / "copy.py").write_text((tree / "package0" / "module00.py").read_text())
    (tree / "empty.py").write_text("")
    (tree / "binary.py").write_bytes(b"a = 1\n\0")
    (tree / "latin.py").write_bytes("# -*- coding: latin-1 -*-\n# é\n".encode("latin-1"))
    (tree / "table.py").write_text("#" * (MAX_FILE_BYTES + 1))
    (tree / "notes.txt").write_text("not Python")
    (tree / "dangling.py").symlink_to(tree / "nowhere")
    for hidden in (".git", "__pycache__"):
        (tree / hidden).mkdir()
        (tree / hidden / "module.py").write_text("not = 'read'\n")
    task = make(tree, tmp_path / "cache")
    assert task.fingerprint == plain.fingerprint
    assert task.describe()["duplicates"] == 1
    assert task.describe()["n_files"] == 40


def test_a_change_of_the_source_is_seen_and_alone_changes_the_fingerprint(tree: Path, tmp_path: Path) -> None:
    first = make(tree, tmp_path / "cache")
    (tree / "package0" / "module00.py").touch()
    assert make(tree, tmp_path / "cache", context_length=4, seed=7, batch_size=3).fingerprint == first.fingerprint
    moved = tree.rename(tmp_path / "elsewhere")
    assert make(moved, tmp_path / "cache").fingerprint == first.fingerprint
    (moved / "package0" / "module00.py").write_text("something = 'else'\n")
    assert make(moved, tmp_path / "cache").fingerprint != first.fingerprint


def test_reading_again_uses_the_cache(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(tree, tmp_path / "cache")
    monkeypatch.setattr(PythonSource, "collect", lambda self, corpus: pytest.fail("read again"))
    again = make(tree, tmp_path / "cache")
    assert again.fingerprint == first.fingerprint
    assert again.unigram_bits_per_byte == first.unigram_bits_per_byte


def test_several_directories_are_one_corpus(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "extra.py").write_text("extra = 1\n")
    whole = PythonSource(
        [str(tree / "package0"), str(tree / "package1"), str(tmp_path / "more")],
        cache_dir=str(tmp_path / "cache"),
        context_length=8,
        val_fraction=0.3,
    )
    whole.setup("fit")
    train, validation = texts(whole)
    assert len(train + validation) == 41
    assert "extra = 1\n" in train + validation
    assert whole.expected_bytes() == sum(
        file.stat().st_size for file in [*tree.rglob("*.py"), tmp_path / "more" / "extra.py"]
    )
    with pytest.raises(ValueError, match="a directory twice"):
        PythonSource([str(tree), str(tree / ".." / "tree")])
    with pytest.raises(ValueError, match="an empty list"):
        PythonSource([])


def test_the_packages_beside_pytorch_have_a_name() -> None:
    (packages, skipped), (library, _) = PythonSource(["site-packages", "stdlib"]).roots
    assert (packages / "torch" / "__init__.py").exists()
    assert "resbench" in skipped
    assert library == Path(sysconfig.get_path("stdlib")).resolve()


def test_too_little_text_is_said(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"min_megabytes=1: .* has 0\.0 million bytes of Python source"):
        make(tree, tmp_path / "cache", min_megabytes=1)


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "blank.py").write_text("")
    with pytest.raises(ValueError, match=r"data\.init_args\.root: no Python source below .*empty"):
        make(tmp_path / "empty", tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match=r"data\.init_args\.root: no such directory: .*nowhere"):
        make(tmp_path / "nowhere", tmp_path / "cache")
    with pytest.raises(NotADirectoryError, match=r"data\.init_args\.root: .*blank\.py is a file"):
        make(tmp_path / "empty" / "blank.py", tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.building-*"))


def test_the_standard_library(tmp_path: Path) -> None:
    """Reading it takes seconds, opening it again next to nothing; there is enough of it, and no installed package in it."""
    started = time.process_time()
    task = PythonSource(cache_dir=str(tmp_path))
    task.prepare_data()
    task.setup("fit")
    assert time.process_time() - started < 15

    fastest = float("inf")
    for _ in range(3):
        started = time.process_time()
        cached = PythonSource(cache_dir=str(tmp_path))
        cached.prepare_data()
        cached.setup("fit")
        fastest = min(fastest, time.process_time() - started)
    assert fastest < 0.2
    assert cached.fingerprint == task.fingerprint

    described = task.describe()
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in str(described["source"])
    assert task.train_tokens > 5_000_000
    # Held out are 5 % of the files; their share of the bytes varies more, files differing in size.
    assert 0.01 < task.val_tokens / task.train_tokens < 0.15
    # Every token of source is a byte, but for the ends of files, which are rare.
    assert 0.99 < task.bytes_per_token <= 1.0
    # Text with about thirty common characters: between four and five bits a byte when each is predicted by itself.
    assert 4.0 < task.unigram_bits_per_byte < 5.2
    assert not any("site-packages" in path for _, path, _, _ in task._files)
    assert all((Path(sysconfig.get_path("stdlib")) / path).is_file() for _, path, _, _ in islice(task._files, 50))

"""Plugins are found by entry point, broken ones are named, and unknown names list the known ones."""

import sys
from pathlib import Path

import pytest

from resbench.architectures.registry import BrokenPlugin, available, resolve


def install(site: Path, distribution: str, group: str, entry: str, code: str) -> None:
    """What pip leaves behind: a module and a dist-info folder with its entry point."""
    module = entry.partition("=")[2].partition(":")[0].strip()
    (site / f"{module}.py").write_text(code)
    info = site / f"{distribution}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")


ROOT = Path(__file__).resolve().parents[2]
GOOD = "class {0}:\n    def __init__(self, width: int, n_sublayers: int, gain: float = 1.0) -> None: ...\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # `python -m pytest` puts the working directory on the path, where a bare `import tasks` would find ours.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if Path(entry).resolve() != ROOT])
    monkeypatch.delitem(sys.modules, "tasks", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_built_in_names_come_from_resbench() -> None:
    schemes = available("scheme")
    assert {"resnet", "hc", "mhc", "identity-hc", "wide"} <= set(schemes)
    assert schemes["mhc"].distribution == "resbench"
    assert "transformer" in available("backbone")
    assert {"python-source", "text"} <= set(available("task"))


def test_an_installed_package_is_found_and_loads(site: Path) -> None:
    install(site, "my-dist", "resbench.schemes", "mine = my_scheme_ok:Mine", GOOD.format("Mine"))
    plugin = available("scheme")["mine"]
    assert (plugin.distribution, plugin.version, plugin.class_path) == ("my-dist", "1.2", "my_scheme_ok.Mine")
    assert plugin.load().__name__ == "Mine"
    assert resolve("scheme", "mine") is plugin.load()
    assert resolve("scheme", "my_scheme_ok.Mine") is plugin.load()


def test_a_plugin_that_raises_is_named_and_the_others_live(site: Path) -> None:
    install(site, "bad-dist", "resbench.schemes", "bad = my_scheme_bad:Bad", "raise RuntimeError('boom')")
    with pytest.raises(BrokenPlugin, match=r"bad-dist 1\.2.*RuntimeError: boom"):
        resolve("scheme", "bad")
    assert resolve("scheme", "mhc").__name__ == "ManifoldHyperConnections"


def test_a_plugin_that_is_no_class_is_refused(site: Path) -> None:
    install(site, "odd-dist", "resbench.schemes", "odd = my_scheme_odd:value", "value = 3")
    with pytest.raises(BrokenPlugin, match="odd-dist.*is int, expected a class"):
        resolve("scheme", "odd")


def test_two_distributions_with_one_name_are_refused_when_it_is_used(site: Path) -> None:
    install(site, "one-dist", "resbench.schemes", "twin = my_scheme_one:A", GOOD.format("A"))
    install(site, "two-dist", "resbench.schemes", "twin = my_scheme_two:A", GOOD.format("A"))
    with pytest.raises(BrokenPlugin, match="two distributions register the scheme 'twin'") as caught:
        resolve("scheme", "twin")
    assert "one-dist (my_scheme_one:A)" in str(caught.value)
    assert "two-dist (my_scheme_two:A)" in str(caught.value)
    assert resolve("scheme", "my_scheme_two.A").__name__ == "A"  # its import path still says which
    assert resolve("scheme", "resnet").__name__ == "ResNet"  # and nothing else is affected


def test_a_plugin_cannot_quietly_take_a_built_in_name(site: Path) -> None:
    install(site, "greedy-dist", "resbench.schemes", "mhc = my_scheme_greedy:A", GOOD.format("A"))
    with pytest.raises(
        BrokenPlugin, match=r"two distributions register the scheme 'mhc': .*greedy-dist \(my_scheme_greedy:A\)"
    ):
        resolve("scheme", "mhc")


@pytest.mark.parametrize(
    ("line", "module"),
    [("from kernels.functional import mhc_pre", "my_scheme_bare_1"), ("import tasks.language", "my_scheme_bare_2")],
)
def test_a_plugin_that_imports_a_bare_folder_of_ours_is_told_the_right_name(site: Path, line: str, module: str) -> None:
    install(site, "bare-dist", "resbench.schemes", f"bare = {module}:A", f"{line}\n{GOOD.format('A')}")
    folder = line.split()[1].split(".")[0]
    with pytest.raises(BrokenPlugin, match=rf"bare-dist 1\.2(.|\n)*Did you mean resbench\.{folder}\?"):
        resolve("scheme", "bare")


def test_a_bare_import_that_the_working_directory_makes_possible_is_refused(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    install(site, "lucky-dist", "resbench.schemes", "lucky = my_scheme_lucky:A", f"import tasks\n{GOOD.format('A')}")
    for _ in range(2):
        with pytest.raises(BrokenPlugin, match=r"lucky-dist 1\.2: .* imported a bare 'tasks'.*write resbench\.tasks"):
            resolve("scheme", "lucky")
    assert "tasks" not in sys.modules


@pytest.mark.parametrize(
    ("signature", "says"),
    [
        ("self, width: int, n_sublayers: int, gain=1.0", "argument 'gain' has no type hint"),
        ("self, width: int, n_sublayers: int, gain: float", "argument 'gain' has no default"),
        ("self, size: int, depth: int", r"starts with \(width, n_sublayers\)"),
    ],
)
def test_a_constructor_that_cannot_be_a_configuration_is_refused(site: Path, signature: str, says: str) -> None:
    module = f"my_scheme_untyped_{abs(hash(signature))}"
    code = f"class A:\n    def __init__({signature}): ...\n"
    install(site, "untyped-dist", "resbench.schemes", f"untyped = {module}:A", code)
    with pytest.raises(BrokenPlugin, match=says) as caught:
        resolve("scheme", "untyped")
    assert "untyped-dist 1.2" in str(caught.value)
    with pytest.raises(ValueError, match=says):
        resolve("scheme", f"{module}.A")


def test_unknown_names_list_the_known_and_the_close() -> None:
    with pytest.raises(ValueError, match=r"unknown scheme 'mch'. Did you mean 'mhc'\? Known: .*identity-hc.*resnet"):
        resolve("scheme", "mch")
    with pytest.raises(BrokenPlugin, match="no_such_module"):
        resolve("scheme", "no_such_module.Scheme")

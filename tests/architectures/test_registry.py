"""Plugins are found by entry point, broken ones are named, and unknown names list the known ones."""

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


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_built_in_names_come_from_resbench() -> None:
    schemes = available("scheme")
    assert {"resnet", "hc", "mhc", "identity-hc", "wide"} <= set(schemes)
    assert schemes["mhc"].distribution == "resbench"
    assert list(available("backbone")) == ["transformer"]
    assert {"python-source", "text"} <= set(available("task"))


def test_an_installed_package_is_found_and_loads(site: Path) -> None:
    install(site, "my-dist", "resbench.schemes", "mine = my_scheme_ok:Mine", "class Mine: pass")
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


def test_two_distributions_with_one_name_are_refused(site: Path) -> None:
    install(site, "one-dist", "resbench.schemes", "twin = my_scheme_one:A", "class A: pass")
    install(site, "two-dist", "resbench.schemes", "twin = my_scheme_two:A", "class A: pass")
    with pytest.raises(ValueError, match="two distributions register the scheme 'twin'") as caught:
        available("scheme")
    assert "one-dist (my_scheme_one:A)" in str(caught.value)
    assert "two-dist (my_scheme_two:A)" in str(caught.value)


def test_unknown_names_list_the_known_and_the_close() -> None:
    with pytest.raises(ValueError, match=r"unknown scheme 'mch'. Did you mean 'mhc'\? Known: .*identity-hc.*resnet"):
        resolve("scheme", "mch")
    with pytest.raises(BrokenPlugin, match="no_such_module"):
        resolve("scheme", "no_such_module.Scheme")

"""Runs between stores as one file: nothing is lost, nothing is there twice, and nothing is believed of a file that was altered."""

import json
import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from resbench.harness.runs.archive import MANIFEST, Archive, check_path
from resbench.harness.runs.cli import main
from resbench.harness.runs.restore import import_runs
from resbench.harness.store import experiment_id, open_store

ODD = {"nan": math.nan, "large": 1.7976931348623157e308, "small": 5e-324, "third": 1 / 3}


class Store:
    """One MLflow database, as a user names it."""

    def __init__(self, folder: Path, empty_store: Path) -> None:
        folder.mkdir()
        shutil.copy(empty_store, folder / "mlflow.db")
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.client: MlflowClient = open_store(self.uri)

    def runs(self, *command: str) -> int:
        return main([*command, "--tracking-uri", self.uri])

    def content(self) -> dict[str, Any]:
        """All that the store's active runs consist of, by their names, free of ids."""
        found = {}
        everywhere = [experiment.experiment_id for experiment in self.client.search_experiments()]
        runs = {run.info.run_id: run for run in self.client.search_runs(everywhere)}
        for run_id, run in runs.items():
            tags = {key: value for key, value in run.data.tags.items() if not key.startswith("resbench.")}
            if parent := tags.pop("mlflow.parentRunId", None):
                tags["parent"] = runs[parent].info.run_name
            metrics = {
                name: sorted((p.step, p.timestamp, repr(p.value)) for p in self.client.get_metric_history(run_id, name))
                for name in run.data.metrics
            }
            datasets = [(d.dataset.to_dictionary(), d.tags[0].value) for d in run.inputs.dataset_inputs]
            files = {
                path: Path(self.client.download_artifacts(run_id, path)).read_bytes() for path in self.files(run_id)
            }
            times = (run.info.start_time, run.info.end_time, run.info.status)
            found[run.info.run_name] = (times, run.data.params, tags, metrics, datasets, files)
        return found

    def files(self, run_id: str, folder: str | None = None) -> list[str]:
        entries = self.client.list_artifacts(run_id, folder)
        below = [path for entry in entries if entry.is_dir for path in self.files(run_id, entry.path)]
        return sorted([entry.path for entry in entries if not entry.is_dir] + below)


def fill(store: Store) -> None:
    """A sweep's own run with two children, one of which diverged, and a run that is under way."""
    client = store.client
    experiment = experiment_id(client, store.uri, "mine")
    parent = client.create_run(experiment, start_time=1000, run_name="sweep", tags={"study": "mine"})
    for number, status in enumerate(("FINISHED", "KILLED", "RUNNING")):
        tags = {"study": "mine", "outcome": "pruned" if status == "KILLED" else "complete", "seed": str(number)}
        tags["mlflow.parentRunId"] = parent.info.run_id
        run = client.create_run(experiment, start_time=2000 + number, run_name=f"seed {number}", tags=tags)
        points = [Metric("val/loss", 3.0 / step, 10_000 + step, step) for step in range(1, 1203)]
        points += [Metric(f"odd/{name}", value, 7, 0) for name, value in ODD.items()]
        client.log_batch(run.info.run_id, points[:1000], [Param("model.learning_rate", "0.01")], [RunTag("b", "ü\n")])
        client.log_batch(run.info.run_id, points[1000:])
        dataset = Dataset("text", "abc", "resbench", '{"source": "here"}', profile='{"tokens": 12}')
        client.log_inputs(run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        client.log_text(run.info.run_id, "model: {}\n", "config.yaml")
        client.log_text(run.info.run_id, "<svg/>", "stability/profile.svg")
        if status != "RUNNING":
            client.set_terminated(run.info.run_id, status, end_time=5000 + number)
    client.set_terminated(parent.info.run_id, "FINISHED", end_time=9000)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Store:
    store = Store(tmp_path_factory.mktemp("stores") / "first", empty_store)
    fill(store)
    return store


@pytest.fixture
def second(tmp_path: Path, empty_store: Path) -> Store:
    return Store(tmp_path / "second", empty_store)


@pytest.fixture(scope="module")
def file(first: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "runs.zip"
    assert first.runs("export", str(path), "--study", "mine") == 0
    return path


def test_what_arrives_is_what_left_and_arrives_once(first: Store, second: Store, file: Path, tmp_path: Path) -> None:
    assert second.runs("import", str(file)) == 0
    sent = first.content()
    del sent["seed 2"]  # under way
    assert second.content() == sent
    assert sent["seed 0"][2]["parent"] == "sweep"
    assert len(sent["seed 0"][3]["val/loss"]) == 1202
    assert second.runs("import", str(file)) == 0
    assert second.content() == sent
    again = tmp_path / "again.zip"
    assert second.runs("export", str(again)) == 0
    assert first.runs("import", str(again)) == 0  # home again: they are known there
    assert len(first.content()) == len(sent) + 1
    with Archive(file) as one, Archive(again) as other:
        assert {o: one.content_hash(o) for o in one.records} == {o: other.content_hash(o) for o in other.records}


def test_a_sketch_has_last_values_and_gives_way_to_the_whole(
    first: Store, second: Store, file: Path, tmp_path: Path
) -> None:
    with Archive(file) as archive:
        for _ in range(2):
            import_runs(second.client, second.uri, archive, sketch=True)
    sketched, whole = second.content(), first.content()
    del whole["seed 2"]  # under way
    for name, (times, params, tags, metrics, datasets, files) in sketched.items():
        assert (times, params, tags) == whole[name][:3]
        assert metrics == {metric: points[-1:] for metric, points in whole[name][3].items()}
        assert (datasets, files) == ([], {})
    with pytest.raises(ValueError, match="here without its histories"):
        second.runs("export", str(tmp_path / "sketches.zip"), "--study", "mine")
    assert not (tmp_path / "sketches.zip").exists()
    assert second.runs("import", str(file)) == 0
    assert second.content() == whole
    with Archive(file) as archive:
        assert import_runs(second.client, second.uri, archive, sketch=True).new == []
    assert second.content() == whole


def test_a_run_under_way_travels_only_by_its_id(
    first: Store, second: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = experiment_id(first.client, first.uri, "mine")
    under_way = first.client.search_runs([experiment], "attributes.status = 'RUNNING'")[0].info.run_id
    path = tmp_path / "one.zip"
    assert first.runs("export", str(path), under_way) == 0
    assert second.runs("import", str(path)) == 0
    assert second.content()["seed 2"][0] == (2002, None, "RUNNING")
    assert "parent" not in second.content()["seed 2"][2]  # it stayed behind
    # The run went on at home: the copy is left alone, unless it is asked for.
    first.client.log_metric(under_way, "val/loss", 0.5, step=5000)
    capsys.readouterr()
    assert first.runs("export", str(path), under_way) == 0
    assert second.runs("import", str(path)) == 1
    assert "1 are there with another content and were left alone" in capsys.readouterr().out
    assert len(second.content()["seed 2"][3]["val/loss"]) == 1202
    assert second.runs("import", str(path), "--replace") == 0
    assert len(second.content()["seed 2"][3]["val/loss"]) == 1203
    assert len(second.content()) == 1


def test_an_import_cut_short_is_done_again(
    second: Store, first: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = MlflowClient.log_artifacts
    calls = []

    def fail_second(self: MlflowClient, *arguments: Any, **more: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError("no space left on device")
        logged(self, *arguments, **more)

    monkeypatch.setattr(MlflowClient, "log_artifacts", fail_second)
    with pytest.raises(OSError, match="no space left"):
        second.runs("import", str(file))
    assert second.runs("import", str(file)) == 0
    sent = first.content()
    del sent["seed 2"]
    assert second.content() == sent


def test_what_does_not_travel_is_named(second: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = experiment_id(second.client, second.uri, "e")
    run_id = second.client.create_run(experiment).info.run_id
    for name in ("weights.ckpt", "hook.py", "model.pkl"):
        second.client.log_text(run_id, "cos\nsystem\n", name)
    second.client.log_text(run_id, "x" * 3_000_000, "long.txt")
    second.client.log_text(run_id, "x", "short.txt")
    second.client.set_terminated(run_id)
    path = tmp_path / "out.zip"
    assert second.runs("export", str(path), "--max-artifact-mib", "2") == 0
    assert "1 artifacts" in (said := capsys.readouterr().out)
    assert "4 artifacts stayed behind" in said
    with Archive(path) as archive:
        assert [name for name, _ in archive.artifacts(run_id)] == ["short.txt"]
        assert set(archive.records[run_id].left_out) == {"hook.py", "long.txt", "model.pkl", "weights.ckpt"}


Change = Callable[[dict[str, bytes]], None]


def _flip(members: dict[str, bytes]) -> None:
    name = max((name for name in members if name.endswith("metrics.json")), key=lambda name: len(members[name]))
    assert b"1.5" in members[name]
    members[name] = members[name].replace(b"1.5", b"1.4", 1)


def _drop(members: dict[str, bytes]) -> None:
    del members[next(name for name in members if name.endswith("config.yaml"))]


def _unlisted(members: dict[str, bytes]) -> None:
    members["runs/x/artifacts/more.txt"] = b""


def _listed(name: str) -> Change:
    """A member that is listed with its true hash, as only a forger would."""

    def change(members: dict[str, bytes]) -> None:
        import hashlib

        manifest = json.loads(members[MANIFEST])
        place = name.format(run=manifest["runs"][0])
        members[place] = b"content"
        manifest["members"][place] = {"size": 7, "sha256": hashlib.sha256(b"content").hexdigest()}
        members[MANIFEST] = json.dumps(manifest).encode()

    return change


def _manifest(**changed: Any) -> Change:
    def change(members: dict[str, bytes]) -> None:
        members[MANIFEST] = json.dumps({**json.loads(members[MANIFEST]), **changed}).encode()

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_flip, "was altered"),
        (_drop, "is missing"),
        (_unlisted, "is not listed"),
        (_listed("../escaped.txt"), "not a plain relative path"),
        (_listed("/tmp/escaped.txt"), "not a plain relative path"),
        (_listed("runs/{run}/artifacts/../../../x.txt"), "not a plain relative path"),
        (_listed("runs/{run}/artifacts/c:\\x.txt"), "not a plain relative path"),
        (_listed("runs/{run}/artifacts/model.pkl"), "does not travel"),
        (_listed("runs/elsewhere/artifacts/x.txt"), "belongs to no listed run"),
        (_manifest(schema_version=2), "schema version 2, this resbench reads up to 1"),
        (_manifest(schema_version="1"), "schema_version"),
        (_manifest(format="other"), "format"),
        (_manifest(runs=["..", "a"]), "is not a run id"),
        (lambda members: members.pop(MANIFEST), "has no manifest.json"),
    ],
)
def test_a_file_that_was_tampered_with_is_refused_whole(
    change: Change, complaint: str, file: Path, tmp_path: Path
) -> None:
    bad = tampered(file, change, tmp_path)
    with pytest.raises(ValueError, match=complaint) as error:
        Archive(bad)
    assert str(bad) in str(error.value)


def tampered(file: Path, change: Change, folder: Path) -> Path:
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    bad = folder / "bad.zip"
    with zipfile.ZipFile(bad, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return bad


def test_nothing_of_a_refused_file_is_imported(file: Path, second: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was altered"):
        second.runs("import", str(tampered(file, _flip, tmp_path)))
    assert second.content() == {}


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.999])
def test_a_truncated_file_is_refused(keep: float, file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "short.zip"
    bad.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    with pytest.raises(ValueError, match="not a file that `resbench runs export` wrote"):
        Archive(bad)


def test_one_flipped_bit_anywhere_changes_nothing_unnoticed(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    with Archive(file) as archive:
        good = {origin: archive.content_hash(origin) for origin in archive.records}
    bad = tmp_path / "flipped.zip"
    refused = 0
    for position in range(7, len(whole), len(whole) // 40):
        bad.write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
        try:
            with Archive(bad) as archive:  # where a bit of a date or the like does not matter
                found = {origin: archive.content_hash(origin) for origin in archive.records}
        except ValueError:
            refused += 1
        else:
            assert found == good
    assert refused > 30


@given(st.text(max_size=30))
def test_a_path_that_passes_stays_inside(name: str) -> None:
    try:
        check_path(name)
    except ValueError:
        return
    base = Path("/base")
    assert (base / name).resolve().is_relative_to(base)
    assert str(base / name) == f"/base/{name}"


def test_delete_asks_first(first: Store, second: Store, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second.runs("import", str(file))
    with pytest.raises(ValueError, match="which runs"):
        second.runs("delete", "--yes")
    capsys.readouterr()
    assert second.runs("delete", "--outcome", "pruned") == 1
    assert "Nothing is deleted yet" in capsys.readouterr().out
    assert "seed 1" in second.content()
    assert second.runs("delete", "--outcome", "pruned", "--yes") == 0
    assert set(second.content()) == {"sweep", "seed 0"}
    assert second.runs("import", str(file)) == 0  # what was deleted can be had back from the file
    assert set(second.content()) == {"sweep", "seed 0", "seed 1"}
    with pytest.raises(ValueError, match="no run nonesuch"):
        second.runs("list", "nonesuch")


def test_nothing_to_export_leaves_no_file(second: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to export"):
        second.runs("export", str(tmp_path / "none.zip"))
    assert not list(tmp_path.glob("none*"))

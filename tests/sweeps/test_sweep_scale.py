"""The measurement of the queue: every stub trial ends once, in whichever process, and what is reported adds up."""

import json
from pathlib import Path

import pytest
from postgres_server import Postgres

from resbench.sweeps.cli import main
from resbench.sweeps.scale import Latency, Measurement, measure, saturation
from resbench.sweeps.scale_report import verdict


def test_three_workers_end_sixty_trials_and_the_report_adds_up(
    database: Postgres, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "scale.json"
    files = ["--json", str(found), "--figure", str(tmp_path / "scale.svg"), "--markdown", str(tmp_path / "scale.md")]
    assert main(["bench", "--storage", database.url, "--workers", "3", "--trials", "60", *files]) == 0
    told = json.loads(found.read_text())
    (row,) = told["measurements"]
    assert (row["workers"], row["trials"]) == (
        3,
        60,
    )  # the command itself checks that none was lost and none ended twice
    assert row["trials_per_s"] == pytest.approx(60 / row["seconds"])
    assert {name: row["latency"][name]["count"] for name in ("heartbeat", "finish")} == {"heartbeat": 60, "finish": 60}
    assert row["latency"]["claim"]["count"] == 60 + row["missed_claims"]
    for latency in row["latency"].values():
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    # Three workers are never busy for longer than three times the whole.
    spent = sum(latency["count"] * latency["mean"] for latency in row["latency"].values()) / 1e3
    assert spent <= 3 * row["seconds"]
    assert told["environment"]["server_version"]
    assert told["environment"]["fsync"] == "off"  # the tests' server
    assert (tmp_path / "scale.svg").read_text().startswith("<?xml")
    assert "| 3 |" in capsys.readouterr().out
    assert "| 3 |" in (tmp_path / "scale.md").read_text()


def test_more_workers_than_the_server_has_connections_for_are_refused(database: Postgres) -> None:
    with pytest.raises(ValueError, match=r"500 workers hold up to 1000 connections and the server allows 100"):
        measure(database.url, 500, 1000, 1.0, "too-many")


def measured(workers: int, per_second: float, cpu_s: float = 20.0) -> Measurement:
    latency = {"look": Latency(1, 1, 1, 1, 1)}
    return Measurement(workers, int(per_second * 10), 10.0, latency, 0, cpu_s / 2, cpu_s / 4, cpu_s, 0.0, 0.0)


def test_it_is_saturated_where_more_workers_bring_less_than_a_tenth() -> None:
    runs = [measured(1, 50), measured(2, 95), measured(4, 180), measured(8, 199), measured(16, 190)]
    assert saturation(runs).workers == 4  # 180 is above nine tenths of 199, 95 is not
    # 180 trials/s for 10 s; 20 CPU seconds of 2 cores, 10 of them in workers and 5 in the server: 5 are others'.
    assert "other programs had" not in verdict(runs, cores=4)
    assert "Saturated: 180 trials/s from 4 workers on, at most 199 with 8; 2.0 of 4 cores are busy" in verdict(
        runs, cores=4
    )
    assert "other programs had 0.5 of 1 cores" in verdict(runs, cores=1)
    # 10 s in workers over 1990 trials.
    assert "a trial costs 5 ms of CPU time in its worker and 3 ms in the server" in verdict(runs, cores=4)

"""Submissions: a true one passes, and everything a stranger might send instead is refused with its reason."""

from __future__ import annotations

import copy
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import ESCAPES, MARKUP, SCRIPT, Store
from simulated_laws import ladder

from resbench.results.cli import main
from resbench.results.submission.making import make_submission
from resbench.results.submission.plausible import implausible, weaknesses
from resbench.results.submission.reading import MOST_BYTES, Refused, parse_submission
from resbench.results.submission.schema import MOST_RUNS, digest_of

Content = dict[str, Any]


@pytest.fixture(scope="module")
def honest() -> Content:
    """A submission of two schemes, five sizes and three seeds, as plain data."""
    runs = ladder({"resnet": 1.0, "mhc": 1.2}, ratios=(20,), config_hash="c" * 64, commit="0" * 40, dirty=False)
    runs["run_id"] = [f"{position:032x}" for position in range(len(runs))]
    runs = runs.assign(
        data_fingerprint="d" * 64, tokens=runs["budget_tokens"], hardware="NVIDIA H100 80GB HBM3", tokens_per_s=0.0
    )
    runs["tokens_per_s"] = runs["tokens"].astype("float64") / runs["wall_s"]
    return dict(json.loads(make_submission(runs, "laws", "A. Reader")))


def changed(content: Content, change: Callable[[Content], None], *, signed: bool = True) -> bytes:
    """The file after a change, with a digest that fits it unless told otherwise."""
    new = copy.deepcopy(content)
    change(new)
    if signed:
        new["digest"] = digest_of(new)
    return json.dumps(new).encode()


def refusals(raw: bytes) -> str:
    """Every reason for which the file is refused, by its form or by its numbers; empty if it is not."""
    try:
        return "; ".join(implausible(parse_submission(raw)))
    except Refused as refused:
        return "; ".join(refused.reasons)


def test_an_honest_submission_passes_and_its_weaknesses_are_named(honest: Content) -> None:
    submission = parse_submission(json.dumps(honest).encode())
    assert len(submission.runs) == 30
    assert implausible(submission) == []
    assert "no run of the control identity-hc" in weaknesses(submission)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("scheme", SCRIPT, r"runs[0].scheme"),
        ("cell", MARKUP, "runs[0].cell"),
        ("size", ESCAPES, "runs[0].size"),
        ("task", "../../etc/passwd", "runs[0].task"),
        ("task", "a\\b", "runs[0].task"),
        ("scheme", "=HYPERLINK(1)", "runs[0].scheme"),
        ("scheme", "resn\u0435t", "runs[0].scheme"),  # a Cyrillic letter that looks like e
        ("scheme", "mhc\n", "runs[0].scheme"),
        ("scheme", "m" * 201, "runs[0].scheme"),
        ("seed", "0", "runs[0].seed"),
        ("seed", -1, "runs[0].seed"),
        ("val_loss", "3.0e", "runs[0].val_loss"),
        ("val_loss", -0.1, "runs[0].val_loss"),
        ("outcome", "won", "runs[0].outcome"),
        ("config_hash", "c" * 15, "runs[0].config_hash"),
        ("config_hash", "../" + "c" * 61, "runs[0].config_hash"),
        ("run_id", "../../x", "runs[0].run_id"),
        ("surprise", 1, "runs[0].surprise"),
        ("tokens", 5, "complete after 5 tokens"),
        ("tokens_per_s", 1e12, "FLOP/s, but the peak"),
        ("wall_s", 1e-9, "FLOP/s, but the peak"),
        ("flops", 1.0, "is not flops_per_token times tokens"),
        ("peak_gib", 1e-6, "do not hold"),
        ("bits_per_byte", 0.1, "less than text holds"),
        ("bits_per_byte", 500.0, "would make a token"),
        ("params_connection", 10**14, "in the connections"),
        ("val_loss", None, "complete, but without val_loss"),
        ("seed", 1, "one run of each counts"),
        ("run_id", f"{1:032x}", "is there 2 times"),
    ],
)
def test_a_field_that_is_hostile_or_cannot_be_true_is_named(
    honest: Content, field: str, value: object, reason: str
) -> None:
    raw = changed(honest, lambda content: content["runs"][0].update({field: value}))
    assert reason in refusals(raw)
    assert refusals(raw).isprintable(), "what a stranger wrote must not act in a terminal"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bits_per_byte": None}, "without bits_per_byte"),
        ({"bits_per_byte": 0.31, "val_loss": 0.1}, "less than a single byte of text holds"),
        ({"bits_per_byte": 0.1, "val_loss": 3.0}, "less than text holds"),
    ],
)
def test_no_way_under_the_entropy_of_text(honest: Content, changes: Content, reason: str) -> None:
    assert reason in refusals(
        changed(honest, lambda content: content["runs"][0].update(task="python-source", **changes))
    )


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_a_number_that_is_none_is_refused(honest: Content, number: str) -> None:
    raw = changed(honest, lambda content: content["runs"][0].update(val_loss="HERE")).replace(
        b'"HERE"', number.encode()
    )
    assert refusals(raw)


def test_changes_after_the_fact_break_the_digest(honest: Content) -> None:
    def better(content: Content) -> None:
        content["runs"][0]["val_loss"] -= 0.01

    assert "digest: " in refusals(changed(honest, better, signed=False))
    assert not refusals(changed(honest, better)), "a digest is no signature, and the schema says so"


def test_seeds_that_agree_to_the_last_digit_are_copies(honest: Content) -> None:
    def copied(content: Content) -> None:
        for run in content["runs"][:3]:
            run["val_loss"] = 3.5

    assert "same loss to the last digit" in refusals(changed(honest, copied))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe{}", "not JSON in UTF-8"),
        (b"[]", "JSON object"),
        (b"{}", "schema: Field required"),
        (b"[" * 200_000, "too deeply"),
        (b'{"schema": 1, "schema": 2}', "twice"),
        (b'{"a": {"b": 1, "b": 2}}', "twice"),
        (b"\x80\x04N.", "not JSON"),
        (gzip.compress(b"[" * 10**7), "compressed: a submission is plain JSON"),
        (b"PK\x03\x04" + b"\0" * 100, "compressed"),
        (b'{"a":' * 50 + b"1" + b"}" * 50, "schema: Field required"),
        (b'{"schema": "' + b"x" * 10**6 + b'"}', "Input should be 'resbench.submission/3'"),
    ],
)
def test_what_is_no_submission_at_all(raw: bytes, reason: str) -> None:
    assert reason in refusals(raw)


def test_more_rows_than_anybody_ran(honest: Content, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = changed(honest, lambda content: content.update(runs=content["runs"][:1] * (MOST_RUNS + 1)))
    assert "at most 5000" in refusals(rows)
    endless = tmp_path / "endless.json"
    with endless.open("wb") as stream:
        stream.truncate(10**12)  # a terabyte of zeros that takes no room
    assert main(["check", str(endless)]) == 1
    assert f"more than {MOST_BYTES // 2**20} MiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (
            b'{"configs":{%s}}' % b",".join(b'"%x":{}' % i for i in range(100_000)),
            "configs: 100000 entries, at most 2000",
        ),
        (b'{"runs":[%s]}' % b",".join([b"{}"] * 100_000), "runs: 100000 entries, at most 5000"),
        (b"{%s}" % b",".join(b'"%x":1' % i for i in range(100_000)), "the file: 100000 entries"),
        (b'{"runs":[{%s}]}' % b",".join(b'"%x":1' % i for i in range(100_000)), "runs[0]: 100000 entries"),
    ],
)
def test_a_crowd_is_counted_before_it_is_looked_at(raw: bytes, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen megabytes of wrong keys would otherwise be two gigabytes of errors and half a minute."""
    monkeypatch.setattr("resbench.results.submission.reading.validated", lambda _content: pytest.fail("validated"))
    assert reason in refusals(raw)


def test_looking_for_a_key_that_is_there_twice_takes_no_square_of_the_time() -> None:
    """Among two hundred thousand keys; comparing each with every other would take minutes."""
    keys = b",".join(b'"%x":1' % i for i in range(200_000))
    assert "key '30d3f' twice" in refusals(b'{%s,"30d3f":1}' % keys)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert main(["check", str(tmp_path / "pipe")]) == 1
    assert "not a regular file" in capsys.readouterr().out


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_no_bytes_do_more_than_be_refused(raw: bytes) -> None:
    with pytest.raises(Refused):
        parse_submission(raw)


def test_a_study_is_submitted_and_checked(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "demo.json"
    options = ["--tracking-uri", store.uri, "--out", str(file), "--submitter", "A. Reader"]
    assert main(["submit", "--study", "demo", *options]) == 0
    written = file.read_bytes()
    assert main(["check", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "Accepted: demo by A. Reader, 25 complete of 27 runs" in printed
    assert "no run of the control wide" in printed
    assert main(["submit", "--study", "demo", *options]) == 0
    assert file.read_bytes() == written, "the same runs make the same file"


def test_runs_that_would_be_refused_are_not_written(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "hostile.json"
    with pytest.raises(ValueError, match=r"runs\[\d+\].scheme"):
        main(["submit", "--study", "hostile", "--tracking-uri", store.uri, "--out", str(file), "--submitter", "x"])
    with pytest.raises(ValueError, match="submitter"):
        main(["submit", "--study", "demo", "--tracking-uri", store.uri, "--out", str(file), "--submitter", "<b>"])
    assert not list(tmp_path.iterdir())


def test_a_study_without_final_runs_has_nothing_to_submit() -> None:
    with pytest.raises(Refused, match=r"'laws' has no run of phase 'final' \(15 others\)"):
        make_submission(ladder({"resnet": 1.0}, ratios=(20,), phase="search"), "laws", "me")

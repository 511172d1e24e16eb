"""Verification: honest runs are found again, forged ones are caught, and a stranger's configuration runs nothing that it should not."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from resbench.harness.fit import fit
from resbench.harness.hashing import config_hash
from resbench.results.cli import main
from resbench.results.runs import load_runs, ranked_runs
from resbench.results.source import open_source
from resbench.results.submission import rerun
from resbench.results.submission.agreement import HARDWARE, MOST_SD, shifted, tolerance
from resbench.results.submission.configs import load_configs
from resbench.results.submission.making import make_submission
from resbench.results.submission.reading import Refused, parse_submission
from resbench.results.submission.rerun import Order, Rerun, here, in_a_process, machine
from resbench.results.submission.rerunnable import not_rerunnable
from resbench.results.submission.schema import Submission, digest_of
from resbench.results.submission.verification import Verification, load_verifications, with_verification
from resbench.results.submission.verifying import Terms, verify

Content = dict[str, Any]

CONFIG = {
    "trainer": {"enable_progress_bar": False, "accelerator": "cpu"},
    "model": {
        "scheme": "mhc",
        "backbone": {
            "class_path": "transformer",
            "init_args": {"size": None, "depth": 1, "width": 16, "n_heads": 2, "ffn_width": 16},
        },
        "compile": False,
    },
    "data": {"class_path": "dyck", "init_args": {"context_length": 16, "batch_size": 2, "val_sequences": 4}},
    "budget": {"tokens": 320},
    "tracking": {"weights": False},
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Content:
    """A submission of two seeds of one tiny cell, really trained."""
    folder = tmp_path_factory.mktemp("submitted")
    shutil.copy(empty_store, folder / "mlflow.db")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    for seed in (0, 1):
        argv = ["--config", str(folder / "config.yaml"), "--seed_everything", str(seed), "--output_dir", str(folder)]
        tags = {"study": "tiny", "phase": "final", "cell": "scheme=mhc", "trial_key": f"seed={seed}"}
        assert fit(argv, tags=tags).outcome == "complete"
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    runs = load_runs(uri)
    configs = load_configs(open_source(uri), ranked_runs(runs))
    return dict(json.loads(make_submission(runs, "tiny", "A. Reader", configs=configs)))


@pytest.fixture(scope="module")
def runner() -> rerun.Runner:
    """Runs each order once, in this process."""
    known: dict[str, Rerun] = {}

    def run(order: Order, timeout_s: float) -> Rerun:
        key = config_hash(order.config) + str(order.seed)
        if key not in known:
            known[key] = here(order)
        return known[key]

    return run


def signed(content: Content, change: Callable[[Content], object] = lambda _content: None) -> Submission:
    """The submission after a change, with a digest and configuration hashes that fit it."""
    new = copy.deepcopy(content)
    change(new)
    for digest, config in list(new["configs"].items()):
        del new["configs"][digest]
        new["configs"][config_hash(config)] = config
        for run in new["runs"]:
            if run["config_hash"] == digest:
                run["config_hash"] = config_hash(config)
    new["digest"] = digest_of(new)
    return parse_submission(json.dumps(new).encode())


TERMS = Terms("B. Verifier", sample=2, seed=1, device="cpu")


def checked(submission: Submission, run: rerun.Runner, **terms: Any) -> Verification:
    return verify(submission, replace(TERMS, **terms), machine("cpu"), run)


def test_an_honest_submission_is_verified_to_the_last_bit(honest: Content, runner: rerun.Runner) -> None:
    record = checked(signed(honest), runner)
    assert record.verdict == "verified"
    assert [r.difference for r in record.reruns] == [0.0, 0.0], "the same code on the same machine"
    assert record.machine.hardware


def test_a_forged_loss_is_caught(honest: Content, runner: rerun.Runner) -> None:
    def better(content: Content) -> None:
        content["runs"][1]["val_loss"] -= 0.1
        if content["runs"][1]["bits_per_byte"]:
            content["runs"][1]["bits_per_byte"] = None

    record = checked(signed(honest, better), runner)
    assert record.verdict == "failed"
    differing = [r for r in record.reruns if r.verdict == "differs"]
    assert [r.difference for r in differing] == [pytest.approx(0.1)]
    assert "more than" in differing[0].reason


def test_other_counts_or_other_data_are_not_the_same_run(honest: Content, runner: rerun.Runner) -> None:
    def smaller(content: Content) -> None:
        for run in content["runs"]:
            run["params_total"] -= 1

    def elsewhere(content: Content) -> None:
        for run in content["runs"]:
            run["data_fingerprint"] = "e" * 64

    counts = checked(signed(honest, smaller), runner)
    assert counts.verdict == "failed"
    assert "this configuration has" in counts.reruns[0].reason
    data = checked(signed(honest, elsewhere), runner)
    assert data.verdict == "inconclusive"
    assert "other data" in data.reruns[0].reason


def many(honest: Content, spread: float, runs: int = 12) -> Submission:
    """The submission with twelve seeds whose losses spread by `spread`."""
    draw = random.Random(0)

    def more(content: Content) -> None:
        first = content["runs"][0]
        content["runs"] = [
            first
            | {"run_id": f"{seed:032x}", "seed": seed, "val_loss": 3.0 + draw.gauss(0, spread), "bits_per_byte": None}
            for seed in range(runs)
        ]

    return signed(honest, more)


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "verified"), (0.002, "verified"), (0.012, "failed")])
def test_a_shift_that_each_run_hides_shows_in_the_mean(honest: Content, shift: float, verdict: str) -> None:
    """Seeds spread by 0.01, so a run may differ by 3 sqrt(2) 0.01 = 0.042; reruns scatter by 0.002 about the shift."""
    submission = many(honest, 0.01)
    losses = {run.seed: run.val_loss for run in submission.runs}
    run = submission.runs[0]
    draw = random.Random(1)

    def again(order: Order, _timeout_s: float) -> Rerun:
        facts = {"params_total": run.params_total, "flops_per_token": int(run.flops_per_token)}
        loss = (losses[order.seed] or 0.0) + shift + draw.gauss(0, 0.002)
        return Rerun("complete", "", loss, run.data_fingerprint, facts)

    record = checked(submission, again, sample=8)
    assert all(r.verdict == "agrees" for r in record.reruns)
    assert record.verdict == verdict


def test_spreading_losses_out_does_not_widen_the_tolerance_without_end(honest: Content) -> None:
    assert tolerance(many(honest, 0.5).runs).run == pytest.approx(3 * 2**0.5 * MOST_SD)
    assert tolerance(many(honest, 0.0001).runs).run == HARDWARE
    assert not shifted([0.5], tolerance(many(honest, 0.01).runs))[1], "one difference has no interval"


def assign(path: str, value: Any) -> Callable[[Content], None]:
    """A change of every configuration of a submission."""

    def change(content: Content) -> None:
        for config in content["configs"].values():
            *parents, last = path.split(".")
            node = config
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("model.scheme.class_path", "os.system", "no scheme that is installed"),
        ("model.scheme.class_path", "resbench.architectures.registry.resolve", "no scheme that is installed"),
        ("model.backbone.class_path", "torch.load", "no backbone that is installed"),
        ("data.class_path", "subprocess.Popen", "no task that is installed"),
        ("model.scheme.init_args.match", {"class_path": "os.system"}, "no scheme that is installed"),
        ("data.init_args.loader", {"class_path": "os.system"}, "no scheme that is installed"),
        ("trainer.callbacks", [{"class_path": "os.system"}], "trainer.callbacks"),
        ("trainer.logger", True, "trainer.logger: not an option"),
        ("trainer.plugins", ["x"], "trainer.plugins"),
        ("trainer.devices", 64, "trainer.devices"),
        ("trainer.accumulate_grad_batches", 10**7, "more than a rerun takes"),
        ("callbacks", {"x": 1}, "callbacks: no part"),
        ("output_dir", "runs", "output_dir: no part"),
        ("data.init_args.root", "/etc", "is a place of the submitter's"),
        ("data.init_args.data_files", ["secrets.txt"], "is a place of the submitter's"),
        ("data.init_args.tokenizer", "tokenizer.json", "is a file of the submitter's"),
        ("data.init_args.name", "../../etc/passwd", "looks like a place"),
        ("model.scheme.init_args.name", "--output_dir", "looks like a place"),
        ("model.backbone.init_args.depth", 10**5, "more than a rerun takes, 512"),
        ("model.scheme.init_args.n_streams", 10**6, "more than a rerun takes, 64"),
        ("data.init_args.batch_size", 10**9, "more than a rerun takes"),
        ("budget.tokens", "many", "expected a number of tokens"),
        ("budget.other", 1, "budget.other: not an option"),
        ("every.validation", "x", "every.validation"),
        ("model.optimizer", "x", "model.optimizer: not an option"),
        ("model.learning_rate", {"class_path": "x"}, "where a value belongs"),
    ],
)
def test_a_hostile_configuration_is_named_and_not_run(honest: Content, path: str, value: Any, reason: str) -> None:
    submission = signed(honest, assign(path, value))

    def never(_order: Order, _timeout_s: float) -> Rerun:
        raise AssertionError("it was run")

    record = checked(submission, never)
    assert record.verdict == "inconclusive"
    assert any(reason in told for told in record.left_out), record.left_out
    assert sum(record.left_out.values()) == 2


def test_the_verifiers_own_data_may_be_anywhere(honest: Content) -> None:
    config = next(iter(signed(honest, assign("data.init_args.root", "/there")).configs.values()))
    assert not_rerunnable(config, {"root": "/here"}) == []


def test_a_rerun_beyond_the_allowed_flops_is_refused_by_our_own_count(honest: Content) -> None:
    config = next(iter(honest["configs"].values()))
    found = here(Order(config, 0, "cpu", max_flops=10.0, threads=1))
    assert found.outcome == "refused"
    assert "more than the 1.00e+01 allowed" in found.reason


def test_what_does_not_build_here_is_no_proof_of_anything(honest: Content, runner: rerun.Runner) -> None:
    record = checked(signed(honest, assign("model.backbone.init_args.n_heads", 3)), runner)
    assert record.verdict == "inconclusive"
    assert "failed: ValueError" in record.reruns[0].reason


def deep(levels: int) -> Content:
    value: Content = {"a": 1}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"a": {"b": "x" * 301}}, "at most 300"),
        ({"a": "\x1b[31m"}, "all printable"),
        (deep(9), "nested deeper"),
        ({"__class__.x": 1}, "no name of an option"),
        ({"a": list(range(400))}, "more than 300 values"),
        ({"a": 1e300}, "no value of an option"),
    ],
)
def test_a_configuration_that_is_no_plain_small_data_is_refused(honest: Content, config: Content, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        signed(honest, lambda content: content["configs"].update({"f" * 16: config}))
    assert reason in str(refused.value)
    assert str(refused.value).isprintable()


def test_a_configuration_under_another_hash_is_refused(honest: Content) -> None:
    new = copy.deepcopy(honest)
    next(iter(new["configs"].values()))["model"]["learning_rate"] = 1e-9
    new["digest"] = digest_of(new)
    with pytest.raises(Refused, match="it is not the one that the runs name"):
        parse_submission(json.dumps(new).encode())


def test_the_command_writes_a_record_that_rows_show(
    honest: Content,
    runner: rerun.Runner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_figures: None,
) -> None:
    monkeypatch.setattr(rerun, "in_a_process", runner)
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(honest))
    command = ["verify", str(file), "--verifier", "B. Verifier", "--sample", "1", "--seed", "3", "--device", "cpu"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "agrees" in told
    assert "verified: tiny by A. Reader" in told
    record = file.with_suffix(".verification.json")
    build = ["build", "--from", str(file), "--out", str(tmp_path / "site")]
    assert main([*build, "--verification", str(record)]) == 0
    rows = json.loads((tmp_path / "site" / "leaderboard.json").read_text())["rows"]
    assert [row["verified"] for row in rows] == ["yes: 1 of 2 rerun"]
    assert main(build) == 0
    rows = json.loads((tmp_path / "site" / "leaderboard.json").read_text())["rows"]
    assert [row["verified"] for row in rows] == [None]

    changed = json.loads(record.read_text())
    changed["reruns"][0]["difference"] = 0.001
    record.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="changed after it was written"):
        load_verifications([record])
    record.write_text("{}")
    with pytest.raises(ValueError, match="not a record that `resbench leaderboard verify` wrote"):
        load_verifications([record])


def test_a_failed_verification_marks_every_row_of_the_submission(honest: Content, runner: rerun.Runner) -> None:
    def worse(content: Content) -> None:
        content["runs"][0]["val_loss"] += 1
        content["runs"][0]["bits_per_byte"] = None

    submission = signed(honest, worse)
    record = checked(submission, runner, sample=2)
    row = _cell(submission)
    assert [cell.verified for cell in with_verification([row], [record])] == ["NO: 1 of 2 reruns differ"]
    other = replace(row, run_ids={0: submission.runs[0].run_id}) if record.reruns[0].run_id else row
    sampled = [r for r in record.reruns if r.run_id != submission.runs[0].run_id]
    alone = record.model_copy(update={"reruns": sampled})
    assert [cell.verified for cell in with_verification([other], [alone])] == ["NO: others of its submission differ"]


def _cell(submission: Submission) -> Any:
    from resbench.results.leaderboard import make_leaderboard
    from resbench.results.submission.source import _raw

    class Source:
        name = "submission"

        def runs(self) -> Any:
            return (_raw(run, submission.study) for run in submission.runs)

    return make_leaderboard(load_runs(Source()), submission.study).cells[0]  # type: ignore[arg-type]


def test_a_rerun_that_takes_too_long_is_ended(honest: Content) -> None:
    """Importing torch alone takes longer than this."""
    config = next(iter(honest["configs"].values()))
    found = in_a_process(Order(config, 0, "cpu", 1e16, 1), timeout_s=0.05)
    assert found == Rerun("timeout", "not done after 0.05 s")


@pytest.mark.slow
def test_a_process_of_its_own_finds_what_this_one_does(honest: Content, runner: rerun.Runner) -> None:
    order = Order(next(iter(honest["configs"].values())), 0, "cpu", 1e16, 1)
    assert in_a_process(order, timeout_s=300) == runner(order, 0)

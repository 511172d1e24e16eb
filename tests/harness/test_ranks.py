"""Two processes on one CPU train what one process trains, for every scheme, sharded or not, and write one run.

TOLERANCE: two processes take the mean of two means where one takes the mean over the whole batch. That is float32 rounding, 6e-8 of a value per
step. AdamW with its usual eps of 1e-8 makes whole steps of gradients that are nothing but rounding, as those of connections are at first; with 1e-3
losses, gradient norms, weights and moments must agree to 1e-4 over ten steps; most schemes agree to 1e-6.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from harness_support import Argv, client_of, history
from rank_pair import Pair

from resbench.architectures.registry import available
from resbench.harness import names, ranks
from resbench.harness.checkpoint_io import checkpoints
from resbench.harness.errors import Preempted
from resbench.harness.fit import Pruned, RunResult, fit

Fit = Callable[..., RunResult]
TOLERANCE = 1e-4
STEPWISE = ("--trainer.log_every_n_steps=1", "--model.eps=1e-3")
ONE = ("--data.batch_size=8", "--budget.tokens=2560")
SELDOM = ("--every.validation=1280", "--every.checkpoint=2560")
TWO = ("--data.batch_size=4", "--budget.tokens=2560", "--trainer.devices=2")
SCHEMES = sorted(name for name, plugin in available("scheme").items() if plugin.distribution == "resbench")
BOTH = ("resnet", "hc", "mhc", "identity-hc", "attnres")
"""Schemes tried with whole weights too; sharding them is the harder case."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    found = Pair()
    yield found
    found.close()


@pytest.fixture
def two(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """`fit` in two processes, the second of which is there already."""
    monkeypatch.setattr(ranks, "start", pair.start)
    return fit


def state(output_dir: Path, run_id: str) -> dict[str, torch.Tensor]:
    """Weights and moments of the last checkpoint."""
    saved = torch.load(checkpoints(output_dir / run_id)[-1], weights_only=True)
    found: dict[str, torch.Tensor] = dict(saved["state_dict"])
    numbers = [number for group in saved["optimizer_states"][0]["param_groups"] for number in group["params"]]
    for place, number in enumerate(numbers):  # numbered in the order of the groups, whatever the numbers are
        found |= {f"{place}.{key}": value for key, value in saved["optimizer_states"][0]["state"][number].items()}
    return found


def compare(output_dir: Path, expected_run: str, run_id: str, metric: str) -> None:
    """The same points, once each, with values equal up to the tolerance."""
    expected, found = (history(output_dir, run, metric) for run in (expected_run, run_id))
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected], metric
    values = [value for _, value in expected]
    assert [value for _, value in found] == pytest.approx(values, rel=TOLERANCE, abs=TOLERANCE), metric


def same_state(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    """Weights and moments, within the tolerance."""
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.shape == found[name].shape, name
        assert torch.allclose(value, found[name], rtol=TOLERANCE, atol=TOLERANCE), name


def stop_at(stop: int, tokens: int) -> None:
    """What a scheduler does."""
    if tokens == stop:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_two_processes_train_what_one_trains(two: Fit, argv: Argv, output_dir: Path, scheme: str) -> None:
    one = fit(argv(f"--model.scheme={scheme}", *STEPWISE, *SELDOM, *ONE))
    for strategy in ("ddp", "fsdp2") if scheme in BOTH else ("fsdp2",):
        both = two(argv(f"--model.scheme={scheme}", *STEPWISE, *SELDOM, *TWO, f"--trainer.strategy={strategy}"))
        assert both.outcome == "complete"
        for metric in (names.TRAIN_LOSS, names.VAL_LOSS, names.GRAD_NORM):
            compare(output_dir, one.run_id, both.run_id, metric)
        left, right = state(output_dir, one.run_id), state(output_dir, both.run_id)
        same_state(left, right)


@pytest.mark.slow
def test_a_run_moves_between_one_and_two_processes(two: Fit, argv: Argv, output_dir: Path) -> None:
    """Through every change of strategy there is, stopped by SIGTERM each time; it ends where the undisturbed run ends."""
    common = ("--model.scheme=mhc", *STEPWISE, "--every.validation=256", "--every.checkpoint=2560")
    ways = {"one": argv(*common, *ONE)}
    ways |= {strategy: argv(*common, *TWO, f"--trainer.strategy={strategy}") for strategy in ("ddp", "fsdp2")}
    route = ["one", "ddp", "fsdp2", "one", "fsdp2", "ddp", "one"]
    run_id: str | None = None
    for leg, way in enumerate(route[:-1], start=1):
        with pytest.raises(Preempted) as stopped:
            two(ways[way], run_id=run_id, on_validation=lambda tokens, loss, leg=leg: stop_at(leg * 256, tokens))
        assert stopped.value.tokens == leg * 256
        run_id = stopped.value.run_id
    moved = two(ways[route[-1]], run_id=run_id)
    assert moved.run_id == run_id
    whole = fit(ways["one"])
    for metric in (names.TRAIN_LOSS, names.VAL_LOSS, names.GRAD_NORM, names.LEARNING_RATE, names.PROGRESS_FLOPS):
        compare(output_dir, whole.run_id, moved.run_id, metric)
    left, right = state(output_dir, whole.run_id), state(output_dir, moved.run_id)
    same_state(left, right)
    with pytest.raises(ValueError, match="another configuration"):
        fit(argv(*common, *TWO[:2], "--trainer.devices=1"), run_id=run_id)  # half the sequences per step


@pytest.mark.slow
def test_on_two_processes_resuming_is_bitwise_and_their_random_numbers_differ(
    two: Fit, argv: Argv, output_dir: Path
) -> None:
    # Checkpoints every 2 steps, readings every 5, stopped at step 7: on from 6, in mid-reading.
    arguments = argv(
        "--model.scheme=harness_support.Noisy",
        *TWO,
        "--trainer.log_every_n_steps=5",
        "--every.checkpoint=512",
        "--every.validation=1792",
    )

    def give_up(tokens: int, loss: float) -> None:
        raise Pruned("far enough")

    stopped = two(arguments, on_validation=give_up)
    assert (stopped.outcome, stopped.tokens) == ("pruned", 7 * 256)
    resumed, whole = two(arguments, run_id=stopped.run_id), two(arguments)
    left, right = state(output_dir, resumed.run_id), state(output_dir, whole.run_id)
    assert all(torch.equal(left[name], right[name]) for name in right)
    for metric in (names.TRAIN_LOSS, names.GRAD_NORM, names.VAL_LOSS):
        assert history(output_dir, resumed.run_id, metric) == history(output_dir, whole.run_id, metric)
    saved = torch.load(checkpoints(output_dir / whole.run_id)[-1], weights_only=True)
    first, second = saved["callbacks"]["Randomness"]["ranks"]
    # Equal states would have drawn equal noise for different data.
    assert not torch.equal(first["torch"], second["torch"])
    assert first["numpy"] != second["numpy"]


@pytest.mark.slow
def test_one_command_is_two_processes_on_loopback_and_one_run(argv: Argv, output_dir: Path) -> None:
    arguments = argv("--model.scheme=mhc", "--budget.tokens=5120", "--trainer.devices=2", "--trainer.strategy=fsdp2")
    command = [str(Path(sys.executable).parent / "resbench"), "fit", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    listening: set[str] = set()
    while process.poll() is None:
        family = [psutil.Process(process.pid)]
        with suppress(psutil.Error):
            family += family[0].children(recursive=True)
            for member in family:
                listening |= {c.laddr.ip for c in member.net_connections() if c.status == psutil.CONN_LISTEN}
        time.sleep(0.1)
    printed, complained = process.communicate(timeout=30)
    assert process.returncode == 0, complained
    assert printed.count("complete after 5,120 tokens") == 1
    assert listening == {"127.0.0.1"}
    client = client_of(output_dir)
    runs = client.search_runs([client.get_experiment_by_name("resbench").experiment_id])
    assert [run.data.tags["outcome"] for run in runs] == ["complete"]
    assert len(checkpoints(output_dir / runs[0].info.run_id)) == 2


@pytest.mark.slow
def test_a_second_process_that_ends_early_ends_the_run(two: Fit, argv: Argv, output_dir: Path) -> None:
    oom = two(argv("--model.scheme=harness_support.SecondRunsOut", *TWO))
    assert (oom.outcome, oom.tokens) == ("oom", 2 * 256)
    assert "in process 1: OutOfMemoryError" in oom.reason
    with pytest.raises(RuntimeError, match="process 1 of the run failed: it ended with code -9"):
        two(argv("--model.scheme=harness_support.SecondIsKilled", *TWO))


def test_the_first_process_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NCCL nothing raises when a peer is gone; the watch acts after a while."""
    monkeypatch.setattr(ranks, "_LAST_WORDS_S", 0.2)
    gone = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    store = torch.distributed.TCPStore("127.0.0.1", 0, 1, is_master=True)
    companions = ranks.Companions(store, {1: gone}, ranks.Link(0, 2, store.port, "gloo"))
    told: list[tuple[int, ranks.LastWords]] = []
    companions.watch(lambda rank, words: told.append((rank, words)))
    deadline = time.monotonic() + 20
    while not told and time.monotonic() < deadline:
        time.sleep(0.05)
    companions.stop(0.0)
    assert told == [(1, ranks.LastWords("failed", "it ended with code 3"))]


def test_unknown_strategies_are_named(argv: Argv) -> None:
    with pytest.raises(ValueError, match=r"trainer.strategy='fsdp3': expected one of auto .*, ddp .*, fsdp2"):
        fit(argv("--trainer.strategy=fsdp3"))

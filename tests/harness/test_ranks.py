"""Two processes on one CPU train what one process trains, and write one run."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness_support import client_of, history

from resbench.harness import names
from resbench.harness.checkpoint_io import checkpoints
from resbench.harness.fit import fit

Argv = Callable[..., list[str]]


@pytest.mark.slow
def test_two_ranks_give_the_losses_of_one_with_twice_the_batch(argv: Argv, output_dir: Path) -> None:
    one = fit(argv("--model.scheme=mhc", "--data.batch_size=8", "--budget.tokens=5120"))
    two = argv(
        "--model.scheme=mhc",
        "--budget.tokens=5120",
        "--trainer.devices=2",
        "--trainer.strategy=ddp",
        "--tracking.experiment=two",
    )
    command = [str(Path(sys.executable).parent / "resbench"), "fit", *two]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("complete after 5,120 tokens") == 1
    client = client_of(output_dir)
    runs = client.search_runs([client.get_experiment_by_name("two").experiment_id])
    assert len(runs) == 1
    assert runs[0].data.tags["outcome"] == "complete"
    run_id = runs[0].info.run_id
    assert len(checkpoints(output_dir / run_id)) == 2
    for metric in (names.TRAIN_LOSS, names.VAL_LOSS):
        left, right = history(output_dir, one.run_id, metric), history(output_dir, run_id, metric)
        assert [tokens for tokens, _ in left] == [tokens for tokens, _ in right]
        # The gradient is a mean of two means rather than one mean: equal up to float32 rounding, which training then amplifies.
        assert [value for _, value in right] == pytest.approx([value for _, value in left], rel=1e-3)

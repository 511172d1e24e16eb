"""Lightning's logger interface over a tracked run, for `self.log` in plugins and for Lightning's own callbacks."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger

from resbench.harness.tracking import TrackedRun


class MlflowRunLogger(Logger):
    """Lightning counts optimizer steps, resbench training tokens: this is where one becomes the other.

    Hyper-parameters are ignored: the resolved configuration is logged whole.
    """

    def __init__(self, run: TrackedRun | None, experiment: str, tokens_per_step: int) -> None:
        super().__init__()
        self.run = run
        self._experiment = experiment
        self._tokens_per_step = tokens_per_step

    @property
    def name(self) -> str:
        return self._experiment

    @property
    def version(self) -> str | None:
        return self.run.run_id if self.run is not None else None

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.run is not None:
            # Lightning numbers a step before counting it; "epoch" says nothing in an endless stream.
            kept = {name: value for name, value in metrics.items() if name != "epoch"}
            self.run.log(kept, ((step or 0) + 1) * self._tokens_per_step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        return

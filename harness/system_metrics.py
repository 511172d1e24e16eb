"""CPU, memory, disk, network and GPU use of the machine, sampled by MLflow's monitor and sent the way all metrics are sent.

MLflow's own sender ends for good at the first request that fails, and its end waits for every retry of the last one.
"""

from typing import Any

from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from resbench.harness.tracking import TrackedRun

EVERY_S = 4
"""MLflow's ten seconds would leave a short run without a sample; its environment variable still has the last word."""


class SystemMetrics(SystemMetricsMonitor):
    """Samples from `start` to `finish`, from a thread. Steps count samples, on from those the run has."""

    def __init__(self, run: TrackedRun, uri: str) -> None:
        every = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or EVERY_S
        super().__init__(run.run_id, sampling_interval=every, resume_logging=True, tracking_uri=uri)
        self._run = run

    def monitor(self) -> None:
        while not self._shutdown_event.is_set():
            self.collect_metrics()
            self._shutdown_event.wait(self.sampling_interval)
            self.publish_metrics(self.aggregate_metrics())

    def publish_metrics(self, metrics: dict[str, Any]) -> None:
        prefix = self._metrics_prefix + (f"{self.node_id}/" if self.node_id else "")
        self._run.log({prefix + name: value for name, value in metrics.items()}, self._logging_step)
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()

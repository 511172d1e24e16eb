"""One MLflow run as a training run writes it: metrics in batches from a thread, so that a slow or absent store never stops training.

The step of a metric is the number of training tokens seen. A metric is sent with the time it was measured, so that sending it again after an
answer got lost changes nothing. A resumed run repeats steps it had already logged; those points are dropped here.
"""

import json
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

log = logging.getLogger(__name__)

BATCH = 1000  # metrics MLflow takes in one request
PARAMS = 100
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
SEND_EVERY_S = 2.0
LONGEST_WAIT_S = 10.0
CLOSE_TIMEOUT_S = 120.0


class TrackedRun:
    """Writes to one existing MLflow run.

    Parameters
    ----------
    client: of an opened store.
    run_id: the run.
    spool: file to keep metrics in that could not be sent by the end; written only in that case.
    """

    def __init__(self, client: "MlflowClient", run_id: str, spool: Path) -> None:
        self.client, self.run_id, self._spool = client, run_id, spool
        self._pending: list[Metric] = []
        self._texts: dict[str, str] = {}
        self._logged: dict[str, set[int]] = {}
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._closing = False
        self._busy = False
        self._failing = False
        self._thread: threading.Thread | None = None

    def skip_what_is_logged(self) -> None:
        """Read which steps of which metrics the run already has; they will not be logged again."""
        for name in self.client.get_run(self.run_id).data.metrics:
            if not name.startswith("system/"):
                self._logged[name] = {point.step for point in self.client.get_metric_history(self.run_id, name)}

    def log(self, metrics: Mapping[str, float], tokens: int) -> None:
        """Queue metrics at a step of so many training tokens; returns at once."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        points = [
            Metric(name, float(value), now, tokens)
            for name, value in metrics.items()
            if tokens not in self._logged.get(name, ())
        ]
        with self._wake:
            self._pending += points
            self._start()

    def unsent(self) -> list[tuple[str, float, int, int]]:
        """Metrics that are still queued, as (name, value, time in ms, tokens): for a checkpoint, lest a killed process take them along."""
        with self._wake:
            return [(m.key, m.value, m.timestamp, m.step) for m in self._pending]

    def requeue(self, points: Iterable[tuple[str, float, int, int]]) -> None:
        """Queue what `unsent` gave an earlier process, unless it was sent after all."""
        from mlflow.entities import Metric

        with self._wake:
            self._pending += [Metric(*point) for point in points if point[3] not in self._logged.get(point[0], ())]
            self._start()

    def unsent_texts(self) -> dict[str, str]:
        """Text artifacts that are still queued."""
        with self._wake:
            return dict(self._texts)

    def recover(self) -> None:
        """Queue what an earlier process of this run could not send by its end, as it left it in the spool file."""
        if self._spool.exists():
            kept = json.loads(self._spool.read_text(encoding="utf-8"))
            self.requeue([(m["key"], m["value"], m["timestamp"], m["step"]) for m in kept["metrics"]])
            for artifact, content in kept["texts"].items():
                self.log_text_later(content, artifact)

    def log_text_later(self, content: str, artifact: str) -> None:
        """Queue a text artifact; returns at once. Of several versions of one artifact that wait, the last is sent."""
        with self._wake:
            self._texts[artifact] = content
            self._start()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_until_closed, name="mlflow-metrics", daemon=True)
            self._thread.start()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Send what is queued; whether that succeeded in time, by default `CLOSE_TIMEOUT_S`."""
        deadline = time.monotonic() + (CLOSE_TIMEOUT_S if timeout_s is None else timeout_s)
        with self._wake:
            while self._pending or self._texts or self._busy:
                self._wake.notify_all()
                left = deadline - time.monotonic()
                if left <= 0 or self._thread is None:
                    return False
                self._wake.wait(min(left, 0.05))
        return True

    def close(self, timeout_s: float | None = None) -> None:
        """Send what is queued and stop the thread; what the store would not take goes to the spool file, saying so."""
        sent = self.flush(timeout_s)
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        try:
            if sent:
                self._spool.unlink(missing_ok=True)
            else:
                self._keep_unsent()
        except OSError as error:  # the run's folder is gone; how it ended must be said all the same
            if not sent:
                log.warning("MLflow did not take %d metric values, nor does the disk: %s", len(self._pending), error)

    def _keep_unsent(self) -> None:
        points = [{"key": m.key, "value": m.value, "timestamp": m.timestamp, "step": m.step} for m in self._pending]
        self._spool.parent.mkdir(parents=True, exist_ok=True)
        kept = {"run_id": self.run_id, "metrics": points, "texts": self._texts}
        self._spool.write_text(json.dumps(kept), encoding="utf-8")
        log.warning(
            "MLflow did not take %d metric values in time; they are in %s, and the same command with --resume %s sends them",
            len(points),
            self._spool,
            self.run_id,
        )

    def finish(self, tags: Mapping[str, str | None], status: str) -> None:
        """Send everything, set the last tags and give the run its final status (FINISHED, FAILED or KILLED).

        A store that is away is waited for; if it does not come back in time the run ends all the same, with a warning.
        """
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        self.close()
        wait = 0.5
        while True:
            try:
                self.set_tags(tags)
                self.client.set_terminated(self.run_id, status)
                return
            except Exception as error:  # whatever the store's trouble is, what was trained is trained
                if time.monotonic() + wait > deadline:
                    log.warning(
                        "MLflow did not take how the run ended (%s): %s; the same command with --resume %s says it again",
                        tags.get("outcome") or status,
                        _first_line(error),
                        self.run_id,
                    )
                    return
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)

    def set_tags(self, tags: Mapping[str, str | None]) -> None:
        """Set tags, leaving out those that are None."""
        from mlflow.entities import RunTag

        kept = [RunTag(name, str(value)[:TAG_LENGTH]) for name, value in tags.items() if value is not None]
        for chunk in _chunks(kept, PARAMS):
            self.client.log_batch(self.run_id, tags=chunk)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, leaving out those that are None and, since MLflow's are immutable, those the run has already."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        kept = [
            Param(name, text(value)[:PARAM_LENGTH])
            for name, value in params.items()
            if value is not None and name not in known
        ]
        for chunk in _chunks(kept, PARAMS):
            self.client.log_batch(self.run_id, params=chunk)

    def log_text(self, content: str, artifact: str) -> None:
        """Write a text artifact."""
        self.client.log_text(self.run_id, content, artifact)

    def log_files(self, folder: Path, artifact_path: str) -> None:
        """Write all files of a folder as artifacts; what the store refuses stays in the folder, with a warning."""
        try:
            self.client.log_artifacts(self.run_id, str(folder), artifact_path)
        except Exception as error:  # files that are on the disk are no reason to stop training
            log.warning("MLflow does not take the files of %s (%s); they stay there", folder, _first_line(error))

    def log_dataset(self, name: str, digest: str, facts: Mapping[str, Any], context: str = "training") -> None:
        """Record what data the run used."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        profile = json.dumps(dict(facts))
        dataset = Dataset(
            name, digest, "resbench", json.dumps({"source": str(facts.get("source", name))}), profile=profile
        )
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
        try:
            self.client.log_inputs(self.run_id, inputs)
        except MlflowException:
            # Two first runs of an experiment both found the data unknown and both added them; the slower one now finds them there.
            self.client.log_inputs(self.run_id, inputs)

    def _send_until_closed(self) -> None:
        wait = SEND_EVERY_S
        while True:
            with self._wake:
                if not self._closing:
                    self._wake.wait(wait)
                if self._closing:
                    return
                chunk, texts = self._pending[:BATCH], dict(self._texts)
                self._busy = bool(chunk or texts)
            if not chunk and not texts:
                continue
            sent = self._send(chunk, texts)
            with self._wake:
                if sent:
                    del self._pending[: len(chunk)]
                    self._texts = {
                        name: content for name, content in self._texts.items() if texts.get(name) is not content
                    }
                self._busy = False
                self._wake.notify_all()
            wait = SEND_EVERY_S if sent else min(2 * wait, LONGEST_WAIT_S)

    def _send(self, metrics: list["Metric"], texts: Mapping[str, str]) -> bool:
        try:
            if metrics:
                self.client.log_batch(self.run_id, metrics=metrics)
            for name, content in texts.items():
                self.client.log_text(self.run_id, content, name)
        except Exception as error:  # whatever the store's trouble is, training goes on and the values are kept
            if not self._failing:
                log.warning(
                    "MLflow does not take metrics (%s); training goes on and they are sent later", _first_line(error)
                )
            self._failing = True
            return False
        if self._failing:
            log.warning("MLflow takes metrics again")
            self._failing = False
        return True


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as dotted keys; an empty mapping disappears."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def text(value: Any) -> str:
    """A parameter's value as MLflow stores it: JSON for lists and booleans, plain text otherwise."""
    return json.dumps(value) if isinstance(value, bool | list | tuple | dict) else str(value)


def _chunks(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

"""One tidy table of runs: a row per run of a store or an exported file, typed columns, units; everything else in `results` is a function of it.

`COLUMNS` is the whole vocabulary: what a column means, its unit, and the metric, parameter or tag it is read from.
Metrics are the last logged value; their histories are in `resbench.results.curves`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from resbench.harness import names
from resbench.results.source import RawRun, Where, open_source

Dtype = Literal["string", "Int64", "float64", "boolean", "datetime64[ns, UTC]"]
Source = Literal["metric", "param", "tag", "run"]

RESULTS = ("complete", "diverged", "oom")
"""Outcomes that say something about a scheme; the others (failed, pruned, running) only say that a run is missing."""

SHARED = "runs that shared a GPU with others: their speeds and times are not shown, being as much those of the others"
"""For notes and reasons."""

FINAL = "final"
"""The phase whose runs are ranked; runs of a search only chose hyper-parameters."""

INFINITE = 1e300
"""Numbers from here on stand for infinity, which databases cannot hold: MLflow writes the largest double instead."""


@dataclass(frozen=True)
class Column:
    """One column: its pandas type, where MLflow keeps it, its unit ("" when it has none) and its meaning."""

    name: str
    dtype: Dtype
    source: Source
    key: str
    unit: str
    meaning: str


def _run(name: str, meaning: str, dtype: Dtype = "string") -> Column:
    return Column(name, dtype, "run", name, "", meaning)


def _tag(name: str, meaning: str, unit: str = "", dtype: Dtype = "string") -> Column:
    return Column(name, dtype, "tag", name, unit, meaning)  # columns are called as the tags are


def _param(name: str, key: str, unit: str, meaning: str, dtype: Dtype = "Int64") -> Column:
    return Column(name, dtype, "param", key, unit, meaning)


def _metric(name: str, key: str, unit: str, meaning: str, dtype: Dtype = "float64") -> Column:
    return Column(name, dtype, "metric", key, unit, meaning)


COLUMNS: tuple[Column, ...] = (
    _run("run_id", "MLflow's id of the run"),
    _run("run_name", "MLflow's name of the run"),
    _run("experiment", "MLflow experiment the run is in"),
    _run("started", "when the run started", "datetime64[ns, UTC]"),
    _tag("study", "study (sweep) the run belongs to; the experiment's name for a run outside any sweep"),
    _tag("phase", "'search' (tuning) or 'final' (counts)"),
    _tag("cell", "combination of the sweep's factors, `factor=label` joined by commas, without the seed"),
    _tag("trial_key", "one planned run of a sweep, the same for every attempt at it"),
    _tag("seed", "seed of initialisation and data order", dtype="Int64"),
    _tag("task", "what is learned"),
    _tag("scheme", "residual scheme"),
    _tag("size", "named model size"),
    _tag("n_streams", "residual streams; missing for schemes without", "streams", "Int64"),
    _tag("sinkhorn_iterations", "Sinkhorn budget; missing for schemes without", "iterations", "Int64"),
    _param("depth", names.DEPTH, "layers", "transformer layers, two sublayers each"),
    _param("width", names.WIDTH, "channels", "model width"),
    _param("budget_tokens", "budget.tokens", "tokens", "training tokens planned"),
    _param("learning_rate", "model.learning_rate", "", "peak learning rate", "float64"),
    _tag("outcome", "complete, diverged, oom, pruned, failed or running"),
    _tag("diverged_at_tokens", "training tokens seen when the run diverged", "tokens", "Int64"),
    _tag("error", "why a failed run failed"),
    _metric("val_loss", names.VAL_LOSS, "nats/token", "validation loss"),
    _metric("bits_per_byte", names.VAL_BITS_PER_BYTE, "bits/byte", "validation loss per byte of text"),
    _param(
        "unigram_bits_per_byte",
        names.DATA_UNIGRAM_BITS_PER_BYTE,
        "bits/byte",
        "entropy of token frequencies alone",
        "float64",
    ),
    _metric("accuracy", names.VAL_ACCURACY, "", "share of right answers in validation"),
    _param(
        "chance_accuracy", names.DATA_CHANCE_ACCURACY, "", "accuracy of a guess that does not solve the task", "float64"
    ),
    _metric("train_loss", names.TRAIN_LOSS, "nats/token", "training loss"),
    _metric("tokens", names.PROGRESS_TOKENS, "tokens", "training tokens seen", "Int64"),
    _metric("flops", names.PROGRESS_FLOPS, "FLOP", "training FLOPs spent, connections included"),
    _metric("wall_s", names.PROGRESS_WALL_S, "s", "wall-clock time of training"),
    _metric("tokens_per_s", names.TOKENS_PER_S, "tokens/s", "training throughput"),
    _metric("step_ms", names.STEP_MS, "ms", "time of an optimizer step"),
    _metric("mfu", names.MFU, "", "model FLOPs utilisation"),
    _metric("peak_gib", names.PEAK_GIB, "GiB", "peak memory: allocated on a GPU, resident on a CPU"),
    _metric("grad_norm", names.GRAD_NORM, "", "gradient norm before clipping"),
    _metric("gain_forward", names.GAIN_FORWARD, "", "composite forward gain (Amax) over all sublayers"),
    _metric("gain_backward", names.GAIN_BACKWARD, "", "composite backward gain (Amax) over all sublayers"),
    _metric("row_error", names.ROW_ERROR, "", "largest |row sum - 1| of a mixing matrix"),
    _metric("column_error", names.COLUMN_ERROR, "", "largest |column sum - 1| of a mixing matrix"),
    _metric("loss_spikes", names.LOSS_SPIKES, "", "share of steps whose loss spiked"),
    _param("params_total", names.PARAMS_TOTAL, "parameters", "all parameters"),
    _param("params_connection", names.PARAMS_CONNECTION, "parameters", "parameters of the residual connections"),
    _param(
        "flops_per_token",
        names.FLOPS_PER_TOKEN,
        "FLOP/token",
        "training FLOPs per token, connections included",
        "float64",
    ),
    _tag("hardware", "what it ran on"),
    _tag(
        "gpu_share",
        "runs that its sweep trained on its GPU at a time; missing outside sweeps and on a CPU",
        dtype="Int64",
    ),
    _tag("kernels", "what computed the connections: triton or torch"),
    _tag("commit", "commit of the code"),
    _tag("dirty", "whether the code had uncommitted changes", dtype="boolean"),
    _tag("config_hash", "hash of the resolved configuration"),
    _tag("data_fingerprint", "hash of the tokens, the split and the tokenizer"),
    _tag("torch", "version of torch"),
    _tag("triton", "version of triton"),
    _tag("resbench_version", "version of resbench"),
)


def load_runs(where: Where, study: str | None = None) -> pd.DataFrame:
    """Every run of a study as one row, oldest first, with the columns and types of `COLUMNS`; nothing is left out.

    Args:
        where: an MLflow tracking URI, or the path of a file that `resbench runs export` wrote.
        study: name of a study (tag) or, for runs outside sweeps, of their experiment; None for every run there is.

    A value that a run does not have is missing, and so is one that is not a number where a number belongs. Runs that
    train no model (a sweep's parent has no `scheme` tag) are not in the table. Raises what `open_source` raises for a
    store or file that cannot be read.
    """
    records = [_record(run) for run in open_source(where).runs() if names.TAG_SCHEME in run.tags]
    chosen = [record for record in records if study is None or record["study"] == study]
    table = pd.DataFrame({column.name: _series(column, chosen) for column in COLUMNS})
    return table.sort_values(["started", "run_id"], ignore_index=True)


def ranked_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that count: phase `final`, one for each planned run, with a column `attempts`.

    A planned run (study, data, cell, budget, seed) tried more than once counts by its newest attempt that ended with a
    result, or by its newest attempt if none did; `attempts` says how many there were.
    """
    final = runs[runs["phase"] == FINAL].copy()
    planned = ["study", "task", "data_fingerprint", "cell", "scheme", "size", "budget_tokens", "seed"]
    final["has_result"] = final["outcome"].isin(RESULTS)
    final = final.sort_values(["has_result", "started", "run_id"])
    final["attempts"] = final.groupby(planned, dropna=False)["run_id"].transform("count")
    kept = final.drop_duplicates(planned, keep="last").drop(columns="has_result")
    return kept.sort_values(["started", "run_id"], ignore_index=True)


def shared_gpu(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs trained on a GPU beside others of their sweep. Those of before this was noted, and those outside sweeps, count as alone."""
    return runs["gpu_share"].fillna(1) > 1


def _record(run: RawRun) -> dict[str, Any]:
    """The raw values of a run by column name; `_series` gives them their types."""
    values: dict[str, dict[str, Any]] = {"metric": run.metrics, "param": run.params, "tag": run.tags}
    record: dict[str, Any] = {
        column.name: values[column.source].get(column.key) for column in COLUMNS if column.source != "run"
    }
    record |= {
        "run_id": run.run_id,
        "run_name": run.name,
        "experiment": run.experiment,
        "started": run.started,
        "study": record["study"] or run.experiment,
        "outcome": _outcome(record["outcome"], run.status, run.metrics.get(names.VAL_LOSS)),
    }
    record["cell"] = record["cell"] or _cell(record)
    return record


def _outcome(tag: str | None, status: str, val_loss: float | None) -> str:
    """What became of a run. A tag left at `running` by a killed process gives way to MLflow's status."""
    if tag in (None, "running"):
        tag = {"FINISHED": "complete", "FAILED": "failed", "KILLED": "failed"}.get(status, "running")
    if tag == "complete" and (val_loss is None or not abs(val_loss) < INFINITE):
        return "failed"
    return str(tag)


def _cell(record: dict[str, Any]) -> str:
    """A cell for a run outside any sweep, in the words a sweep would use."""
    factors = {
        "scheme": record["scheme"],
        "size": record["size"],
        "scheme.n_streams": record["n_streams"],
        "scheme.sinkhorn_iterations": record["sinkhorn_iterations"],
    }
    return ",".join(f"{name}={value}" for name, value in factors.items() if value is not None)


def _series(column: Column, records: list[dict[str, Any]]) -> pd.Series[Any]:
    values = [record[column.name] for record in records]
    if column.dtype == "datetime64[ns, UTC]":
        return pd.to_datetime(pd.Series(values, dtype="Int64"), unit="ms", utc=True).astype(column.dtype)
    if column.dtype == "boolean":
        return pd.Series([None if value is None else value.lower() == "true" for value in values], dtype="boolean")
    if column.dtype == "string":
        return pd.Series(values, dtype="string")
    numbers = pd.to_numeric(pd.Series(values, dtype="object"), errors="coerce").astype("float64")
    finite = numbers.where(numbers.abs() < INFINITE)
    return finite.round().astype("Int64") if column.dtype == "Int64" else finite

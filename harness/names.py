"""Every name a run writes to MLflow. Whatever reads runs takes the names from here; they do not change between versions.

The step of every metric is the number of training tokens seen so far.
"""

from typing import Final, Literal

Outcome = Literal["complete", "diverged", "oom", "pruned", "failed", "running"]

# Metrics. Losses are in nats per token.
TRAIN_LOSS: Final = "train/loss"
VAL_LOSS: Final = "val/loss"
VAL_BITS_PER_BYTE: Final = "val/bits_per_byte"
VAL_ACCURACY: Final = "val/accuracy"
"""Of tasks with one right answer; by difficulty, ``val/accuracy/<what>_<value>``, where a task grades its questions."""
LEARNING_RATE: Final = "train/learning_rate"
TOKENS_PER_S: Final = "perf/tokens_per_s"
MFU: Final = "perf/mfu"
STEP_MS: Final = "perf/step_ms"
STEP_PARTS_MS: Final = {part: f"perf/{part}_ms" for part in ("data", "forward", "backward", "optimizer")}
METRICS_MS: Final = "perf/metrics_ms"
"""What measuring costs the process per step."""
VALIDATION_S: Final = "perf/validation_s"
STRUCTURE_S: Final = "perf/structure_s"
"""Seconds of one measurement of gains, mixing, streams and attention."""
START_S: Final = {
    phase: f"start/{phase}_s"
    for phase in (
        "imports",
        "config",
        "store",
        "data",
        "record",
        "model",
        "validation",
        "forward",
        "backward",
        "optimizer",
    )
}
"""Seconds of each part of a run's start, up to the end of its first step (`resbench.harness.start`)."""
START_TOTAL_S: Final = "start/total_s"
PEAK_GIB: Final = "mem/peak_gib"
RESERVED_GIB: Final = "mem/reserved_gib"
ACTIVATIONS_GIB: Final = "mem/activations_gib"
GRAD_NORM: Final = "stability/grad_norm"
GAIN_FORWARD: Final = "stability/gain_forward"
GAIN_BACKWARD: Final = "stability/gain_backward"
GAIN_FORWARD_MIN: Final = "stability/gain_forward_min"
GAIN_BACKWARD_MIN: Final = "stability/gain_backward_min"
LOG_COLUMN_SUM: Final = "stability/max_abs_log_column_sum"
SPECTRAL_NORM: Final = "stability/spectral_norm"
SECOND_EIGENVALUE: Final = "stability/second_eigenvalue"
ROW_ERROR: Final = "stability/row_error"
COLUMN_ERROR: Final = "stability/column_error"
STRUCTURE: Final[dict[str, tuple[str, Literal["mean", "max", "min"]]]] = {
    "logit_range": ("mixer/logit_range", "max"),
    "entropy": ("mixer/entropy", "mean"),
    "effective_rank": ("mixer/effective_rank", "mean"),
    "distance_to_identity": ("mixer/distance_to_identity", "mean"),
    "distance_to_uniform": ("mixer/distance_to_uniform", "mean"),
    "cosine": ("streams/cosine", "mean"),
    "norm_min": ("streams/norm_min", "min"),
    "norm_max": ("streams/norm_max", "max"),
    "read_entropy": ("streams/read_entropy", "mean"),
    "write_entropy": ("streams/write_entropy", "mean"),
    "max_attention_logit": ("stability/max_attention_logit", "max"),
}
"""Column of the per-sublayer profile -> (metric, how sublayers become one number)."""
LOSS_SPIKES: Final = "stability/loss_spikes"
GRAD_NORM_SPIKES: Final = "stability/grad_norm_spikes"
CLIPPED_SHARE: Final = "stability/clipped_share"
"""Of the steps of the run's second half so far, how many had a gradient norm above the clipping threshold."""
PROGRESS_TOKENS: Final = "progress/tokens"
PROGRESS_FLOPS: Final = "progress/flops"
PROGRESS_WALL_S: Final = "progress/wall_s"
PROGRESS_STEP: Final = "progress/step"

# Parameters beside the flat configuration (``model.learning_rate``, ``budget.tokens``, ...).
PARAMS_TOTAL: Final = "params_total"
PARAMS_CONNECTION: Final = "params_connection"
PARAMS_BRANCHES: Final = "params_branches"
FLOPS_PER_TOKEN: Final = "flops_per_token"
"""Training FLOPs per token: three times the forward pass, connections included."""
DATA_UNIGRAM_BITS_PER_BYTE: Final = "data_unigram_bits_per_byte"
DATA_CHANCE_ACCURACY: Final = "data_chance_accuracy"
DEPTH: Final = "depth"
WIDTH: Final = "width"

# Tags. One that does not apply to a run is absent.
TAG_SCHEME: Final = "scheme"
TAG_SIZE: Final = "size"
TAG_N_STREAMS: Final = "n_streams"
TAG_SINKHORN_ITERATIONS: Final = "sinkhorn_iterations"
TAG_SEED: Final = "seed"
TAG_STUDY: Final = "study"
TAG_CELL: Final = "cell"
TAG_PHASE: Final = "phase"
TAG_COMMIT: Final = "commit"
TAG_DIRTY: Final = "dirty"
TAG_CONFIG_HASH: Final = "config_hash"
TAG_RESUME_HASH: Final = "resbench.resume_hash"
"""Equal for configurations that a checkpoint can be shared between: see `provenance.resume_hash`."""
TAG_DATA_FINGERPRINT: Final = "data_fingerprint"
TAG_HARDWARE: Final = "hardware"
TAG_GPU_SHARE: Final = "gpu_share"
"""How many runs its sweep trained on the run's GPU at a time."""
TAG_KERNELS: Final = "kernels"
"""What computes the connections: ``triton`` or ``torch``, with what the kernels leave to torch."""
TAG_TORCH: Final = "torch"
TAG_TRITON: Final = "triton"
TAG_TASK: Final = "task"
TAG_OUTCOME: Final = "outcome"
TAG_DIVERGED_AT_TOKENS: Final = "diverged_at_tokens"
TAG_RESBENCH_VERSION: Final = "resbench_version"
TAG_ERROR: Final = "error"
TAG_REASON: Final = "resbench.reason"
"""Why a run ended before its budget, in a sentence."""
TAG_DIVERGED_IN: Final = "resbench.diverged_in"
"""The sublayer that broke, in a sentence."""
TAG_LAST_GOOD_CHECKPOINT: Final = "resbench.last_good_checkpoint"
"""Of a diverged run: the checkpoint before the step at which it did."""
TAG_CHECKPOINT_DIR: Final = "resbench.checkpoint_dir"
"""Where the run's checkpoints are, on the machine that wrote them."""

# Artifacts.
DIVERGENCE_ARTIFACT: Final = "stability/divergence.json"
"""Every sublayer's output and gradient on the batch a run diverged on, and the one that broke; drawn in ``stability/divergence.svg``."""
CONFIG_ARTIFACT: Final = "config.yaml"
PROFILE_ARTIFACT: Final = "stability/profile.json"
"""The last per-sublayer profile; earlier ones are ``stability/profile_<tokens>.json``."""
PROFILE_FIGURE: Final = "stability/profile.svg"
"""It, drawn."""

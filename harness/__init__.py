"""One training run: configuration, Lightning module, callbacks, MLflow, checkpoints, provenance, and the `resbench` command."""

import os

# A benchmark has no business reporting home. MLflow reads this when it is first imported; a user who wants its telemetry can set it.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

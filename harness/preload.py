"""Importing what a run needs in an order of its own: some of it before everything else, and beforehand what it would import late.

Sweeps fork their trials from a process that has imported `resbench.harness.fit`. What that process has not imported, every trial would import
again: MLflow and its SQLAlchemy store alone take seconds.
"""

from importlib import import_module

FIRST = ("resbench.kernels.functional", "torch._dynamo")
"""What registers custom operators. For each of them torch looks for its module among all that are loaded, resolving the path of every one it has
not seen: a sixth of a second less when Lightning, with all it brings, comes later."""

LATE = (
    "alembic.config",
    "mlflow",
    "mlflow.entities",
    "mlflow.store.artifact.local_artifact_repo",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "mlflow.system_metrics.system_metrics_monitor",
    "resbench.harness.system_metrics",
    "resbench.architectures.backbones.transformer",
    "resbench.architectures.schemes.mhc",
    "resbench.tasks.python_source",
    "torch._dynamo",  # torch's optimizers import it at their first step
)


def operators_first() -> None:
    """Import `FIRST`. For a process that has imported nothing large yet."""
    for name in FIRST:
        import_module(name)


def preload() -> None:
    """Import all of `LATE`; a module that this version of a library does not have is left out."""
    for name in LATE:
        try:
            import_module(name)
        except ImportError:
            continue

"""Importing beforehand what a run imports late.

Sweeps fork their trials from a process that has imported `resbench.harness.fit`. What that process has not imported, every trial would import
again: MLflow and its SQLAlchemy store alone take seconds.
"""

from importlib import import_module

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


def preload() -> None:
    """Import all of `LATE`; a module that this version of a library does not have is left out."""
    for name in LATE:
        try:
            import_module(name)
        except ImportError:
            continue

"""Keeping libraries from talking over the run: what is left on the terminal is ours, warnings included."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

LOGGERS = ("lightning.pytorch", "lightning.fabric", "mlflow.system_metrics", "mlflow.store", "alembic")


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Lightning's and MLflow's information and tips are off inside; their errors are not."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=r".*Checkpoint directory .* exists and is not empty.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(jsonargparse|mlflow|sqlalchemy)\..*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)

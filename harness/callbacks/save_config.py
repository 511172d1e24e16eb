"""The resolved configuration as an MLflow artifact."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from resbench.harness import names
from resbench.harness.logger import MlflowRunLogger


class SaveConfig(SaveConfigCallback):
    """Logs ``config.yaml``, which `resbench fit --config` accepts. To be given ``save_to_log_dir=False``: there is no log directory."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MlflowRunLogger) and logger.run is not None:
                content = self.parser.dump(self.config, skip_unset=False)
                logger.run.log_text_later(content, names.CONFIG_ARTIFACT)

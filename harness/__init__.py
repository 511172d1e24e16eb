"""One training run: configuration, Lightning module, callbacks, MLflow, checkpoints, provenance, and the `resbench` command."""

"""The training system: model, sharding, optimizers, pipeline, loop, metrics, checkpoints, logging."""

"""The model of a job, put together: built on the meta device, planned, sharded, initialized."""

from __future__ import annotations

from dataclasses import dataclass

from torchrec.distributed.model_parallel import DistributedModelParallel

from data.loader import BatchLoader
from data.schema import Schema
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.model.ctr import CTRModel
from trainer.model.dropout import DropoutStream
from trainer.model.embeddings import initialize_tables
from trainer.optimizer import check_sparse_optimizer, fuse_sparse_optimizer
from trainer.sharding import PlannedTable, plan_sharding, planned_tables, shard


@dataclass(frozen=True)
class Assembled:
    """A sharded model, ready to train or to load a checkpoint into.

    Attributes:
        model: On the worker's device, initialized.
        dropout: Wants to know the step before each forward pass in training.
        plan: Where the tables are.
    """

    model: DistributedModelParallel
    dropout: DropoutStream
    plan: list[PlannedTable]


def assemble(schema: Schema, config: TrainConfig, worker: Worker, loader: BatchLoader) -> Assembled:
    """Builds the sharded model. All ranks must call this.

    Args:
        schema: The features.
        config: Model, optimizer, sharding and seed.
        worker: This process.
        loader: Tells the lanes of this rank and the rows of its batches.

    Raises:
        ConfigError: A head, an optimizer or a memory limit that cannot be; the same on every rank.
    """
    check_sparse_optimizer(config.optimizer.sparse, config.sharding, worker.device)
    dropout = DropoutStream(config.seed, loader.lanes)
    model = CTRModel(
        schema,
        config.model,
        dropout=dropout,
        world_size=worker.world_size,
        seed=config.seed,
        sum_weights=not loader.knows_global_weight,
    )
    tables = model.embeddings.embedding_bag_configs()
    fuse_sparse_optimizer(model.embeddings, config.optimizer.sparse)
    plan = plan_sharding(
        model,
        config.sharding,
        world_size=worker.world_size,
        local_world_size=worker.local_world_size,
        device_type=worker.device.type,
        batch_size=loader.order.rows_per_lane_step * len(loader.lanes),
    )
    sharded = shard(model, plan, config.sharding, worker)
    initialize_tables(
        sharded.state_dict(),
        schema,
        embedding_dim=config.model.embedding_dim,
        std=config.model.init_std,
        seed=config.seed,
    )
    return Assembled(sharded, dropout, planned_tables(plan, tables))

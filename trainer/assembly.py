"""The model of a job, put together: built on the meta device, planned, sharded, initialized."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan

from data.list_lengths import mean_list_lengths
from data.loader import BatchLoader
from data.schema import Schema
from trainer.cluster import cluster_of_group, cluster_of_hosts, hosts_of_job
from trainer.config import OptimizerConfig, ShardingConfig, SparseOptimizerConfig, TrainConfig
from trainer.dense_cost import dense_cost
from trainer.distributed import Worker, on_main
from trainer.model.compiled import compile_heads
from trainer.model.ctr import CTRModel, row_layout
from trainer.model.embeddings import initialize_tables
from trainer.model.loss_scale import LossScale
from trainer.model.precision import set_matmul_precision
from trainer.model.step_context import StepContext
from trainer.planned_tables import PlannedTable, planned_tables
from trainer.sharding import plan_sharding, shard
from trainer.sharding_rules import check_hosts, check_sharding, values_of_rows
from trainer.table_groups import RankPlaces, table_groups
from trainer.table_optimizer import Settings, check_table_optimizers, fuse_optimizers, row_bytes, table_settings
from trainer.table_replicas import TableReplicas


@dataclass(frozen=True)
class Assembled:
    """A sharded model, ready to train or to load a checkpoint into.

    Attributes:
        model: On the worker's device, initialized.
        step_context: Wants to know the step before each forward pass in training.
        loss_scale: Of gradients through float16; None for none.
        plan: Where the tables are, in each sharding group alike, its ranks counted from 0.
        settings: The optimizer of each table.
        replicas: The copies of the tables in several sharding groups, to be kept equal.
        num_parameters: Numbers that are learned, over all ranks; the padding of table rows left out.
    """

    model: DistributedModelParallel
    step_context: StepContext
    loss_scale: LossScale | None
    plan: list[PlannedTable]
    settings: Settings
    replicas: TableReplicas
    num_parameters: int


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
    set_matmul_precision(config.precision, worker.device)
    check_sharding(config.sharding, schema, worker.device.type)
    settings = table_settings(schema, config.optimizer)
    check_table_optimizers(settings, config.sharding, config.precision, worker.device.type)
    context = StepContext(config.seed, loader.lanes)
    loss_scale = LossScale(config.precision.loss_scale) if config.precision.dense == "fp16" else None
    model = _build_model(schema, config, worker, loader, settings, context, loss_scale)
    tables, layout = model.embeddings.embedding_bag_configs(), row_layout(config.model)
    num_parameters = sum(table.num_embeddings for table in tables) * layout.num_values
    num_parameters += sum(p.numel() for name, p in model.named_parameters() if not name.startswith("embeddings."))
    batch_size = loader.order.rows_per_lane_step * len(loader.lanes)
    dense = dense_cost(schema, config, batch_size=batch_size, world_size=worker.world_size)

    hosts = hosts_of_job(worker)
    check_hosts(config.sharding, hosts.sizes, alike=hosts.alike)
    groups = table_groups(config.sharding, world_size=worker.world_size, ranks_per_node=hosts.ranks_per_node)

    def make_plan() -> tuple[ShardingPlan, dict[str, float]]:
        lengths = mean_list_lengths(loader.index.row_groups, schema)
        plan = plan_sharding(
            model,
            config.sharding,
            schema,
            cluster_of_group(cluster_of_hosts(hosts, worker.device.type), groups),
            batch_size=batch_size,
            fixed_bytes=dense.total_bytes,
            row_bytes=row_bytes(layout.width, settings, config.precision),
            lengths=lengths,
        )
        return plan.sharding, values_of_rows(config.sharding, schema, lengths)

    # On rank 0 alone: it reads data, and may find no plan; either way all ranks are told.
    plan, values = on_main(make_plan)
    place = RankPlaces(groups, hosts.local_ranks)
    sharded = shard(model, plan, config.sharding, worker, place, timeout_s=config.distributed.timeout_s)
    initialize_tables(
        sharded.state_dict(),
        schema,
        layout,
        std=config.model.init_std,
        seed=config.seed,
    )
    replicas = TableReplicas(sharded, every=config.sharding.average_every_steps)
    return Assembled(
        sharded, context, loss_scale, planned_tables(plan, tables, values), settings, replicas, num_parameters
    )


def assemble_to_predict(schema: Schema, config: TrainConfig, worker: Worker, loader: BatchLoader) -> Assembled:
    """The model of a run to be looked at: on any device and number of workers, without states of optimizers.

    Args:
        schema: The features.
        config: Of the run that trained it.
        worker: This process.
        loader: Tells the lanes of this rank and the rows of its batches.

    Raises:
        ConfigError: See :func:`assemble`.
    """
    return assemble(schema, config_to_predict(config, worker.device.type), worker, loader)


def config_to_predict(config: TrainConfig, device_type: str) -> TrainConfig:
    """The config of a run without what serves steps alone, and on a CPU without what its GPUs alone could do.

    What serves steps alone are optimizers, groups' copies of the tables, compilation, and rows fetched ahead, which
    only a backward pass would let go again.
    """
    sharding, precision = config.sharding, config.precision
    if device_type == "cpu":
        sharding = ShardingConfig()
        dense = "fp32" if precision.dense == "tf32" else precision.dense
        precision = dataclasses.replace(precision, dense=dense, rounding="auto")
    sharding = dataclasses.replace(sharding, prefetch=False, group_size=None, average_every_steps=1)
    optimizer = OptimizerConfig(sparse=SparseOptimizerConfig(name="sgd"))
    return dataclasses.replace(config, optimizer=optimizer, sharding=sharding, precision=precision, compile=None)


def _build_model(
    schema: Schema,
    config: TrainConfig,
    worker: Worker,
    loader: BatchLoader,
    settings: Settings,
    context: StepContext,
    loss_scale: LossScale | None,
) -> CTRModel:
    """Not sharded yet, its tables without memory; they know their optimizers, and the heads how they are compiled."""
    model = CTRModel(
        schema,
        config.model,
        config.precision,
        context=context,
        world_size=worker.world_size,
        seed=config.seed,
        sum_weights=not loader.knows_global_weight,
        max_gradients={name: s.max_grad_value for name, s in settings.items() if s.max_grad_value is not None},
        num_parts=config.optimizer.accumulate_steps,
        loss_scale=loss_scale,
    )
    if config.compile is not None:
        compile_heads(model.head_sum, config.compile, worker.device, step=model.dense_step)
    fuse_optimizers(model.embeddings, settings, config.precision)
    # The tables come to the device as they are sharded, and the heads with DDP, which leaves out what learns nothing.
    model.rows.to(worker.device)
    return model

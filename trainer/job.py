"""A training job, put together: data, model, optimizers, and what was left of an earlier run of it."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

import torch.distributed as dist

from data.loader import BatchLoader
from data.order import check_world_size
from trainer.agreement import check_hosts_alike, check_same_files, check_shared
from trainer.assembly import Assembled, assemble
from trainer.checkpoint.bucket import location
from trainer.checkpoint.canonical import training_state
from trainer.checkpoint.identity import run_identity
from trainer.checkpoint.manager import CheckpointManager, Resume
from trainer.checkpoint.staging import check_room
from trainer.checkpoint.state import restore_training
from trainer.checkpoint.warm_start import warm_start
from trainer.config import TrainConfig
from trainer.distributed import Worker, on_all, on_main
from trainer.errors import ConfigError, DataError
from trainer.evaluation_set import EvaluationSet, make_evaluation_set, open_evaluation_data
from trainer.inputs import Dataset, make_loader, open_dataset, training_order
from trainer.logging.summary import DatasetSummary, RunSummary, features_of
from trainer.metric.training import TrainingMetrics
from trainer.model.precision import settle_precision
from trainer.monitor import Monitor
from trainer.optimizer import Optimizers
from trainer.pipeline import TrainPipeline
from trainer.timing.clock import StageClock

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """The parts of a training run, built, and restored if there was something to resume; its config is settled."""

    config: TrainConfig
    worker: Worker
    train_loader: BatchLoader
    eval_sets: dict[str, EvaluationSet]
    assembled: Assembled
    optimizers: Optimizers
    metrics: TrainingMetrics
    monitor: Monitor
    checkpoints: CheckpointManager
    resume: Resume | None
    total_steps: int

    @property
    def start_step(self) -> int:
        """The first step that is left to do."""
        return self.resume.manifest.step if self.resume else 0

    @property
    def watched_set(self) -> str:
        """The evaluation set that the monitor follows."""
        return self.monitor.watched_set

    @property
    def sets_during_training(self) -> list[str]:
        """The evaluation sets that are evaluated during training: all but test, if there is another to watch."""
        return [name for name in self.eval_sets if name != "test" or self.watched_set == "test"]

    @property
    def final_set(self) -> str:
        """What the final model is evaluated on."""
        return next(name for name in ("test", "valid", self.watched_set) if name in self.eval_sets)

    @property
    def _copies(self) -> str:
        count = self.assembled.replicas.count
        return f" in {count} groups of {self.worker.world_size // count} ranks" if count > 1 else ""

    @property
    def headline(self) -> str:
        """What is going to be trained, in a line."""
        index, order = self.train_loader.index, self.train_loader.order
        types = ", ".join(sorted({table.sharding_type for table in self.assembled.plan}))
        return (
            f"{self.config.name}: {index.num_rows:,} rows in {len(index.row_groups)} row groups of {index.num_files} "
            f"files; {order.steps_per_epoch} steps an epoch; {self.worker.world_size} ranks on "
            f"{self.worker.device.type}; {len(self.assembled.plan)} tables over {types}{self._copies}; "
            f"{self.assembled.num_parameters:,} parameters; matrix products in {self.config.precision.dense}"
        )

    def pipeline(self, clock: StageClock | None = None) -> TrainPipeline:
        """What takes the steps; it holds the model from the first one on.

        Args:
            clock: Is told what a step is at; None for one that nobody looks at.
        """
        return TrainPipeline(
            self.assembled.model,
            self.optimizers.combined,
            self.worker.device,
            clock,
            self.assembled.loss_scale,
            check_finite=self.config.on_nonfinite != "ignore",
            prefetch=self.config.sharding.prefetch,
        )

    def summary(self) -> RunSummary:
        """What is going to be trained, on what and with what."""
        loaders = {"train": self.train_loader, **{name: rows.loader for name, rows in self.eval_sets.items()}}
        return RunSummary(
            name=self.config.name,
            headline=self.headline,
            world_size=self.worker.world_size,
            device=self.worker.device.type,
            num_parameters=self.assembled.num_parameters,
            steps_per_epoch=self.train_loader.order.steps_per_epoch,
            total_steps=self.total_steps,
            datasets=[DatasetSummary.of(name, loader.index) for name, loader in loaders.items()],
            features=features_of(self.train_loader.schema),
            plan=self.assembled.plan,
        )


def build(config: TrainConfig, worker: Worker) -> Job:
    """Opens the data, builds the model, restores the newest checkpoint. All ranks must call this.

    Raises:
        ShardFMError: Data, config and checkpoints do not fit together; on all ranks, before training.
    """
    check_hosts_alike(config, worker)
    _check_workers(config, worker)
    train_set = open_dataset(config.data, "train")
    eval_data = {name: open_evaluation_data(name, config.data, config.metrics) for name in config.data.evaluation_sets}
    check_same_files(train_set, worker, key="data.train")
    for name, dataset in eval_data.items():
        check_same_files(dataset, worker, key=config.data.key_of(name))
    order = training_order(train_set, config.data, global_batch_size=config.global_batch_size, seed=config.seed)
    train_loader = on_all(lambda: make_loader(train_set, order, config.data, worker))
    eval_sets = {name: _evaluation_set(name, dataset, config, worker) for name, dataset in eval_data.items()}
    schedule_steps = config.epochs * order.steps_per_epoch
    total_steps = min(schedule_steps, config.max_steps or schedule_steps)

    checkpoints = CheckpointManager(config, run_identity(train_set, config, order), world_size=worker.world_size)
    check_shared(checkpoints.directory, worker)
    resume = checkpoints.find_resume()
    begun = resume.manifest.config["precision"]["dense"] if resume else None
    config = dataclasses.replace(config, precision=settle_precision(config.precision, worker, begun=begun))
    checkpoints.config = config
    assembled = assemble(train_set.schema, config, worker, train_loader)
    optimizers = Optimizers(assembled.model, config.optimizer, assembled.settings, total_steps=schedule_steps)
    metrics = TrainingMetrics(worker.device, config.metrics)
    if config.checkpoint.asynchronous:
        check_room(training_state(assembled.model, optimizers, metrics.state()).tensors)
    if resume is not None:
        restore_training(resume.path, assembled.model, optimizers, metrics)
        if assembled.loss_scale is not None:
            assembled.loss_scale.restore(resume.manifest.loss_scale)
        logger.info("resumed at step %d from %s", resume.manifest.step, resume.path)
    elif config.init_from.path is not None:
        origin = location(config.init_from.path)
        embedding_dim = config.model.embedding_dim
        started = warm_start(assembled.model, config.init_from, origin, train_set.schema, embedding_dim=embedding_dim)
        logger.info("initialized from %s\n%s", origin, started.table())
    return Job(
        config=config,
        worker=worker,
        train_loader=train_loader,
        eval_sets=eval_sets,
        assembled=assembled,
        optimizers=optimizers,
        metrics=metrics,
        monitor=_monitor(config, next(iter(eval_sets)), checkpoints, resume),
        checkpoints=checkpoints,
        resume=resume,
        total_steps=total_steps,
    )


def _evaluation_set(name: str, dataset: Dataset, config: TrainConfig, worker: Worker) -> EvaluationSet:
    batch_size = config.eval_global_batch_size
    return make_evaluation_set(name, dataset, config.data, config.metrics, worker, global_batch_size=batch_size)


def _monitor(config: TrainConfig, first_set: str, checkpoints: CheckpointManager, resume: Resume | None) -> Monitor:
    """The monitor as the checkpoint knows it, but for a best step of other figures or one that is out of reach."""
    watched_set = config.monitor.set or first_set
    if resume is None:
        return Monitor(config.monitor, watched_set)
    monitor = Monitor(config.monitor, watched_set, resume.manifest.monitor)
    if monitor.replaced and dist.get_rank() == 0:
        logger.warning(
            "%s: watched was %s, and is now %s of %s: the best step from here on counts",
            resume.path,
            monitor.replaced,
            config.monitor.metric,
            watched_set,
        )
    best = monitor.best_step

    def is_lost(best: int) -> bool:
        # In the directory of another run, a step of the same number is another model.
        lost = not (checkpoints.is_own(resume) and checkpoints.holds(best))
        if lost:
            logger.warning(
                "the best step of %s was %d, whose checkpoint %s does not hold: the best step from here on counts",
                resume.path,
                best,
                checkpoints.directory,
            )
        return lost

    if best is not None and config.keeps_best and on_main(lambda: is_lost(best)):
        monitor.forget_best()
    return monitor


def _check_workers(config: TrainConfig, worker: Worker) -> None:
    # Every rank knows this by itself, before anything is read; after an elastic restart it may be the first
    # to know that the workers that are left cannot go on.
    try:
        check_world_size(config.data.lanes, worker.world_size)
    except DataError as cause:
        raise ConfigError(str(cause)) from cause

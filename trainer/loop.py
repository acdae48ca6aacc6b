"""The training loop."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import yaml

from data.loader import BatchLoader, BatchStream
from trainer.assembly import Assembled, assemble
from trainer.checkpoint.manager import CheckpointManager, Resume, run_identity
from trainer.checkpoint.state import restore_training, training_state
from trainer.config import TrainConfig
from trainer.damage import total_skipped_rows
from trainer.distributed import Worker, on_all
from trainer.evaluate import evaluate
from trainer.inputs import file_order, make_loader, open_dataset, training_order
from trainer.logging.console import Progress
from trainer.logging.tensorboard import TensorBoard
from trainer.metric import MetricSet
from trainer.optimizer import Optimizers
from trainer.pipeline import TrainPipeline
from trainer.preemption import PreemptedError, PreemptionGuard
from trainer.sharding import plan_markdown
from trainer.throughput import Throughput

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        metrics: Of the test split, by name.
        steps: Completed in all, by this and earlier processes.
        resumed_at: The step that this process continued from, None if it started the run.
        samples_per_s: Training samples per second over all ranks in this process; None if it had
            nothing to train.
        checkpoint: The last one.
        tensorboard: Directory of the event files.
    """

    metrics: dict[str, float]
    steps: int
    resumed_at: int | None
    samples_per_s: float | None
    checkpoint: str
    tensorboard: str


@dataclass(frozen=True)
class Job:
    """The parts of a training run, built, and restored if there was something to resume."""

    config: TrainConfig
    worker: Worker
    train_loader: BatchLoader
    test_loader: BatchLoader
    assembled: Assembled
    optimizers: Optimizers
    metrics: MetricSet
    checkpoints: CheckpointManager
    resume: Resume | None
    total_steps: int

    @property
    def start_step(self) -> int:
        """The first step that is left to do."""
        return self.resume.manifest.step if self.resume else 0

    @property
    def tensorboard_dir(self) -> Path:
        """Where the event files go."""
        return Path(self.config.run_dir) / "tensorboard"


def build(config: TrainConfig, worker: Worker) -> Job:
    """Opens the data, builds the model, restores the newest checkpoint. All ranks must call this.

    Raises:
        ShardFMError: Data, config and checkpoints do not fit together; on all ranks, before training.
    """
    train_set, test_set = open_dataset(config.data, "train"), open_dataset(config.data, "test")
    order = training_order(train_set, config.data, global_batch_size=config.global_batch_size, seed=config.seed)
    test_order = file_order(test_set, config.data, global_batch_size=config.eval_global_batch_size)
    train_loader = on_all(lambda: make_loader(train_set, order, config.data, worker))
    test_loader = on_all(lambda: make_loader(test_set, test_order, config.data, worker))
    total_steps = config.epochs * order.steps_per_epoch
    if config.max_steps is not None:
        total_steps = min(total_steps, config.max_steps)

    checkpoints = CheckpointManager(config, run_identity(train_set, config, order), world_size=worker.world_size)
    resume = checkpoints.find_resume()
    assembled = assemble(train_set.schema, config, worker, train_loader)
    optimizers = Optimizers(assembled.model, config.optimizer, total_steps=total_steps)
    metrics = MetricSet(worker.device)
    if resume is not None:
        restore_training(resume.path, assembled.model, optimizers, metrics)
        logger.info("resumed at step %d from %s", resume.manifest.step, resume.path)
    return Job(
        config=config,
        worker=worker,
        train_loader=train_loader,
        test_loader=test_loader,
        assembled=assembled,
        optimizers=optimizers,
        metrics=metrics,
        checkpoints=checkpoints,
        resume=resume,
        total_steps=total_steps,
    )


def train(config: TrainConfig, worker: Worker) -> Result:
    """Trains to the end, from the newest checkpoint if there is one. All ranks must call this.

    Raises:
        ShardFMError: See :func:`build`; and what reading the data or writing a checkpoint raises later.
    """
    job = build(config, worker)
    board_dir = job.tensorboard_dir if worker.is_main and config.logging.tensorboard else None
    progress = Progress(total_steps=job.total_steps, start_step=job.start_step, speak=worker.is_main)
    batches = job.train_loader.batches(job.start_step, job.total_steps)
    board = TensorBoard(board_dir, start_step=job.start_step)
    with batches, progress, board, PreemptionGuard() as preemption:
        _describe(job, board)
        result = _run(job, batches, board, progress, preemption)
    if worker.is_main:
        record = json.dumps(dataclasses.asdict(result), indent=1)
        Path(config.run_dir, "result.json").write_text(record + "\n", encoding="utf-8")
    return result


def _run(job: Job, batches: BatchStream, board: TensorBoard, progress: Progress, preemption: PreemptionGuard) -> Result:
    """The loop itself: step, measure, save, evaluate."""
    config, model, steps_per_epoch = job.config, job.assembled.model, job.train_loader.order.steps_per_epoch
    pipeline = TrainPipeline(model, job.optimizers.combined, job.worker.device)
    throughput = Throughput()
    checkpoint = job.resume.path if job.resume else None
    test_metrics: dict[str, float] | None = None

    for step in range(job.start_step, job.total_steps):
        job.optimizers.set_learning_rates(step)
        job.assembled.dropout.advance(step)
        job.metrics.update(*pipeline.step(batches))
        throughput.step_done()
        progress.step_done()

        done = step + 1
        last, epoch_ends = done == job.total_steps, done % steps_per_epoch == 0
        if done % config.logging.every_steps == 0 or last:
            _report(job, done, batches, throughput, board, progress)
        told_to_stop = preemption.agreed() if not last else None
        if done % config.checkpoint.every_steps == 0 or last or told_to_stop:
            tensors = training_state(model, job.optimizers, job.metrics.global_sums())
            checkpoint = job.checkpoints.save(tensors, step=done, epoch=done // steps_per_epoch)
            throughput.pause()
        if told_to_stop:
            raise PreemptedError(
                f"{told_to_stop}: saved {checkpoint} and stopped; the same command continues from there."
            )
        if last or (epoch_ends and done // steps_per_epoch % config.eval_every_epochs == 0):
            with pipeline.detached() as plain:
                test_metrics = evaluate(plain, job.test_loader, job.worker.device)
            _report_test(test_metrics, done, board)
            throughput.pause()

    if test_metrics is None:
        logger.info("nothing left to train: the run was complete at step %d", job.start_step)
        test_metrics = evaluate(model, job.test_loader, job.worker.device)
    rate = throughput.total_steps * config.global_batch_size / throughput.total_s if throughput.total_s else None
    return Result(
        metrics=test_metrics,
        steps=max(job.start_step, job.total_steps),
        resumed_at=job.start_step if job.resume else None,
        samples_per_s=rate,
        checkpoint=str(checkpoint),
        tensorboard=str(job.tensorboard_dir),
    )


def _describe(job: Job, board: TensorBoard) -> None:
    """Says once what is going to be trained."""
    index, order = job.train_loader.index, job.train_loader.order
    logger.info(
        "%s: %s rows in %d row groups of %d files; %d steps an epoch; %d ranks on %s; %d tables over %s",
        job.config.name,
        f"{index.num_rows:,}",
        len(index.row_groups),
        index.num_files,
        order.steps_per_epoch,
        job.worker.world_size,
        job.worker.device.type,
        len(job.assembled.plan),
        ", ".join(sorted({table.sharding_type for table in job.assembled.plan})),
    )
    board.text("run/sharding_plan", plan_markdown(job.assembled.plan))
    board.text("run/config", f"```yaml\n{yaml.safe_dump(dataclasses.asdict(job.config), sort_keys=False)}```")


def _report(
    job: Job, done: int, batches: BatchStream, throughput: Throughput, board: TensorBoard, progress: Progress
) -> None:
    """Writes the figures since the last report. All ranks must call this."""
    if job.train_loader.options.damage.skip:
        board.scalars("data", {"skipped_rows": total_skipped_rows(job.train_loader, batches)}, done)
    metrics, step_s = job.metrics.compute(), throughput.take_window()
    job.metrics.reset()
    samples_per_s = job.config.global_batch_size / step_s if step_s else None
    board.scalars("train", {"loss": metrics["logloss"], **metrics}, done)
    board.scalars("learning_rate", job.optimizers.learning_rates(done - 1), done)
    if step_s and samples_per_s:
        board.scalars("speed", {"samples_per_s": samples_per_s, "step_ms": 1000 * step_s}, done)
    board.flush()
    progress.report(done, metrics, step_s=step_s, samples_per_s=samples_per_s)


def _report_test(metrics: dict[str, float], done: int, board: TensorBoard) -> None:
    board.scalars("test", metrics, done)
    board.flush()
    logger.info("step %d  test  %s", done, "  ".join(f"{name} {value:.5f}" for name, value in metrics.items()))

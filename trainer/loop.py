"""The training loop."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from data.loader import BatchStream
from trainer.checkpoint.canonical import training_state
from trainer.config import TrainConfig
from trainer.data_quality import feature_counts, total_skipped_rows
from trainer.distributed import Worker
from trainer.evaluate import evaluate
from trainer.job import Job, build
from trainer.logging.journal import Journal, tensorboard_dir
from trainer.nonfinite import NonFinitePolicy
from trainer.pipeline import TrainPipeline
from trainer.preemption import PreemptedError, PreemptionGuard
from trainer.run_config import save_config
from trainer.sharding import plan_markdown

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


def train(config: TrainConfig, worker: Worker) -> Result:
    """Trains to the end, from the newest checkpoint if there is one. All ranks must call this.

    Raises:
        PreemptedError: A signal asked for a stop; the run was saved.
        NonFiniteError: A step's loss is not finite, and the config does not allow to leave it out.
        ShardFMError: See :func:`trainer.job.build`; and what reading the data or writing a checkpoint raises.
    """
    job = build(config, worker)
    journal = Journal(config, total_steps=job.total_steps, start_step=job.start_step, speak=worker.is_main)
    batches = job.train_loader.batches(job.start_step, job.total_steps)
    if worker.is_main:
        save_config(config)
    with batches, journal, job.checkpoints, PreemptionGuard() as preemption:
        journal.open(job.headline, plan_markdown(job.assembled.plan))
        result = _run(job, batches, journal, preemption)
    if worker.is_main:
        record = json.dumps(dataclasses.asdict(result), indent=1)
        Path(config.run_dir, "result.json").write_text(record + "\n", encoding="utf-8")
    return result


def _run(job: Job, batches: BatchStream, journal: Journal, preemption: PreemptionGuard) -> Result:
    """The loop itself: step, measure, save, evaluate."""
    config, model, steps_per_epoch = job.config, job.assembled.model, job.train_loader.order.steps_per_epoch
    pipeline = TrainPipeline(model, job.optimizers.combined, job.worker.device)
    checkpoint = job.resume.path if job.resume else None
    non_finite = NonFinitePolicy(config, job.train_loader)
    test_metrics: dict[str, float] | None = None

    for step in range(job.start_step, job.total_steps):
        job.optimizers.set_learning_rates(step)
        job.assembled.step_context.advance(step)
        outputs, trained = pipeline.step(batches)
        done = step + 1
        if trained:
            job.metrics.update(*outputs)
        else:
            non_finite.refuse(step, outputs, checkpoint)
            journal.left_out(done, non_finite.num_skipped)
        journal.step_done()
        job.checkpoints.check()

        last, epochs_done = done == job.total_steps, done // steps_per_epoch
        if done % config.logging.every_steps == 0 or last:
            _report(job, done, batches, journal)
        told_to_stop = None if last else preemption.agreed()
        if done % config.checkpoint.every_steps == 0 or last or told_to_stop:
            tensors = training_state(model, job.optimizers, job.metrics.global_sums()).tensors
            checkpoint = job.checkpoints.save(tensors, step=done, epoch=epochs_done)
            if last or told_to_stop:
                job.checkpoints.wait()
            journal.pause()
        if told_to_stop:
            raise PreemptedError(
                f"{told_to_stop}: saved {checkpoint} and stopped; the same command continues from there."
            )
        if last or (done % steps_per_epoch == 0 and epochs_done % config.eval_every_epochs == 0):
            with pipeline.detached() as plain:
                test_metrics = evaluate(plain, job.test_loader, job.worker.device)
            journal.test(done, test_metrics)
            journal.pause()

    if test_metrics is None:
        logger.info("nothing left to train: the run was complete at step %d", job.start_step)
        test_metrics = evaluate(model, job.test_loader, job.worker.device)
    return Result(
        metrics=test_metrics,
        steps=max(job.start_step, job.total_steps),
        resumed_at=job.start_step if job.resume else None,
        samples_per_s=journal.samples_per_s,
        checkpoint=str(checkpoint),
        tensorboard=str(tensorboard_dir(config)),
    )


def _report(job: Job, done: int, batches: BatchStream, journal: Journal) -> None:
    """Writes the figures since the last report. All ranks must call this."""
    skipped = {"skipped_rows": total_skipped_rows(job.train_loader, batches)} if job.train_loader.may_skip else {}
    journal.data(done, {**skipped, **feature_counts(batches)})
    journal.train(done, job.metrics.compute(), job.optimizers.learning_rates(done - 1))
    job.metrics.reset()

"""The training loop."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

from data.batch import Batch
from data.loader import BatchStream
from trainer.checkpoint.canonical import training_state
from trainer.checkpoint.manager import read_together
from trainer.checkpoint.state import restore_model
from trainer.checkpoint.storage import committed_path
from trainer.config import TrainConfig
from trainer.data_quality import feature_counts, total_skipped_rows
from trainer.distributed import Worker, gather
from trainer.evaluate import evaluate
from trainer.evaluation import Evaluation
from trainer.job import Job, build
from trainer.logging.histograms import dense_gradients, embedding_norms
from trainer.logging.journal import Journal, tensorboard_dir
from trainer.nonfinite import NonFinitePolicy
from trainer.preemption import PreemptedError, PreemptionGuard
from trainer.profiler import Profiler
from trainer.result import Result
from trainer.run_config import save_config
from trainer.timing.observer import Observer
from trainer.timing.stages import Stage
from trainer.watchdog import Watchdog

__all__ = ["Result", "train"]

logger = logging.getLogger(__name__)


def train(config: TrainConfig, worker: Worker) -> Result:
    """Trains to the end, from the newest checkpoint if there is one. All ranks must call this.

    Raises:
        PreemptedError: A signal asked for a stop; the run was saved.
        NonFiniteError: A step's loss is not finite, and the config does not allow to leave it out.
        ShardFMError: See :func:`trainer.job.build`; and what reading the data or writing a checkpoint raises.
    """
    with Watchdog(worker, config.distributed) as watchdog:
        job = build(config, worker)
        config = job.config
        journal = Journal(
            config,
            total_steps=job.total_steps,
            start_step=job.start_step,
            world_size=worker.world_size,
            speak=worker.is_main,
        )
        batches = job.train_loader.batches(job.start_step, job.total_steps)
        if worker.is_main:
            save_config(config)
        profiler = Profiler(config.profiler, Path(config.run_dir, "profile"), worker, first_step=job.start_step + 1)
        with batches, journal, job.checkpoints, PreemptionGuard(timeout_s=config.distributed.timeout_s) as preemption:
            if worker.is_main:
                journal.open(job.summary(), list(job.eval_sets))
            with watchdog.notes_failure(), profiler.running():
                result = _Run(job, batches, journal, profiler, preemption, watchdog).to_the_end()
    if worker.is_main:
        result.write(config.run_dir)
    return result


class _Run:
    """The loop itself: step, measure, save, evaluate."""

    def __init__(
        self,
        job: Job,
        batches: BatchStream,
        journal: Journal,
        profiler: Profiler,
        preemption: PreemptionGuard,
        watchdog: Watchdog,
    ) -> None:
        self._job = job
        self._batches = batches
        self._journal = journal
        self._profiler = profiler
        self._preemption = preemption
        self._watchdog = watchdog
        self._observer = Observer(job.assembled.model, job.worker)
        self._clock = self._observer.clock
        self._pipeline = job.pipeline(self._clock)
        self._watched_batches = self._clock.reads(watchdog.reads(batches))
        self._feed = self._watched_batches
        self._feed_ends = job.start_step
        num_skipped = job.resume.manifest.num_nonfinite_steps if job.resume else 0
        self._non_finite = NonFinitePolicy(job.config, job.train_loader, num_skipped=num_skipped)
        self._checkpoint = job.resume.path if job.resume else None
        self._done = self._saved_step = job.start_step
        self._newest: dict[str, Evaluation] = {}

    def to_the_end(self) -> Result:
        """Trains until the epochs are over or the monitor has seen enough. All ranks must call this."""
        job = self._job
        if self._done and self._is_evaluated(self._done) and job.monitor.last_step < self._done:
            # The run was stopped between the checkpoint and the evaluation of its step, which may be the best one.
            if job.config.keeps_best and job.resume and not job.checkpoints.is_own(job.resume):
                self._save()
            self._evaluate()
        histograms_every = job.config.logging.histograms_every_steps
        for step in self._watchdog.steps(range(job.start_step, job.total_steps)):
            if job.monitor.exhausted:
                self._end_early()
                break
            self._step(step)
            last = self._done == job.total_steps
            if last or self._done % job.config.logging.every_steps == 0:
                self._report()
            # Copies of tables that are averaged for a stop would not be, had nobody told to stop.
            may_stop = not last and job.assembled.replicas.are_due(self._done)
            if histograms_every is not None and self._done % histograms_every == 0:
                self._sample()
            with self._clock.during(Stage.SYNC):
                told_to_stop = self._preemption.agreed() if may_stop else None
            if last or told_to_stop or self._is_saved(self._done):
                self._save()
            if last or told_to_stop:
                self._await_commit()
            if told_to_stop:
                raise PreemptedError(
                    f"{told_to_stop}: saved {self._checkpoint} and stopped; the same command continues from there."
                )
            if self._is_evaluated(self._done):
                self._evaluate()
        return self._result()

    def _step(self, step: int) -> None:
        job = self._job
        job.optimizers.set_learning_rates(step, factor=job.monitor.lr_factor)
        job.assembled.step_context.advance(step)
        outputs, trained = self._pipeline.step(self._batches_for(step))
        self._done = step + 1
        with self._clock.during(Stage.SYNC):
            job.assembled.replicas.step_done(self._done)
        if trained or self._pipeline.overflowed:
            with self._clock.during(Stage.METRICS):
                job.metrics.update(*outputs)
        if self._pipeline.overflowed:
            self._non_finite.overflowed(step, job.assembled.loss_scale)
        elif not trained:
            self._non_finite.refuse(step, outputs, self._checkpoint)
            self._journal.left_out(self._done, self._non_finite.num_skipped)
        self._journal.step_done()
        with self._clock.during(Stage.SYNC):
            job.checkpoints.check()
        self._profiler.step_done()
        self._clock.step_done()

    def _batches_for(self, step: int) -> Iterator[Batch]:
        """The batches from a step on; with rows that are fetched ahead, up to the next evaluation."""
        if self._job.config.sharding.prefetch and step == self._feed_ends:
            self._feed_ends = next(done for done in itertools.count(step + 1) if self._is_evaluated(done))
            self._feed = itertools.islice(self._watched_batches, self._feed_ends - step)
        return self._feed

    def _end_early(self) -> None:
        logger.info("step %d: %s: the run ends", self._done, self._job.monitor.reason_to_end)
        if self._saved_step != self._done:
            self._save()

    def _is_saved(self, done: int) -> bool:
        # What is evaluated next may turn out to be the best: it has to be there.
        config = self._job.config
        return done % config.checkpoint.every_steps == 0 or (config.keeps_best and self._is_evaluated(done))

    def _is_evaluated(self, done: int) -> bool:
        config, steps_per_epoch = self._job.config, self._job.train_loader.order.steps_per_epoch
        by_epochs = done % (steps_per_epoch * config.eval_every_epochs) == 0
        by_steps = config.eval_every_steps is not None and done % config.eval_every_steps == 0
        return by_epochs or by_steps or done == self._job.total_steps

    def _save(self) -> None:
        job, steps_per_epoch = self._job, self._job.train_loader.order.steps_per_epoch
        with self._watchdog.saving(self._done), self._clock.during(Stage.CHECKPOINT, whole=True):
            job.assembled.replicas.average()
            tensors = training_state(job.assembled.model, job.optimizers, job.metrics.state()).tensors
            self._checkpoint = job.checkpoints.save(
                tensors,
                step=self._done,
                epoch=self._done // steps_per_epoch,
                monitor=job.monitor,
                num_nonfinite_steps=self._non_finite.num_skipped,
                loss_scale=job.assembled.loss_scale.state() if job.assembled.loss_scale else {},
            )
        self._saved_step = self._done
        self._journal.pause()

    def _await_commit(self) -> None:
        with self._watchdog.saving(self._saved_step), self._clock.during(Stage.CHECKPOINT, whole=True):
            self._job.checkpoints.wait()

    def _evaluate(self) -> None:
        job = self._job
        with self._clock.during(Stage.EVALUATION, whole=True):
            for name in job.sets_during_training:
                self._newest[name] = self._evaluation_of(name)
                self._journal.evaluated(self._newest[name])
            doubt = job.monitor.see(self._done, self._newest[job.watched_set].metrics)
            if doubt and job.worker.is_main:
                logger.warning("step %d: %s", self._done, doubt)
            gather(None)  # the others wait here for who writes, not in the next step, which would look slow
        self._journal.pause()

    def _evaluation_of(self, name: str) -> Evaluation:
        job = self._job
        with self._watchdog.doing(f"the evaluation of {name}"), self._pipeline.detached() as plain:
            job.assembled.replicas.average()
            rows, config, device = job.eval_sets[name], job.config.metrics, job.worker.device
            return evaluate(plain, rows, config, device, self._watchdog, step=self._done)

    def _report(self) -> None:
        """Writes the figures since the last report."""
        job, done = self._job, self._done
        with self._clock.during(Stage.SYNC):
            skipped = {}
            if job.train_loader.may_skip:
                skipped = {"skipped_rows": total_skipped_rows(job.train_loader, self._batches)}
            counts = {**skipped, **feature_counts(self._batches)}
            breakdown = self._observer.report()
            figures = job.metrics.report()
        learning_rates = job.optimizers.learning_rates(done - 1, factor=job.monitor.lr_factor)
        with self._clock.during(Stage.LOGGING):
            if job.assembled.loss_scale is not None:
                self._journal.loss_scale(done, job.assembled.loss_scale)
            self._journal.data(done, counts)
            self._journal.train(done, figures, learning_rates, breakdown)

    def _sample(self) -> None:
        """Writes histograms of the model."""
        model = self._job.assembled.model
        with self._clock.during(Stage.SYNC):
            norms = embedding_norms(model, num_rows=self._job.config.logging.histogram_rows)
        with self._clock.during(Stage.LOGGING):
            gradients = dense_gradients(model) if self._job.worker.is_main else {}
            self._journal.histograms(self._done, norms, gradients)

    def _result(self) -> Result:
        job, monitor = self._job, self._job.monitor
        self._await_commit()
        use_best = job.config.monitor.use_best and monitor.best_step not in (None, self._done) and self._take_best()
        evaluation = None if use_best else self._newest.get(job.final_set)
        if evaluation is None:
            evaluation = self._evaluation_of(job.final_set)
            self._journal.evaluated(evaluation)
        self._journal.ended(evaluation, self._done)
        return Result(
            split=evaluation.set,
            metrics=evaluation.metrics,
            steps=self._done,
            best_step=monitor.best_step,
            resumed_at=job.start_step if job.resume else None,
            samples_per_s=self._journal.samples_per_s,
            train_s=self._journal.train_s,
            num_parameters=job.assembled.num_parameters,
            checkpoint=str(self._checkpoint),
            tensorboard=str(tensorboard_dir(job.config)) if job.config.logging.tensorboard else None,
        )

    def _take_best(self) -> bool:
        """Loads the model of the best step; if its checkpoint is damaged, that of the last one stays."""
        best = self._job.monitor.best_step
        assert best is not None
        path = committed_path(self._job.checkpoints.directory, best)
        manifest, damage = read_together(path)
        if manifest is None:
            if self._job.worker.is_main:
                logger.warning("%s The final model is that of the last step: %s", damage, self._checkpoint)
            return False
        self._checkpoint = path
        logger.info("the final model is that of step %d: %s", best, path)
        restore_model(path, self._job.assembled.model)
        return True

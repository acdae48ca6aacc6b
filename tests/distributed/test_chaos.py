"""A job killed again and again, wherever it is, ends as one that never was: the same rows, the same curve."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.checkpoints import assert_equal_bits, tensors_of
from tests.distributed.records import JOB, NUM_ROWS, STEPS_PER_EPOCH, Records, arguments, write_data
from tests.forked import ForkedJob
from tests.launch.processes import RunningJob
from trainer.checkpoint import storage

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]

EPOCHS = 3
TOTAL_STEPS = EPOCHS * STEPS_PER_EPOCH
WHEN = ("starting", "in a step", "in a save", "in a save")


@dataclass(frozen=True)
class Kill:
    """How a life of the job ends.

    Attributes:
        world_size: Workers.
        who: ``worker``, ``all``, or under torchrun ``agent``.
        when: What the job is at.
        by_torchrun: Whether torchrun starts the workers, or they are forked.
    """

    world_size: int
    who: str
    when: str
    by_torchrun: bool = False


class Run:
    """One run over many lives.

    Args:
        folder: For everything that it leaves.
        data: From :func:`write_data`.
        draw: Of the moments.
    """

    def __init__(self, folder: Path, data: Path, draw: random.Random) -> None:
        folder.mkdir()
        self.folder = folder
        self.checkpoints = folder / "run" / "checkpoints"
        self.num_cut_saves = 0
        self._command = [JOB, *arguments(data, folder / "run"), f"epochs={EPOCHS}", f"eval_every_epochs={EPOCHS}"]
        self._command += ["logging.every_steps=1"]
        self._draw = draw
        self.lives: list[Records] = []

    def live(self, kill: Kill) -> None:
        """Starts the job and kills it."""
        started_ns = time.time_ns()
        if kill.by_torchrun:
            self._under_torchrun(kill, started_ns)
        else:
            self._forked(kill, started_ns)
        # What counts as committed is whole, whenever the kill came.
        for path in storage.committed(self.checkpoints):
            storage.verify(path, storage.read_manifest(path).files)
        staged = any(self.checkpoints.glob(".staging-*")) if self.checkpoints.is_dir() else False
        self.num_cut_saves += staged and kill.when == "in a save"

    def finish(self, world_size: int) -> None:
        """Lets the job come to its end."""
        job = ForkedJob(world_size, self._command, folder=self._logs(), environment=self._new_life())
        assert job.wait() == [0] * world_size, job.output(0)

    def loss_curve(self) -> dict[int, float]:
        """The loss of every step, as TensorBoard shows it."""
        events = EventAccumulator(str(self.folder / "run" / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        return {event.step: event.value for event in events.Scalars("train/loss")}

    def rows_of_steps(self) -> list[list[int]]:
        """The rows of each step in the state that survived: of the life whose checkpoint the next ones began with."""
        stop, rows = TOTAL_STEPS, []
        for life in reversed(self.lives):
            for start in life.starts():  # one at most: a life that was killed early has none
                if start < stop:
                    done = life.steps(start)
                    rows.append([done[step] for step in range(start, stop)])
                    stop = start
        return list(itertools.chain.from_iterable(reversed(rows)))

    def told(self) -> str:
        """What all lives printed."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.rglob("*.log")))

    def _forked(self, kill: Kill, started_ns: int) -> None:
        job = ForkedJob(kill.world_size, self._command, folder=self._logs(), environment=self._new_life())
        pause = lambda seconds: job.workers[0].join(seconds)  # noqa: E731
        self._await(kill.when, started_ns, pause, lambda: f"{job.running()} {job.output(0)}", job.running)
        if kill.who == "all":
            job.kill()
        else:
            rank = self._draw.randrange(kill.world_size)
            job.send(rank, signal.SIGKILL)
            job.wait([rank])
            assert 0 not in job.end_like_an_agent(), job.output(0)

    def _under_torchrun(self, kill: Kill, started_ns: int) -> None:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in self._new_life().items():
                environment.setenv(name, value)
            job = RunningJob(kill.world_size, *self._command, log=self._logs().with_suffix(".log"))
        self._await(kill.when, started_ns, job.pause, job.output, job.running)
        workers = job.workers()
        if kill.who == "all":
            job.kill()
        elif kill.who == "agent":
            assert job.signal_agent(signal.SIGKILL) == -signal.SIGKILL
        else:
            os.kill(self._draw.choice(workers), signal.SIGKILL)
            assert job.wait() != 0
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in workers):  # none outlives its agent
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _await(
        self,
        when: str,
        started_ns: int,
        pause: Callable[[float], object],
        output: Callable[[], str],
        running: Callable[[], bool],
    ) -> None:
        """Waits for the moment, and then for a bit of luck."""
        if when == "starting":
            pause(self._draw.uniform(0, 2))
            return
        least = self._draw.randrange(1, 5)
        deadline = time.monotonic() + 120
        while not (self._num_steps() >= least if when == "in a step" else self._is_saving(started_ns)):
            assert running(), f"ended before it was killed {when}:\n{output()}"
            assert time.monotonic() < deadline, output()
            pause(0.002)
        pause(self._draw.uniform(0, 0.02))

    def _num_steps(self) -> int:
        """Steps that this life has completed on rank 0."""
        files = list(self.lives[-1].folder.glob("from-*-rank-0-of-*"))
        return len(files[0].read_text().splitlines()) if files else 0

    def _is_saving(self, started_ns: int) -> bool:
        """Whether this life, and not an earlier one, has a save under way."""
        try:
            staged = self.checkpoints.glob(".staging-*") if self.checkpoints.is_dir() else ()
            return any(path.stat().st_mtime_ns > started_ns for path in staged)
        except FileNotFoundError:  # committed meanwhile
            return False

    def _new_life(self) -> dict[str, str]:
        self.lives.append(Records(self.folder / f"life-{len(self.lives):02}"))
        return {"RECORD_DIR": str(self.lives[-1].folder)}

    def _logs(self) -> Path:
        return self.folder / f"logs-{len(self.lives):02}"


def assert_every_row_once_an_epoch(rows_of_steps: list[list[int]], told: str) -> None:
    assert len(rows_of_steps) == TOTAL_STEPS, told
    for epoch in range(EPOCHS):
        steps = rows_of_steps[epoch * STEPS_PER_EPOCH : (epoch + 1) * STEPS_PER_EPOCH]
        assert sorted(itertools.chain.from_iterable(steps)) == list(range(NUM_ROWS)), told


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Run:
    """The run that never was interrupted, on two workers."""
    run = Run(tmp_path_factory.mktemp("whole") / "run", data, random.Random(0))
    run.finish(2)
    return run


def shuffled(draw: random.Random, kills: list[Kill]) -> list[Kill]:
    draw.shuffle(kills)
    return kills


def test_killed_nine_times_on_the_same_number_of_workers_it_ends_with_the_same_bits(
    tmp_path: Path, data: Path, whole: Run
) -> None:
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    run = Run(tmp_path / "run", data, draw)
    kills = [Kill(2, who, when) for who in ("worker", "all") for when in WHEN[1:]]
    kills += [
        Kill(2, "agent", "in a save", by_torchrun=True),
        Kill(2, "worker", "in a step", by_torchrun=True),
        Kill(2, "all", "in a save", by_torchrun=True),
    ]
    for kill in shuffled(draw, kills):
        run.live(kill)
    run.finish(2)

    told = f"seed {seed}, {kills}"
    assert_every_row_once_an_epoch(run.rows_of_steps(), told)
    assert run.loss_curve() == whole.loss_curve(), told
    last = f"step-{TOTAL_STEPS:08d}"
    assert_equal_bits(tensors_of(run.checkpoints / last), tensors_of(whole.checkpoints / last))
    assert run.num_cut_saves > 0, told
    assert "damaged" not in run.told(), told


def test_killed_fourteen_times_on_random_numbers_of_workers_it_ends_on_the_same_curve(
    tmp_path: Path, data: Path, whole: Run
) -> None:
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    run = Run(tmp_path / "run", data, draw)
    whos, whens = ("worker", "all") * 7, WHEN * 3 + WHEN[1:3]
    kills = [Kill(draw.choice((1, 2, 4)), who, when) for who, when in zip(whos, whens, strict=True)]
    for kill in shuffled(draw, kills):
        run.live(kill)
    run.finish(draw.choice((1, 2, 4)))

    told = f"seed {seed}, {kills}"
    assert_every_row_once_an_epoch(run.rows_of_steps(), told)
    curve, expected = run.loss_curve(), whole.loss_curve()
    assert sorted(curve) == sorted(expected) == list(range(1, TOTAL_STEPS + 1)), told
    assert max(abs(curve[step] - expected[step]) for step in curve) < 1e-4, told
    assert run.num_cut_saves > 0, told
    assert "damaged" not in run.told(), told

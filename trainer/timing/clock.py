"""A clock that knows at every moment in which stage of a step it is."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from trainer.timing.stages import Stage

T = TypeVar("T")


@dataclass
class Window:
    """Whole steps, with what came between them.

    Attributes:
        num_steps: Of them.
        seconds: Of each stage; together, all the time that they took.
    """

    num_steps: int = 0
    seconds: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(Stage, 0.0))


class _Ledger(ABC):
    """Who notes when stages begin."""

    def __init__(self) -> None:
        self._window = Window()
        self._step = dict.fromkeys(Stage, 0.0)

    @abstractmethod
    def begin(self, stage: Stage) -> None:
        """From now on it is this stage."""

    @abstractmethod
    def end_step(self) -> None:
        """A step ends."""

    def take(self) -> Window:
        """The steps that ended since the last call."""
        window, self._window = self._window, Window()
        return window

    def _add_step(self) -> None:
        """Adds the step that has ended to the window."""
        self._window.num_steps += 1
        for stage, seconds in self._step.items():
            self._window.seconds[stage] += seconds
            self._step[stage] = 0.0


class _HostLedger(_Ledger):
    """The time of the calling thread."""

    def __init__(self) -> None:
        super().__init__()
        self._stage = Stage.REST
        self._since = time.perf_counter()

    def begin(self, stage: Stage) -> None:
        now = time.perf_counter()
        self._step[self._stage] += now - self._since
        self._stage, self._since = stage, now

    def end_step(self) -> None:
        self.begin(self._stage)
        self._add_step()


class _DeviceLedger(_Ledger):
    """The time of a CUDA stream, between events that are read when the device has passed them: nobody waits.

    A stage then takes what the stream took from its first event to the next stage's. Time in which the
    stream has nothing to do, because the host waits for data or has not launched a kernel yet, counts to the
    stage that the host is in.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._stream = torch.cuda.current_stream(device)
        self._marks: deque[tuple[Stage, bool, torch.cuda.Event]] = deque()
        self._free: list[torch.cuda.Event] = []
        self._stage = Stage.REST
        self._mark(Stage.REST, ends_step=False)

    def begin(self, stage: Stage) -> None:
        self._stage = stage
        self._mark(stage, ends_step=False)

    def end_step(self) -> None:
        self._mark(self._stage, ends_step=True)
        self._read()

    def take(self) -> Window:
        self._read()
        return super().take()

    def _mark(self, stage: Stage, *, ends_step: bool) -> None:
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        self._marks.append((stage, ends_step, event))

    def _read(self) -> None:
        while len(self._marks) > 1 and self._marks[1][2].query():
            stage, _, begun = self._marks.popleft()
            _, ends_step, ended = self._marks[0]
            self._step[stage] += begun.elapsed_time(ended) / 1000
            self._free.append(begun)
            if ends_step:
                self._add_step()


class StageClock:
    """Tells how long each stage of training takes, by one reading of the time at every change of stage.

    What is inside a stage and is a stage of its own does not count to the outer one, and what is no stage
    at all counts as rest: so the stages add up to the time that passed. The first step is left out: it
    builds and traces. On CUDA, the time is that of the stream that computes, read without waiting for it,
    and a few steps late.

    Args:
        device: Where the model is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stage = Stage.REST
        self._held = False
        self._ledger: _Ledger | None = None

    def switch(self, stage: Stage) -> Stage:
        """From now on it is this stage; returns what it was before."""
        previous = self._stage
        if not self._held:
            self._stage = stage
            if self._ledger is not None:
                self._ledger.begin(stage)
        return previous

    @contextmanager
    def during(self, stage: Stage, *, whole: bool = False) -> Iterator[None]:
        """The block is this stage, but for stages within.

        Args:
            stage: Of the block.
            whole: Whether stages within count to this one, too.
        """
        previous, held = self.switch(stage), self._held
        self._held = held or whole
        try:
            yield
        finally:
            self._held = held
            self.switch(previous)

    def reads(self, items: Iterator[T]) -> Iterator[T]:
        """The items, each of them waited for as data."""
        while True:
            with self.during(Stage.DATA_WAIT):
                item = next(items, None)
            if item is None:
                return
            yield item

    def step_done(self) -> None:
        """A step of the training loop ends; the first one starts the clock."""
        if self._ledger is not None:
            self._ledger.end_step()
        else:
            self._ledger = _DeviceLedger(self._device) if self._device.type == "cuda" else _HostLedger()
            self._ledger.begin(self._stage)

    def take(self) -> Window:
        """The steps since the last call."""
        return Window() if self._ledger is None else self._ledger.take()

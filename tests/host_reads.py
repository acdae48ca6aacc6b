"""Where a program reads a tensor's value on the host: on a GPU, it would wait there for the device."""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_OF_TENSORS = {"__array__", "__bool__", "__float__", "__index__", "__int__", "cpu", "item", "numpy", "tolist"}
_TORCH = Path(torch.__file__).parent


class HostReads:
    """Counts the reads in a block, by the functions that led to them, the innermost one first; torch's left out.

    On a CPU nothing waits, but the same calls and operators are seen: those of Python that give a value, and those of
    ATen whose result, or its size, depends on one.
    """

    def __init__(self) -> None:
        self.places: Counter[tuple[str, ...]] = Counter()
        self._modes = (_Calls(self.places), _Operators(self.places))

    def __enter__(self) -> HostReads:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *of_exception: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*of_exception)


class _Calls(TorchFunctionMode):
    def __init__(self, places: Counter[tuple[str, ...]]) -> None:
        super().__init__()
        self._places = places

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in _OF_TENSORS:
            self._places[_callers()] += 1
        return function(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, places: Counter[tuple[str, ...]]) -> None:
        super().__init__()
        self._places = places

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(function.tags):
            self._places[_callers()] += 1
        return function(*args, **(kwargs or {}))


def _callers() -> tuple[str, ...]:
    frames = [frame for frame in traceback.extract_stack() if not Path(frame.filename).is_relative_to(_TORCH)]
    named = [frame for frame in frames if frame.filename != __file__ and not frame.name.startswith("<")]
    return tuple(frame.name for frame in reversed(named))

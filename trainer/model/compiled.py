"""The dense part by ``torch.compile``."""

from __future__ import annotations

import torch
from torch import nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from trainer.config.rules import one_of
from trainer.errors import ConfigError


def compile_heads(heads: nn.Module, backend: str, device: torch.device) -> None:
    """Has a module's forward and backward pass compiled when it first sees a batch of some size.

    Its parameters keep their names. What is Python by nature (exchanges of batch statistics, masks that are drawn by
    lane) stays between the compiled pieces.

    Args:
        heads: Changed in place.
        backend: Of ``torch.compile``.
        device: Of the batches.

    Raises:
        ConfigError: There is no such backend, or it lacks the compiler that it needs here.
    """
    one_of(tuple(sorted(torch.compiler.list_backends(exclude_tags=()))), backend, "compile")
    if backend == "inductor" and device.type == "cpu":
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as cause:
            raise ConfigError(
                "compile is 'inductor', which needs a C++ compiler on CPUs, and there is none; install g++ (or set "
                "CXX), or use compile=null."
            ) from cause
    # Batches are padded: there is one size in training and one in evaluation.
    heads.compile(backend=backend, dynamic=False)

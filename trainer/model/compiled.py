"""The dense part by ``torch.compile``."""

from __future__ import annotations

import torch
from torch import nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from trainer.errors import ConfigError

_ARGUMENTS = {
    "inductor": {"backend": "inductor"},
    "cudagraphs": {"backend": "inductor", "mode": "reduce-overhead"},
    "aot_eager": {"backend": "aot_eager"},
}


def compile_heads(heads: nn.Module, compiler: str, device: torch.device, *, step: nn.Module) -> None:
    """Has a module's forward and backward pass compiled when it first sees a batch of some size.

    Its parameters keep their names. What is Python by nature (exchanges of batch statistics, masks that are drawn by
    lane) stays between the compiled pieces.

    A CUDA graph writes its outputs to the same memory each time: what is kept beyond a step is to be copied.

    Args:
        heads: Changed in place.
        compiler: ``inductor``; ``cudagraphs``, where its kernels are recorded and replayed; or ``aot_eager``, by which
            a module is traced, but not compiled.
        device: Of the batches.
        step: That calls the heads, once each time.

    Raises:
        ConfigError: The device has no such thing, or the compiler lacks what it needs here.
    """
    if compiler == "cudagraphs" and device.type != "cuda":
        raise ConfigError("compile is 'cudagraphs', which CUDA devices have alone; use inductor or null.")
    if compiler == "inductor" and device.type == "cpu":
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as cause:
            raise ConfigError(
                "compile is 'inductor', which needs a C++ compiler on CPUs, and there is none; install g++ (or set "
                "CXX), or use compile=null."
            ) from cause
    # Batches are padded: there is one size in training and one in evaluation.
    heads.compile(**_ARGUMENTS[compiler], dynamic=False)
    if compiler == "cudagraphs":
        # Else graphs wait for the backward pass of a step that was left out.
        step.register_forward_pre_hook(lambda *_: torch.compiler.cudagraph_mark_step_begin())

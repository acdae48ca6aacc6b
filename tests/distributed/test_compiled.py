"""Compiled heads compute what they compute uncompiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch._inductor.exc import InvalidCxxCompiler

from tests.checkpoints import tensors_of
from tests.ranks import results_of, run_ranks
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.errors import ConfigError
from trainer.loop import Result, train
from trainer.model.compiled import compile_heads

pytestmark = pytest.mark.distributed


def train_all(worker: Worker, configs: list[TrainConfig]) -> list[Result]:
    return [train(config, worker) for config in configs]


def test_compiled_heads_train_to_the_same_model(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """Traced forward and backward, with the exchanges of batch normalization and masks by lane between the pieces."""
    configs = [
        make_config(
            run_dir=tmp_path / str(backend),
            compile=backend,
            max_steps=4,
            model={"network": {"norm": "batch", "dropout": 0.3, "layers": [8]}},
        )
        for backend in (None, "aot_eager")
    ]
    plain, compiled = results_of(run_ranks(2, train_all, configs))[0]
    ours, theirs = (tensors_of(Path(result.checkpoint)) for result in (compiled, plain))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def compile_on_cpu(compiler: str) -> None:
    module = torch.nn.Linear(1, 1)
    compile_heads(module, compiler, torch.device("cpu"), step=module)


def test_what_cannot_be_compiled_is_refused(make_config: Callable[..., TrainConfig]) -> None:
    with pytest.raises(ConfigError, match=r"compile is 'inducter', which is unknown\. Did you mean 'inductor'"):
        make_config(compile="inducter")
    with pytest.raises(ConfigError, match=r"accumulate_steps is 2, but must be 1 with compile=cudagraphs"):
        make_config(compile="cudagraphs", optimizer={"accumulate_steps": 2})
    with pytest.raises(ConfigError, match=r"compile is 'cudagraphs', which CUDA devices have alone"):
        compile_on_cpu("cudagraphs")


def test_without_a_compiler_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr("trainer.model.compiled.get_cpp_compiler", none)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler on CPUs, and there is none"):
        compile_on_cpu("inductor")

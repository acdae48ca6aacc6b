"""Half precision learns what single precision learns, and is refused where it would not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.checkpoints import tensors_of
from tests.ranks import results_of, run_ranks
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.job import build
from trainer.loop import Result, train

pytestmark = pytest.mark.distributed

PRECISIONS = {
    "plain": {},
    "dense": {"dense": "bf16"},
    "tables": {"tables": "fp16"},
    "both": {"dense": "bf16", "tables": "fp16"},
}


def train_all(worker: Worker, configs: dict[str, TrainConfig]) -> dict[str, Result]:
    return {name: train(config, worker) for name, config in configs.items()}


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_half_precision_follows_single_precision(
    sharding: str, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    configs = {
        name: make_config(
            run_dir=tmp_path / name,
            precision=precision,
            sharding={"types": [sharding]},
            model={
                "init_std": 0.05,
                "network": {"norm": "batch", "layers": [12, 8]},
                "heads": {"dnn": {"norm": "batch"}},
            },
            optimizer={"sparse": {"lr": 0.05, "eps": 1e-4}},
        )
        for name, precision in PRECISIONS.items()
    }
    results: dict[str, Result] = results_of(run_ranks(2, train_all, configs))[0]
    states = {name: tensors_of(Path(result.checkpoint)) for name, result in results.items()}
    for name, result in results.items():
        # bfloat16 has 8 significant bits, float16 has 11.
        assert result.metrics["logloss"] == pytest.approx(results["plain"].metrics["logloss"], abs=0.01)
        dtypes = {key: tensor.dtype for key, tensor in states[name].items()}
        half = "tables" in PRECISIONS[name]
        assert dtypes["tables/user/weight"] == (torch.float16 if half else torch.float32)
        assert all(dtype != torch.bfloat16 for dtype in dtypes.values())
        # It is not the same run: the precision has done something.
        assert name == "plain" or result.metrics != results["plain"].metrics


def refused(worker: Worker, config: TrainConfig) -> None:
    build(config, worker)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": {"dense": "tf32"}}, "precision.dense is 'tf32', which CUDA devices have alone"),
        (
            {"precision": {"tables": "fp16"}, "sharding": {"types": ["data_parallel"]}},
            "precision.tables is 'fp16', but torch's optimizers would round small steps",
        ),
    ],
)
def test_a_precision_that_the_device_or_the_optimizer_lacks_is_refused(
    changes: dict[str, object], message: str, make_config: Callable[..., TrainConfig]
) -> None:
    (error,) = run_ranks(1, refused, make_config(**changes))
    assert message in str(error)

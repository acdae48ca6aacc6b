"""Half precision learns what single precision learns, and is refused where it would not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.checkpoints import tensors_of
from tests.ranks import results_of, run_ranks
from trainer.checkpoint.storage import read_manifest
from trainer.config import LossScaleConfig, PrecisionConfig, TrainConfig
from trainer.distributed import Worker
from trainer.job import build
from trainer.loop import Result, train
from trainer.model import precision
from trainer.model.loss_scale import LossScale
from trainer.nonfinite import NonFiniteError, NonFinitePolicy
from trainer.run_config import load_config

pytestmark = pytest.mark.distributed

PRECISIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dense": {"dense": "bf16"},
    "scaled": {"dense": "fp16", "loss_scale": {"initial": 1024}},
    "tables": {"tables": "fp16"},
    "both": {"dense": "bf16", "tables": "fp16"},
}


def settled(worker: Worker, with_bf16: tuple[int, ...], dense: str, begun: str | None) -> str:
    precision.multiplies_bf16 = lambda device: worker.rank in with_bf16
    return precision.settle_precision(PrecisionConfig(dense=dense), worker, begun=begun).dense


@pytest.mark.parametrize(
    ("with_bf16", "dense", "begun", "outcome"),
    [
        ((0, 1), "auto", None, "bf16"),
        ((1,), "auto", None, "fp32"),
        ((0, 1), "auto", "fp16", "bf16"),
        ((0, 1), "fp32", "bf16", "fp32"),
        ((), "bf16", None, "bf16"),
    ],
)
def test_auto_is_what_all_ranks_have(with_bf16: tuple[int, ...], dense: str, begun: str | None, outcome: str) -> None:
    assert results_of(run_ranks(2, settled, with_bf16, dense, begun)) == [outcome] * 2


def train_on(worker: Worker, config: TrainConfig, with_bf16: bool) -> Result:
    precision.multiplies_bf16 = lambda device: with_bf16
    return train(config, worker)


@pytest.mark.parametrize("with_bf16", [True, False])
def test_a_run_goes_on_in_what_auto_came_to_when_it_began(
    with_bf16: bool, make_config: Callable[..., TrainConfig]
) -> None:
    for max_steps, device_has_it in ((2, with_bf16), (3, not with_bf16)):
        config = make_config(precision={"dense": "auto"}, max_steps=max_steps)
        (result,) = results_of(run_ranks(1, train_on, config, device_has_it))
        came_to = "bf16" if with_bf16 else "fp32"
        assert load_config(Path(config.run_dir)).precision.dense == came_to
        assert read_manifest(Path(result.checkpoint)).config["precision"]["dense"] == came_to
    assert result.resumed_at == 2


def train_all(worker: Worker, configs: dict[str, TrainConfig]) -> dict[str, Result]:
    return {name: train(config, worker) for name, config in configs.items()}


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_half_precision_follows_single_precision(
    sharding: str, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    configs = {
        name: make_config(
            run_dir=tmp_path / name,
            precision=settings,
            sharding={"types": [sharding]},
            model={
                "init_std": 0.05,
                "network": {"norm": "batch", "layers": [12, 8]},
                "heads": {"dnn": {"norm": "batch"}},
            },
            optimizer={"sparse": {"lr": 0.05, "eps": 1e-4}},
        )
        for name, settings in PRECISIONS.items()
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


def overflowing(make_config: Callable[..., TrainConfig], **more: Any) -> TrainConfig:
    """Starts with a scale that float16 cannot hold, and grows it again and again."""
    return make_config(
        precision={"dense": "fp16", "loss_scale": {"initial": 2.0**30, "growth_steps": 3}},
        optimizer={"sparse": {"eps": 1e-4}},
        checkpoint={"every_steps": 1},
        **more,
    )


def test_a_step_that_overflows_leaves_no_trace_but_a_smaller_scale(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    whole = overflowing(make_config, run_dir=tmp_path / "whole")
    stopped = overflowing(make_config, run_dir=tmp_path / "stopped", max_steps=8)
    continued = overflowing(make_config, run_dir=tmp_path / "stopped")
    runs = {"whole": whole, "stopped": stopped, "continued": continued}
    results: dict[str, Result] = results_of(run_ranks(2, train_all, runs))[0]

    folders = [Path(whole.checkpoint.directory, f"step-{step:08d}") for step in range(1, 19)]
    scales = [read_manifest(folder).loss_scale for folder in folders]
    weights = [
        {name: tensor for name, tensor in tensors_of(folder).items() if name != "metric_sums"} for folder in folders
    ]
    overflows = [scale["num_overflows"] for scale in scales]
    assert overflows[:2] == [1, 2]
    assert overflows[-1] < 18
    moved = 0
    for before, after in itertools.pairwise(range(18)):
        left_out = overflows[after] > overflows[before]
        same = all(torch.equal(tensor, weights[before][name]) for name, tensor in weights[after].items())
        assert same == left_out, f"step {after + 1}"
        if left_out:
            assert scales[after]["value"] == scales[before]["value"] / 2
        moved += not same
    assert moved >= 3
    # What follows a resume depends on the scale and on the good steps since it changed.
    assert read_manifest(Path(results["continued"].checkpoint)).loss_scale == scales[-1]
    for name, tensor in tensors_of(Path(results["continued"].checkpoint)).items():
        assert name == "metric_sums" or torch.equal(tensor, weights[-1][name])

    events = EventAccumulator(f"{whole.run_dir}/tensorboard", size_guidance={"scalars": 0})
    events.Reload()
    assert [event.value for event in events.Scalars("train/loss_scale")] == [scale["value"] for scale in scales]
    assert [event.value for event in events.Scalars("train/overflow_steps")] == overflows


def overflow_without_a_scale(worker: Worker, config: TrainConfig) -> None:
    loader = build(config, worker).train_loader
    scale = LossScale(LossScaleConfig(initial=1.0))
    scale.step_done(overflowed=True)
    NonFinitePolicy(config, loader, num_skipped=0).overflowed(4, scale)


def test_gradients_that_overflow_without_a_scale_end_the_run(make_config: Callable[..., TrainConfig]) -> None:
    for error in run_ranks(2, overflow_without_a_scale, make_config()):
        assert isinstance(error, NonFiniteError)
        assert str(error).startswith("step 5: the gradients overflow float16, and the scale of the loss is down to 1.")


def refused(worker: Worker, config: TrainConfig) -> None:
    build(config, worker)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": {"dense": "tf32"}}, "precision.dense is 'tf32', which CUDA devices have alone"),
        (
            {"precision": {"tables": "fp16", "rounding": "stochastic"}},
            "precision.rounding is 'stochastic', but FBGEMM's CPU kernels round to the nearest, whatever they are told",
        ),
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

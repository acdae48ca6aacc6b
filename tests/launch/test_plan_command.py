"""A plan without GPUs, data or torchrun: what it prints adds up, and what does not fit is said with remedies."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from data.schema import load_schema
from launch.plan import run
from launch.plan_estimate import estimate
from launch.plan_figures import Estimate, as_json, imbalance
from launch.plan_ladder import climb
from launch.plan_report import ladder_text, page, text
from tests.launch.processes import ROOT, run_python
from trainer.config import to_config
from trainer.config.plan import PlanConfig
from trainer.errors import ConfigError

CRITEO = ["experiment=criteo_1tb", "precision=fp32", f"data.schema={ROOT / 'data/schemas/criteo_1tb.yaml'}"]
ADULT = ["experiment=adult", f"data.schema={ROOT / 'data/samples/adult/schema.yaml'}"]


def planned(*overrides: str) -> tuple[PlanConfig, Estimate]:
    config = composed(*overrides)
    return config, estimate(config, load_schema(config.data.schema))


def composed(*overrides: str) -> PlanConfig:
    ConfigStore.instance().store(name="train_schema", node=PlanConfig)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return to_config(compose("plan", list(overrides)), PlanConfig)


def many_tables(path: Path, *, tables: int, rows: int) -> Path:
    """A schema whose tables get smaller and smaller."""
    shares = 1 / np.arange(1, tables + 1) ** 0.7
    sizes = (shares / shares.sum() * rows).astype(int) + 2
    sparse = [{"name": f"f{i}", "kind": "hash", "num_embeddings": int(size)} for i, size in enumerate(sizes)]
    path.write_text(yaml.safe_dump({"label": "label", "sparse": sparse}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def criteo() -> tuple[PlanConfig, Estimate]:
    return planned(*CRITEO)


def test_every_row_of_the_terabyte_is_somewhere_once(criteo: tuple[PlanConfig, Estimate]) -> None:
    _, result = criteo
    assert result.fits
    assert len(result.tables) == 26
    # 128 floats a row and one accumulator: by hand, not by the planner.
    rows = 187_767_399
    assert result.memory["tables"].sum() == rows * 128 * 4
    assert result.memory["optimizer"].sum() == rows * 4
    assert sum(sum(table.shard_bytes) for table in result.tables) == rows * (128 * 4 + 4)


def test_the_copy_that_is_saved_lies_in_main_memory(criteo: tuple[PlanConfig, Estimate]) -> None:
    _, result = criteo
    tables = result.memory["tables"] + result.memory["optimizer"]
    replicas = (result.dense.parameter_bytes + result.dense.optimizer_bytes) // 8
    assert (result.host == tables + replicas).all()
    assert not result.memory["saving"].any()
    waiting = planned(*CRITEO, "checkpoint.asynchronous=false")[1]
    assert not waiting.host.any()
    on_cpu = planned(*ADULT, "cluster=cpu_2")[1]
    assert (on_cpu.memory["saving"] > on_cpu.memory["tables"] + on_cpu.memory["optimizer"]).all()
    assert not on_cpu.host.any()


@pytest.mark.parametrize(
    ("optimizer", "on_gpu", "in_main"),
    # One number a row stays on the GPU; what is as wide as a row lies where the row does.
    [("rowwise_adagrad", 4, 512), ("adam", 0, 3 * 512), ("partial_rowwise_adam", 4, 2 * 512)],
)
def test_states_of_tables_in_main_memory_are_counted_where_they_lie(optimizer: str, on_gpu: int, in_main: int) -> None:
    _, result = planned(
        *(*CRITEO, "sharding.kernels=[fused_uvm]", f"optimizer.sparse.name={optimizer}"),
        *("optimizer.sparse.weight_decay=0", "checkpoint.asynchronous=false"),
    )
    rows = 187_767_399
    assert result.memory["tables"].sum() == 0
    assert result.memory["optimizer"].sum() == rows * on_gpu
    assert result.host.sum() == rows * in_main


def test_the_dense_part_is_counted_by_its_layers(criteo: tuple[PlanConfig, Estimate]) -> None:
    _, result = criteo
    widths = [39 * 127, 1024, 1024, 512, 256, 1]
    products = [a * b for a, b in pairwise(widths)]
    # Vectors and weights of the 13 dense columns, biases of the layers and of the first order.
    parameters = sum(products) + sum(widths[1:]) + 13 * 128 + 1
    assert result.dense.parameter_bytes == 4 * parameters
    # Adam's two moments.
    assert result.dense.optimizer_bytes == 2 * result.dense.gradient_bytes == 8 * parameters
    # A dense column enters the first layer as one number, not as a vector.
    products[0] -= 13 * (127 - 1) * 1024
    assert result.dense.flops == pytest.approx(6 * 8192 * sum(products), rel=0.01)
    assert result.dense_ms == pytest.approx(result.dense.flops / (0.4 * 67e12) * 1000)


def test_the_step_is_the_sum_of_its_parts_on_the_slowest_rank(criteo: tuple[PlanConfig, Estimate]) -> None:
    _, result = criteo
    tables_ms = sum(result.parts[part] for part in result.embedding_ms)
    assert tables_ms == pytest.approx(result.ms_of_ranks.max())
    assert result.step_ms == pytest.approx(tables_ms + result.dense_ms + result.all_reduce_ms)
    assert result.bottleneck == "dense"


def test_the_report_names_every_table_and_has_its_picture(criteo: tuple[PlanConfig, Estimate]) -> None:
    config, result = criteo
    shown = text(result, config)
    assert all(f"\n{name} " in shown for name in [f"C{i}" for i in range(1, 27)])
    assert "at 40 % of 67 TFLOP/s" in shown
    html = page(result, [], config)
    assert html.count("<svg") == 1
    assert "C26" in html
    figures = json.loads(json.dumps(as_json(result)))
    assert figures["bottleneck"] == "dense"
    assert len(figures["memory_bytes_of_ranks"]["tables"]) == 8


@pytest.mark.parametrize(("peaks", "tflops"), [({"fp32": 2.0, "bf16": 4.0}, 4), ({"fp32": 2.0, "bf16": 2.0}, 2)])
def test_matrix_products_are_in_what_the_cluster_is_fast_in(peaks: dict[str, float], tflops: float) -> None:
    _, result = planned(
        *ADULT, "cluster=cpu_2", *(f"cluster.dense_tflops.{name}={peak}" for name, peak in peaks.items())
    )
    assert result.dense_tflops == tflops


def test_more_tables_than_a_screen_holds_are_grouped_over_many_ranks(tmp_path: Path) -> None:
    # A stand-in for 1,000 tables over 1,024 GPUs, beyond the size from which the search is narrowed.
    schema = many_tables(tmp_path / "schema.yaml", tables=160, rows=2_000_000_000)
    config, result = planned("experiment=criteo_1tb", f"data.schema={schema}", "cluster=h100_8x16")
    assert result.fits
    rows = sum(table.num_embeddings for table in load_schema(schema).tables())
    assert result.memory["tables"].sum() == rows * 512
    held = {kind: [t for t in result.tables if t.sharding_type == kind] for kind in ("table_wise", "row_wise")}
    # What one GPU cannot hold is cut, the rest lies on one rank each.
    assert max(t.rows for t in held["table_wise"]) <= min((t.rows for t in held["row_wise"]), default=10**12)
    # One line for each kind instead of 160.
    assert sum("  fused  " in line for line in text(result, config).splitlines()) == len(
        [k for k in held.values() if k]
    )
    assert imbalance(np.array([1.0, 3.0])) == 1.5


def test_the_ladder_finds_what_makes_the_tables_fit() -> None:
    config = composed(*CRITEO, "sharding.hbm_cap_gib=12", "sharding.types=[row_wise]", "ladder=true")
    rungs = {rung.name: rung for rung in climb(config, load_schema(config.data.schema))}
    assert list(rungs) == ["as configured", "less reserve", "+ UVM caching", "+ half-precision rows", "16 ranks"]
    assert not rungs["as configured"].fits
    assert rungs["+ UVM caching"].fits
    assert rungs["16 ranks"].fits
    cached = rungs["+ UVM caching"].result
    assert cached is not None
    assert cached.host.any()
    shown = ladder_text(list(rungs.values()))
    assert "sharding.reserved_fraction=0.05" in shown


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster=cpu_2", "sharding.kernels=[fused_uvm]"], "fused_uvm need a GPU, and this job is on cpu"),
        (["cluster=cpu_2", "sharding.comms.forward=bf16"], "sharding.comms: bf16 is not to be had on cpu"),
        (["sharding.comms.forward=fp8"], "fp8 cannot be summed up between ranks, as row_wise would need"),
        (["sharding.cache_load_factor=0.1"], "sharding.cache_load_factor is given, but no table may have a cache"),
        (["sharding.tables=[{match: 'x*'}]"], "sharding.tables[0].match is 'x*', which matches no table."),
        (["cluster.hbm_gib=0.001"], "no plan fits 12 tables onto 8 ranks"),
        (["cluster.nodes=0"], "cluster.nodes is 0, but must be at least 1."),
        (["cluster.device=cpu"], "cluster.hbm_gib is 79.1, but must be given for cuda alone."),
    ],
)
def test_what_cannot_be_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        planned(*ADULT, *overrides)
    assert message in str(error.value)


def test_rules_by_name_reach_the_planner() -> None:
    rules = "{match: 'C*', types: [row_wise]}, {match: 'C2?', types: [column_wise], min_partition: 64}"
    rules += ", {match: C26, types: [table_wise], kernels: [fused_uvm_caching], cache_load_factor: 0.5}"
    _, result = planned(
        *(*CRITEO, f"sharding.tables=[{rules}]", "sharding.comms={forward: fp16, backward: bf16}"),
        "checkpoint.asynchronous=false",
    )
    kinds = {table.name: (table.sharding_type, table.kernel, len(table.ranks)) for table in result.tables}
    assert kinds["C1"] == ("row_wise", "fused", 8)
    assert kinds["C20"] == ("column_wise", "fused", 2)
    assert kinds["C26"] == ("table_wise", "fused_uvm_caching", 1)
    # 36 rows of 128 floats in main memory; their accumulators are on the GPU.
    assert result.host.sum() == 36 * 512


def test_half_precision_communication_takes_less_time(criteo: tuple[PlanConfig, Estimate]) -> None:
    _, halved = planned(*CRITEO, "sharding.comms={forward: fp16, backward: fp16}")
    assert halved.parts["fwd_comms"] < 0.75 * criteo[1].parts["fwd_comms"]


def test_groups_hold_all_tables_each_and_average_them(criteo: tuple[PlanConfig, Estimate]) -> None:
    groups = ["cluster=h100_8x4", "sharding.group_size=8", "global_batch_size=262144"]
    config, result = planned(*CRITEO, *groups)
    # The same hosts, four times: each group is the cluster of one host, with its share of the batch.
    assert result.memory_of_ranks.tolist() == criteo[1].memory_of_ranks.tolist()
    assert "4 groups of 8 ranks, each with all tables" in text(result, config)
    # A ring over four copies, in float64, of 128 numbers and one accumulator a row, on the fullest rank.
    rows = max(result.memory["optimizer"] / 4)
    assert result.parts["average"] == pytest.approx(2 * 3 / 4 * rows * 129 * 8 / 50e9 * 1000)
    _, seldom = planned(*CRITEO, *groups, "sharding.average_every_steps=10")
    assert seldom.parts["average"] == pytest.approx(result.parts["average"] / 10)


def test_lists_are_planned_with_their_own_lengths_on_request(
    click_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["data=parquet", f"data.root={click_log}", "data.lanes=2", "global_batch_size=16", "cluster=cpu_2"]
    overrides += ["eval_global_batch_size=16"]
    files = sorted(path for path in (click_log / "train").glob("*.parquet") if pq.read_metadata(path).num_rows)
    lists = [row for path in files for row in pq.read_table(path)["tags"].to_pylist()]
    for measured, values in (("true", sum(map(len, lists)) / len(lists)), ("false", 4.0)):
        run(composed(*overrides, f"measure_lists={measured}"))
        (line,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("tags ")]
        # Eight of twelve row groups are read.
        assert float(line[2]) == pytest.approx(values, rel=0.1)


def test_the_command_prints_and_writes_the_plan(tmp_path: Path) -> None:
    done = run_python("launch/plan.py", "experiment=adult", "cluster=cpu_2", f"out={tmp_path}")
    assert done.exit_code == 0, done.stderr
    assert "It fits." in done.stdout
    figures: dict[str, Any] = json.loads((tmp_path / "plan.json").read_text())
    assert figures["plan"]["fits"]
    assert (tmp_path / "plan.html").is_file()


def test_the_command_ends_with_an_error_where_nothing_fits(tmp_path: Path) -> None:
    done = run_python("launch/plan.py", "experiment=adult", "cluster=cpu_2", "sharding.ddr_cap_gib=0.001")
    assert done.exit_code == 2, done.stdout
    assert "does not fit; ladder=true tries what helps" in done.stderr

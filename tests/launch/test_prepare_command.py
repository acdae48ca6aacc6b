"""``launch/prepare.py`` as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from data.prepare.config import PrepareConfig
from data.prepare.source import known_sources
from trainer.config import to_config

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, command: tuple[str, ...] = (sys.executable, "launch/prepare.py")) -> tuple[int, str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(known_sources()))
def test_every_source_composes_with_its_own_defaults(name: str, tmp_path: Path) -> None:
    ConfigStore.instance().store(name="prepare_schema", node=PrepareConfig)
    files = [] if name == "synthetic" else [f"source.files={tmp_path}"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        composed = compose("prepare", [f"source={name}", "out=somewhere", *files])
    config = to_config(composed, PrepareConfig)
    assert config.source["name"] == name
    defaults = PrepareConfig(out="somewhere", source=config.source)
    assert config == defaults


@pytest.mark.distributed
def test_criteo_text_is_prepared_and_trained(tmp_path: Path) -> None:
    """The whole way: made-up raw text, Parquet by source=criteo, two workers."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    made = ["source=synthetic", "source.rows=6000", "source.max_cardinality=50", "source.ids=string"]
    code, said = run(*made, "format=criteo_tsv", f"out={raw}")
    assert code == 0, said
    assert f"python launch/prepare.py source=criteo 'source.files={raw}/raw' out=DIR" in said
    code, said = run("source=criteo", f"source.files={raw}/raw", f"out={out}", "shards.row_group_rows=1000")
    assert code == 0, said
    assert "6,000 rows read, 0 damaged ones left out" in said
    assert f"launch/train.py data=parquet data.root={out}" in said

    small = ["model.embedding_dim=4", "model.network.layers=[8]", "global_batch_size=512", "logging.every_steps=5"]
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "launch/train.py")
    code, said = run("data=parquet", f"data.root={out}", f"run_dir={tmp_path / 'run'}", *small, command=torchrun)
    assert code == 0, said
    assert "test auc" in said


def test_a_mistake_is_told_in_one_message(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("1\t2\n")
    code, said = run("source=criteo", f"source.files={path}", f"out={tmp_path / 'out'}")
    assert code == 2
    assert f"error: {path}, line 1: has 2 fields, but 40 are expected; mend the line" in said
    assert "Traceback" not in said


def test_an_unknown_source_option_is_told_with_the_known_ones(tmp_path: Path) -> None:
    code, said = run("source=synthetic", "+source.row=5", f"out={tmp_path / 'out'}")
    assert code == 2
    assert "source: unknown key 'row'. Did you mean 'rows'?" in said
    assert not (tmp_path / "out").exists()


def test_the_type_of_a_column_is_given_as_the_config_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("label,site,price\n" + "".join(f"{n % 2},s{n % 3},{n}\n" for n in range(20)))
    arguments = ("source=csv", f"source.files={path}", f"out={tmp_path / 'out'}")
    code, said = run(*arguments, "source.types={price: text}")
    assert code == 0, said
    schema = yaml.safe_load((tmp_path / "out/schema.yaml").read_text())
    assert "price" in [feature["name"] for feature in schema["sparse"]]

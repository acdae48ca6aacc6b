"""``launch/checkpoint.py`` tells what is in a checkpoint and whether it is intact."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.checkpoint import main
from tests.launch.processes import run_python
from tests.ranks import results_of, run_ranks
from trainer.checkpoint import storage
from trainer.checkpoint.trusted import read_metadata
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.errors import CheckpointError, PeerError
from trainer.loop import train

pytestmark = pytest.mark.distributed


def run_training(worker: Worker, config: TrainConfig) -> str:
    return train(config, worker).checkpoint


@pytest.fixture
def checkpoint(make_config: Callable[..., TrainConfig]) -> Path:
    return Path(results_of(run_ranks(2, run_training, make_config(max_steps=2)))[0])


def test_inspect_shows_position_tensors_config_and_versions(checkpoint: Path) -> None:
    done = run_python("launch/checkpoint.py", "inspect", str(checkpoint))
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("step 2, epoch 0, written by 2 ranks")
    table = next(line.split(maxsplit=6) for line in done.stdout.splitlines() if line.startswith("  row_id "))
    # 1000 rows of 8 float32, and as many sums of squares.
    parts = table[5]
    assert parts in ("1", "2")
    assert table == ["row_id", "1,000", "8", "float32", "0.03", parts, "sum [1,000 x 8]"]
    assert re.search(
        r"^  fields.dense_vectors +1 x 7  float32 +exp_avg \[1 x 7\], exp_avg_sq \[1 x 7\], step \[scalar\]$",
        done.stdout,
        re.MULTILINE,
    )
    assert "  torchrec " in done.stdout
    assert "  embedding_dim: 7" in done.stdout


def test_verify_accepts_an_intact_checkpoint(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(checkpoint)]) == 0
    assert "intact: 3 files" in capsys.readouterr().out


def test_verify_names_a_flipped_bit(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = checkpoint / "__1_0.distcp"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert main(["verify", str(checkpoint)]) == 2
    assert f"error: {file}: its checksum is not the one recorded" in capsys.readouterr().err


class Planted:
    """What an attacker would put into a pickle."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self._target),)


def test_code_in_the_metadata_is_refused_by_name_and_not_run(checkpoint: Path, tmp_path: Path) -> None:
    path, target = checkpoint / ".metadata", tmp_path / "owned"
    path.write_bytes(pickle.dumps(Planted(target)))
    with pytest.raises(CheckpointError, match=r"asks for 'posix.mkdir', for which a checkpoint has no use; refused"):
        read_metadata(path)
    assert not target.exists()


def test_a_checkpoint_with_planted_code_ends_a_resume(
    checkpoint: Path, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    target = tmp_path / "owned"
    (checkpoint / ".metadata").write_bytes(pickle.dumps(Planted(target)))
    manifest = json.loads((checkpoint / storage.MANIFEST).read_text())
    contents = {path.name: path.read_bytes() for path in checkpoint.glob("[_.]*")}
    files = {
        name: {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    forged = {**manifest, "files": files}
    (checkpoint / storage.MANIFEST).write_text(json.dumps(forged))
    outcomes = run_ranks(2, run_training, make_config(max_steps=4))
    assert [type(outcome) for outcome in outcomes] == [CheckpointError, PeerError]
    assert all("asks for 'posix.mkdir'" in str(outcome) for outcome in outcomes)
    assert not target.exists()


def test_metadata_that_is_no_pickle_is_damage(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(b"\x00\x01nonsense")
    with pytest.raises(CheckpointError, match=r".metadata: cannot be read .*; the checkpoint is damaged"):
        read_metadata(tmp_path / ".metadata")

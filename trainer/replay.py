"""The batch of any step, rebuilt in one process: the order of the data is a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.batch import Batch
from data.loader import BatchLoader
from data.parquet import RowGroup, file_schema, read_footer, read_row_group
from data.places import Place, places_of_step
from data.schema import Schema
from trainer.assembly import assemble_to_predict
from trainer.checkpoint import state
from trainer.checkpoint.bucket import Location
from trainer.config import DataConfig, TrainConfig
from trainer.config.rules import check
from trainer.distributed import Worker
from trainer.inputs import make_loader, read_dataset, training_order


@dataclass(frozen=True)
class Replay:
    """The rows of a step.

    Attributes:
        loader: That served them, of all lanes.
        epoch: Of the step, from 0.
        places: Where each row lies, in serving order.
        rows: Each row's number in the batch (padding lies between lanes), in the same order.
        batch: The global batch, as the model saw it.
        fingerprint: Of the data set's files as they are now.
    """

    loader: BatchLoader
    epoch: int
    places: list[Place]
    rows: list[int]
    batch: Batch
    fingerprint: str

    @property
    def schema(self) -> Schema:
        """What the columns mean."""
        return self.loader.schema


def rebuild(config: TrainConfig, data: DataConfig, step: int, lanes: Sequence[int] | None) -> Replay:
    """Reads the rows of a step again.

    Args:
        config: Of the run.
        data: Where the data lies now.
        step: Counted from 0.
        lanes: Some of them, None for all.

    Raises:
        ConfigError: The lanes or the step are none of the run's.
        DataError: The rows cannot be read.
    """
    dataset = read_dataset(data, "train")
    order = training_order(dataset, data, global_batch_size=config.global_batch_size, seed=config.seed)
    chosen = range(order.lanes) if lanes is None else lanes
    for lane in chosen:
        check(lane in range(order.lanes), "lanes", lane, f"between 0 and {order.lanes - 1}")
    last = config.epochs * order.steps_per_epoch
    check(step < last, "step", step + 1, f"at most {last}, the run's last")
    loader = make_loader(dataset, order, data, Worker(0, 1, 0, 1, torch.device("cpu")))
    with loader.batches(step, step + 1) as batches:
        batch = next(batches)
    damaged = {damage.place for damage in loader.damage}
    places: list[Place] = []
    rows: list[int] = []
    for lane in chosen:
        of_lane = places_of_step(dataset.index, order, step, [lane], left_out=damaged)
        places += of_lane
        rows += range(lane * order.rows_per_lane_step, lane * order.rows_per_lane_step + len(of_lane))
    return Replay(loader, order.locate(step)[0], places, rows, batch, dataset.index.fingerprint)


def logits_of(replay: Replay, config: TrainConfig, checkpoint: Location, worker: Worker) -> torch.Tensor:
    """What the model of a checkpoint says about the rows, float32 [rows], in evaluation mode (no dropout).

    Raises:
        CheckpointError: It cannot be loaded.
    """
    assembled = assemble_to_predict(replay.schema, config, worker, replay.loader)
    state.restore_model(checkpoint, assembled.model)
    assembled.model.eval()
    with torch.no_grad():
        _, outputs = assembled.model(replay.batch)
    return outputs[0][replay.rows]


def write_rows(replay: Replay, path: Path, logits: torch.Tensor | None) -> None:
    """Writes the rows as the data set has them, with ``_lane``, ``_file``, ``_row_group``, ``_row`` and ``_logit``."""
    groups: dict[RowGroup, pa.Table] = {}
    for place in replay.places:
        if place.group not in groups:
            file = place.group.file
            columns = file_schema(read_footer(file), file).names
            groups[place.group] = read_row_group(place.group, columns=columns, dictionaries=[])
    slices = [groups[place.group].slice(place.row, 1) for place in replay.places]
    table = pa.concat_tables(slices, promote_options="permissive")
    origin = {
        "_lane": [place.lane for place in replay.places],
        "_file": [place.group.path for place in replay.places],
        "_row_group": [place.group.index for place in replay.places],
        "_row": [place.row for place in replay.places],
        **({} if logits is None else {"_logit": logits.tolist()}),
    }
    for name, values in origin.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, path)

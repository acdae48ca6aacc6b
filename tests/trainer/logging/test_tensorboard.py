"""Event files, read back as TensorBoard reads them."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from trainer.logging.tensorboard import TensorBoard


def curve(directory: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("train/auc")]


def test_points_of_an_attempt_that_was_lost_are_hidden_after_a_resume(tmp_path: Path) -> None:
    with TensorBoard(tmp_path, start_step=0) as board:
        for step in (1, 2, 3):
            board.scalars("train", {"auc": 0.5}, step)
    with TensorBoard(tmp_path, start_step=2) as board:
        board.scalars("train", {"auc": 0.75}, 3)
    assert curve(tmp_path) == [(1, 0.5), (2, 0.5), (3, 0.75)]


def test_the_layout_puts_quality_first_and_sets_beside_each_other(tmp_path: Path) -> None:
    with TensorBoard(tmp_path, start_step=0) as board:
        board.layout(["valid", "test"])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    layout = layout_pb2.Layout()
    (event,) = events.Tensors("custom_scalars__config__")
    layout.ParseFromString(event.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == ["1 quality", "2 speed", "3 more"]
    first = layout.category[0].chart[0]
    assert (first.title, list(first.multiline.tag)) == ("AUC", ["train/auc$", "valid/auc$", "test/auc$"])


def test_runs_are_compared_by_settings_and_final_metrics(tmp_path: Path) -> None:
    for number, rate in enumerate((0.1, 0.2)):
        with TensorBoard(tmp_path / str(number) / "tensorboard", start_step=0) as board:
            settings: dict[str, bool | float | str] = {"optimizer.dense.lr": rate, "model.network.layers": "[8]"}
            board.hparams(settings, {"test_auc": 0.7 + number}, 9)
    events = EventAccumulator(str(tmp_path / "1" / "tensorboard"))
    events.Reload()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    started = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert started["optimizer.dense.lr"].number_value == 0.2
    assert started["model.network.layers"].string_value == "[8]"
    assert [(event.step, round(event.value, 6)) for event in events.Scalars("final/test_auc")] == [(9, 1.7)]


def test_nothing_is_written_where_no_directory_is_given(tmp_path: Path) -> None:
    with TensorBoard(None, start_step=0) as board:
        board.scalars("train", {"auc": 0.5}, 1)
        board.text("run/config", "x")
        board.flush()
    assert list(tmp_path.iterdir()) == []

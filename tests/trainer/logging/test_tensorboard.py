"""Event files, read back as TensorBoard reads them."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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


def test_nothing_is_written_where_no_directory_is_given(tmp_path: Path) -> None:
    with TensorBoard(None, start_step=0) as board:
        board.scalars("train", {"auc": 0.5}, 1)
        board.text("run/config", "x")
        board.flush()
    assert list(tmp_path.iterdir()) == []

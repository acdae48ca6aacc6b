"""What a preparation has done so far: on disk, so that the next run goes on from there.

``OUT/.prepare`` holds ``identity.json`` (the options and the input), one record per finished piece and one per
column looked at. A record is written after that what it speaks of, and by renaming, so it is never ahead.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.prepare.source.base import Piece

RAW = "raw"
"""The folder of raw text, which is written whole instead of in splits."""
MADE = ("train", "valid", "test", RAW, "vocabulary", "schema.yaml", "summary.json", "summary.md", ".prepare")
"""All that a preparation makes in its folder, and all that ``overwrite`` removes."""


@dataclass(frozen=True)
class Shard:
    """A finished file: its path below the output folder, its rows and its bytes."""

    path: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class PieceRecord:
    """A finished piece.

    Attributes:
        piece: Which stretch of the input it was.
        shards: One for each split that got rows of it.
        num_bad: Damaged lines left out.
        examples: The first of them, as text.
    """

    piece: Piece
    shards: list[Shard]
    num_bad: int
    examples: list[str]


class State:
    """The records of one output folder; make one with :func:`open_state`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._pieces = out / ".prepare" / "pieces"
        self._columns = out / ".prepare" / "columns"
        for folder in (self._pieces, self._columns):
            folder.mkdir(parents=True, exist_ok=True)

    def pieces(self) -> dict[int, PieceRecord]:
        """The finished pieces by index; one whose files are gone or cut short is not finished."""
        records = [_piece_record(_read(path)) for path in sorted(self._pieces.glob("*.json"))]
        return {record.piece.index: record for record in records if all(map(self._is_there, record.shards))}

    def add_piece(self, record: PieceRecord) -> None:
        """Notes a finished piece."""
        values = dataclasses.asdict(record)
        # Only what any piece has: the text of a piece is no part of its record.
        values["piece"] = {f.name: getattr(record.piece, f.name) for f in dataclasses.fields(Piece)}
        write_json(self._pieces / f"{record.piece.index:05d}.json", values)

    def column(self, key: str) -> dict[str, Any] | None:
        """The statistics noted under a key, if any."""
        path = self._columns / f"{key}.json"
        return _read(path) if path.exists() else None

    def add_column(self, key: str, values: dict[str, Any]) -> None:
        """Notes statistics."""
        write_json(self._columns / f"{key}.json", values)

    def summary(self) -> dict[str, Any] | None:
        """The summary, which is written last: there is one if all is done."""
        path = self.out / "summary.json"
        return _read(path) if path.exists() else None

    def _is_there(self, shard: Shard) -> bool:
        path = self.out / shard.path
        return path.is_file() and path.stat().st_size == shard.bytes


@contextmanager
def open_state(out: str, identity: dict[str, Any], *, overwrite: bool) -> Iterator[State]:
    """Opens an output folder for one preparation at a time.

    Args:
        out: The folder; made if need be.
        identity: The options and the input; what stands in the folder has to come from the same.
        overwrite: Start over, and remove what an earlier preparation made there.

    Raises:
        DataError: The folder holds something else, comes from other options or other input, or is in use.
    """
    folder = Path(out)
    noted = folder / ".prepare" / "identity.json"
    if folder.is_dir() and not noted.exists() and set(os.listdir(folder)) - {".prepare", ".prepare.lock"}:
        raise DataError(f"out: {out} is not empty and was not made by prepare.py; choose another folder.")
    try:
        (folder / ".prepare").mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise DataError(f"out: {out} cannot be made ({cause.strerror}); choose another folder.") from cause
    with _lock(folder / ".prepare.lock"):  # outside of .prepare, which overwrite removes
        if overwrite:
            _remove(folder)
        elif noted.exists():
            _check_same(out, _read(noted), json.loads(json.dumps(identity)))
        state = State(folder)
        for unfinished in folder.glob("*/*.tmp"):
            unfinished.unlink()
        if not noted.exists():
            write_json(noted, identity)
        yield state


def files_of(records: Sequence[PieceRecord], split: str) -> list[str]:
    """The paths of a split's shards below the output folder, in the order of the input."""
    return [shard.path for record in records for shard in record.shards if shard.path.startswith(f"{split}/")]


def write_json(path: Path, values: Any) -> None:
    """Writes JSON so that the file is whole or absent."""
    write_text(path, json.dumps(values, indent=1))


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text so that the file is whole or absent."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise DataError(f"{path}: cannot be read ({cause}); start over with overwrite=true.") from cause


def _piece_record(values: dict[str, Any]) -> PieceRecord:
    shards = [Shard(**shard) for shard in values["shards"]]
    return PieceRecord(Piece(**values["piece"]), shards, values["num_bad"], values["examples"])


def _check_same(out: str, noted: dict[str, Any], wanted: dict[str, Any]) -> None:
    before, now = _flat(noted), _flat(wanted)
    changed = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    if changed:
        differences = "; ".join(f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in changed[:5])
        raise DataError(
            f"out: {out} was prepared otherwise ({differences}); start over with overwrite=true, choose another "
            "folder, or take the change back."
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def _remove(folder: Path) -> None:
    for name in MADE:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by the process, not by the file: a killed run leaves no lock behind."""
    with open(path, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            raise DataError(f"out: {path.parent} is being written by another prepare.py; wait for it.") from cause
        yield

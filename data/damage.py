"""Rows that cannot be read: what is said of them, how many may be skipped, and which were."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from data.errors import DataError

logger = logging.getLogger(__name__)

POLICIES = ("raise", "skip")


@dataclass(frozen=True)
class Damage:
    """A row group, or a whole file, that cannot be used.

    Attributes:
        file: Its name.
        row_group: The row group's number within the file; None for the whole file.
        num_rows: Rows lost; of a file without a readable footer an estimate, from its size.
        cause: What is wrong.
    """

    file: str
    row_group: int | None
    num_rows: int
    cause: str

    @property
    def place(self) -> tuple[str, int]:
        """What is damaged: equal for all reports of the same damage."""
        return self.file, -1 if self.row_group is None else self.row_group

    def __str__(self) -> str:
        where = self.file if self.row_group is None else f"{self.file}, row group {self.row_group}"
        return f"{where}: {self.cause}"


class DamageError(DataError):
    """Damage, met while reading."""

    def __init__(self, damage: Damage) -> None:
        super().__init__(f"{damage}; write the file anew, leave it out, or set data.on_damage=skip.")
        self.damage = damage


@dataclass(frozen=True)
class DamagePolicy:
    """What to do about damage.

    Attributes:
        skip: Whether damaged rows are skipped instead of ending the job.
        max_skipped_rows: Distinct rows of a data set that may be skipped; None for one row in a hundred.
    """

    skip: bool = False
    max_skipped_rows: int | None = None

    def check(self, damages: Iterable[Damage], *, num_rows: int) -> None:
        """Compares what is damaged in a data set with what may be skipped of it.

        Args:
            damages: Found so far; the same damage counts once.
            num_rows: Rows of the data set, with the damaged ones.

        Raises:
            DataError: More than the budget; the message tells the first damage.
        """
        distinct = {damage.place: damage for damage in damages}
        lost = sum(damage.num_rows for damage in distinct.values())
        budget = num_rows // 100 if self.max_skipped_rows is None else self.max_skipped_rows
        if lost > budget:
            first = distinct[min(distinct)]
            raise DataError(
                f"{lost:,} of {num_rows:,} rows cannot be read, more than data.max_skipped_rows allows ({budget:,}); "
                f"mend the files or raise it. {len(distinct)} places are damaged, the first: {first}."
            )


class DamageLog:
    """The damage that one worker has met in a data set; for use by several threads.

    Args:
        policy: What to do about it.
        num_rows: Rows of the data set, with those already known to be lost.
        known: Damage that was met before, when the index was built.
    """

    def __init__(self, policy: DamagePolicy, *, num_rows: int, known: Iterable[Damage] = ()) -> None:
        self.policy = policy
        self.num_rows = num_rows
        self._found = {damage.place: damage for damage in known}
        self._lock = threading.Lock()

    @property
    def found(self) -> tuple[Damage, ...]:
        """All distinct damage so far."""
        with self._lock:
            return tuple(self._found.values())

    def skip(self, error: DamageError) -> None:
        """Takes note of damage that is going to be skipped.

        Raises:
            DamageError: The policy is not to skip: the error itself.
            DataError: It is more than may be skipped.
        """
        if not self.policy.skip:
            raise error
        damage = error.damage
        with self._lock:
            is_new = damage.place not in self._found
            self._found[damage.place] = damage
        if is_new:
            logger.warning("skipping %d rows: %s", damage.num_rows, damage)
            self.policy.check(self.found, num_rows=self.num_rows)

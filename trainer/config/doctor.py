"""What is looked at before a job starts."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainer.config.rules import at_least, check, positive
from trainer.config.train import TrainConfig


@dataclass
class DoctorConfig(TrainConfig):
    """The training run that is about to start, and how closely to look.

    Attributes:
        cluster_out: File for the measured cluster, as ``launch/plan.py cluster=...`` takes it; None for none.
        connect_timeout_s: Seconds in which all ranks have to come together, and to answer in every exchange.
        message_mib: Sizes of the messages whose bandwidth is measured, in MiB for each rank.
        slow_share: A link slower than this share of the fastest of its kind is a warning.
        broken_share: ... and slower than this one a failure.
        max_clock_difference_s: Between the clocks of two hosts.
        sample_row_groups: Row groups that each rank reads and encodes; None for all of them.
        write_mib: Written to the checkpoint directory by each host, to measure its speed.
        min_write_mb_per_s: Slower than that is a warning.
    """

    cluster_out: str | None = None
    connect_timeout_s: float = 60.0
    message_mib: list[float] = field(default_factory=lambda: [0.25, 4.0, 32.0])
    slow_share: float = 0.5
    broken_share: float = 0.1
    max_clock_difference_s: float = 1.0
    sample_row_groups: int | None = 2
    write_mib: int = 64
    min_write_mb_per_s: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self.connect_timeout_s, "connect_timeout_s")
        check(bool(self.message_mib), "message_mib", self.message_mib, "at least one size")
        for size in self.message_mib:
            positive(size, "message_mib")
        ordered = 0 <= self.broken_share <= self.slow_share <= 1
        check(ordered, "slow_share", self.slow_share, f"between broken_share ({self.broken_share}) and 1")
        positive(self.max_clock_difference_s, "max_clock_difference_s")
        if self.sample_row_groups is not None:
            at_least(1, self.sample_row_groups, "sample_row_groups")
        at_least(1, self.write_mib, "write_mib")
        positive(self.min_write_mb_per_s, "min_write_mb_per_s")

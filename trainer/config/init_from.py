"""Where a new run takes its first weights from."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainer.config.rules import check


@dataclass
class InitFromConfig:
    """Weights of another run's checkpoint for a run that has none of its own to resume.

    ``include`` and ``exclude`` are patterns like ``tables/*`` over canonical keys (``launch/checkpoint.py
    inspect`` lists them); ``rename`` maps the beginning of a key there to what it is called here.
    """

    path: str | None = None
    include: list[str] = field(default_factory=lambda: ["*"])
    exclude: list[str] = field(default_factory=list)
    rename: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(bool(self.include), "init_from.include", self.include, "at least one pattern")

"""The heads and the embeddings that they share."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.config.rules import at_least, check
from trainer.model.head import head_configs


@dataclass
class ModelConfig:
    """The heads over the shared embeddings: name to settings, checked and completed by the head's ``Config``."""

    embedding_dim: int = 16
    init_std: float = 0.01
    heads: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least(1, self.embedding_dim, "model.embedding_dim")
        check(0 <= self.init_std <= 10, "model.init_std", self.init_std, "between 0 and 10")
        check(bool(self.heads), "model.heads", self.heads, "at least one head")
        self.heads = {name: asdict(settings) for name, settings in head_configs(self.heads).items()}

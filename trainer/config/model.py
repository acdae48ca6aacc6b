"""The heads, the embeddings that they share, and their network."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.config.rules import at_least, check
from trainer.model.head import head_configs
from trainer.model.network import NetworkConfig


@dataclass
class ModelConfig:
    """The heads over the shared embeddings: name to settings, checked and completed by the head's ``Config``.

    ``network`` is what the heads with a feed-forward network take, unless they say otherwise. With
    ``separate_embeddings`` each head has its own factors of every field (in one row still).
    """

    embedding_dim: int = 16
    init_std: float = 0.01
    separate_embeddings: bool = False
    network: NetworkConfig = field(default_factory=NetworkConfig)
    heads: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least(1, self.embedding_dim, "model.embedding_dim")
        check(0 <= self.init_std <= 10, "model.init_std", self.init_std, "between 0 and 10")
        check(bool(self.heads), "model.heads", self.heads, "at least one head")
        configs = head_configs(self.heads, self.network)
        self.heads = {name: asdict(settings) for name, settings in configs.items()}

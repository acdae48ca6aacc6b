"""DeepFM written down independently of the trainer: float64, plain tensors, the double loop over field pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

Ids = dict[str, list[list[int]]]
"""Feature to the table rows of each sample."""


@dataclass
class ReferenceDeepFM:
    """Parameters of a DeepFM and its formulas, Guo et al. 2017, eq. 1 to 4.

    Attributes:
        factors: Feature to [rows, D].
        first_order: Feature to [rows].
        mean_pooled: Features whose bags are averaged instead of summed.
        dense_factors: [N, D].
        dense_first_order: [N].
        bias: [].
        layers: (weight, bias) of each layer of the network, the output layer last.
    """

    factors: dict[str, torch.Tensor]
    first_order: dict[str, torch.Tensor]
    mean_pooled: set[str]
    dense_factors: torch.Tensor
    dense_first_order: torch.Tensor
    bias: torch.Tensor
    layers: list[tuple[torch.Tensor, torch.Tensor]]

    def tables(self) -> list[torch.Tensor]:
        """What the embedding tables hold."""
        return [*self.factors.values(), *self.first_order.values()]

    def dense(self) -> list[torch.Tensor]:
        """Everything else that is learned."""
        return [self.dense_factors, self.dense_first_order, self.bias, *(t for layer in self.layers for t in layer)]

    def parameters(self) -> list[torch.Tensor]:
        """Everything that is learned."""
        return [*self.tables(), *self.dense()]

    def logits(self, ids: Ids, dense: torch.Tensor) -> torch.Tensor:
        """Logits, float64 [B]; one sample after the other."""
        return torch.stack([self._logit({f: rows[b] for f, rows in ids.items()}, dense[b]) for b in range(len(dense))])

    def _logit(self, ids: dict[str, list[int]], dense: torch.Tensor) -> torch.Tensor:
        vectors, first_order = [], self.bias
        for feature, rows in ids.items():
            share = 1 / len(rows) if feature in self.mean_pooled and rows else 1.0
            vector = torch.zeros_like(self.dense_factors[0])
            for row in rows:
                vector = vector + share * self.factors[feature][row]
                first_order = first_order + share * self.first_order[feature][row]
            vectors.append(vector)
        for n in range(len(dense)):
            vectors.append(self.dense_factors[n] * dense[n])
            first_order = first_order + self.dense_first_order[n] * dense[n]
        second_order = sum(
            ((vectors[i] * vectors[j]).sum() for i in range(len(vectors)) for j in range(i + 1, len(vectors))),
            torch.zeros((), dtype=torch.float64),
        )
        hidden = torch.cat(vectors)
        for weight, bias in self.layers[:-1]:
            hidden = torch.clamp(weight @ hidden + bias, min=0)
        weight, bias = self.layers[-1]
        return first_order + second_order + (weight @ hidden + bias)[0]


def log_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of -y log p - (1 - y) log(1 - p)."""
    p = 1 / (1 + torch.exp(-logits))
    return -(labels * torch.log(p) + (1 - labels) * torch.log(1 - p)).mean()

"""Log loss."""

from __future__ import annotations

from trainer.metric.base import Metric, Totals, ratio
from trainer.metric.ranking import Ranking
from trainer.metric.samples import loss, one


class LogLoss(Metric):
    """Weighted mean of the binary cross entropy, in nats, computed from the logits."""

    name = "logloss"
    terms = (loss, one)

    def compute(self, totals: Totals, ranking: Ranking) -> float:
        """See :meth:`Metric.compute`."""
        return ratio(totals[loss], totals[one])

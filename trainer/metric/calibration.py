"""Calibration."""

from __future__ import annotations

from trainer.metric.base import Metric, Totals, ratio
from trainer.metric.ranking import Ranking
from trainer.metric.samples import label, prediction


class Calibration(Metric):
    """Sum of the predictions over the sum of the labels: 1 is right, above 1 predicts too many clicks."""

    name = "calibration"
    terms = (prediction, label)

    def compute(self, totals: Totals, ranking: Ranking) -> float:
        """See :meth:`Metric.compute`."""
        return ratio(totals[prediction], totals[label])

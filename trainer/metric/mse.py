"""Mean squared error of the predictions, and its root."""

from __future__ import annotations

from trainer.metric.base import Metric, Totals, ratio
from trainer.metric.ranking import Ranking
from trainer.metric.samples import one, squared_error


class MeanSquaredError(Metric):
    """Weighted mean of (prediction - label)^2, the Brier score."""

    name = "mse"
    terms = (squared_error, one)

    def compute(self, totals: Totals, ranking: Ranking) -> float:
        """See :meth:`Metric.compute`."""
        return ratio(totals[squared_error], totals[one])


class RootMeanSquaredError(MeanSquaredError):
    """Square root of :class:`MeanSquaredError`."""

    name = "rmse"

    def compute(self, totals: Totals, ranking: Ranking) -> float:
        """See :meth:`Metric.compute`."""
        return float(super().compute(totals, ranking) ** 0.5)

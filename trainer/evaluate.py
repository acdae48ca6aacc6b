"""Metrics of a model over a whole evaluation set."""

from __future__ import annotations

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel

from trainer.config import MetricsConfig
from trainer.data_quality import total_skipped_rows
from trainer.evaluation import Evaluation, Slice
from trainer.evaluation_set import EvaluationSet
from trainer.metric import MetricSet
from trainer.metric.curves import curves_of
from trainer.metric.slices import SlicedMetrics
from trainer.model.ctr import Outputs
from trainer.pipeline import evaluation_pipeline
from trainer.watchdog import Watchdog


@torch.no_grad()
def evaluate(
    model: DistributedModelParallel,
    rows: EvaluationSet,
    config: MetricsConfig,
    device: torch.device,
    watchdog: Watchdog,
    *,
    step: int,
) -> Evaluation:
    """One pass over the rows, every row once. All ranks must call this.

    Args:
        model: Sharded; not held by a pipeline. Left in the mode (training or not) that it came in.
        rows: To evaluate on.
        config: Of the metrics.
        device: Where the model is.
        watchdog: Of this rank.
        step: Steps that the model was trained for.
    """
    metrics = MetricSet(device, config)
    by_column = _ByColumn(metrics, rows, config)
    was_training = model.training
    model.eval()
    with (
        rows.loader.batches(0, rows.loader.order.steps_per_epoch) as batches,
        evaluation_pipeline(model, device) as outputs_of,
    ):
        for outputs, carried in outputs_of(watchdog.reads(batches)):
            metrics.update(*outputs)
            if carried is not None:
                by_column.update(carried, outputs)
        total_skipped_rows(rows.loader, batches)
    model.train(was_training)
    tally = metrics.over_ranks()
    ranking = tally.scores.ranking()
    figures = {**metrics.figures.of(tally.sums, ranking), **by_column.figures()}
    return Evaluation(rows.name, step, figures, curves_of(ranking), by_column.slices())


class _ByColumn:
    """What is measured by the columns that come along, on the CPU: GAUC and slices."""

    def __init__(self, metrics: MetricSet, rows: EvaluationSet, config: MetricsConfig) -> None:
        self._gauc = rows.grouped_auc() if config.gauc_column else None
        self._sliced = SlicedMetrics(metrics.figures, rows.slicings)

    def update(self, carried: torch.Tensor, outputs: Outputs) -> None:
        """Adds a batch; waits for the device."""
        logits, labels, weights = (values.detach().cpu() for values in outputs)
        if self._gauc is not None:
            self._gauc.update(carried[0], logits, labels, weights)
            carried = carried[1:]
        if len(carried):
            self._sliced.update(carried, logits, labels, weights)

    def figures(self) -> dict[str, float]:
        """All ranks must call this."""
        return {} if self._gauc is None else {"gauc": self._gauc.compute()}

    def slices(self) -> list[Slice]:
        """All ranks must call this."""
        return [Slice(**vars(figures)) for figures in self._sliced.compute()]

"""Metrics of a model over a whole data set."""

from __future__ import annotations

import torch
from torch import nn

from data.loader import BatchLoader
from trainer.config import MetricsConfig
from trainer.data_quality import total_skipped_rows
from trainer.evaluation import Evaluation
from trainer.metric import MetricSet
from trainer.metric.curves import curves_of
from trainer.watchdog import Watchdog


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: BatchLoader,
    device: torch.device,
    watchdog: Watchdog,
    config: MetricsConfig,
    *,
    name: str,
    step: int,
) -> Evaluation:
    """One pass over the loader's rows, every row once. All ranks must call this.

    Args:
        model: Sharded; not held by a pipeline. Left in the mode (training or not) that it came in.
        loader: In file order.
        device: Where the model is.
        watchdog: Of this rank.
        config: Of the metrics.
        name: Of the evaluation set.
        step: Steps that the model was trained for.
    """
    metrics = MetricSet(device, config)
    was_training = model.training
    model.eval()
    with loader.batches(0, loader.order.steps_per_epoch) as batches:
        for batch in watchdog.reads(batches):
            _, outputs = model(batch.to(device, non_blocking=True))
            metrics.update(*outputs)
        total_skipped_rows(loader, batches)
    model.train(was_training)
    tally = metrics.over_ranks()
    ranking = tally.scores.ranking()
    return Evaluation(name, step, metrics.figures.of(tally.sums, ranking), curves_of(ranking))

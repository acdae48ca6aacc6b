"""Tells a clock what a sharded model is at, by hooks on its modules and on the graph of its backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd import Variable
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.types import LazyAwaitable

from trainer.model.embeddings import LookedUpRows
from trainer.timing.clock import StageClock
from trainer.timing.stages import Stage


def watch_model(model: nn.Module, clock: StageClock) -> None:
    """Lets the clock follow lookup, exchange and dense part through every forward and backward pass.

    Args:
        model: Sharded.
        clock: In :attr:`Stage.DENSE_FORWARD` or :attr:`Stage.DENSE_BACKWARD` around the passes.
    """
    for module in model.modules():
        if isinstance(module, ShardedEmbeddingBagCollection):
            _watch_tables(module, clock)
        elif isinstance(module, LookedUpRows):
            _watch_embeddings(module, clock)


def watch_backward(loss: torch.Tensor, clock: StageClock) -> None:
    """Lets the clock see when nothing is left of the coming backward pass but the gradients' all-reduce.

    The engine calls what was queued when the whole graph is done, in the order of queueing. The gradient of
    the loss comes first, so this comes before DDP, which waits there for its all-reduces.

    Args:
        loss: Float [], before ``backward()``.
    """

    def queue(gradient: torch.Tensor) -> None:
        Variable._execution_engine.queue_callback(nothing_left)

    def nothing_left() -> None:
        clock.switch(Stage.ALL_REDUCE)

    loss.register_hook(queue)


def _watch_tables(tables: ShardedEmbeddingBagCollection, clock: StageClock) -> None:
    # The ids that the pipeline has sent ahead are received in the forward pass of the tables, before the lookups.
    tables.register_forward_pre_hook(_switches_to(Stage.INPUT_DIST, clock))
    tables.register_forward_hook(_switches_to(Stage.DENSE_FORWARD, clock))
    for lookup in tables._lookups:
        lookup.register_forward_pre_hook(_switches_to(Stage.LOOKUP, clock))
        lookup.register_forward_hook(_looked_up(clock))


def _watch_embeddings(rows: LookedUpRows, clock: StageClock) -> None:
    def receive(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        (embedded,) = inputs
        with clock.during(Stage.OUTPUT_DIST):
            if isinstance(embedded, LazyAwaitable):
                embedded = embedded.wait()
        values = embedded.values()
        if values.requires_grad:
            values.register_hook(_ignoring(clock, Stage.OUTPUT_DIST))
        return (embedded,)

    rows.register_forward_pre_hook(receive)


def _looked_up(clock: StageClock) -> Any:
    """After a lookup: the exchange of its rows; in the backward pass, its update between those of gradients."""

    def hook(module: nn.Module, inputs: tuple[Any, ...], pooled: Any) -> None:
        clock.switch(Stage.OUTPUT_DIST)
        node = pooled.grad_fn if isinstance(pooled, torch.Tensor) else None
        if node is not None:
            node.register_prehook(_ignoring(clock, Stage.TABLE_UPDATE))
            node.register_hook(_ignoring(clock, Stage.DENSE_BACKWARD))

    return hook


def _switches_to(stage: Stage, clock: StageClock) -> Any:
    """A hook of a module that changes nothing."""

    def hook(module: nn.Module, *values: Any) -> None:
        clock.switch(stage)

    return hook


def _ignoring(clock: StageClock, stage: Stage) -> Any:
    """A hook of the graph that leaves the gradients as they are."""

    def hook(*gradients: Any) -> None:
        clock.switch(stage)

    return hook

"""FBGEMM's kernels inside a sharded model."""

from __future__ import annotations

from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import nn
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection


def table_kernels(model: nn.Module) -> list[SplitTableBatchedEmbeddingBagsCodegen]:
    """The kernels that hold this rank's shards, in the order of the sharding plan.

    TorchRec keeps them in a plain list, where ``modules()`` does not find them.
    """
    lookups = [lookup for m in model.modules() if isinstance(m, ShardedEmbeddingBagCollection) for lookup in m._lookups]
    return [
        module
        for lookup in lookups
        for module in lookup.modules()
        if isinstance(module, SplitTableBatchedEmbeddingBagsCodegen)
    ]

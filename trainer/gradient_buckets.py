"""The order in which gradients of replicas are summed up, fixed before the first step."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection


def fix_gradient_buckets(model: nn.Module) -> None:
    """Lays out DDP's buckets now, as they stay. All ranks must call this.

    By itself DDP takes one bucket in its first step, and from the second on others, in the order in which gradients
    came. Among more than two ranks, the order in which a gradient's parts are added up depends on its place in the
    bucket: a run that is continued would differ, in its first step, from one that was never stopped, by a rounding.

    Args:
        model: Sharded, before its first forward pass.
    """
    replicas = [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
    # Replicated tables are DDP's, too, but in a plain list, where modules() does not find them.
    tables = [module for module in model.modules() if isinstance(module, ShardedEmbeddingBagCollection)]
    replicas += [
        lookup for module in tables for lookup in module._lookups if isinstance(lookup, DistributedDataParallel)
    ]
    for replica in replicas:
        replica.reducer._push_all_rebuilt_params()
        replica.reducer._rebuild_buckets()

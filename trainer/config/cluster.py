"""The machines that a job runs on, described: what a plan needs to know of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from trainer.config.rules import at_least, check, one_of, positive

CLUSTER_DEVICES = ("cpu", "cuda")


@dataclass
class ClusterConfig:
    """Hosts that are all alike, and their links.

    Bandwidths are in 10^9 bytes a second and in one direction; ``configs/cluster`` says where the figures of
    a cluster are from.

    Attributes:
        name: Of the cluster, in reports.
        device: What a rank computes on.
        nodes: Hosts.
        ranks_per_node: Workers on a host: one for each GPU, or the CPU processes.
        hbm_gib: Memory of a GPU; 0 for CPU ranks.
        ddr_gib: Main memory of a host; its ranks share it evenly.
        hbm_gb_per_s: Bandwidth of a GPU's memory.
        ddr_gb_per_s: Bandwidth of main memory, for a rank.
        host_link_gb_per_s: Between a GPU and its host's main memory.
        intra_node_gb_per_s: Between a rank and the others of its host.
        inter_node_gb_per_s: Between a rank and other hosts.
        dense_tflops: Peak of a rank in matrix products by precision.dense, in 10^12 operations a second.
        dense_utilization: The share of the peak that the dense part reaches.
    """

    name: str = MISSING
    device: str = "cuda"
    nodes: int = 1
    ranks_per_node: int = 8
    hbm_gib: float = 0.0
    ddr_gib: float = 64.0
    hbm_gb_per_s: float = 897.0
    ddr_gb_per_s: float = 51.0
    host_link_gb_per_s: float = 32.0
    intra_node_gb_per_s: float = 600.0
    inter_node_gb_per_s: float = 12.5
    dense_tflops: dict[str, float] = field(default_factory=lambda: {"fp32": 1.0})
    dense_utilization: float = 0.4

    def __post_init__(self) -> None:
        one_of(CLUSTER_DEVICES, self.device, "cluster.device")
        at_least(1, self.nodes, "cluster.nodes")
        at_least(1, self.ranks_per_node, "cluster.ranks_per_node")
        check((self.hbm_gib > 0) == (self.device == "cuda"), "cluster.hbm_gib", self.hbm_gib, "given for cuda alone")
        for key in ("ddr_gib", "hbm_gb_per_s", "ddr_gb_per_s", "host_link_gb_per_s", "intra_node_gb_per_s"):
            positive(getattr(self, key), f"cluster.{key}")
        positive(self.inter_node_gb_per_s, "cluster.inter_node_gb_per_s")
        for precision, peak in self.dense_tflops.items():
            positive(peak, f"cluster.dense_tflops.{precision}")
        check(0 < self.dense_utilization <= 1, "cluster.dense_utilization", self.dense_utilization, "above 0, up to 1")

    @property
    def world_size(self) -> int:
        """Ranks of the job."""
        return self.nodes * self.ranks_per_node

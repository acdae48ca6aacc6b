"""The whole of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from trainer.config.checkpoint import CheckpointConfig
from trainer.config.data import DataConfig
from trainer.config.init_from import InitFromConfig
from trainer.config.logging import LoggingConfig, ProfilerConfig
from trainer.config.metrics import MetricsConfig
from trainer.config.model import ModelConfig
from trainer.config.monitor import MonitorConfig
from trainer.config.optimizer import OptimizerConfig
from trainer.config.precision import PrecisionConfig
from trainer.config.rules import at_least, check, multiple_of_lanes, one_of, positive
from trainer.config.sharding import ShardingConfig

DEVICES = ("auto", "cpu", "cuda")
NONFINITE_POLICIES = ("raise", "skip", "ignore")
COMPILERS = ("inductor", "cudagraphs", "aot_eager")


@dataclass
class DistributedConfig:
    """How long the ranks wait: for each other in a collective, for any progress at all, and for a sign of life."""

    timeout_s: float = 600.0
    stall_timeout_s: float = 300.0
    heartbeat_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        positive(self.timeout_s, "distributed.timeout_s")
        positive(self.stall_timeout_s, "distributed.stall_timeout_s")
        positive(self.heartbeat_timeout_s, "distributed.heartbeat_timeout_s")


@dataclass
class TrainConfig:
    """The whole of a training run; ``configs/train.yaml`` composes it.

    ``max_steps`` stops a run before its ``epochs`` are over and leaves the learning-rate schedule as it is,
    so that a run that stops there and goes on later is the same run. ``compile`` says what
    ``torch.compile`` makes of the heads.
    """

    name: str = MISSING
    run_dir: str = MISSING
    seed: int = 0
    device: str = "auto"
    global_batch_size: int = 4096
    epochs: int = 1
    max_steps: int | None = None
    eval_every_epochs: int = 1
    eval_every_steps: int | None = None
    eval_global_batch_size: int = 8192
    on_nonfinite: str = "raise"
    max_nonfinite_steps: int = 10
    compile: str | None = None
    data: DataConfig = MISSING
    model: ModelConfig = MISSING
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    checkpoint: CheckpointConfig = MISSING
    init_from: InitFromConfig = field(default_factory=InitFromConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    profiler: ProfilerConfig = field(default_factory=ProfilerConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        one_of(DEVICES, self.device, "device")
        at_least(0, self.seed, "seed")
        at_least(1, self.epochs, "epochs")
        at_least(1, self.eval_every_epochs, "eval_every_epochs")
        one_of(NONFINITE_POLICIES, self.on_nonfinite, "on_nonfinite")
        scaled = self.precision.dense == "fp16"
        rule = "raise or skip with precision=fp16, whose gradients overflow now and then"
        check(not scaled or self.on_nonfinite != "ignore", "on_nonfinite", self.on_nonfinite, rule)
        at_least(0, self.max_nonfinite_steps, "max_nonfinite_steps")
        if self.compile is not None:
            one_of(COMPILERS, self.compile, "compile")
        if self.compile == "cudagraphs":
            # A replay overwrites what the one before it gave.
            steps = self.optimizer.accumulate_steps
            check(steps == 1, "optimizer.accumulate_steps", steps, "1 with compile=cudagraphs; use compile=inductor")
        if self.eval_every_steps is not None:
            at_least(1, self.eval_every_steps, "eval_every_steps")
        if self.max_steps is not None:
            at_least(1, self.max_steps, "max_steps")
            # The copies are averaged at the end, which would be one time more than in the run that goes on.
            every = self.sharding.average_every_steps
            rule = f"a multiple of sharding.average_every_steps ({every})"
            check(self.max_steps % every == 0, "max_steps", self.max_steps, rule)
        if self.monitor.set is not None:
            one_of(tuple(self.data.evaluation_sets), self.monitor.set, "monitor.set")
        has_groups = self.monitor.metric != "gauc" or self.metrics.gauc_column is not None
        check(has_groups, "monitor.metric", self.monitor.metric, "another one, unless metrics.gauc_column is given")
        for key in ("global_batch_size", "eval_global_batch_size"):
            multiple_of_lanes(getattr(self, key), self.data.lanes, key)

    @property
    def keeps_best(self) -> bool:
        """Whether the best evaluated step is saved and kept."""
        return self.checkpoint.keep_best or self.monitor.use_best

"""Prepares a raw click log for training: ``python launch/prepare.py source=criteo source.files=train.txt out=DIR``."""

from __future__ import annotations

import logging
import sys
from typing import Any

from data.prepare.config import PrepareConfig
from data.prepare.pipeline import prepare
from launch.cli import command


def run(config: PrepareConfig) -> None:
    """Prepares, and prints what came out and what to do next."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    print(report(config, prepare(config)), flush=True)


def report(config: PrepareConfig, summary: dict[str, Any]) -> str:
    """The figures of a preparation, and what to do next."""
    rows = summary["rows"]
    lines = [f"\n{config.out}: {rows['read']:,} rows read, {rows['bad']:,} damaged ones left out"]
    for name, split in summary["splits"].items():
        rate = f"  positive rate {split['positive_rate']:.4f}" if "positive_rate" in split else ""
        lines.append(f"  {name:<6} {split['rows']:>12,} rows  {split['files']:>6,} files{rate}")
    facts = {key: value for key, value in summary["facts"].items() if isinstance(value, float)}
    lines += [f"  {key:<18} {value:.5f}" for key, value in facts.items()]
    if config.format == "parquet":
        lines += [
            "\nnext:",
            f"  less {config.out}/summary.md {config.out}/schema.yaml    # edit the schema as you like",
            f"  torchrun --standalone --nproc_per_node=2 launch/train.py data=parquet data.root={config.out}",
        ]
    else:
        lines.append(f"\nnext:\n  python launch/prepare.py source=criteo 'source.files={config.out}/raw' out=DIR")
    return "\n".join(lines)


if __name__ == "__main__":
    command("prepare", PrepareConfig, run)

"""What the commands share: Hydra's composition, typed config, and one clear message for a user's mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from data.structured import explain
from trainer.config import to_config
from trainer.errors import ConfigError, PeerError, ShardFMError

C = TypeVar("C")

USER_ERROR_EXIT_CODE = 2
"""Exit code of a command that ends with a message instead of a traceback."""


def command(name: str, config_class: type[C], run: Callable[[C], Any]) -> None:
    """Composes ``configs/<name>.yaml`` with the command line, checks it and runs.

    Args:
        name: Of the primary config.
        config_class: The dataclass that the config has to fit; its fields are the schema of the YAML.
        run: Called with the typed config.
    """
    ConfigStore.instance().store(name=f"{name}_schema", node=config_class)
    # Hydra then raises composition errors instead of printing them in its own way on every rank.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")

    @hydra.main(version_base="1.3", config_path="../configs", config_name=name)
    def composed(config: DictConfig) -> Any:
        return run(to_config(config, config_class))

    try:
        composed()
    except PeerError:
        # The rank that failed says why; one message is enough.
        sys.exit(USER_ERROR_EXIT_CODE)
    except (ShardFMError, HydraException, OmegaConfBaseException) as error:
        # Every rank composes the same command line, so one rank of each host speaks for it.
        if not isinstance(error, ConfigError | HydraException) or os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"\nerror: {_message(error)}", file=sys.stderr, flush=True)
        sys.exit(USER_ERROR_EXIT_CODE)


def _message(error: BaseException) -> str:
    """The most telling message of an error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OmegaConfBaseException):
            return f"config: {explain(cause)}"
        cause = cause.__cause__
    return str(error)

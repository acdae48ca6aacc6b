"""What the commands share: Hydra's composition, typed config, and one clear message for a user's mistake."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from data.structured import explain
from trainer.config import to_config
from trainer.distributed import is_lost_peer
from trainer.errors import ConfigError, PeerError, ShardFMError
from trainer.nonfinite import NonFiniteError
from trainer.preemption import PREEMPTED_EXIT_CODE, PreemptedError

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

    failures: list[BaseException] = []

    @hydra.main(version_base="1.3", config_path="../configs", config_name=name)
    def composed(config: DictConfig) -> Any:
        try:
            return run(to_config(config, config_class))
        except (ShardFMError, RuntimeError) as error:  # raised below: Hydra would print words of its own
            failures.append(error)
            return None

    try:
        composed()
        if failures:
            raise failures[0]
    except PreemptedError as stop:
        # All ranks stopped together; rank 0 says it for them.
        if os.environ.get("RANK", "0") == "0":
            print(f"\n{stop}\n", file=sys.stderr, flush=True)
        sys.exit(PREEMPTED_EXIT_CODE)
    except PeerError as error:
        _end(str(error), speak=False)
    except NonFiniteError as error:
        # The same on every rank.
        _end(str(error), speak=os.environ.get("RANK", "0") == "0")
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        # Every rank composes the same command line, so one rank of each host speaks for it.
        _end(_message(error), speak=os.environ.get("LOCAL_RANK", "0") == "0")
    except ShardFMError as error:
        _end(str(error), speak=True)
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        _end(f"lost the connection to another rank, whose own message says why ({error})", speak=False)


def _end(message: str, *, speak: bool) -> NoReturn:
    """Ends the process with a message, which torchrun repeats in its own summary, too."""
    if speak:
        print(f"\nerror: {message}\n", file=sys.stderr, flush=True)
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if error_file:
        # Who only heard of the failure comes after who had it: torchrun calls the earliest the root cause.
        when = int(time.time()) + (0 if speak else 1)
        record = {"message": {"message": f"error: {message}", "extraInfo": {"timestamp": str(when)}}}
        with open(error_file, "w", encoding="utf-8") as file:
            json.dump(record, file)
    sys.exit(USER_ERROR_EXIT_CODE)


def _message(error: BaseException) -> str:
    """The most telling message of an error: our own, else that of OmegaConf below Hydra's."""
    if isinstance(error, ShardFMError):
        return str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OmegaConfBaseException):
            given = [a for a in sys.argv[1:] if a.lstrip("+~").partition("=")[0] == cause.full_key]
            return f"{given[0] if given else 'config'}: {explain(cause)}"
        cause = cause.__cause__
    return str(error).partition("\nConfig search path")[0].rstrip()

"""What the commands share: Hydra's composition, typed config, and one clear message for a user's mistake."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig
from omegaconf.errors import OmegaConfBaseException

from data.structured import explain
from trainer.config import to_config
from trainer.distributed import lost_peer
from trainer.ending import (
    PREEMPTED_EXIT_CODE,
    UNEXPECTED_EXIT_CODE,
    USER_ERROR_EXIT_CODE,
    end_process,
    note_preemption,
    stop_agent,
)
from trainer.errors import ConfigError, PeerError, ShardFMError
from trainer.nonfinite import NonFiniteError
from trainer.preemption import PreemptedError

C = TypeVar("C")

_CONFIGS = Path(__file__).parents[1] / "configs"
_SPEAKER_FIRST_S = 20.0


def command(name: str, config_class: type[C], run: Callable[[C], Any]) -> None:
    """Composes ``configs/<name>.yaml`` with the command line, checks it and runs.

    Args:
        name: Of the primary config.
        config_class: The dataclass that the config has to fit; its fields are the schema of the YAML.
        run: Called with the typed config; what it returns is the objective of a sweep (``--multirun``), whose
            jobs each get a numbered directory below ``run_dir``.
    """
    ConfigStore.instance().store(name=f"{name}_schema", node=config_class)
    # Hydra then raises composition errors instead of printing them in its own way on every rank.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")

    failures: list[BaseException] = []

    @hydra.main(version_base="1.3", config_path="../configs", config_name=name)
    def composed(config: DictConfig) -> Any:
        try:
            job = HydraConfig.get()
            if job.mode is RunMode.MULTIRUN:
                config.run_dir = os.path.join(config.run_dir, str(job.job.num))
            return None if failures else run(to_config(config, config_class))
        except Exception as error:  # raised below: Hydra would print words of its own
            failures.append(error)
            return None

    sys.argv[1:] = open_mappings(sys.argv[1:])
    try:
        check_groups(config_class, sys.argv[1:])
        try:
            composed()
        except Exception:
            if not failures:
                raise
        if failures:
            raise failures[0]
    except Exception as error:
        _end(error)


def open_mappings(arguments: Sequence[str]) -> list[str]:
    """``key={...}`` as Hydra needs it: it takes a mapping's present keys for all that there can be.

    With ``++`` it takes others, too; those that really are unknown the dataclasses refuse.
    """
    return [f"++{argument}" if re.match(r"\w[\w.]*=\s*\{", argument) else argument for argument in arguments]


def check_groups(config_class: type[Any], arguments: Sequence[str]) -> None:
    """Hydra fails an assertion of its own where a key of a group is given, and the group is null.

    Raises:
        ConfigError: Says what to give as well.
    """
    pairs = [argument.lstrip("+").partition("=")[::2] for argument in arguments]
    chosen = {key for key, value in pairs if not value.startswith("{")}
    for key, value in pairs:
        group = key.partition(".")[0]
        known = sorted(path.stem for path in (_CONFIGS / group).glob("*.yaml"))
        if known and getattr(config_class, group, MISSING) is None and group not in chosen:
            given = f"{key}={value}"
            raise ConfigError(
                f"{given}: {group} is null here, so there is nothing to change; choose one first, like "
                f"{group}={known[-1]} {given}. Known names: {', '.join(known)}."
            )


def _end(error: Exception) -> NoReturn:
    """Ends the process in the way that fits the error."""
    first_of_job, first_of_host = (os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK"))
    lost = lost_peer(error) if isinstance(error, RuntimeError) else None
    if isinstance(error, PreemptedError):
        # All ranks stopped together; rank 0 says it for them.
        if first_of_job:
            print(f"\n{error}\n", file=sys.stderr, flush=True)
        note_preemption()
        stop_agent()
        sys.exit(PREEMPTED_EXIT_CODE)
    elif isinstance(error, PeerError):
        end_process(str(error), code=USER_ERROR_EXIT_CODE, speak=False, is_cause=False)
    elif isinstance(error, NonFiniteError):
        # The same on every rank.
        end_process(str(error), code=USER_ERROR_EXIT_CODE, speak=first_of_job, is_cause=first_of_job)
    elif isinstance(error, ConfigError | HydraException | OmegaConfBaseException):
        # Every rank composes the same command line, so one rank of each host speaks for it. torchrun ends all
        # when the first one ends: that has to be the one who speaks.
        end_process(
            _message(error),
            code=USER_ERROR_EXIT_CODE,
            speak=first_of_host,
            is_cause=first_of_host,
            may_restart=False,
            after_s=0 if first_of_host else _SPEAKER_FIRST_S,
        )
    elif isinstance(error, ShardFMError):
        end_process(str(error), code=USER_ERROR_EXIT_CODE)
    elif lost is not None:
        end_process(lost, code=USER_ERROR_EXIT_CODE, speak="did not answer" in lost, is_cause=False)
    else:
        traceback.print_exception(error)
        told = "".join(traceback.format_exception_only(error)).strip()
        end_process(f"rank {os.environ.get('RANK', '0')}: {told}", code=UNEXPECTED_EXIT_CODE)


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

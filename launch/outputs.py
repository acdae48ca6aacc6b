"""Where a command's results go, tried before its work begins."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from trainer.errors import ConfigError


def check_folder(key: str, folder: Path) -> None:
    """Makes a folder for results and writes there for a try.

    Raises:
        ConfigError: It cannot be; the message names the key and the reason.
    """
    _make(key, folder, folder)


def check_file(key: str, path: Path) -> None:
    """Makes the folder of a file for results, and looks whether the file can be written.

    Raises:
        ConfigError: It cannot be; the message names the key and the reason.
    """
    if path.is_dir():
        raise _refused(key, path, "is a folder, but must name a file")
    _make(key, path, path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise _refused(key, path, "is there, and must not be written over")


def _make(key: str, given: Path, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as cause:
        raise _refused(key, given, f"cannot be written ({cause.strerror})") from cause


def _refused(key: str, path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{key}={path}: {reason}; choose another place.")

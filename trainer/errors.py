"""The trainer's own user-facing errors, beside those of the data."""

from __future__ import annotations

from data.errors import DataError, ShardFMError

__all__ = ["CheckpointError", "ConfigError", "DataError", "LauncherError", "PeerError", "ShardFMError"]


class ConfigError(ShardFMError):
    """A config key that is unknown, of the wrong type, out of range, or at odds with another."""


class CheckpointError(ShardFMError):
    """A checkpoint that is missing, damaged, or made for another schema, data set or model."""


class LauncherError(ShardFMError):
    """The environment gives this worker no place in a job; other workers may have theirs, so each speaks for itself."""


class PeerError(ShardFMError):
    """Another rank failed and tells the reason; raised on the ranks that did not fail."""

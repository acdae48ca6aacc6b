"""The trainer's own user-facing errors, beside those of the data."""

from __future__ import annotations

from data.errors import DataError, ShardFMError

__all__ = ["CheckpointError", "ConfigError", "DataError", "PeerError", "ShardFMError"]


class ConfigError(ShardFMError):
    """A config key that is unknown, of the wrong type, out of range, or at odds with another."""


class CheckpointError(ShardFMError):
    """A checkpoint that is missing, damaged, or made for another schema, data set or model."""


class PeerError(ShardFMError):
    """Another rank failed and tells the reason; raised on the ranks that did not fail."""

"""Checkpoints: whole or absent, for any world size."""

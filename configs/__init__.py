"""YAML that Hydra composes: choices. The types and ranges are in ``trainer.config``."""

"""The commands: ``torchrun launch/train.py``, ``launch/evaluate.py``."""

"""What a run tells while it goes: TensorBoard and the console."""

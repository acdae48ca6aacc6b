"""Where the time of a step goes: measured on every rank, gathered, and said in a line."""

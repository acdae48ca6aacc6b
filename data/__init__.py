"""Parquet files in, batches out: schema, row-group index, sample order, reader, encoding, loader.

Knows no model and no process group: a rank and a world size are plain arguments here.
"""

"""Raw click logs in, Parquet shards with ``schema.yaml`` and a summary out.

``lines`` cuts files into pieces, ``delimited`` parses them, ``split`` and ``shards`` write them, ``pipeline``
runs pieces on all cores, ``statistics`` and ``summary`` look at the result. A source is one file in ``source/``.
"""

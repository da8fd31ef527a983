"""Corpora to vectors in parquet, and what can be done with the vectors: search, grouping, decoding."""

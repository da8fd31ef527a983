"""Sentence embeddings of your own."""

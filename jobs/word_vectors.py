"""`lstm-embed word-vectors`, for `ray job submit -- python jobs/word_vectors.py`."""

from lstm_embed.cli import main

if __name__ == "__main__":
    main("word_vectors")

"""`lstm-embed evaluate`, for `ray job submit -- python jobs/evaluate.py`."""

from lstm_embed.cli import main

if __name__ == "__main__":
    main("evaluate")

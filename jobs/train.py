"""`lstm-embed train`, for `ray job submit -- python jobs/train.py`."""

from lstm_embed.cli import main

if __name__ == "__main__":
    main("train")

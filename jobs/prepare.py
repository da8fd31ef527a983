"""`lstm-embed prepare`, for `ray job submit -- python jobs/prepare.py`."""

from lstm_embed.cli import main

if __name__ == "__main__":
    main("prepare")

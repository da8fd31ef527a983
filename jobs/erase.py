"""`lstm-embed erase`, for `ray job submit -- python jobs/erase.py`."""

from lstm_embed.cli import main

if __name__ == "__main__":
    main("erase")

"""`lstm-embed search`, for `ray job submit -- python jobs/search.py`."""

from lstm_embed.cli import main

if __name__ == "__main__":
    main("search")

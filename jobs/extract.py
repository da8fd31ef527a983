"""`lstm-embed extract`, for `ray job submit -- python jobs/extract.py`."""

from lstm_embed.cli import main

if __name__ == "__main__":
    main("extract")

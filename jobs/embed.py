"""`lstm-embed embed`, for `ray job submit -- python jobs/embed.py`."""

from lstm_embed.cli import main

if __name__ == "__main__":
    main("embed")

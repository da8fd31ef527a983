"""`lstm-embed status`, for `ray job submit -- python jobs/status.py`."""

from lstm_embed.cli import main

if __name__ == "__main__":
    main("status")

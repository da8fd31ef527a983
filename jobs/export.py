"""`lstm-embed export`, for `ray job submit -- python jobs/export.py`."""

from lstm_embed.cli import main

if __name__ == "__main__":
    main("export")

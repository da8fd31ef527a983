"""`lstm-embed group`, for `ray job submit -- python jobs/group.py`."""

from lstm_embed.cli import main

if __name__ == "__main__":
    main("group")

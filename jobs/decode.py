"""`lstm-embed decode`, for `ray job submit -- python jobs/decode.py`."""

from lstm_embed.cli import main

if __name__ == "__main__":
    main("decode")

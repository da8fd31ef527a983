"""Settings of extract. Imports neither torch nor Ray."""

from __future__ import annotations

from typing import Annotated

from lstm_embed.base.settings import DECIDES, Range, Words, settings
from lstm_embed.stages.config import MEGABYTE, InputConfig


@settings()
class ExtractConfig(InputConfig):
    """Turn a MediaWiki dump into articles: JSON lines as wikiextractor writes them."""

    input: Words
    """The dump: pages-articles(-multistream).xml, plain or .bz2, .gz, .zst, .xz; local or s3://."""
    output: Words
    """Folder for the articles (gzip files of JSON lines under parts/); local or s3://."""
    unit_bytes: Annotated[int, Range(1_000)] = 32 * MEGABYTE
    """Bytes of a multistream or plain dump, as stored, that one task reads; 1,000 or more."""
    part_bytes: Annotated[int, Range(1), DECIDES] = 64 * MEGABYTE
    """Bytes of JSON at which a new output file begins, 1 or more."""

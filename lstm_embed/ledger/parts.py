"""Parts as the workers write them: whole files that say what they are, and the list of what was rejected.

A part carries its own record: a parquet part in its footer, a gzip part in the extra field of its header, where every gzip
reader skips it. So one atomic write commits data and record together, and a listing of the parts is the truth about what
has been done.
"""

from __future__ import annotations

import itertools
import json
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lstm_embed.base import storage
from lstm_embed.ledger.sealed import fingerprint

_RECORD_KEY = b"lstm_embed"
_PART_NAME = re.compile(r"^part-(\d{8})-(\d{4,})(\.parquet|\.jsonl\.gz)$")
_GZIP_EXTRA_ID = b"LE"
MAX_LISTED_REJECTIONS = 100_000
"""Rejected pieces listed for one unit; more are counted in one closing line."""


@dataclass(frozen=True)
class Rejected:
    """A piece of input that could not be used."""

    path: str
    offset: int
    """Byte offset in the (decompressed) file at which the piece begins; -1 where it is not known."""
    reason: str
    """A short constant phrase, such as "not JSON"; counted by it."""
    digest: str
    """SHA-256 of the piece's bytes as hex, or of as many as were read."""
    excerpt: bytes = b""
    """Its first bytes; written to the quarantine only where the user asked for text."""
    count: int = 1
    """Records it stands for, where that is known."""
    size: int = 0
    """Bytes of text it stands for."""
    rest_of_file: bool = False
    """It is a file, or all that was left of one."""


@dataclass(frozen=True, kw_only=True)
class PartRecord:
    """What a part says of itself."""

    unit: int
    part: int
    last: bool
    """True for the last part of its unit."""
    fingerprint: str
    """Of everything but the input that decides the content."""
    rows: int
    input_digest: str
    """SHA-256 of the unit's input up to the end of this part."""
    stats: dict[str, Any] = field(default_factory=dict)
    """Counts of what went into this part; sums are taken over all parts."""

    @property
    def stem(self) -> str:
        """The part's file name without suffix."""
        return f"part-{self.unit:08d}-{self.part:04d}"


@dataclass(frozen=True)
class PartStore:
    """The parts of one output folder, as a worker sees them. Small and picklable."""

    output: str
    fingerprint: str
    suffix: str = ".parquet"

    @property
    def folder(self) -> str:
        """Where the parts lie."""
        return storage.join(self.output, "parts")

    def path(self, unit: int, part: int) -> str:
        """Return the path of one part."""
        return storage.join(self.folder, f"part-{unit:08d}-{part:04d}{self.suffix}")

    def record(
        self, unit: int, part: int, *, last: bool, rows: int, input_digest: str, stats: dict[str, Any] | None = None
    ) -> PartRecord:
        """Make the record of a part of this store."""
        return PartRecord(
            unit=unit,
            part=part,
            last=last,
            fingerprint=self.fingerprint,
            rows=rows,
            input_digest=input_digest,
            stats=stats or {},
        )

    def bound(self, content: Any) -> PartStore:
        """Return this store with a fingerprint that depends on `content` too."""
        return replace(self, fingerprint=fingerprint([self.fingerprint, content]))

    def write_table(
        self, record: PartRecord, table: pa.Table, *, row_groups: Sequence[int] | None = None, **parquet_options: Any
    ) -> int:
        """Commit a parquet part; return its bytes.

        Args:
            record: The part's record; `record.rows` must be the table's rows.
            table: Its rows.
            row_groups: Rows of each row group, where they mean something.
            **parquet_options: For `pyarrow.parquet.write_table`; zstd and page checksums are the default.
        """
        assert record.rows == table.num_rows
        metadata = {**(table.schema.metadata or {}), _RECORD_KEY: _encode(record)}
        options = {"compression": "zstd", "write_page_checksum": True, **parquet_options}
        data = encode_table(table.replace_schema_metadata(metadata), row_groups, **options)
        storage.write_bytes(self.path(record.unit, record.part), data)
        return int(data.size)

    def write_lines(self, record: PartRecord, lines: bytes) -> int:
        """Commit a gzip part of text lines; return its bytes."""
        data = _gzip(lines, _encode(record))
        storage.write_bytes(self.path(record.unit, record.part), data)
        return len(data)

    def write_quarantine(self, unit: int, rejected: Sequence[Rejected], unlisted: int, with_text: bool) -> None:
        """Commit the list of what a unit's input had to be rejected; an empty list writes nothing.

        Args:
            unit: The unit's number.
            rejected: The pieces, in input order.
            unlisted: How many more there were than could be listed.
            with_text: Write the pieces' first bytes too.
        """
        if not rejected and not unlisted:
            return
        lines = []
        for piece in rejected:
            line: dict[str, Any] = {
                "path": piece.path,
                "offset": piece.offset,
                "reason": piece.reason,
                "sha256": piece.digest,
            }
            if piece.rest_of_file:
                line["rest_of_file"] = True
            if with_text:
                line["excerpt"] = piece.excerpt.decode("utf-8", "replace")
            lines.append(json.dumps(line, ensure_ascii=True))
        if unlisted:
            lines.append(json.dumps({"reason": "more than could be listed", "count": unlisted}))
        storage.write_bytes(quarantine_path(self.output, unit), ("\n".join(lines) + "\n").encode("ascii"))


def encode_table(table: pa.Table, row_groups: Sequence[int] | None = None, **options: Any) -> pa.Buffer:
    """Return a table as the bytes of a parquet file; also its empty row groups are there if they are asked for."""
    sink = pa.BufferOutputStream()
    if row_groups is None:
        pq.write_table(table, sink, **options)
        return sink.getvalue()
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        start = 0
        for size in row_groups:
            writer.write_table(table.slice(start, size), row_group_size=max(size, 1))
            start += size
    return sink.getvalue()


def quarantine_path(output: str, unit: int) -> str:
    """Return where the rejected pieces of a unit are listed."""
    return storage.join(output, "quarantine", f"unit-{unit:08d}.jsonl")


def rejected_files(output: str, most: int = 3) -> str:
    """Return which files, or rests of files, were rejected for what, of an output folder's quarantine the first few."""
    found: list[str] = []
    for file in storage.list_files(storage.join(output, "quarantine")):
        entries = (json.loads(line) for line in storage.read_bytes(file.path).splitlines() if b'"rest_of_file"' in line)
        found += [f"{entry['path']}: {entry['reason']}" for entry in itertools.islice(entries, most - len(found))]
        if len(found) == most:
            break
    return "; ".join(found)


def parse_name(name: str) -> tuple[int, int] | None:
    """Return (unit, part) of a part's file name, or None for any other file."""
    match = _PART_NAME.match(name)
    return (int(match[1]), int(match[2])) if match else None


def read_record(path: str) -> PartRecord | None:
    """Return the record of a part, or None if the file is damaged or not a part."""
    try:
        if path.endswith(".parquet"):
            with storage.open_input(path) as file:
                metadata = pq.read_metadata(file)
                record = _decode((metadata.metadata or {})[_RECORD_KEY])
            return record if metadata.num_rows == record.rows else None
        with storage.open_input(path) as file:
            return _read_gzip_record(file)
    except (KeyError, ValueError, TypeError, EOFError, pa.ArrowException, struct.error):
        # pyarrow reports a damaged file as OSError too, which must not be mistaken for a disk that fails.
        return None
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError) or error.errno is not None:
            raise
        return None


def _encode(record: PartRecord) -> bytes:
    return json.dumps(asdict(record), sort_keys=True, ensure_ascii=True).encode("ascii")


def _decode(data: bytes) -> PartRecord:
    return PartRecord(**json.loads(data))


def _gzip(data: bytes, record: bytes) -> bytes:
    """Compress `data` as one gzip member whose header's extra field holds `record` (RFC 1952, section 2.3.1.1)."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(data) + deflate.flush()
    # The length of what follows goes first, so that a part cut short is known from its header and the listing.
    record = struct.pack("<Q", len(body)) + record
    subfield = _GZIP_EXTRA_ID + struct.pack("<H", len(record)) + record
    header = b"\x1f\x8b\x08\x04" + b"\0\0\0\0" + b"\0\xff" + struct.pack("<H", len(subfield)) + subfield
    return header + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def _read_gzip_record(file: pa.NativeFile) -> PartRecord | None:
    header = file.read(12)
    if len(header) < 12 or header[:3] != b"\x1f\x8b\x08" or not header[3] & 4:
        return None
    extra = file.read(struct.unpack("<H", header[10:12])[0])
    if extra[:2] != _GZIP_EXTRA_ID:
        return None
    length = struct.unpack("<Q", extra[4:12])[0]
    whole = file.size() == len(header) + len(extra) + length + 8
    return _decode(extra[12 : 4 + struct.unpack("<H", extra[2:4])[0]]) if whole else None

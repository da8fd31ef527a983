"""Parts as the workers write them: whole files that say what they are, and the list of what was rejected.

A part carries its own record: a parquet part in its footer, a gzip part in the extra field of its header, where every gzip
reader skips it. So one atomic write commits data and record together, and a listing of the parts is the truth about what
has been done. A part is opened in one place, `open_part`, which compares what its name, its record and a manifest or plan
say of it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator
from typing_extensions import TypedDict

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.settings import Range, parse_json
from lstm_embed.base.text import printable
from lstm_embed.ledger.origin import fingerprint

_RECORD_KEY = b"lstm_embed"
_PART_NAME = re.compile(r"part-([0-9]{8})-([0-9]{4}|[1-9][0-9]{4,8})(\.parquet|\.jsonl\.gz)")
_GZIP_EXTRA_ID = b"LE"
MAX_LISTED_REJECTIONS = 100_000
"""Rejected pieces listed for one unit; more are counted in one closing line."""


def _counts(stats: dict[str, Any]) -> dict[str, Any]:
    """Refuse what is no count, nor a list or dict of counts."""
    if not isinstance(stats.get("rejected", {}), dict):
        raise ValueError(f"its count 'rejected' is {stats['rejected']!r}; expected a count for each reason")
    for name, value in stats.items():
        if isinstance(value, dict):
            _counts(value)
        elif not all(type(one) is int and 0 <= one < 2**63 for one in (value if isinstance(value, list) else [value])):
            raise ValueError(f"its count {name!r} is {value!r}; expected whole numbers from 0")
    return stats


Counts = Annotated[dict[str, Any], AfterValidator(_counts)]
"""Counts of what went into a part, by name: numbers, lists of numbers, or further counts."""
Count = Annotated[int, Range(0, 2**63 - 1)]
"""A number of things, or of bytes."""
UnitNumber = Annotated[int, Range(0, 99_999_999)]


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

    unit: UnitNumber
    part: Count
    last: bool
    """True for the last part of its unit."""
    fingerprint: str
    """Of everything but the input that decides the content."""
    rows: Count
    input_digest: str
    """SHA-256 of the unit's input up to the end of this part."""
    stats: Counts = field(default_factory=dict)
    """Counts of what went into this part; sums are taken over all parts."""

    @property
    def stem(self) -> str:
        """The part's file name without suffix."""
        return f"part-{self.unit:08d}-{self.part:04d}"

    @property
    def identity(self) -> str:
        """Changes exactly when the part's content does."""
        return f"{self.fingerprint}-{self.input_digest}"


@dataclass(frozen=True, kw_only=True)
class PartInfo:
    """A part as a manifest or a plan tells of it; what it does not tell is not compared."""

    name: str
    path: str
    """Where it is read; a copy may have another name."""
    identity: str = ""
    """Changes exactly when the part's content does."""
    rows: int | None = None
    bytes: int | None = None
    stats: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def at(cls, path: str, identity: str = "") -> PartInfo:
        """Return what a path tells of a part."""
        return cls(name=storage.name(path), path=path, identity=identity)

    @property
    def as_file(self) -> storage.FileInfo:
        """The part as input of a stage: measured in rows, changed where its content is another."""
        return storage.FileInfo(self.path, self.rows or 0, self.identity)


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


class _RejectedFile(TypedDict):
    path: str
    reason: str


def rejected_files(output: str, most: int = 3) -> str:
    """Return which files, or rests of files, were rejected for what, of an output folder's quarantine the first few."""
    found: list[str] = []
    for file in storage.list_files(storage.join(output, "quarantine")):
        lines = (line for line in storage.read_bytes(file.path).splitlines() if b'"rest_of_file"' in line)
        entries = (parse_json(line, _RejectedFile, f"a line of {file.path}") for line in lines)
        found += [f"{entry['path']}: {entry['reason']}" for entry in itertools.islice(entries, most - len(found))]
        if len(found) == most:
            break
    return "; ".join(found)


def parse_name(name: str) -> tuple[int, int] | None:
    """Return (unit, part) of a part's file name, or None for any other file."""
    match = _PART_NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


class _Wrong(Exception):
    """Says of a part, in a clause, what is wrong with it."""


@contextlib.contextmanager
def open_part(part: PartInfo | str, made_by: str, columns: pa.Schema | None = None) -> Iterator[pq.ParquetFile]:
    """Open a parquet part that is what its name, and what is known of it, say.

    Args:
        part: The part, or its path where nothing else is known of it.
        made_by: Name of the job that makes it again, for messages.
        columns: Columns that it must have; any if not given.

    Raises:
        FileNotFoundError: if it is not there.
        InputError: if it is another part, or is found damaged, also while it is read within the block.
    """
    part = PartInfo.at(part) if isinstance(part, str) else part
    remedy = f"remove the file and run {made_by} again"
    with _damage_told(part.path, remedy), storage.open_input(part.path) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        record = record_of(parquet.metadata, part.name)
        expected = {"identity": part.identity or None, "rows": part.rows, "bytes": part.bytes}
        found = {"identity": record.identity, "rows": record.rows, "bytes": file.size()}
        for name, value in expected.items():
            if value not in (None, found[name]):
                raise _Wrong(f"its {name} is {found[name]}, and the list of its folder's parts says {value}")
        for wanted in columns or ():
            at = parquet.schema_arrow.get_field_index(wanted.name)
            if at < 0 or parquet.schema_arrow.field(at).type != wanted.type:
                raise _Wrong(f"it lacks the column {wanted.name} of type {wanted.type}")
        yield parquet


def read_record(path: str) -> PartRecord | None:
    """Return the record of a part, or None if the file is damaged, no part, or another one than its name says.

    Raises:
        FileNotFoundError: if it is not there.
    """
    with contextlib.suppress(InputError), _damage_told(path, ""), storage.open_input(path) as file:
        if path.endswith(".parquet"):
            return record_of(pq.read_metadata(file), storage.name(path))
        return _gzip_record(file, storage.name(path))
    return None


@contextlib.contextmanager
def _damage_told(path: str, remedy: str) -> Iterator[None]:
    """Raise what says that a part is damaged as an InputError; a disk or store that fails is told from that."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; {remedy}") from None
    except (OSError, pa.ArrowException, _Wrong) as error:
        # pyarrow reports a damaged file as OSError too.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        what = printable(" ".join(str(error).split()), 300)
        raise InputError(f"{path} is damaged, or not what it should be: {what}; {remedy}") from None


def record_of(metadata: pq.FileMetaData, name: str) -> PartRecord:
    """Return the record in the footer of a parquet part of that name."""
    record = _decode((metadata.metadata or {}).get(_RECORD_KEY, b"null"), name)
    if record.rows != metadata.num_rows:
        raise _Wrong(f"it has {metadata.num_rows} rows, and its footer says {record.rows}")
    return record


def _encode(record: PartRecord) -> bytes:
    return json.dumps(asdict(record), sort_keys=True, ensure_ascii=True).encode("ascii")


def _decode(data: bytes, name: str) -> PartRecord:
    """Return the record of a part of that name."""
    try:
        record = parse_json(data, PartRecord, "its record")
    except InputError as error:
        raise _Wrong(str(error)) from None
    if parse_name(name) != (record.unit, record.part):
        raise _Wrong(f"it says that it is {record.stem}")
    return record


def _gzip(data: bytes, record: bytes) -> bytes:
    """Compress `data` as one gzip member whose header's extra field holds `record` (RFC 1952, section 2.3.1.1)."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(data) + deflate.flush()
    # The length of what follows goes first, so that a part cut short is known from its header and the listing.
    record = struct.pack("<Q", len(body)) + record
    subfield = _GZIP_EXTRA_ID + struct.pack("<H", len(record)) + record
    header = b"\x1f\x8b\x08\x04" + b"\0\0\0\0" + b"\0\xff" + struct.pack("<H", len(subfield)) + subfield
    return header + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def _gzip_record(file: pa.NativeFile, name: str) -> PartRecord:
    """Return the record of an opened gzip part of that name."""
    header = file.read(12)
    extra = file.read(struct.unpack("<H", header[10:])[0]) if len(header) == 12 else b""
    if header[:3] != b"\x1f\x8b\x08" or len(extra) < 12 or extra[:2] != _GZIP_EXTRA_ID:
        raise _Wrong("it is no part")
    if file.size() != len(header) + len(extra) + struct.unpack("<Q", extra[4:12])[0] + 8:
        raise _Wrong("it is cut short")
    return _decode(extra[12 : 4 + struct.unpack("<H", extra[2:4])[0]], name)

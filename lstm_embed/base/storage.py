"""Paths on local disk and in object stores: list, open (by codec), commit whole or not at all.

Keeps the first half of "every part exactly once": a file written here is either absent or complete. Locally that is a
temporary file in the same folder, fsync, `os.replace`; in an object store one PUT or one completed multipart upload, never
a rename. Paths are plain strings: local ones are made absolute, `s3://bucket/key` and `gs://bucket/key` stay as they are.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.fs as pafs

from lstm_embed.base.codecs import codec, content_codec, decompress
from lstm_embed.base.errors import InputError, LstmEmbedError

_SCHEMES = ("s3", "gs")
_LOCAL = pafs.LocalFileSystem()
_READ_AHEAD = 4 << 20
"""Bytes asked for at once by a stream; in an object store each is a request."""
_TEMPORARY = re.compile(r"^\..*\.tmp-[0-9]+-[0-9a-f]+$")


@dataclass(frozen=True)
class FileInfo:
    """One file as a listing shows it."""

    path: str
    size: int
    """Bytes as stored, so compressed ones for a compressed file."""
    stamp: str
    """Changes when the file does: modification time in nanoseconds (object stores: as the store reports it)."""


def resolve(path: str | os.PathLike[str]) -> str:
    """Return `path` in the form used everywhere: absolute if local, a URI without trailing slash if remote.

    Raises:
        InputError: for what is no path, a scheme this project does not know, or a path with a password in it, which the
            message leaves out.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise InputError(f"a path is of type {type(path).__name__}; expected a text or a pathlib.Path")
    if not text.strip():
        raise InputError("a path is empty; expected a local path, s3://bucket/key or gs://bucket/key")
    if not _is_utf_8(text) or "\0" in text:
        raise InputError(f"the path {text!r} is not UTF-8; rename what it names, or name the folder above it")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return os.path.abspath(os.path.expanduser(text))
    if scheme == "file":
        return os.path.abspath(rest)
    if set("@:") & set(rest.split("/")[0]) and ("@" in rest or scheme in _SCHEMES):
        place = rest.rpartition("@")[2] if "@" in rest else ""
        raise InputError(
            f"the path {scheme}://***@{place} holds a key or password; give it in the environment, as in AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, and the path without it"
        )
    if scheme not in _SCHEMES:
        raise InputError(f"the path {text!r} has the scheme {scheme!r}; expected a local path, s3:// or gs://")
    if not rest.strip("/"):
        raise InputError(f"the path {text!r} names no bucket; expected {scheme}://bucket/key")
    return f"{scheme}://{rest.strip('/')}"


def _is_utf_8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_remote(path: str) -> bool:
    """Tell whether `path` lies in an object store."""
    return "://" in path


def join(base: str, *names: str) -> str:
    """Append `names` to `base` with forward slashes."""
    return "/".join([base.rstrip("/"), *(name.strip("/") for name in names)])


def name(path: str) -> str:
    """Return the last component of `path`."""
    return path.rstrip("/").rsplit("/", 1)[-1]


def parent(path: str) -> str:
    """Return the folder that holds `path`."""
    return path.rstrip("/").rsplit("/", 1)[0] or "/"


@functools.lru_cache(maxsize=16)
def _bucket_filesystem(root: str) -> pafs.FileSystem:
    # from_uri, not S3FileSystem(): only the former honours AWS_ENDPOINT_URL.
    filesystem, _ = pafs.FileSystem.from_uri(root)
    return filesystem


def filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """Return the pyarrow file system of `path` and the path inside it."""
    path = resolve(path)
    if not is_remote(path):
        return _LOCAL, path
    scheme, _, rest = path.partition("://")
    bucket = rest.split("/", 1)[0]
    return _bucket_filesystem(f"{scheme}://{bucket}"), rest


def _public(path: str, inner: str) -> str:
    return f"{path.partition('://')[0]}://{inner}" if is_remote(path) else inner


def _file_info(path: str, entry: pafs.FileInfo) -> FileInfo:
    return FileInfo(_public(path, entry.path), entry.size or 0, str(entry.mtime_ns or 0))


def info(path: str) -> FileInfo:
    """Return size and stamp of one file.

    Raises:
        FileNotFoundError: if there is no file at `path`.
    """
    path = resolve(path)
    store, inner = filesystem(path)
    entry = store.get_file_info(inner)
    if entry.type != pafs.FileType.File:
        raise FileNotFoundError(f"no file at {path}")
    return _file_info(path, entry)


def exists(path: str) -> bool:
    """Tell whether a file or folder is at `path`."""
    store, inner = filesystem(path)
    return store.get_file_info(inner).type != pafs.FileType.NotFound


def is_dir(path: str) -> bool:
    """Tell whether `path` is a folder."""
    store, inner = filesystem(path)
    return store.get_file_info(inner).type == pafs.FileType.Directory


def list_files(directory: str, recursive: bool = True) -> list[FileInfo]:
    """Return the files under `directory`, sorted by path; names that begin with a dot are left out.

    A missing folder has no files. Of a folder to which links lead too, the files are listed once.

    Raises:
        InputError: if `directory` is a file, or a name in it is not UTF-8.
    """
    directory = resolve(directory)
    if not is_remote(directory):
        return sorted(_local_files(directory, recursive), key=lambda file: file.path)
    store, inner = filesystem(directory)
    selector = pafs.FileSelector(inner, allow_not_found=True, recursive=recursive)
    files = [
        _file_info(directory, entry)
        for entry in store.get_file_info(selector)
        if entry.type == pafs.FileType.File and not _hidden(entry.path[len(inner) :])
    ]
    return sorted(files, key=lambda file: file.path)


def _local_files(directory: str, recursive: bool) -> Iterator[FileInfo]:
    entered: set[tuple[int, int]] = set()
    folders, links = [directory], list[str]()
    while folders or links:
        # What is reached by its own name is not reached by a link's.
        folder = folders.pop() if folders else links.pop(links.index(min(links)))
        try:
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in entered:
                continue
            entered.add((state.st_dev, state.st_ino))
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            raise InputError(f"{folder} is a file; expected a folder") from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not _is_utf_8(entry.path):
                raise InputError(f"{folder} holds a name that is not UTF-8: {os.fsencode(entry.name)!r}; rename it")
            # Of a link that leads nowhere or to itself neither is true.
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                if recursive:
                    (links if entry.is_symlink() else folders).append(entry.path)
            elif os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file():
                state = entry.stat()
                yield FileInfo(entry.path, state.st_size, str(state.st_mtime_ns))


def _hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split("/"))


def open_input(path: str) -> pa.NativeFile:
    """Open `path` for random access to its bytes as stored.

    Raises:
        FileNotFoundError: if there is no file at `path`; a pipe or a device is none.
        IsADirectoryError: if there is a folder.
    """
    store, inner = filesystem(path)
    if not is_remote(path) and os.path.exists(inner) and not os.path.isfile(inner):
        if os.path.isdir(inner):
            raise IsADirectoryError(errno.EISDIR, "Is a folder, where a file is expected", path)
        raise FileNotFoundError(errno.ENOENT, "Is a pipe or device, where a file is expected", path)
    return store.open_input_file(inner)


class _Raw(io.RawIOBase):
    """A file's bytes as stored. A store that fails is told from an archive that is damaged by the error raised."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = open_input(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._file.readinto(buffer))
        except OSError as error:
            raise LstmEmbedError(f"reading {self._path} failed: {error}; run the command again to continue") from None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_stream(path: str) -> IO[bytes]:
    """Open `path` for reading, decompressed as its first bytes or else its suffix say; a plain file can be sought in.

    Its `read1` hands out what is there, so that nothing whole is lost when an archive breaks off.

    Raises:
        FileNotFoundError: if there is no file at `path`.
        LstmEmbedError: if the disk or store fails, also from its reads; damage raises there what the codec raises.
    """
    raw = io.BufferedReader(_Raw(path), _READ_AHEAD)
    suffix = content_codec(raw.peek(8)[:8]) or codec(path)
    return decompress(cast(IO[bytes], raw), suffix) if suffix else cast(IO[bytes], raw)


def read_bytes(path: str) -> bytes:
    """Return the whole content of a (small) file as stored."""
    with open_input(path) as file:
        return cast(bytes, file.read())


def write_bytes(path: str, data: bytes | pa.Buffer) -> None:
    """Write a file whole or not at all, replacing what was there."""
    path = resolve(path)
    if is_remote(path):
        store, inner = filesystem(path)
        # Without compression=None Arrow would compress by the name's suffix what is compressed already.
        with store.open_output_stream(inner, compression=None) as stream:
            stream.write(data)
        return
    folder, last = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{last}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Any) -> bytes:
    """Return `value` as readable JSON bytes, the same for the same value."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "surrogatepass")


def write_json(path: str, value: Any) -> None:
    """Write `value` as JSON, whole or not at all."""
    write_bytes(path, to_json(value))


def remove(path: str) -> None:
    """Delete one file; a file that is not there counts as deleted."""
    store, inner = filesystem(path)
    with contextlib.suppress(FileNotFoundError):
        store.delete_file(inner)


def remove_dir(path: str) -> None:
    """Delete a folder and all it holds; a folder that is not there counts as deleted."""
    store, inner = filesystem(path)
    with contextlib.suppress(FileNotFoundError):
        store.delete_dir(inner)


def remove_temporaries(directory: str) -> int:
    """Delete what interrupted writes left in a local folder tree; return how many files that were."""
    if is_remote(directory):
        return 0
    removed = 0
    for folder, _, files in os.walk(resolve(directory)):
        for file in files:
            if _TEMPORARY.match(file):
                remove(os.path.join(folder, file))
                removed += 1
    return removed


def digest(path: str) -> str:
    """Return the SHA-256 of a file's bytes as hex."""
    sha = hashlib.sha256()
    for block in _blocks(path):
        sha.update(block)
    return sha.hexdigest()


def _blocks(path: str, size: int = 1 << 22) -> Iterator[bytes]:
    with open_input(path) as file:
        while block := file.read(size):
            yield block


def copy_file(source: str, target: str) -> None:
    """Copy one file between any two places, whole or not at all (for files of moderate size: read into memory)."""
    write_bytes(target, read_bytes(source))


@contextlib.contextmanager
def local_file(path: str) -> Iterator[str]:
    """Give a local file with the decompressed content of `path`: itself, or a copy that lasts as long as the block."""
    if not is_remote(path) and not codec(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, name(path))
        with open_stream(path) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, _READ_AHEAD)
        yield target

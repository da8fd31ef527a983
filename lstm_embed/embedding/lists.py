"""Lists that a user gives in a file, one entry a line."""

from __future__ import annotations

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError


def read_list(path: str, what: str, flag: str) -> list[str]:
    """Return the lines of a UTF-8 file as they are, without their ends; blank lines are none.

    Args:
        path: Local or in an object store, plain or compressed.
        what: Name of an entry, such as "query".
        flag: The flag that named the file.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if it is not text, or empty.
    """
    path = storage.resolve(path)
    with storage.open_stream(path) as file:
        try:
            lines = file.read().decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text ({error}); expected one {what} a line ({flag})") from None
    found = [line.removesuffix("\r") for line in lines if line.strip()]
    if not found:
        raise InputError(f"{path} holds no {what}; expected one a line ({flag})")
    return found

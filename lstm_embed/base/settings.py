"""Settings, each declared once, and JSON files that are checked against what is declared.

A class of settings is a dataclass made by `settings`. A field's type, with `Range` and `Literal`, says what is allowed; its
docstring is the help; `Decides` marks what decides the content of an output. Flags, messages, config files and fingerprints
come from that. JSON files of ours are declared in the same way, as dataclasses or `TypedDict`s, and `read_json` and
`parse_json` are the only ways in which they are read.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast, dataclass_transform, get_type_hints

import annotated_types
import pydantic
import pydantic.dataclasses
import pydantic_core

from lstm_embed.base.errors import InputError

Kind = TypeVar("Kind")

MAX_JSON_BYTES = 256 << 20
"""Largest JSON file that is read; a manifest has some 500 bytes a part."""
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Range(annotated_types.GroupedMetadata):
    """Numbers from `least` to `most`, both included; `most` is open if not given."""

    least: float
    most: float = math.inf

    def __iter__(self) -> Iterator[annotated_types.BaseMetadata]:
        yield annotated_types.Ge(self.least)
        if self.most < math.inf:
            yield annotated_types.Le(self.most)

    def __str__(self) -> str:
        return f"at least {self.least:,.15g}" if self.most == math.inf else f"{self.least:,.15g} to {self.most:,.15g}"


_UNSET = object()


@dataclass(frozen=True)
class Decides:
    """Mark of a field that decides the content of an output.

    A field that came later says with `before` how things were without it. It is left out of what decides the content while
    it has that value, so that older outputs are continued.
    """

    before: Any = _UNSET


DECIDES = Decides()
Words = Annotated[str, annotated_types.MinLen(1)]
"""A text that is not empty, such as a path."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(prefix: str = "") -> Callable[[type[Kind]], type[Kind]]:
    """Return a decorator that makes a class of settings: a frozen dataclass with keywords only whose values are checked.

    Making one with wrong values raises an `InputError` that names field, value, what was expected, and the flag.

    Args:
        prefix: What stands before the field's name in its flag, such as "model.".
    """

    def decorate(cls: type[Kind]) -> type[Kind]:
        config = pydantic.ConfigDict(allow_inf_nan=False, extra="forbid")
        made: Any = pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=config)
        checked = made.__init__

        @functools.wraps(checked)
        def init(self: Any, *args: Any, **values: Any) -> None:
            try:
                checked(self, *args, **values)
            except pydantic.ValidationError as error:
                raise InputError(_of_settings(error, made, prefix)) from None

        made.__init__ = init
        return cast("type[Kind]", made)

    return decorate


def deciding(config: Any, of: type | None = None) -> dict[str, Any]:
    """Return the fields of settings that decide the content of an output, as JSON-like values.

    Args:
        config: The settings.
        of: A class they inherit from, of whose fields alone to tell.
    """
    hints = get_type_hints(of or type(config), include_extras=True)
    values = values_of(config)
    found = {}
    for name, hint in hints.items():
        mark = next((note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Decides)), None)
        if mark is not None and (mark.before is _UNSET or values[name] != mark.before):
            found[name] = values[name]
    return found


def values_of(config: Any) -> dict[str, Any]:
    """Return all fields of settings as JSON-like values."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return values_of(value)
    return list(value) if isinstance(value, tuple) else value


def read_json(path: str, declared: type[Kind], *, advice: str = "", max_bytes: int = MAX_JSON_BYTES) -> Kind:
    """Return the content of a JSON file.

    Args:
        path: The file.
        declared: The dataclass or `TypedDict` that it must agree with.
        advice: What to do about a file that does not.
        max_bytes: Largest file that is read.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if it is too large, no JSON, or something else; the message names file, field, value and expectation.
    """
    from lstm_embed.base import storage  # takes longer to import than all that --help needs besides

    size = storage.info(path).size
    if size > max_bytes:
        raise InputError(_damaged(path, f"its {size:,} bytes are more than {max_bytes:,}", advice))
    return parse_json(storage.read_bytes(path), declared, path, advice=advice)


def parse_json(data: bytes | str, declared: type[Kind], where: str, *, advice: str = "") -> Kind:
    """Return what JSON text says.

    Args:
        data: The text.
        declared: The dataclass or `TypedDict` that the text must agree with.
        where: Name of the place in messages.
        advice: What to do about a text that does not agree.

    Raises:
        InputError: as of `read_json`.
    """
    try:
        if not _is_finite(pydantic_core.from_json(data, allow_inf_nan=False)):
            raise InputError(_damaged(where, "it holds a number that is not finite", advice))
        found: Kind = _adapter(cast("Any", declared)).validate_json(data, strict=True)
    except pydantic.ValidationError as error:
        raise InputError(_damaged(where, _first(error), advice)) from None
    except ValueError as error:
        raise (
            error if isinstance(error, InputError) else InputError(_damaged(where, f"it is no JSON ({error})", advice))
        ) from None
    return found


def _is_finite(value: Any) -> bool:
    """Tell whether all numbers in a value of JSON are finite; 1e999 is not."""
    if isinstance(value, float):
        return math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(map(_is_finite, inner))


@functools.cache
def _adapter(declared: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(declared)


def _damaged(where: str, what: str, advice: str) -> str:
    return f"{where} is damaged, or not what it should be: {what}" + (f"; {advice}" if advice else "")


def _of_settings(error: pydantic.ValidationError, cls: type, prefix: str) -> str:
    """Return in a line what is wrong with settings."""
    found = error.errors(include_url=False)[0]
    if not found["loc"]:
        return _reason(found)  # of several fields: the class has said it all
    field = str(found["loc"][0])
    flag = f"--{prefix}{field.replace('_', '-')}"
    if found["type"] == "unexpected_keyword_argument":
        return f"{cls.__name__} has no field {field!r} ({flag})"
    allowed = next((note for note in _notes(cls, field) if isinstance(note, Range)), None)
    if allowed is not None and found["type"] in ("greater_than_equal", "less_than_equal", "finite_number"):
        return f"{field} is {_shown(found['input'])}; expected {allowed} ({flag})"
    text = _first(error)
    return text if flag in text else f"{text} ({flag})"


def _notes(cls: type, field: str) -> tuple[Any, ...]:
    hint = get_type_hints(cls, include_extras=True).get(field)
    return tuple(getattr(hint, "__metadata__", ()))


def _first(error: pydantic.ValidationError) -> str:
    """Return in a line the first thing that is wrong."""
    found = error.errors(include_url=False)[0]
    path = ".".join(map(str, found["loc"]))
    kind = found["type"]
    if kind == "json_invalid":
        return f"it is no JSON ({found['ctx']['error']})"
    if kind == "missing":
        return f"{path} is missing"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{path} is not known to this version"
    if kind == "value_error":
        return _reason(found)
    if kind in ("too_short", "string_too_short"):
        return f"{path} is empty; expected something"
    return f"{path or 'it'} is {_shown(found['input'])}; expected {_reason(found)}"


def _reason(found: Any) -> str:
    """Return pydantic's word for what was expected, or what our own check said."""
    if found["type"] == "value_error":
        return str(found["ctx"]["error"])
    text = str(found["msg"])
    for start in ("Input should be a valid ", "Input should be "):
        if text.startswith(start):
            text = ("a valid " if "valid" in start else "") + text.removeprefix(start)
    return text


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"

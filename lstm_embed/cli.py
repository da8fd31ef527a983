"""The one command, `lstm-embed VERB`: parse, run, print the summary, exit.

A verb exits with 0 when its work is done, 2 for something to correct in the command or its input, 1 for a failure, 130 when it
was stopped; the same command goes on. The verbs are the functions of `verbs`; `python jobs/VERB.py` does the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import os
import re
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, get_type_hints

from lstm_embed import verbs
from lstm_embed.base.errors import InputError, LstmEmbedError
from lstm_embed.base.progress import Summary
from lstm_embed.base.text import printable
from lstm_embed.console import print_summary

STOPPED = 130
_WRONG_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS)
"""What the disk says of a path that another path corrects, beside what has an exception of its own."""
_MAX_ERROR_CHARACTERS = 2000
_MAX_CONFIG_BYTES = 1 << 20


def main(verb: str = "", argv: Sequence[str] | None = None) -> None:
    """Run a verb with the flags of the command line and exit.

    Args:
        verb: Its name; the first word of the command line if not given.
        argv: The command line after the program; that of the process if not given.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    program = os.path.basename(sys.argv[0])
    if not verb:
        verb = _verb(words)
        program, words = f"lstm-embed {verb}", words[1:]
    verb = verb.replace("-", "_")
    function = verbs.VERBS[verb]
    config = config_of(verb, words, program)
    from lstm_embed.stages.session import prepare_environment

    prepare_environment()
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # as Ctrl-C, also in the background, where that is ignored
    started = time.monotonic()
    with errors_as_exit_codes():
        summary: Summary | None = function(config)
    if summary is not None:
        print_summary([dataclasses.replace(summary, seconds=summary.seconds or time.monotonic() - started)])
        if summary.stopped:
            raise SystemExit(STOPPED)


def config_of(verb: str, words: Sequence[str], program: str = "lstm-embed") -> Any:
    """Return the settings that the flags of a verb describe; see `parse`.

    Args:
        verb: Its name in `verbs.VERBS`.
        words: The flags.
        program: Name of the command in messages.
    """
    function = verbs.VERBS[verb]
    config_class = get_type_hints(function)["config"]
    return parse(config_class, words, program, _description(function), verbs.DEFAULTS.get(verb))


def _verb(words: Sequence[str]) -> str:
    """Return the verb that a command line begins with; print what there is and exit if it does not."""
    names = {name.replace("_", "-"): function for name, function in verbs.VERBS.items()}
    if words and words[0].replace("_", "-") in names:
        return words[0]
    lines = [f"  {name:<14} {_description(function).splitlines()[0]}" for name, function in names.items()]
    usage = "\n".join(["usage: lstm-embed VERB [flags]; lstm-embed VERB --help tells the flags", "", *lines])
    if words and words[0] in ("-h", "--help"):
        print(usage)
        raise SystemExit(0)
    if not words:
        print(usage, file=sys.stderr)
        raise SystemExit(2)
    fail(f"{words[0]!r} is no verb; expected one of {', '.join(names)}")


def _description(function: Any) -> str:
    lines = [line.removeprefix("    ") for line in (function.__doc__ or "").strip().splitlines()]
    return "\n".join(lines)


def parse(
    config_class: type[Any],
    argv: Sequence[str],
    program: str,
    description: str,
    defaults: Callable[[list[str]], Any] | None = None,
) -> Any:
    """Return the settings that flags and a `--config` file describe; exit with 2 and one line if they are wrong.

    Args:
        config_class: What to return.
        argv: The flags.
        program: Name of the command, for `--help`.
        description: What it does, for `--help`.
        defaults: Function that returns the values of flags that are not given, from those that are.
    """
    import tyro

    arguments = list(argv)
    _refuse_repeated(config_class, arguments)
    try:
        if "--config" in arguments:
            at = arguments.index("--config")
            if at + 1 >= len(arguments):
                raise InputError("it needs the path of a JSON or TOML file")
            # Flags given by hand come later and so win over the file.
            arguments = [*_file_flags(arguments[at + 1]), *arguments[:at], *arguments[at + 2 :]]
    except (OSError, ValueError) as error:
        fail(f"--config: {error}")
    except RecursionError:
        fail("--config: the file is nested too deeply; expected flags by their names")
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                config_class,
                args=arguments,
                prog=program,
                description=f"{description}\n\nAll flags can be given in a JSON or TOML file too: --config FILE",
                default=tyro.MISSING_NONPROP if defaults is None else defaults(arguments),
                config=(tyro.conf.AvoidSubcommands,),  # a preset's kind of model is the one whose flags there are
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        fail(f"{_one_line(errors.getvalue())} (see {program} --help)")
    except ValueError as error:
        fail(str(error))


def _refuse_repeated(config_class: type[Any], arguments: Sequence[str]) -> None:
    """Refuse a flag of several values that is given twice: the values of the first would be lost."""
    given = [word.partition("=")[0].replace("_", "-") for word in arguments if word.startswith("--")]
    for field in dataclasses.fields(config_class):
        flag = f"--{field.name.replace('_', '-')}"
        if "tuple[" in str(field.type) and given.count(flag) > 1:
            fail(f"{flag} is given {given.count(flag)} times; give it once, with all its values behind it: {flag} A B")


def _file_flags(path: str) -> list[str]:
    """Return the content of a config file as command-line flags."""
    from lstm_embed.base import storage
    from lstm_embed.base.settings import parse_json

    path = storage.resolve(path)
    if storage.info(path).size > _MAX_CONFIG_BYTES:
        raise InputError(f"{path} is larger than {_MAX_CONFIG_BYTES:,} bytes; expected a file of flags")
    data = storage.read_bytes(path)
    if path.endswith(".toml"):
        try:
            values: dict[str, Any] = tomllib.loads(data.decode())
        except ValueError as error:
            raise InputError(f"{path} is no TOML: {error}") from None
    else:
        values = parse_json(data, dict[str, Any], path)
    if isinstance(values.get("config"), dict):
        values = values["config"]  # a job.json beside an output
    return list(_flags(values, ""))


def _flags(values: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, value in values.items():
        flag = prefix + name.replace("_", "-")
        if isinstance(value, dict):
            yield from _flags(value, f"{flag}.")
        elif isinstance(value, bool):
            parent, _, last = flag.rpartition(".")
            yield f"--{flag}" if value else f"--{parent}{'.' if parent else ''}no-{last}"
        elif isinstance(value, list):
            yield from (f"--{flag}", *map(str, value))
        elif value is not None:
            yield f"--{flag}={value}"


def _one_line(message: str) -> str:
    """Return an error box of tyro as a line of text."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", message)
    text = re.sub(r"[─━│┃╭╮╰╯┌┐└┘]+", " ", text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"^Value error Error parsing \w+: ", "", text)
    return re.sub(r"\s*(Argument helptext|For full helptext).*$", "", text)


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line to standard error and exit."""
    for line in message.splitlines() or [""]:
        print(f"error: {printable(line, _MAX_ERROR_CHARACTERS)}", file=sys.stderr)
    raise SystemExit(code)


@contextlib.contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Turn the failures a user can read into one line and an exit code."""
    try:
        yield
    except (InputError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        fail(_plain(error))
    except LstmEmbedError as error:
        fail(str(error), code=1)
    except OSError as error:
        if error.errno in _WRONG_PATH:
            fail(_plain(error))
        fail(f"{_plain(error)} (disk or store failed; run the command again to continue)", code=1)
    except KeyboardInterrupt:
        fail("interrupted; run the same command again to continue", code=STOPPED)


def _plain(error: OSError | Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return str(error)

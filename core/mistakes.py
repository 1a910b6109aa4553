# SPDX-License-Identifier: Apache-2.0
"""What is said about mistakes on a command line: what was expected, what came, what to do.

`core.cli` asks these functions before it hands the arguments to the flag library, whose own
messages about configuration files show a traceback or lists of attempts.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import errno
import os
import pathlib
import re
import traceback
from collections.abc import Sequence

from absl import flags

EXAMPLE = "configs/rwkvjax/quickstart.py"


def config_path(argv: Sequence[str]) -> str:
    """The file that --config names ("" for none), without what follows its colon."""
    value = ""
    for number, argument in enumerate(argv):
        name, equals, rest = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config":
            value = rest if equals else "".join(argv[number + 1 : number + 2])
    head, colon, _ = value.partition(".py:")
    return head + ".py" if colon else value


def about_config_file(argv: Sequence[str]) -> str:
    """What is wrong with the file that --config names; "" when it can be tried."""
    name = config_path(argv)
    if not name:
        return ""
    path = pathlib.Path(name).expanduser()
    if path.is_file():
        if path.suffix == ".py":
            return ""
        return (
            f"{name} is no configuration: expected a Python file with get_config(), for instance"
            f" {EXAMPLE}"
        )
    return f"no configuration file {name} (looked in {os.getcwd()}). {_hint(path)}"


def _hint(path: pathlib.Path) -> str:
    """The nearest names, or where configurations lie."""
    folder = path.parent
    if path.is_dir():
        folder, known = path, sorted(p.stem for p in path.glob("*.py"))
        return f"{path} is a folder with: {', '.join(known)}"
    if not folder.is_dir():
        return (
            "Configurations lie in the checkout, not in the installed package: start from the"
            " checkout's root folder, or give the full path."
        )
    known = sorted(p.name for p in folder.glob("*.py"))
    close = difflib.get_close_matches(path.name, known, n=1, cutoff=0.6)
    guess = f"Did you mean {folder / close[0]}? " if close else ""
    return f"{guess}{folder} has: {', '.join(known) or 'no configurations'}"


def about_arguments(extra: Sequence[str]) -> str:
    """What is wrong with arguments that are no flags."""
    files = [argument for argument in extra if argument.partition(":")[0].endswith(".py")]
    hint = f": did you mean --config={files[0]}?" if files else "; flags begin with --"
    return f"unexpected arguments {list(extra)}{hint}"


def about_flags(error: BaseException, argv: Sequence[str]) -> str:
    """One line for an error that the parsing of flags raised, in the configuration or outside.

    Returns:
      What is wrong; "" for a defect of the library, which must keep its traceback.
    """
    name = config_path(argv)
    current: BaseException | None = error
    while current is not None:  # the flag library wraps what the configuration raised
        inside = _line_inside(current, name)
        if inside:
            if _deeper(current, name) and not isinstance(current, _EXPLAINED):
                return ""
            return f"{inside}: {type(current).__name__}: {_one_line(current)}"
        current = current.__cause__ or current.__context__
    if name and isinstance(error, (KeyError, AttributeError)):
        return f"no such key in the configuration: {_one_line(error)}"
    return _one_line(error) if isinstance(error, (*_EXPLAINED, flags.Error)) else ""


def about_memory(error: BaseException) -> str:
    """What to do where the memory of the host or of a device is too small; "" for other errors."""
    text = str(error)
    if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in text:
        return ""
    first = next((line for line in text.splitlines() if line.strip()), "no size given")
    return (
        f"out of memory ({first.strip()[:200]}). Needs less: a smaller batch (for training"
        " --config.train.batch_size, or --config.train.accumulate for the same batch in parts),"
        " --config.model.remat=full, --config.train.sharding=fsdp on several devices; `python -m"
        " rwkvjax.inspect` counts the memory of a model"
    )


# What the flag library says of common mistakes -> what was expected.
_PLAINER = (
    (r"flag --(\w+)=None: Flag --\1 must have a value other than None\.", r"--\1 must be given"),
    (r"invalid literal for int\(\) with base 10:", "expected an integer, got"),
    (r"could not convert string to float:", "expected a number, got"),
)


def about_file(error: OSError) -> str:
    """An error of the operating system without its number: which file, and what is wrong."""
    if str(error).startswith("[Errno") and error.filename and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror.lower()}"
    if error.errno == errno.EADDRINUSE:
        return "address already in use: another program listens there; choose another --port"
    return str(error)


def _one_line(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if text[:1] in "'\"":  # the str() of a KeyError shows its argument with quotes and escapes
        with contextlib.suppress(ValueError, SyntaxError):
            text = str(ast.literal_eval(text))
    for pattern, plain in _PLAINER:
        text = re.sub(pattern, plain, text)
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


# Errors whose text says what is wrong, wherever they are raised.
_EXPLAINED = (ValueError, OSError, KeyError, SyntaxError, ImportError)


def _deeper(error: BaseException, config: str) -> bool:
    """Whether the error was raised in a function that the configuration called."""
    wanted = os.path.realpath(os.path.expanduser(config))
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and os.path.realpath(frames[-1].filename) != wanted


def _line_inside(error: BaseException, config: str) -> str:
    """ "file, line n" if the error comes out of the configuration file."""
    if not config:
        return ""
    wanted = os.path.realpath(os.path.expanduser(config))
    if isinstance(error, SyntaxError) and error.filename:
        if os.path.realpath(error.filename) == wanted:
            return f"{config}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if os.path.realpath(f.filename) == wanted]
    return f"{config}, line {own[-1].lineno}" if own else ""

# SPDX-License-Identifier: Apache-2.0
"""The flags that every training binary shares, and the start-up around its main function."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from core import compile_cache, files, mistakes
from core import config as config_lib

# Defined once here: two binaries that each defined --config could not be imported together.
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, e.g. configs/rwkvjax/quickstart.py.", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of this run; the same command started again resumes from it."
)
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "off",
    ["off", "auto", "address"],
    "Several processes: auto reads the cluster's environment (TPU pod, Slurm, Kubernetes).",
)
_COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "Number of processes.")
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Index of this process.")
_DEBUG_NANS = flags.DEFINE_bool("debug_nans", False, "Stop at the operation that makes a NaN.")


REQUIRED = ("config", "workdir")
_EXAMPLE = f"--config={mistakes.EXAMPLE} --workdir=runs/quickstart"
_HELP = ("--help", "-help", "-h", "--helpshort", "--helpfull")


class UserError(Exception):
    """Shown to the user as one line, without a traceback."""


def run(main: Callable[[Any, str], None]) -> None:
    """Parses flags, starts jax, and calls `main(config, workdir)`.

    Errors that a user can mend end the program with a message and status 2; everything else shows
    its traceback.
    """

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            print(f"error: {mistakes.about_arguments(argv[1:])}\nTry --help.", file=sys.stderr)
            sys.exit(2)
        absl_logging.set_verbosity(absl_logging.WARNING)
        logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
        with _mistakes_end_the_program():
            _require_pictures()
            start_jax()
            main(CONFIG.value, str(WORKDIR.value))

    _end_quietly_with_the_pipe()
    app.run(guarded, flags_parser=_parse_flags)


def _require_pictures() -> None:
    """Every training binary draws its curves at the end: say so before hours of work, not after."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("pictures of the run need matplotlib: pip install 'rwkvjax[plots]'")


def by_task(tasks: Mapping[str, str]) -> Callable[[Any, str], None]:
    """The main function of a training binary whose `config.task` says what is trained.

    Args:
      tasks: kind of task -> module with `main(config, workdir)`, imported only when asked for.

    Returns:
      `main(config, workdir)`, see `run`; it raises ConfigError for another kind.
    """

    def main(config: Any, workdir: str) -> None:
        """Runs the task that the configuration names."""
        kind = config.get("task")
        if not isinstance(kind, str) or kind not in tasks:
            got = repr(kind) if isinstance(kind, str | None) else "a block of keys"
            raise config_lib.ConfigError(
                f"config.task must be one of {sorted(tasks)}, got {got}: is this configuration for"
                " another program? Its first lines show the command"
            )
        importlib.import_module(tasks[kind]).main(config, workdir)

    return main


def _end_quietly_with_the_pipe() -> None:
    """`program | head` ends the program without a traceback, as other tools do."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _parse_flags(argv: list[str]) -> list[str]:
    """Flags, with whatever is wrong with them or the configuration as one line."""
    if any(argument in _HELP for argument in argv[1:]):
        print(_help_text())
        sys.exit(0)
    return _parse(flags.FLAGS, argv, REQUIRED)


def _help_text() -> str:
    doc = sys.modules["__main__"].__doc__ or ""
    own = flags.FLAGS.module_help("core.cli")
    return (
        f"{doc}\n{own}\n\nAny value of the configuration can be given, too:"
        " --config.train.steps=1000\nWhat a configuration is for stands at its top; they lie in"
        " the folder configs/ of the checkout."
    )


def _parse(values: flags.FlagValues, argv: list[str], required: Sequence[str] = ()) -> list[str]:
    """What is left of `argv` after its flags; on a mistake, says it and ends the program."""
    problem = mistakes.about_config_file(argv[1:]) if "config" in values else ""
    try:
        if not problem:
            rest = values(argv)
            missing = [name for name in required if values[name].value is None]
            if not missing:
                values.validate_all_flags()
                return rest
            names = " and ".join(f"--{name}" for name in missing)
            problem = f"{names} must be given, for instance {_EXAMPLE}"
    except Exception as error:
        problem = mistakes.about_flags(error, argv[1:])
        if not problem:  # a defect of the library
            raise
    print(f"error: {problem}\nTry --help.", file=sys.stderr)
    sys.exit(2)


@contextlib.contextmanager
def explain() -> Iterator[None]:
    """Shows mistakes of the user in the body (values, files, missing extras) as one line.

    For the part of a program that reads what the user named; a ValueError from the mathematics
    that follows is a defect and keeps its traceback.
    """
    try:
        yield
    except ImportError as error:
        if not _names_an_extra(error):
            raise
        raise UserError(_text(error)) from error
    except (ValueError, OSError, NotImplementedError) as error:
        raise UserError(_text(error)) from error


def program(
    main: Callable[..., None], values: flags.FlagValues, doc: str, *, arguments: bool = False
) -> None:
    """Runs a binary that has its own set of flags.

    Such binaries keep their flags out of the global `flags.FLAGS`, so that several of them can be
    imported into one process (tests, notebooks).

    Args:
      main: called with the parsed flags.
      values: the binary's flags.
      doc: its docstring, shown by --help.
      arguments: accept arguments that are no flags, and call main(flags, arguments).
    """
    if "help" not in values:
        flags.DEFINE_bool("help", False, "Show this help.", flag_values=values)
    absl_logging.set_verbosity(absl_logging.WARNING)
    _end_quietly_with_the_pipe()
    if any(argument in _HELP for argument in sys.argv[1:]):
        print(f"{doc}\n{values.get_help()}")
        return
    extra = _parse(values, sys.argv)[1:]
    with _mistakes_end_the_program():
        if extra and not arguments:
            raise flags.Error(mistakes.about_arguments(extra))
        main(values, extra) if arguments else main(values)


@contextlib.contextmanager
def _mistakes_end_the_program() -> Iterator[None]:
    """Mistakes of the user end the program with one line; defects keep their traceback."""
    try:
        yield
    except flags.Error as error:
        print(f"error: {error}\nTry --help.", file=sys.stderr)
        sys.exit(2)
    except _user_errors() as error:
        _end_with(error)
    except ImportError as error:
        if not _names_an_extra(error):
            raise
        _end_with(error)
    except (MemoryError, RuntimeError) as error:
        problem = mistakes.about_memory(error)
        if not problem:
            raise
        _end_with(UserError(problem))


def _names_an_extra(error: ImportError) -> bool:
    """Whether an extra is missing; any other failing import is a defect."""
    return "pip install" in str(error)


def _end_with(error: BaseException) -> NoReturn:
    """Ends the program with one line about a mistake of the user; -v=1 shows where it arose."""
    absl_logging.debug("the mistake arose here:", exc_info=error)
    print(f"error: {_text(error)}", file=sys.stderr)
    sys.exit(2)


def _text(error: BaseException) -> str:
    return mistakes.about_file(error) if isinstance(error, OSError) else str(error)


def _user_errors() -> tuple[type[BaseException], ...]:
    checkpoint = sys.modules.get("core.checkpoint")  # not imported: it cannot have raised
    return (
        *((checkpoint.CheckpointError,) if checkpoint else ()),
        *(UserError, config_lib.ConfigError, FloatingPointError),
        *(FileNotFoundError, NotADirectoryError, PermissionError),
        *(files.DiskFullError, files.FileInUseError),
    )


def start_jax() -> None:
    """Applies the start-up flags; call before the first use of a device."""
    import jax

    from core import distributed

    distributed.initialize(
        _DISTRIBUTED.value, _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
    # Compiled programs are kept between runs: a second start skips minutes of compilation.
    jax.config.update("jax_compilation_cache_dir", str(compile_cache.folder()))
    if _DEBUG_NANS.value:
        jax.config.update("jax_debug_nans", True)

# SPDX-License-Identifier: Apache-2.0
"""Which files an input specification means, in an order that every machine agrees on.

A specification is one of

  path/to/file           one file
  path/to/folder         all text and JSONL files below it
  path/**/*.txt          a glob pattern; ** crosses folders
  stdlib:                the source of Python's own standard library, text that is always at hand
  stdlib:train, stdlib:heldout   its two parts; a file's part depends on its relative name only

Files may be compressed (.gz, .bz2, .xz). Within a specification files are ordered by their name
relative to it, byte by byte.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import os
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

FORMATS = ("auto", "text", "jsonl")
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz")
JSONL_SUFFIXES = (".jsonl", ".ndjson")
TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst", ".py")
STDLIB = "stdlib:"
STDLIB_PARTS = ("", "train", "heldout")
STDLIB_HELDOUT_FRACTION = 0.1
# Installed packages are no part of the library; tests hold files that are broken on purpose.
_STDLIB_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
_UNSUPPORTED = (".zst", ".zip", ".7z", ".tar", ".tgz", ".parquet", ".arrow")


@dataclasses.dataclass(frozen=True)
class InputFile:
    """One file with documents.

    Attributes:
      path: where it is.
      name: its name relative to the specification that named it, with "/" on every system.
      format: "text" or "jsonl".
    """

    path: Path
    name: str
    format: str


def list_inputs(specifications: Sequence[str], format: str = "auto") -> list[InputFile]:
    """All files that the specifications name, in order.

    Files without content that a folder, a pattern or the standard library brings along are left
    out; one that is named itself is an error.

    Args:
      specifications: see the module docstring.
      format: "text", "jsonl", or "auto" for deciding by the file name: .jsonl and .ndjson are
        JSONL, all others text. In a folder "auto" takes only files with a known text suffix.

    Raises:
      FileNotFoundError: a specification matches nothing.
      ValueError: an unknown format or part, an empty or unreadable kind of file, or a file that is
        named twice.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {FORMATS}, got {format!r}")
    if isinstance(specifications, str) or not specifications:
        raise ValueError(f"expected a list of input specifications, got {specifications!r}")
    files: list[InputFile] = []
    for specification in specifications:
        files += _expand(specification, format)
    seen: dict[str, str] = {}
    for file in files:
        key = os.path.realpath(file.path)
        if key in seen:
            raise ValueError(f"input file {file.path} is named twice (also as {seen[key]})")
        seen[key] = str(file.path)
    return files


def _expand(specification: str, format: str) -> list[InputFile]:
    if specification.startswith(STDLIB):
        return list_stdlib(specification[len(STDLIB) :])
    path = Path(specification).expanduser()
    if path.is_file():
        if path.stat().st_size == 0:
            raise ValueError(f"input file {path} is empty")
        return [_input_file(path, path.name, format)]
    if path.is_dir():
        found = [(_relative(file, path), file) for file in _walk(path)]
        return _discovered(specification, found, format, by_suffix=True)
    if glob.has_magic(specification):
        matches = glob.glob(os.fspath(path), recursive=True)
        found = [(PurePath(match).as_posix(), Path(match)) for match in matches]
        found = [(name, file) for name, file in found if file.is_file()]
        return _discovered(specification, found, format, by_suffix=False)
    raise FileNotFoundError(
        f"input {specification!r}: no such file, folder or pattern match. Give a path"
        ' (--config.data.train=FILE, --input=FILE), "stdlib:" for the source of Python\'s standard'
        " library, or set RWKVJAX_DATA to the folder of the data sets"
    )


def _walk(root: Path, skipped: Iterable[str] = ()) -> list[Path]:
    """Files below `root` that are not hidden, without following links to folders."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in skipped and name[0] != "."]
        found += [Path(folder, name) for name in names if name[0] != "."]
    return [file for file in found if file.is_file()]


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def _discovered(
    specification: str, found: list[tuple[str, Path]], format: str, by_suffix: bool
) -> list[InputFile]:
    accepted = {"auto": (*TEXT_SUFFIXES, *JSONL_SUFFIXES), "jsonl": JSONL_SUFFIXES}.get(format)
    files = []
    for name, path in sorted(found, key=lambda pair: os.fsencode(pair[0])):
        if by_suffix and accepted and not _plain_name(name).endswith(accepted):
            continue
        if path.stat().st_size:
            files.append(_input_file(path, name, format))
    if not files:
        wanted = f" with a suffix of {accepted}" if by_suffix and accepted else ""
        raise FileNotFoundError(
            f"input {specification!r}: no non-empty file{wanted} among {len(found)} files"
        )
    return files


def _plain_name(name: str) -> str:
    """Lower case, without the suffix of a compression."""
    name = name.lower()
    for suffix in COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _input_file(path: Path, name: str, format: str) -> InputFile:
    plain = _plain_name(name)
    if plain.endswith(_UNSUPPORTED):
        raise ValueError(
            f"input file {path}: cannot read this kind of file; expected text or JSONL, plain or "
            f"compressed as {', '.join(COMPRESSED_SUFFIXES)}"
        )
    if format == "auto":
        format = "jsonl" if plain.endswith(JSONL_SUFFIXES) else "text"
    return InputFile(path, name, format)


def list_stdlib(part: str = "") -> list[InputFile]:
    """Source files of the running Python's standard library without its tests.

    The split into "train" and "heldout" (about a tenth of the files) is by a hash of the relative
    file name, so that a file stays in its part across Python versions and machines.

    Args:
      part: "train", "heldout", or "" for both.
    """
    if part not in STDLIB_PARTS:
        raise ValueError(f"the standard library has the parts {STDLIB_PARTS}, got {part!r}")
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in _walk(root, _STDLIB_SKIPPED):
        name = _relative(path, root)
        # _sysconfigdata_*.py describes the machine that Python was built on.
        if not name.endswith(".py") or name.startswith("_sysconfigdata"):
            continue
        if not part or (part == "heldout") == is_heldout(name, STDLIB_HELDOUT_FRACTION):
            found.append((name, path))
    return _discovered(STDLIB + part, found, "text", by_suffix=False)


def is_heldout(name: str, fraction: float) -> bool:
    """Whether a document of this name is held out; true for about `fraction` of all names."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64

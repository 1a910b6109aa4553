# SPDX-License-Identifier: Apache-2.0
"""Rows of tables: CSV, TSV and JSON Lines files, plain, gzipped or in a zip, and the hub."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class DataError(ValueError):
    """A data file that is not as its format says."""


def read_text(folder: Path, name: str, encoding: str = "utf-8") -> str:
    """Text of a file of a data set.

    Args:
      folder: the data set.
      name: file name; ".gz" is unpacked, "archive.zip!member" is read from the archive. A plain
        name also finds the file with ".gz" added.

    Raises:
      FileNotFoundError: there is no such file or member.
      DataError: it is damaged, or not in `encoding`.
    """
    try:
        return _read_bytes(folder, name).decode(encoding)
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise DataError(f"{folder / name}: {error}") from error


def _read_bytes(folder: Path, name: str) -> bytes:
    outer, _, member = name.partition("!")
    path = folder / outer
    if member:
        if not path.is_file() and (folder / member).is_file():  # unpacked by the user
            return (folder / member).read_bytes()
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist (wanted {member!r} in it)")
        with zipfile.ZipFile(path) as archive:
            try:
                return archive.read(member)
            except KeyError as error:
                raise FileNotFoundError(f"{path} has no member {member!r}") from error
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            data = candidate.read_bytes()
            return gzip.decompress(data) if candidate.suffix == ".gz" else data
    raise FileNotFoundError(f"{path} does not exist")


def exists(folder: Path, name: str) -> bool:
    """Whether `read_text` would find the file."""
    try:
        _read_bytes(folder, name)
    except FileNotFoundError:
        return False
    return True


def lines(folder: Path, name: str, encoding: str = "utf-8") -> list[str]:
    """Lines of a file, without an empty last one; only line feeds end a line."""
    found = read_text(folder, name, encoding).replace("\r\n", "\n").split("\n")
    return found[:-1] if found and not found[-1] else found


def rows(folder: Path, name: str, columns: Sequence[str] = (), quoted: bool = True) -> list[Row]:
    """Rows of a table: .jsonl and .json (objects), .tsv or .csv.

    Args:
      folder, name: as in `read_text`.
      columns: names for files without a header.
      quoted: whether fields may be in quotes.
    """
    text = read_text(folder, name)
    kind = name.removesuffix(".gz").rsplit(".", 1)[-1].lower()
    if kind in ("jsonl", "json", "ndjson"):
        return list(_json_rows(text, str(folder / name)))
    if kind not in ("tsv", "csv", "txt"):
        raise DataError(f"{folder / name}: expected .csv, .tsv or .jsonl")
    return list(_csv_rows(text, str(folder / name), kind, columns, quoted))


def _json_rows(text: str, where: str) -> Iterator[Row]:
    if text.lstrip().startswith("["):
        try:
            yield from json.loads(text)
            return
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{where}: {error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise DataError(f"{where}, line {number}: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{where}, line {number}: expected an object")
            yield row


def _csv_rows(
    text: str, where: str, kind: str, columns: Sequence[str], quoted: bool
) -> Iterator[Row]:
    csv.field_size_limit(2**27)
    reader = csv.DictReader(
        io.StringIO(text, newline=""),
        fieldnames=list(columns) or None,
        delimiter="," if kind == "csv" else "\t",
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=quoted,
    )
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{where}, line {reader.line_num}: expected {reader.fieldnames}")
            yield dict(row)
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: {error}") from error


def hub_rows(name: str, split: str) -> list[Row]:
    """Rows of a data set on the Hugging Face hub ("owner/name" or "owner/name:configuration").

    Raises:
      FileNotFoundError: the package `datasets` is missing, or the hub cannot be reached.
    """
    try:
        import datasets
    except ImportError as error:
        raise FileNotFoundError(
            f"reading {name!r} from the hub needs the package 'datasets': pip install datasets"
        ) from error
    path, _, configuration = name.partition(":")
    try:
        table: Iterable[Row] = datasets.load_dataset(path, configuration or None, split=split)
    except Exception as error:  # the package raises many kinds, of its own and of its transport
        raise FileNotFoundError(f"cannot read {name!r} ({split}) from the hub: {error}") from error
    return [dict(row) for row in table]

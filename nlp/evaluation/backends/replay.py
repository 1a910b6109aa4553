# SPDX-License-Identifier: Apache-2.0
"""Stored answers as a backend: JSON Lines, CSV, or a sheet of the study's workbook layout.

A sheet is named after the file: answers.xlsx!1.Aggression. Its raw answers are replayed.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nlp.evaluation import limits, sources, structured
from nlp.evaluation.records import Item, Request, Response

WORKBOOK_COLUMNS = (
    "id", "prompt", "text", "annotation", "taken", "chatgpt_final", "chatgpt_raw", "comment",
)  # fmt: skip


class ReplayError(ValueError):
    """Stored answers that do not fit the questions; the message names the item."""


class ReplayBackend:
    """Answers from a file, one for each item; refuses missing and ambiguous ones.

    Columns of a .jsonl, .json, .csv or .tsv file: `task` (may be absent when the file is of one
    task), `item`, `annotator` (may be absent), `text` (the answer), and maybe `prompt_sha256` of
    the conversation, which must fit. FILE.xlsx!SHEET is a sheet as in `read_workbook`, of one task,
    with the answers of "chatgpt_raw".
    """

    batch_size = 64
    max_completion = 0

    def __init__(self, path: str | os.PathLike[str]):
        """Reads the file.

        Raises:
          FileNotFoundError: no such file.
          ReplayError: two answers for one question, a missing column, or no such sheet.
          ImportError: a workbook, and openpyxl is not installed.
        """
        workbook = re.fullmatch(r"(.+\.xlsx)(?:!(.*))?", str(path), re.I | re.S)
        path = Path(workbook[1] if workbook else path)
        data = path.read_bytes() if path.is_file() else None
        if data is None:
            raise FileNotFoundError(f"stored answers {path} do not exist")
        self._path = path
        rows: Sequence[Mapping[str, Any]]
        if workbook:
            rows = read_workbook(path, workbook[2] or "")[1]
        else:
            rows = sources.rows(path.parent, path.name)
        self._answers: dict[tuple[str, str, str], Mapping[str, Any]] = {}
        for number, row in enumerate(rows, 1):
            if "item" not in row or "text" not in row:
                raise ReplayError(f"{path}, row {number}: expected the columns item and text")
            key = (str(row.get("task", "")), str(row["item"]), str(row.get("annotator") or ""))
            if key in self._answers:
                raise ReplayError(f"{path}, row {number}: a second answer for {key}")
            self._answers[key] = row
        self.identity: Mapping[str, Any] = {
            "kind": "replay",
            "sha256": hashlib.sha256(data).hexdigest(),
            "per_item": True,
        }
        if workbook:
            self.identity = {**self.identity, "sheet": workbook[2]}

    async def close(self) -> None:
        self._answers.clear()

    async def answer(self, requests: Sequence[Request]) -> list[Response]:
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Response:
        keys = [
            (task, request.item, annotator)
            for task in (request.task, "")
            for annotator in dict.fromkeys((request.annotator, ""))
        ]
        found = [self._answers[key] for key in keys if key in self._answers]
        if len(found) != 1:
            problem = "no answer" if not found else f"{len(found)} answers"
            raise ReplayError(
                f"{self._path}: {problem} for task {request.task!r}, item {request.item!r}"
            )
        wanted = found[0].get("prompt_sha256")
        if wanted and wanted != prompt_sha256(request):
            raise ReplayError(
                f"{self._path}: the answer to {request.item!r} belongs to another prompt"
            )
        text = str(found[0]["text"] if found[0]["text"] is not None else "")
        return Response(text, completion_tokens=limits.estimate_tokens(text), estimated=True)


def prompt_sha256(request: Request) -> str:
    """Digest of a conversation, for checking that an answer belongs to it."""
    text = "\0".join(f"{role}\1{content}" for role, content in request.messages)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


# --- the study's workbook ------------------------------------------------------------------------


def read_workbook(
    path: str | os.PathLike[str], sheet: str, answer: str = "chatgpt_raw"
) -> tuple[list[Item], list[dict[str, str]]]:
    """Items and stored answers of one sheet of the study's spreadsheet layout.

    Args:
      path: .xlsx file with the columns `WORKBOOK_COLUMNS`.
      sheet: for instance "1.Aggression".
      answer: "chatgpt_raw" or "chatgpt_final" (after manual repair).

    Returns:
      (items with the stored prompt and text, rows for a replay file). Rows with an empty or zero
      `taken` are left out.

    Raises:
      FileNotFoundError: no file.
      ReplayError: no workbook, no such sheet (the message lists them), another layout, or an id
        twice.
    """
    try:
        import openpyxl
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError as error:
        raise ImportError("workbooks need openpyxl: pip install 'rwkvjax[nlp]'") from error
    if answer not in ("chatgpt_raw", "chatgpt_final"):
        raise ValueError(f"answer must be 'chatgpt_raw' or 'chatgpt_final', got {answer!r}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"workbook {path} does not exist")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, InvalidFileException) as error:
        raise ReplayError(f"{path} is not a workbook: {error}") from error
    try:
        if not sheet:
            raise ReplayError(f"{path}: write {path}!SHEET with one of {book.sheetnames}")
        if sheet not in book.sheetnames:
            raise ReplayError(f"{path} has no sheet {sheet!r}; it has {book.sheetnames}")
        table = list(book[sheet].iter_rows(values_only=True))
    finally:
        book.close()
    header = [str(name or "") for name in (table[0] if table else ())]
    missing = [name for name in WORKBOOK_COLUMNS[:-1] if name not in header]
    if missing:
        raise ReplayError(f"{path}, sheet {sheet!r}: columns {missing} are missing")
    items: list[Item] = []
    rows: list[dict[str, str]] = []
    for values in table[1:]:
        row = dict(zip(header, values, strict=False))
        if row["id"] is None or str(row["taken"] or "0").lower() in ("0", "false", "no"):
            continue
        identity = str(row["id"])
        fields = {"text": str(row["text"] or ""), "prompt": str(row["prompt"] or "")}
        items.append(Item(identity, fields, (stored_labels(row["annotation"]),), "", identity))
        rows.append({"item": identity, "text": str(row[answer] if row[answer] is not None else "")})
    if len({item.id for item in items}) != len(items):
        raise ReplayError(f"{path}, sheet {sheet!r}: an id occurs twice")
    return items, rows


def stored_labels(cell: Any) -> tuple[str, ...]:
    """Labels in a cell: a Python or JSON list of strings or numbers, or one bare value."""
    text = str(cell if cell is not None else "").strip()
    if not text.startswith("["):
        return (text,) if text else ()
    elements = structured.whole_list(text)
    if elements is None:
        raise ReplayError(f"expected a list of labels, got {text[:80]!r}")
    return tuple(label for label, _ in elements)

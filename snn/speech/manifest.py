# SPDX-License-Identifier: Apache-2.0
"""Manifests: one JSON object a line for each utterance of a corpus.

    {"audio": "clips/a.wav", "text": "three one", "speaker": "ann", "duration": 1.25}

`audio` (or `features`, a .npy file [T, F] of computed ones) is relative to the manifest. Optional:
`offset` (seconds into the file) and `words` ([[word, start, end], ...], seconds).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core import files

_TYPES: dict[str, tuple[type, ...]] = {
    "audio": (str,),
    "features": (str,),
    "text": (str,),
    "speaker": (str,),
    "duration": (int, float),
    "offset": (int, float),
    "words": (list,),
}
_ENDLESS = 1e9  # seconds


class ManifestError(ValueError):
    """A line that cannot be used; the message names file and line."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One utterance.

    Attributes:
      path: file of sound, or of features.
      text: transcript; may be empty (nobody speaks).
      duration: seconds.
      speaker: who speaks.
      offset: where it begins in the file, seconds.
      is_features: whether `path` holds features.
      words: (word, start, end) in seconds, if they are known.
      where: manifest and line, for messages.
    """

    path: Path
    text: str
    duration: float
    speaker: str = ""
    offset: float = 0.0
    is_features: bool = False
    words: tuple[tuple[str, float, float], ...] = ()
    where: str = ""


def parse_line(line: str, folder: Path, where: str) -> Item:
    """One line of a manifest.

    Raises:
      ManifestError: not JSON, a key that is missing, unknown or of another type, or a duration
        that is not positive.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: not JSON ({error}): {line[:80]!r}") from error
    if not isinstance(values, dict):
        raise ManifestError(f"{where}: expected an object, got {line[:80]!r}")
    for key, value in values.items():
        if key not in _TYPES:
            raise ManifestError(f"{where}: unknown key {key!r}; known: {', '.join(_TYPES)}")
        if not isinstance(value, _TYPES[key]) or isinstance(value, bool):
            raise ManifestError(f"{where}: {key} has the wrong type: {value!r}")
    if ("audio" in values) == ("features" in values):
        raise ManifestError(f"{where}: expected either audio or features, got {sorted(values)}")
    for key in ("text", "duration"):
        if key not in values:
            raise ManifestError(f"{where}: lacks {key!r}")
    # JSON of Python knows NaN and Infinity, and integers of any size.
    if not (0 < values["duration"] < _ENDLESS and 0 <= values.get("offset", 0) < _ENDLESS):
        raise ManifestError(
            f"{where}: expected duration > 0 and offset >= 0, finite, got {values['duration']!r}"
            f" and {values.get('offset', 0)!r}"
        )
    return Item(
        path=folder / (values["audio"] if "audio" in values else values["features"]),
        text=values["text"],
        duration=float(values["duration"]),
        speaker=values.get("speaker", ""),
        offset=float(values.get("offset", 0.0)),
        is_features="features" in values,
        words=_words(values.get("words", []), where),
        where=where,
    )


def _words(values: list[Any], where: str) -> tuple[tuple[str, float, float], ...]:
    try:
        return tuple((str(word), float(start), float(end)) for word, start, end in values)
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{where}: words must be [word, start, end], got {values!r}") from error


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{where}: not UTF-8 ({error.reason}): {raw[:80]!r}") from error


def read(path: str | os.PathLike[str], skip_bad: bool = False) -> tuple[list[Item], list[str]]:
    """(items, complaints about lines that were left out) of a manifest; blank lines are no lines.

    Raises:
      FileNotFoundError: no such manifest.
      ManifestError: a bad line (unless `skip_bad`), or no line at all.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no manifest {path}")
    items: list[Item] = []
    complaints: list[str] = []
    with open(path, "rb") as f:
        for number, raw in enumerate(f, 1):
            if not raw.strip():
                continue
            where = f"{path}, line {number}"
            try:
                items.append(parse_line(_decoded(raw, where), path.parent, where))
            except ManifestError as error:
                if not skip_bad:
                    raise
                complaints.append(str(error))
    if not items:
        raise ManifestError(f"{path}: no utterance" + (f"; {complaints[0]}" if complaints else ""))
    return items, complaints


def write(path: str | os.PathLike[str], rows: Iterable[dict[str, Any]]) -> None:
    """Writes a manifest atomically."""
    with files.atomic_write(path, "w") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")

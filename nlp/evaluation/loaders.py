# SPDX-License-Identifier: Apache-2.0
"""From data sets to items: the table loader, sampling rules, and the split into train and test."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core import datasets
from nlp.evaluation import sources
from nlp.evaluation.records import Item, check_unique
from nlp.evaluation.sources import DataError, Row
from nlp.evaluation.tasks import Sample, Task


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Items to ask (`test`), and others to learn from (`train`): never the same texts."""

    test: tuple[Item, ...]
    train: tuple[Item, ...] = ()


Loader = Callable[[Path, Task, Mapping[str, Any]], Corpus]
LOADERS: dict[str, Loader] = {}


def loader(name: str) -> Callable[[Loader], Loader]:
    """Registers a loader."""

    def register(function: Loader) -> Loader:
        LOADERS[name] = function
        return function

    return register


def load(task: Task, path: str = "", limit: int = 0) -> Corpus:
    """Items of a task after its sampling rule.

    Args:
      task: the task.
      path: folder of the data; by default that of `core.datasets.find_dataset`.
      limit: ask a random sample of this many items at most (data are often sorted by label, so
        the first ones would not do); 0 asks all.

    Raises:
      FileNotFoundError: the data are nowhere.
      DataError, ValueError: they are not as expected.
    """
    from nlp.evaluation import corpora  # noqa: F401  (registers its loaders)

    if task.data.loader not in LOADERS:
        raise ValueError(f"task {task.id!r}: no loader {task.data.loader!r}; {sorted(LOADERS)}")
    options = dict(task.data.options)
    folder = _folder(task, path)
    corpus = LOADERS[task.data.loader](folder, task, options)
    test = take(corpus.test, task.sample)
    check_unique(test, task.id)
    _check_gold(task, (*test, *corpus.train))
    asked = {item.text_id for item in test}
    train = tuple(item for item in corpus.train if item.text_id not in asked)
    return Corpus(tuple(few(test, limit)), train)


def few(items: Sequence[Item], limit: int) -> list[Item]:
    """A random sample of at most `limit` items in their order, always the same; 0 keeps all."""
    return take(items, Sample("random", limit)) if limit else list(items)


def _folder(task: Task, path: str) -> Path:
    if path:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"task {task.id!r}: data folder {folder} does not exist")
        return folder
    try:
        return datasets.find_dataset(task.data.dataset)
    except FileNotFoundError:
        if task.data.hub and task.data.loader == "table":
            return Path("hub:")
        raise


def _check_gold(task: Task, items: Sequence[Item]) -> None:
    if not task.labels:
        return
    known = set(task.labels)
    for item in items:
        strange = {label for unit in item.gold for label in unit} - known
        if strange:
            raise DataError(f"{task.id}/{item.id}: gold labels {strange} are not of the task")
        if task.answer in ("one", "ranked") and len(item.labels) != 1:
            raise DataError(f"{task.id}/{item.id}: expected one gold label, got {item.labels}")


# --- sampling ------------------------------------------------------------------------------------


def take(items: Sequence[Item], rule: Sample) -> list[Item]:
    """Applies a sampling rule; order of the data is kept.

    first: the first n. random: n of all. random_texts: of `texts` random texts, n judgements (0:
    all). per_annotator: at most n judgements of everybody.
    """
    rng = np.random.RandomState(rule.seed)
    if rule.rule == "first":
        return list(items[: rule.n])
    if rule.rule == "random":
        return _some(items, rule.n, rng)
    if rule.rule == "random_texts":
        texts = _some(list(dict.fromkeys(i.text_id for i in items)), rule.texts, rng)
        kept = [i for i in items if i.text_id in set(texts)]
        return _some(kept, rule.n, rng) if rule.n else kept
    if rule.rule == "per_annotator":
        by_annotator: dict[str, list[int]] = {}
        for position, item in enumerate(items):
            by_annotator.setdefault(item.annotator, []).append(position)
        chosen = {p for own in by_annotator.values() for p in _some(own, rule.n, rng)}
        return [item for position, item in enumerate(items) if position in chosen]
    return list(items)


def _some(values: Sequence[Any], n: int, rng: np.random.RandomState) -> list[Any]:
    if n >= len(values):
        return list(values)
    return [values[i] for i in sorted(rng.permutation(len(values))[:n])]


def held_out(text_id: str, share: float) -> bool:
    """Whether a text belongs to the asked part: decided by its name, stable under new texts."""
    number = int.from_bytes(hashlib.sha256(text_id.encode()).digest()[:8], "big")
    return number < share * 2.0**64


def split_by_text(items: Sequence[Item], share: float) -> Corpus:
    """Items of a `share` of the texts are asked, the others are for training."""
    test = tuple(i for i in items if held_out(i.text_id, share))
    return Corpus(test, tuple(i for i in items if not held_out(i.text_id, share)))


# --- the table loader ----------------------------------------------------------------------------


@loader("table")
def load_table(folder: Path, task: Task, options: Mapping[str, Any]) -> Corpus:
    """Items from rows, described entirely by options.

    Options:
      file, train_file: tables to ask and to learn from (names or lists of names); `hub_split`,
        `hub_train_split`: the same on the hub.
      columns: names for files without a header; quoted: whether fields may be in quotes.
      where, train_where: {column: value} that rows must have.
      fields: {slot: column}. id, text_id, annotator, group: columns.
      label: column with the label, `label_separator` splits it, `label_pattern` (a regular
        expression with one group) picks it out; label_columns: {column: label} with `threshold`
        (default 0.5); label_map: {value: label}.
      held_out: share of texts to ask when there is one file only.
    """
    test = _items(_table(folder, task, options, ""), task, options, "")
    if options.get("train_file") or options.get("hub_train_split"):
        train = _items(_table(folder, task, options, "train_"), task, options, "train-")
        return Corpus(tuple(test), tuple(train))
    if "held_out" in options:
        return split_by_text(test, float(options["held_out"]))
    return Corpus(tuple(test))


def _table(folder: Path, task: Task, options: Mapping[str, Any], part: str) -> list[Row]:
    if str(folder) == "hub:":
        rows = sources.hub_rows(task.data.hub, options.get(f"hub_{part}split", "test"))
    else:
        names = options.get(f"{part}file", "")
        names = [names] if isinstance(names, str) else list(names)
        columns, quoted = tuple(options.get("columns", ())), bool(options.get("quoted", True))
        rows = [row for name in names for row in sources.rows(folder, name, columns, quoted)]
    where = dict(options.get(f"{part}where", {}))
    return [row for row in rows if all(str(row.get(k)) == str(v) for k, v in where.items())]


def _items(rows: Sequence[Row], task: Task, options: Mapping[str, Any], prefix: str) -> list[Item]:
    fields = dict(options.get("fields", {"text": "text"}))
    items = []
    for number, row in enumerate(rows):
        try:
            texts = {slot: str(row[column]) for slot, column in fields.items()}
            gold = _row_labels(row, options)
            annotator = str(row[options["annotator"]]) if "annotator" in options else ""
            identity = str(row[options["id"]]) if "id" in options else f"{number}"
            text_id = str(row[options["text_id"]]) if "text_id" in options else ""
            group = str(row[options["group"]]) if "group" in options else ""
        except KeyError as error:
            raise DataError(f"{task.id}: row {number} lacks the column {error}") from error
        if gold is None or (not gold and task.answer not in ("many", "span")):
            continue  # a row that nobody judged
        text_id = text_id or text_identity(texts)
        items.append(Item(prefix + identity, texts, (gold,), annotator, text_id, group))
    return items


def text_identity(texts: Mapping[str, str]) -> str:
    """A name for a text, from its content."""
    content = json.dumps(dict(texts), sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:16]


def _row_labels(row: Row, options: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = dict(options.get("label_map", {}))
    if "label_columns" in options:
        threshold = float(options.get("threshold", 0.5))
        columns = dict(options["label_columns"])
        return tuple(label for c, label in columns.items() if float(row[c] or 0) >= threshold)
    value = row[options.get("label", "label")]
    values = [str(v) for v in value] if isinstance(value, list) else [str(value)]
    if separator := options.get("label_separator"):
        values = [part for v in values for part in v.split(separator)]
    if pattern := options.get("label_pattern"):
        found = [re.search(pattern, v) for v in values]
        values = [m.group(1) for m in found if m]
    values = [v.strip() for v in values if v.strip()]
    unknown = [v for v in values if names and v not in names]
    if unknown:
        raise DataError(f"label values {unknown[:5]} are not in label_map {sorted(names)[:30]}")
    return tuple(names.get(v, v) for v in values)

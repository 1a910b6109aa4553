# SPDX-License-Identifier: Apache-2.0
"""Public data sets in the schema of this package; found as `core.datasets` says.

With single annotators: convabuse (8), multipico (506), clarin_emotions (3,169), and any table by
`load_table`. As votes, shares or majorities only: davidson_hate, unhealthy_comments, goemotions,
tweeteval, pang_lee. Texts of several fields are joined by a line end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from core.datasets import find_dataset
from nlp.annotations.aggregate import TextLabels, aggregate
from nlp.annotations.schema import MISSING, AnnotationSet, DataError, Task, build
from nlp.evaluation import sources
from nlp.evaluation.loaders import text_identity

EMOTIONS = (
    "anticipation", "arousal", "joy", "sadness", "fear", "disgust", "surprise", "trust", "valence",
    "anger",
)  # fmt: skip
UNHEALTHY = (
    "antagonize", "condescending", "dismissive", "generalisation", "generalisation_unfair",
    "healthy", "hostile", "sarcastic",
)  # fmt: skip


def load(name: str, folder: str | Path = "") -> AnnotationSet:
    """A data set with single annotators.

    Args:
      name: see the module.
      folder: where it lies; "" searches.

    Raises:
      ValueError: an unknown name. FileNotFoundError: the data are absent. DataError: damaged.
    """
    if name not in _SINGLE:
        raise ValueError(f"no single annotators known for {name!r}; known: {sorted(_SINGLE)}")
    return _SINGLE[name](Path(folder) if folder else find_dataset(name))


def load_text_labels(name: str, folder: str | Path = "") -> TextLabels:
    """A data set as shares of each label; errors as `load`."""
    if name in _SINGLE:
        # ConvAbuse asks for types and targets of abusive turns only: not asked means no.
        return aggregate(load(name, folder), missing="no" if name == "convabuse" else "skip")
    if name not in _VOTES:
        known = sorted({*_SINGLE, *_VOTES})
        raise ValueError(f"unknown data set {name!r}; known: {known}")
    return _VOTES[name](Path(folder) if folder else find_dataset(name))


# --- single annotators ---------------------------------------------------------------------------


def _convabuse(folder: Path) -> AnnotationSet:
    """Abuse towards chat bots: whether, of which type, at whom, how; tasks in a hierarchy.

    Types, target and direction are only asked of abusive turns, so they are missing elsewhere. A
    turn that a person judged twice counts once, by the mode.
    """
    table = sources.rows(folder, "convabuse_annotations.csv")
    if not table:
        raise DataError(f"{folder}: no rows")
    secondary = [c for c in table[0] if c.startswith(("type.", "target.", "direction."))]
    tasks = [Task("abusive"), *(Task(c.replace(".", "_")) for c in secondary)]
    texts: dict[str, str] = {}
    rows = []
    for row in table:
        fields = {"agent": row["agent"], "text": row["user"], "conversation": row["conv_id"]}
        text_id = text_identity(fields)
        texts[text_id] = f"{row['agent']}\n{row['user']}"
        abusive = int(any(_flag(row[f"is_abuse.{level}"]) for level in ("-1", "-2", "-3")))
        others = [_flag(row[c]) if abusive else MISSING for c in secondary]
        rows.append((text_id, row["annotator_id"], [abusive, *others]))
    data = build("convabuse", tasks, texts, rows, duplicates="mode")
    not_abusive = data.labels[:, :1] == 0  # the mode of two judgements that differ
    labels = np.where(not_abusive & (np.arange(len(tasks)) > 0), MISSING, data.labels)
    return dataclasses.replace(data, labels=labels)


def _flag(text: str) -> int:
    return int(float(text or 0) > 0)


def _multipico(folder: Path) -> AnnotationSet:
    """Irony of replies; the group of a text is its language."""
    texts, groups, rows = {}, {}, []
    for row in sources.rows(folder, "multipico_dev.jsonl"):
        text_id = str(row["id"])
        texts[text_id], groups[text_id] = f"{row['post']}\n{row['reply']}", row["lang"]
        for person, label in row["annotations"].items():
            rows.append((text_id, person, [int(label)]))
    return build("multipico", [Task("ironic")], texts, rows, groups=groups)


def _clarin_emotions(folder: Path) -> AnnotationSet:
    """Ten ratings of 100 Polish texts; parts as the source assigns them. Empty rows are dropped."""
    texts, splits = {}, {}
    for row in sources.rows(folder, "texts.csv"):
        texts[row["text_id"]], splits[row["text_id"]] = row["text"], row["split"]
    scale = tuple(str(i) for i in range(5))
    signed = tuple(str(i) for i in range(-3, 4))
    tasks = [
        Task(name, signed, tuple(range(-3, 4))) if name == "valence" else Task(name, scale)
        for name in EMOTIONS
    ]
    rows = []
    for row in sources.rows(folder, "annotations.csv"):
        labels = [
            task.classes.index(str(int(float(row[task.name])))) if row[task.name] else MISSING
            for task in tasks
        ]
        rows.append((row["text_id"], row["annotator"], labels))
    return build("clarin_emotions", tasks, texts, rows, duplicates="first", splits=splits)


def load_table(
    folder: str | Path,
    file: str,
    *,
    tasks: Mapping[str, Sequence[str]],
    text: str = "text",
    text_id: str = "",
    annotator: str = "annotator",
    name: str = "table",
    unknown: str = "error",
    duplicates: str = "error",
) -> AnnotationSet:
    """Any CSV, TSV or JSON Lines file with one annotation a row.

    Args:
      folder, file: see `nlp.evaluation.sources.rows`.
      tasks: column -> spellings of its classes, in order.
      text, text_id, annotator: columns; without `text_id` equal texts are one text.
      name: of the set.
      unknown: what to do with a label that is no class: "error", or count it as "missing". An empty
        cell is always missing.
      duplicates: see `build`.

    Raises:
      DataError: a column is absent, an annotator is not named, a label is unknown, or an id stands
        for two texts.
    """
    if unknown not in ("error", "missing"):
        raise ValueError(f"unknown must be 'error' or 'missing', got {unknown!r}")
    kinds = [Task(column, tuple(classes)) for column, classes in tasks.items()]
    texts: dict[str, str] = {}
    rows = []
    for number, row in enumerate(sources.rows(Path(folder), file), 1):
        wanted = [text, annotator, *tasks, *([text_id] if text_id else [])]
        if absent := [column for column in wanted if column not in row]:
            raise DataError(f"{file}, row {number}: no column {absent[0]!r}; found {sorted(row)}")
        identity = str(row[text_id]) if text_id else text_identity({"text": str(row[text])})
        if texts.setdefault(identity, str(row[text])) != str(row[text]):
            raise DataError(f"{file}, row {number}: {identity!r} stands for another text already")
        if row[annotator] is None or not str(row[annotator]).strip():
            raise DataError(f"{file}, row {number}: nobody is named in column {annotator!r}")
        labels = [_class_of(task, row[task.name], unknown, number) for task in kinds]
        rows.append((identity, str(row[annotator]), labels))
    return build(name, kinds, texts, rows, duplicates=duplicates)


def _class_of(task: Task, cell: object, unknown: str, number: int) -> int:
    said = "" if cell is None else str(cell).strip()
    if said in task.classes:
        return task.classes.index(said)
    if said and unknown == "error":
        raise DataError(f"row {number}: {said!r} is no class of {task.name!r}: {task.classes}")
    return MISSING


# --- votes, shares, majorities -------------------------------------------------------------------


def _text_labels(
    name: str, texts: Sequence[str], labels: Sequence[str], share: np.ndarray, votes: np.ndarray
) -> TextLabels:
    """Texts numbered in order; a text that comes again is left out."""
    first = {text: i for i, text in reversed(list(enumerate(texts)))}
    kept = np.array(sorted(first.values()), int)
    return TextLabels(
        name,
        tuple(texts[i] for i in kept),
        tuple(str(i) for i in kept),
        tuple(labels),
        share[kept],
        votes[kept],
    )


def _davidson(folder: Path) -> TextLabels:
    """Votes for hate speech, offensive language, neither."""
    labels = ("hate_speech", "offensive_language", "neither")
    rows = sources.rows(folder, "labeled_data.csv")
    counts = np.array([[int(row[c]) for c in labels] for row in rows])
    votes = np.repeat(counts.sum(1, keepdims=True), len(labels), axis=1)
    return _text_labels("davidson_hate", [r["tweet"] for r in rows], labels, counts / votes, votes)


def _unhealthy(folder: Path) -> TextLabels:
    """Six attributes and two more; shares from the source's confidences in its majority labels.

    A confidence belongs to the published label: of a label 0 with confidence c the share is 1 - c.
    """
    rows = sources.rows(folder, "val.csv")
    share = np.zeros((len(rows), len(UNHEALTHY)))
    for i, row in enumerate(rows):
        for j, label in enumerate(UNHEALTHY):
            sure = float(row[f"{label}:confidence"])
            share[i, j] = sure if float(row[label]) > 0 else 1 - sure
    judged = np.array([int(float(row["_trusted_judgments"])) for row in rows])
    votes = np.repeat(judged[:, None], len(UNHEALTHY), axis=1)
    texts = [row["comment"] for row in rows]
    return _text_labels("unhealthy_comments", texts, UNHEALTHY, np.clip(share, 0, 1), votes)


def _goemotions(folder: Path) -> TextLabels:
    """28 labels that at least two raters gave; train and dev parts, in this order."""
    labels = sources.lines(folder, "labels.txt")
    texts, share = [], []
    for file in ("train.tsv", "dev.tsv"):
        for line in sources.lines(folder, file):
            text, ids, _ = line.rsplit("\t", 2)
            row = np.zeros(len(labels))
            row[[int(i) for i in ids.split(",")]] = 1
            texts.append(text)
            share.append(row)
    matrix = np.stack(share)
    return _text_labels("goemotions", texts, labels, matrix, np.ones(matrix.shape, np.int64))


def _single_label(
    name: str, texts: Sequence[str], codes: Sequence[int], labels: Sequence[str]
) -> TextLabels:
    share = np.eye(len(labels))[np.asarray(codes, int)]
    return _text_labels(name, texts, labels, share, np.ones(share.shape, np.int64))


def _tweeteval(folder: Path) -> TextLabels:
    """The emotion task, train and validation parts."""
    inside = "tweeteval_subset.zip!emotion/"
    texts: list[str] = []
    codes: list[int] = []
    for part in ("train", "val"):
        texts += sources.lines(folder, f"{inside}{part}_text.txt")
        codes += [int(line) for line in sources.lines(folder, f"{inside}{part}_labels.txt")]
    mapping = [line.split("\t") for line in sources.lines(folder, f"{inside}mapping.txt")]
    labels = [name for _, name in sorted((int(code), name) for code, name in mapping)]
    return _single_label("tweeteval", texts, codes, labels)


def _pang_lee(folder: Path) -> TextLabels:
    """Review sentences, negative or positive."""
    texts: list[str] = []
    codes: list[int] = []
    for code, ending in enumerate(("neg", "pos")):
        member = f"sentence_polarity.zip!sentence_polarity/rt-polarity.{ending}"
        found = [line.strip() for line in sources.lines(folder, member, "latin-1")]
        texts += found
        codes += [code] * len(found)
    return _single_label("pang_lee", texts, codes, ("negative", "positive"))


_SINGLE: dict[str, Callable[[Path], AnnotationSet]] = {
    "convabuse": _convabuse,
    "multipico": _multipico,
    "clarin_emotions": _clarin_emotions,
}
_VOTES: dict[str, Callable[[Path], TextLabels]] = {
    "davidson_hate": _davidson,
    "unhealthy_comments": _unhealthy,
    "goemotions": _goemotions,
    "tweeteval": _tweeteval,
    "pang_lee": _pang_lee,
}

# SPDX-License-Identifier: Apache-2.0
"""Loaders for public data sets that are not one plain table, in their own published formats."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nlp.evaluation import sources
from nlp.evaluation.loaders import Corpus, loader, split_by_text, text_identity
from nlp.evaluation.records import Item
from nlp.evaluation.sources import DataError
from nlp.evaluation.tasks import Task


def _parallel(folder: Path, stem: str) -> list[tuple[str, str]]:
    """(text, label id) of TweetEval's `<stem>_text.txt` and `<stem>_labels.txt`."""
    texts = sources.lines(folder, f"{stem}_text.txt")
    ids = [line.strip() for line in sources.lines(folder, f"{stem}_labels.txt")]
    if len(texts) != len(ids):
        raise DataError(f"{folder / stem}: {len(texts)} texts and {len(ids)} labels")
    return list(zip(texts, ids, strict=True))


@loader("tweeteval")
def tweeteval(folder: Path, task: Task, options: Mapping[str, Any]) -> Corpus:
    """TweetEval (arXiv 2010.12421). Options: name, split, topics, train_split, held_out.

    Read from a checkout's `datasets` layout or from a zip named by the option `archive`. The number
    of a label is its place in the task's labels.
    """
    archive = options.get("archive", "")
    inside = f"{archive}!" if archive and (folder / archive).is_file() else ""
    names = [f"{options['name']}/{topic}" for topic in options.get("topics", ())]

    def part(split: str) -> list[Item]:
        return [
            _tweet(task, name, split, number, text, code)
            for name in names or [options["name"]]
            for number, (text, code) in enumerate(_parallel(folder, f"{inside}{name}/{split}"))
        ]

    test = part(options.get("split", "test"))
    if "held_out" in options:
        return split_by_text(test, float(options["held_out"]))
    train = part(options["train_split"]) if "train_split" in options else []
    return Corpus(tuple(test), tuple(train))


def _tweet(task: Task, name: str, split: str, number: int, text: str, code: str) -> Item:
    if not code.isdigit() or int(code) >= len(task.labels):
        raise DataError(f"{name}/{split}, line {number + 1}: label {code!r} of {task.labels}")
    topic = name.split("/")[1] if "/" in name else ""
    fields = {"text": text} | ({"topic": topic} if topic else {})
    identity = f"{name}-{split}-{number}"
    return Item(identity, fields, ((task.labels[int(code)],),), "", text_identity(fields), topic)


@loader("wikidetox")
def wikidetox(folder: Path, task: Task, options: Mapping[str, Any]) -> Corpus:
    """WikiDetox aggression: `aggression_annotations.tsv`, `aggression_annotated_comments.tsv`.

    The task's labels are (positive, negative). Aggregated by majority, ties positive; single
    judgements if the task is personal.
    """
    comments = {
        str(int(float(row["rev_id"]))): row
        for row in sources.rows(folder, "aggression_annotated_comments.tsv", quoted=False)
    }
    judged: dict[str, list[tuple[str, float]]] = {}
    for row in sources.rows(folder, "aggression_annotations.tsv", quoted=False):
        text = str(int(float(row["rev_id"])))
        judged.setdefault(text, []).append((row["worker_id"], float(row["aggression"])))
    parts: dict[str, list[Item]] = {"train": [], "test": []}
    for text, judgements in judged.items():
        split = comments[text].get("split", "test")
        if split in parts:
            comment = comments[text]["comment"]
            comment = comment.replace("NEWLINE_TOKEN", " ").replace("TAB_TOKEN", " ").strip()
            parts[split] += _judged(task, text, {"text": comment}, judgements)
    return Corpus(tuple(parts["test"]), tuple(parts["train"]))


def _judged(
    task: Task, text_id: str, fields: Mapping[str, str], judgements: Sequence[tuple[str, float]]
) -> Iterator[Item]:
    """One item for each judge, or one for the majority (mean at least .5). Labels: (yes, no)."""
    name = lambda value: ((task.labels[0] if value >= 0.5 else task.labels[1],),)
    if task.personal:
        for annotator, value in judgements:
            yield Item(f"{text_id}-{annotator}", fields, name(value), str(annotator), text_id)
    else:
        mean = sum(value for _, value in judgements) / len(judgements)
        yield Item(text_id, fields, name(mean), "", text_id)


@loader("convabuse")
def convabuse(folder: Path, task: Task, options: Mapping[str, Any]) -> Corpus:
    """ConvAbuse (EMNLP 2021): judgements with one-hot severity. Labels: (abusive, not abusive).

    A turn that one annotator judged twice counts with the mean of both.
    """
    merged: dict[str, dict[str, list[float]]] = {}
    texts: dict[str, dict[str, str]] = {}
    for row in sources.rows(folder, options.get("file", "convabuse_annotations.csv")):
        fields = {"agent": row["agent"], "text": row["user"]}
        text_id = text_identity({**fields, "conversation": row["conv_id"]})
        severe = any(float(row[f"is_abuse.{level}"] or 0) for level in ("-1", "-2", "-3"))
        texts[text_id] = fields
        merged.setdefault(text_id, {}).setdefault(row["annotator_id"], []).append(float(severe))
    items = [
        item
        for text_id, judges in merged.items()
        for item in _judged(
            task, text_id, texts[text_id], [(a, sum(v) / len(v)) for a, v in judges.items()]
        )
    ]
    return split_by_text(items, float(options.get("held_out", 0.25)))


@loader("multipico")
def multipico(folder: Path, task: Task, options: Mapping[str, Any]) -> Corpus:
    """MultiPICo (ACL 2024) in JSON Lines: irony of replies by annotator. Labels: (yes, no)."""
    items = []
    for row in sources.rows(folder, options.get("file", "multipico_dev.jsonl")):
        if "languages" in options and row["lang"] not in options["languages"]:
            continue
        fields = {"post": row["post"], "text": row["reply"]}
        judgements = [(a, float(v)) for a, v in row["annotations"].items()]
        items += list(_judged(task, str(row["id"]), fields, judgements))
    return split_by_text(items, float(options.get("held_out", 0.25)))


@loader("reader_emotions")
def reader_emotions(folder: Path, task: Task, options: Mapping[str, Any]) -> Corpus:
    """Emotions of single readers (MIT): ratings from 0 to 4; a rating of `threshold` is a label.

    Options: language column of the texts, `columns` {label: rating column}, threshold.
    """
    texts = {
        row["text_id"]: row[options.get("text", "text")]
        for row in sources.rows(folder, "texts.csv")
    }
    columns = dict(options["columns"])
    threshold = float(options.get("threshold", 2))
    items: list[Item] = []
    seen: set[str] = set()
    by_text: dict[str, list[tuple[str, ...]]] = {}
    for row in sources.rows(folder, "annotations.csv"):
        text_id, annotator = row["text_id"], row["annotator"]
        if any(not row[c] for c in columns.values()) or f"{text_id}-{annotator}" in seen:
            continue
        seen.add(f"{text_id}-{annotator}")
        gold = tuple(label for label, c in columns.items() if float(row[c]) >= threshold)
        by_text.setdefault(text_id, []).append(gold)
        if task.personal:
            fields = {"text": texts[text_id]}
            items.append(Item(f"{text_id}-{annotator}", fields, (gold,), annotator, text_id))
    if not task.personal:
        items = [_majority(task, t, texts[t], golds) for t, golds in by_text.items()]
    return split_by_text(items, float(options.get("held_out", 0.5)))


def _majority(task: Task, text_id: str, text: str, golds: Sequence[tuple[str, ...]]) -> Item:
    gold = tuple(label for label in task.labels if sum(label in g for g in golds) * 2 >= len(golds))
    return Item(text_id, {"text": text}, (gold,), "", text_id)


@loader("pang_lee")
def pang_lee(folder: Path, task: Task, options: Mapping[str, Any]) -> Corpus:
    """Pang and Lee's one-sentence files, Latin-1. Option `files`: {label: archive!member}."""
    items = []
    for label, name in dict(options["files"]).items():
        for number, line in enumerate(sources.lines(folder, name, "latin-1")):
            fields = {"text": line.strip()}
            identity = f"{label}-{number}"
            items.append(Item(identity, fields, ((label,),), "", text_identity(fields)))
    return split_by_text(items, float(options.get("held_out", 0.25)))


@loader("squad")
def squad(folder: Path, task: Task, options: Mapping[str, Any]) -> Corpus:
    """SQuAD 1.1 or 2.0 (`{"data": [{"paragraphs": [...]}]}`). Impossible questions accept ""."""
    content = json.loads(sources.read_text(folder, options.get("file", "dev-v2.0.json")))
    items = []
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                fields = {"text": paragraph["context"], "question": question["question"]}
                answers = tuple(dict.fromkeys(a["text"] for a in question["answers"]))
                gold = answers if answers and not question.get("is_impossible") else ("",)
                identity = str(question["id"])
                items.append(
                    Item(identity, fields, (gold,), "", identity, article.get("title", ""))
                )
    return Corpus(tuple(items))


@loader("fasttext")
def fasttext(folder: Path, task: Task, options: Mapping[str, Any]) -> Corpus:
    """Lines `text __label__name` (PolEmo 2.0). Options: file, train_file, label_map."""
    names = dict(options.get("label_map", {}))

    def part(name: str) -> list[Item]:
        items = []
        for number, line in enumerate(sources.lines(folder, name)):
            text, mark, label = line.rpartition("__label__")
            if not mark or label.strip() not in names:
                raise DataError(f"{folder / name}, line {number + 1}: no known __label__")
            fields = {"text": text.strip()}
            gold = ((names[label.strip()],),)
            items.append(Item(f"{name}-{number}", fields, gold, "", text_identity(fields)))
        return items

    train = part(options["train_file"]) if "train_file" in options else []
    return Corpus(tuple(part(options["file"])), tuple(train))


@loader("sentences")
def sentences(folder: Path, task: Task, options: Mapping[str, Any]) -> Corpus:
    """Opinions in JSON Lines: {"id", "sentences": [...], "labels": [[...], ...]}.

    Opinions are cut into blocks of at most `block` (10) sentences, one request each.
    """
    block = int(options.get("block", 10))
    items = []
    for row in sources.rows(folder, options.get("file", "test.jsonl")):
        texts, gold = row["sentences"], row["labels"]
        if len(texts) != len(gold):
            raise DataError(f"{row.get('id')}: {len(texts)} sentences and {len(gold)} label lists")
        for start in range(0, len(texts), block):
            fields = {str(i + 1): t for i, t in enumerate(texts[start : start + block])}
            units = tuple(tuple(labels) for labels in gold[start : start + block])
            items.append(Item(f"{row['id']}-{start}", fields, units, "", str(row["id"])))
    return Corpus(tuple(items))


@loader("race")
def race(folder: Path, task: Task, options: Mapping[str, Any]) -> Corpus:
    """Multiple choice: {"article", "questions", "options", "answers"} in JSON files or lines."""
    items = []
    for name in sorted(p.name for p in folder.glob(options.get("files", "*.txt"))):
        for row in sources._json_rows(sources.read_text(folder, name), name):
            for n, question in enumerate(row["questions"]):
                letters = "ABCDEFGH"[: len(row["options"][n])]
                choices = tuple(zip(letters, row["options"][n], strict=True))
                fields = {"text": row["article"], "question": question}
                identity = f"{row.get('id', name)}-{n}"
                gold = ((row["answers"][n],),)
                items.append(Item(identity, fields, gold, "", identity, "", choices))
    return Corpus(tuple(items))


@loader("raganato")
def raganato(folder: Path, task: Task, options: Mapping[str, Any]) -> Corpus:
    """Word senses in the unified format of Raganato et al. (EACL 2017).

    Files: `<name>.data.xml`, `<name>.gold.key.txt`, and `senses.tsv` (lemma, part of speech, sense
    key, gloss), which holds the choices; sentences before and after a word are its context.
    """
    name = options.get("name", "semeval2007")
    glosses: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in sources.rows(folder, "senses.tsv", ("lemma", "pos", "key", "gloss"), quoted=False):
        glosses.setdefault((row["lemma"], row["pos"]), []).append((row["key"], row["gloss"]))
    keys = {
        line.split()[0]: tuple(line.split()[1:])
        for line in sources.lines(folder, f"{name}.gold.key.txt")
    }
    xml = sources.read_text(folder, f"{name}.data.xml")
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:  # entities can expand without bound
        raise DataError(f"{folder / name}.data.xml: declarations are not accepted")
    items = []
    for text in ElementTree.fromstring(xml).iter("text"):
        spoken = [" ".join(w.text or "" for w in s) for s in text]
        for place, sentence in enumerate(text):
            context = " ".join(spoken[max(0, place - 2) : place + 3])
            for word in sentence.iter("instance"):
                identity = word.attrib["id"]
                choices = tuple(glosses.get((word.attrib["lemma"], word.attrib["pos"]), ()))
                if len(choices) > 1 and identity in keys:
                    fields = {"word": word.text or "", "text": context}
                    gold = (keys[identity],)
                    items.append(Item(identity, fields, gold, "", identity, "", choices))
    return Corpus(tuple(items))

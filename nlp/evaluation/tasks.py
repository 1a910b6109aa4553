# SPDX-License-Identifier: Apache-2.0
"""Tasks as data: what is asked, of which texts, and how answers are read and scored.

The catalogue (`catalogue/*.toml`) and files of users have the same format. Loading checks a task
completely: label tables by the linter, slots of the prompt, metric names.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core import config
from nlp.evaluation import labels as labels_lib
from nlp.evaluation import metrics, parsing, prompts
from nlp.evaluation.labels import LabelSpace
from nlp.evaluation.records import Item, Request, digest

CATALOGUE = Path(__file__).parent / "catalogue"
ANSWERS = ("one", "many", "ranked", "units", "choice", "number", "span")
POLICIES = ("strict", "drop", "ignore_unknown")
RULES = ("all", "first", "random", "random_texts", "per_annotator")
SOURCES = ("", "code", "paper", "memory", "measured", "derived")


class TaskError(ValueError):
    """A task definition that cannot be used; the message names the task."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Where items come from.

    Attributes:
      loader: name of a loader, see `loaders.py`.
      dataset: folder name for `core.datasets.find_dataset`.
      hub: "owner/name" or "owner/name:configuration" on the Hugging Face hub, used when the folder
        is absent and the package `datasets` is installed.
      options: of the loader.
    """

    loader: str
    dataset: str = ""
    hub: str = ""
    options: tuple[tuple[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Sample:
    """Which items are asked: `rule` of `RULES` with its numbers."""

    rule: str = "all"
    n: int = 0
    texts: int = 0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Published:
    """Values of the study (arXiv 2302.10724), in percent; None where not known.

    Each value carries its source: "code" (the public notebooks), "paper", "derived" (arithmetic on
    those), "measured", or "memory" (recalled, not re-checked; never a fixture).
    """

    sota: float | None = None
    sota_source: str = ""
    model: float | None = None
    model_source: str = ""
    scored: int = 0
    asked: int = 0
    policy: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
      id, name, number: identifiers; `number` is the study's (0: not of the study).
      domain, language: for tables and figures.
      answer: what an answer is: "one" label, "many", "ranked" (the best `asked` of them), "units"
        (labels of each sentence), "choice" (one of the item's own choices), "number", "span".
      labels, aliases, codes: see `LabelSpace`.
      prompt: template; slots are the item's fields and {labels} {codes} {k} {choices} {sentences}.
      personal: gold belongs to single annotators.
      personal_prompt, example: template with {examples}, and of one example with {answer}.
      shots, selection: numbers of examples of the same annotator to run with, and how they are
        chosen: "random" or "controversial", see `fewshot.py`.
      oracle_k: the prompt tells the true number of labels. That leaks gold.
      asked: number of labels a ranked answer names.
      may_be_empty: an empty list of labels is an answer.
      empty_answers: spans that mean "there is no answer".
      metric, also: main metric and further ones, see `metrics.evaluate`.
      version: raise it when the meaning of the task changes.
    """

    id: str
    name: str
    domain: str
    answer: str
    prompt: str
    metric: str
    data: Data
    number: int = 0
    language: str = "en"
    labels: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    codes: tuple[tuple[str, str], ...] = ()
    personal: bool = False
    personal_prompt: str = ""
    example: str = ""
    oracle_k: bool = False
    shots: tuple[int, ...] = (0,)
    selection: str = "random"
    asked: int = 3
    empty_answers: tuple[str, ...] = ()
    may_be_empty: bool = False
    also: tuple[str, ...] = ()
    sample: Sample = Sample()
    published: Published = Published()
    version: int = 1
    note: str = ""

    def __post_init__(self) -> None:
        _check(self)

    @functools.cached_property
    def space(self) -> LabelSpace:
        """The labels answers are read with."""
        return LabelSpace(self.labels, self.aliases, self.codes)

    @property
    def layout(self) -> metrics.Layout:
        """How statistics are laid out."""
        if self.answer in ("one", "ranked"):
            return "single"
        return "multi" if self.answer in ("many", "units") else "value"

    @functools.cached_property
    def hash(self) -> str:
        """Changes with everything that decides what is asked and how it is scored."""
        skip = {"published", "note", "name", "domain"}
        return digest({k: v for k, v in config.to_dict(self).items() if k not in skip})[:16]


def _check(task: Task) -> None:
    where = f"task {task.id!r}"
    one_of = [
        ("answer", task.answer, ANSWERS),
        ("selection", task.selection, ("random", "controversial")),
        ("sample.rule", task.sample.rule, RULES),
        ("published.sota_source", task.published.sota_source, SOURCES),
        ("published.model_source", task.published.model_source, SOURCES),
        ("published.policy", task.published.policy, ("", *POLICIES)),
    ]
    for field, value, allowed in one_of:
        if value not in allowed:
            raise TaskError(f"{where}: {field} must be one of {allowed}, got {value!r}")
    if not task.id or set(task.id) - set("abcdefghijklmnopqrstuvwxyz0123456789_"):
        raise TaskError(f"{where}: an id has lower-case letters, digits and _ only")
    needs_labels = task.answer in ("one", "many", "ranked", "units")
    if needs_labels and len(task.labels) < 2:
        raise TaskError(f"{where}: answer {task.answer!r} needs two labels or more")
    labels_lib.check(LabelSpace(task.labels, task.aliases, task.codes), where)
    zero = np.zeros(metrics.width(task.layout, len(task.labels)))
    for name in (task.metric, *task.also):
        try:
            metrics.evaluate(name, zero, task.labels, task.layout)
        except ValueError as error:
            raise TaskError(f"{where}: {error}") from error
    _check_templates(task, where)


def _check_templates(task: Task, where: str) -> None:
    for name in ("prompt", "personal_prompt", "example"):
        try:
            used = prompts.slots(getattr(task, name))
        except prompts.PromptError as error:
            raise TaskError(f"{where}: {name}: {error}") from error
        if "k" in used and not task.oracle_k:
            raise TaskError(f"{where}: {name} tells the number of labels; say so with oracle_k")
        if name == "prompt" and "examples" in used:
            raise TaskError(f"{where}: {{examples}} belongs into personal_prompt")
        if name == "personal_prompt" and used and "examples" not in used:
            raise TaskError(f"{where}: personal_prompt lacks the slot {{examples}}")
        if name == "example" and used and "answer" not in used:
            raise TaskError(f"{where}: example lacks the slot {{answer}}")
    if (
        max(task.shots, default=0) > 0
        and not task.personal_prompt
        or min(task.shots, default=0) < 0
    ):
        raise TaskError(f"{where}: shots {task.shots} need a personal_prompt and must not be < 0")
    if task.personal_prompt and not (task.personal and task.example):
        raise TaskError(f"{where}: personal_prompt needs personal = true and an example template")


# --- files ---------------------------------------------------------------------------------------


def load_file(path: str | os.PathLike[str]) -> list[Task]:
    """Tasks of a TOML file: an array of tables `[[task]]` with the fields of `Task`.

    Raises:
      FileNotFoundError: no such file.
      TaskError: malformed TOML, an unknown field, or a task that fails its checks.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"task file {path} does not exist")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: {error}") from error
    entries = content.pop("task", [])
    if content or not entries or not isinstance(entries, list):
        raise TaskError(f"{path}: expected [[task]] tables only, got {sorted(content) or 'none'}")
    tasks = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}: task {entry.get('id', number)}"
        try:
            tasks.append(config.build(Task, entry, where))
        except ValueError as error:
            raise TaskError(str(error)) from error
    return tasks


@functools.cache
def _catalogue() -> tuple[Task, ...]:
    return tuple(task for path in sorted(CATALOGUE.glob("*.toml")) for task in load_file(path))


def catalogue(extra_files: Iterable[str | os.PathLike[str]] = ()) -> dict[str, Task]:
    """All tasks by id: the catalogue and those of further files.

    Raises:
      TaskError: two tasks share an id.
    """
    found: dict[str, Task] = {}
    for task in [*_catalogue(), *(t for path in extra_files for t in load_file(path))]:
        if task.id in found:
            raise TaskError(f"two tasks have the id {task.id!r}")
        found[task.id] = task
    return found


def study(tasks: Iterable[Task]) -> list[Task]:
    """The 25 tasks of the study, in its order."""
    return sorted((t for t in tasks if t.number), key=lambda t: t.number)


# --- asking and reading --------------------------------------------------------------------------


def answer_text(task: Task, labels: Sequence[str]) -> str:
    """The answer that names `labels` in the form the prompt asks for."""
    if task.answer == "number" or task.answer == "span":
        return labels[0] if labels and labels[0] else (task.empty_answers or ("",))[0]
    codes = dict(task.codes)
    spoken = [codes.get(label, label) for label in labels]
    if task.answer in ("choice", "one") and (codes or task.answer == "choice" or _bare(task)):
        return spoken[0] if spoken else ""
    if task.answer == "ranked" and codes:
        return "[" + ", ".join(spoken) + "]"
    return "[" + prompts.listed(spoken) + "]"


def _bare(task: Task) -> bool:
    return all(len(label) == 1 for label in task.labels)


def _values(task: Task, item: Item) -> dict[str, str]:
    values = {name: prompts.quote(text) for name, text in item.fields.items()}
    values |= _fixed(task)
    if task.oracle_k:
        values["k"] = str(len(item.labels))
    if task.answer == "units":
        values["sentences"] = prompts.numbered(list(item.fields.values()))
    if item.choices:
        values["choices"] = prompts.described(item.choices)
    return values


def _fixed(task: Task) -> dict[str, str]:
    return {"labels": prompts.listed(task.labels), "codes": prompts.coded(task.codes)}


def request(task: Task, item: Item, examples: Sequence[Item] = (), sample: int = 0) -> Request:
    """The request that asks for one item, as a conversation of its own.

    Args:
      task: the task.
      item: what to ask.
      examples: earlier judgements of the same annotator, for the personal prompt.
      sample: number of the drawn answer.

    Raises:
      ValueError: examples of another annotator, or for a task without a personal prompt.
      prompts.PromptError: the item lacks a field that the prompt shows.
    """
    values = _values(task, item)
    template = task.prompt
    if examples:
        if not task.personal_prompt:
            raise ValueError(f"task {task.id!r} has no personal prompt")
        if any(e.annotator != item.annotator or e.text_id == item.text_id for e in examples):
            raise ValueError(f"{task.id}/{item.id}: examples must be other texts of the annotator")
        template = task.personal_prompt
        values["examples"] = "\n".join(
            prompts.fill(task.example, _values(task, e) | {"answer": answer_text(task, e.labels)})
            for e in examples
        )
    return Request(
        task=task.id,
        item=item.id,
        annotator=item.annotator,
        messages=(("user", prompts.fill(template, values).strip()),),
        sample=sample,
        labels=_label_space(task, item).labels,
        codes=tuple(answer_text(task, [label]) for label in _label_space(task, item).labels),
        wanted=_wanted(task, item),
        prefix=prompts.shared_prefix(template.lstrip(), _fixed(task)),
    )


def _wanted(task: Task, item: Item) -> int:
    if task.answer == "ranked":
        return task.asked
    return len(item.labels) if task.oracle_k else 1


def _label_space(task: Task, item: Item) -> LabelSpace:
    if task.answer == "choice":
        return LabelSpace(tuple(key for key, _ in item.choices))
    return task.space


def parse(task: Task, item: Item, answer: str | None) -> tuple[parsing.Unit, ...]:
    """Reads an answer; one unit for each gold unit of the item."""
    if task.answer == "units":
        return parsing.parse_units(answer, task.space, len(item.gold))
    if task.answer == "number":
        return (parsing.parse_number(answer),)
    if task.answer == "span":
        return (parsing.parse_span(answer, task.empty_answers),)
    asked = task.asked if task.answer == "ranked" else None
    if task.oracle_k:
        asked = len(item.labels)
    kind: parsing.Kind = "one" if task.answer in ("one", "choice") else "many"
    if task.answer == "ranked":
        kind = "ranked"
    space = _label_space(task, item)
    return (parsing.parse_labels(answer, space, kind, asked, task.may_be_empty),)

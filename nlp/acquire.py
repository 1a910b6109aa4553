# SPDX-License-Identifier: Apache-2.0
"""Asks annotators only what a model expects to matter, round by round; or evaluates doing so.

    python -m nlp.acquire --project=p.sqlite --texts=texts.csv --tasks=offensive,funny   # once
    python -m nlp.acquire --project=p.sqlite --ask=50 --out=questions.csv
    python -m nlp.acquire --project=p.sqlite --answers=answers.csv
    python -m nlp.acquire --project=p.sqlite --status
    python -m nlp.acquire --project=p.sqlite --export=labels.csv

texts.csv has columns text and id (without id, texts are numbered); questions.csv text_id, text,
task, reason; answers.csv text_id, task, annotator, value (0 or 1). Several steps may stand in one
command; they are done in this order: texts, answers, ask, out, export, status. The state lies in
one SQLite file and every step is one transaction; --out lists whatever is still open.

    python -m nlp.acquire --config=configs/nlp/acquire_convabuse.py --workdir=runs/a

evaluates the method on a set whose answers are all known (results.json, summary.md, curves.png).
With --project, --config gives the settings of the tool (its block `tool`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from core import cli
from core import config as config_lib
from nlp.acquisition import deployment, experiment, report, store
from nlp.acquisition.project import Tool, plan_round, status

_FLAGS = flags.FlagValues()
config_flags.DEFINE_config_file("config", None, "Configuration.", _FLAGS, lock_config=True)
for _name, _help in (
    ("workdir", "Folder of an evaluation."),
    ("project", "SQLite file of an annotation project; created if it does not exist."),
    ("texts", "CSV file of texts to add."),
    ("answers", "CSV file of answers to add."),
    ("out", "CSV file for the open questions."),
    ("export", "CSV file for the shares of yes so far."),
):
    flags.DEFINE_string(_name, "", _help, flag_values=_FLAGS)
flags.DEFINE_list("tasks", [], "Names of the tasks of a new project.", flag_values=_FLAGS)
flags.DEFINE_integer(
    "ask", 0, "Decide on so many further texts.", lower_bound=0, flag_values=_FLAGS
)
flags.DEFINE_integer(
    "per_question", 1, "Answers that a question needs.", lower_bound=1, flag_values=_FLAGS
)
flags.DEFINE_bool("clean", False, "Leave out texts that make no sense.", flag_values=_FLAGS)
flags.DEFINE_bool("status", False, "Print numbers of the project.", flag_values=_FLAGS)


def main(values: flags.FlagValues) -> None:
    """Does what the flags ask for."""
    config = values.config
    with cli.explain():
        if config:
            config.keys()  # a file that could not be read shows itself at the first access
    if values.project:
        tool = Tool()
        if config:
            tool = config_lib.build(Tool, config.get("tool", {}), "config.tool")
        with cli.explain(), store.Project(values.project) as project:
            _steps(values, project, tool)
        return
    if not config or not values.workdir:
        raise flags.Error("give --project, or --config and --workdir")
    cfg = config_lib.build(experiment.Acquire, config)
    with cli.explain():
        data = experiment.load(cfg)
    Path(values.workdir).mkdir(parents=True, exist_ok=True)
    say = lambda line: print(line, file=sys.stderr, flush=True)
    say(f"{data.name}: {len(data):,} texts, {len(data.labels)} tasks, {cfg.folds} folds")
    print(report.write(experiment.run(cfg, values.workdir, say), values.workdir))


def _steps(values: flags.FlagValues, project: store.Project, tool: Tool) -> None:
    if values.tasks:
        project.add_tasks(values.tasks)
    if (values.texts or values.ask) and not project.tasks():
        raise ValueError(f"{values.project} has no tasks yet: name them, --tasks=offensive,funny")
    if values.texts:
        _add_texts(project, values.texts, values.clean)
    if values.answers:
        columns = ("text_id", "task", "annotator", "value")
        rows = store.read_rows(values.answers, columns)
        given = [(r["text_id"], r["task"], r["annotator"], _binary(r["value"])) for r in rows]
        print(f"{project.add_answers(given)} answers stored")
    if values.ask:
        print(f"{plan_round(project, tool, values.ask)} further texts decided on")
    if values.out:
        questions = project.open_questions(values.per_question)
        store.write_rows(values.out, ("text_id", "text", "task", "reason"), questions)
        print(f"{len(questions)} open questions in {values.out}")
    if values.export:
        _export(project, values.export)
    if values.status:
        print(json.dumps(status(project, tool), indent=1))


def _add_texts(project: store.Project, path: str, clean: bool) -> None:
    rows = store.read_rows(path, ("text",))
    pairs = [(row.get("id") or str(i), row["text"]) for i, row in enumerate(rows, 1)]
    if clean:
        pairs = [pairs[i] for i in deployment.clean([text for _, text in pairs])]
    print(f"{project.add_texts(pairs)} of {len(rows)} texts added")


def _binary(text: str) -> int:
    return {"0": 0, "1": 1}.get(text.strip(), -1)  # the project refuses anything else, by name


def _export(project: store.Project, path: str) -> None:
    labels = project.labels()
    rows = [
        (labels.text_ids[x], task, f"{labels.share[x, t]:.4f}", labels.votes[x, t])
        for x in range(len(labels))
        for t, task in enumerate(labels.labels)
        if labels.votes[x, t]
    ]
    store.write_rows(path, ("text_id", "task", "share", "answers"), rows)
    print(f"{len(rows)} answered pairs in {path}")


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")

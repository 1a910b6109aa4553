# SPDX-License-Identifier: Apache-2.0
"""RESULTS.md from the records of single results (benchmarks/records/*.toml).

    python -m benchmarks.report                      write RESULTS.md
    python -m benchmarks.report --check              exit status 1 where it is not what would be written
    python -m benchmarks.report --run=runs/jsb_ostl --score=test.nll --name=jsb_ostl_1 \\
        --system="Online learning and spiking cells" --result="JSB chorales, OSTL, test nats a step" \\
        --page=docs/spiking_tasks.md

The last form makes a record of a finished run: command, seed, steps and devices from its
config.json, the number from its report.json (`--score` is the path of the number, with dots; without
it the numbers that are there are listed). Records hold what was measured; the fields are those of
`Record` below. A number of a paper is only given where its source was read.
"""  # noqa: E501

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from core import cli, files
from core import config as config_lib

ROOT = Path(__file__).resolve().parents[1]
RECORDS, TARGET = ROOT / "benchmarks" / "records", ROOT / "RESULTS.md"

# In this order they stand in RESULTS.md.
SYSTEMS = (
    *("RWKV language models", "RWKV fine-tuning and inference", "Scaling"),
    *("Time-to-first-spike networks", "Online learning and spiking cells"),
    *("Spiking speech recognition", "Glimpse-based active perception", "Visual oddity task"),
    *("Personalised models", "Model-based data acquisition", "Text augmentation"),
    "Evaluation of language models",
)
STATUSES = {
    "reached": "the paper's number or claim holds here, on the same task",
    "smaller scale": "less data, a smaller network or fewer steps: not a reproduction",
    "not yet": "no result, or one that does not show what the paper claims",
    "measured": "a measurement of our own that no paper claims",
}


@dataclasses.dataclass(frozen=True)
class Ours:
    """What was measured: the number with its unit, its spread, and the seeds it comes from."""

    value: str
    seeds: tuple[int, ...]
    interval: str = ""
    runs: str = ""
    also: str = ""


@dataclasses.dataclass(frozen=True)
class Budget:
    """What it took; seconds of the longest run."""

    data: str
    hardware: str
    steps: int = 0
    seconds: float = 0.0
    size: str = ""


@dataclasses.dataclass(frozen=True)
class Paper:
    """Where the claim comes from; a headline number needs the place where it was read."""

    title: str
    arxiv: str = ""
    headline: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.arxiv and not re.fullmatch(r"\d{4}\.\d{4,5}", self.arxiv):
            raise ValueError(f"arxiv must be an id such as 2404.05892, got {self.arxiv!r}")
        if bool(self.headline) != bool(self.source):
            raise ValueError("headline and source stand together: a number needs its place")


@dataclasses.dataclass(frozen=True)
class Record:
    """One result; see the module for where its number comes from."""

    system: str
    result: str
    status: str
    page: str
    command: str
    ours: Ours
    budget: Budget
    paper: Paper | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.system not in SYSTEMS:
            raise ValueError(f"system must be one of {SYSTEMS}, got {self.system!r}")
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {tuple(STATUSES)}, got {self.status!r}")
        if (self.paper is None) != (self.status == "measured"):
            raise ValueError("status 'measured' is for results without a paper, and only for them")
        if self.status == "reached" and not (self.paper and self.paper.headline):
            raise ValueError("status 'reached' needs what was reached: paper.headline")
        if self.command == "none" and self.status != "not yet":
            raise ValueError("a result needs the command that gave it")
        if not (ROOT / self.page).is_file():
            raise ValueError(f"page {self.page!r} does not exist")


def read(path: Path) -> Record:
    """Reads one record.

    Raises:
      config_lib.ConfigError: the file is no record; the message names it and the key.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise config_lib.ConfigError(f"{path}: not a TOML file: {error}") from error
    return config_lib.build(Record, values, str(path))


def read_all(folder: Path = RECORDS) -> dict[str, Record]:
    """Name -> record of every file in a folder."""
    paths = sorted(folder.glob("*.toml"))
    strange = sorted(p.name for p in folder.iterdir() if p.suffix != ".toml")
    if strange or not paths:
        raise config_lib.ConfigError(f"{folder}: expected *.toml files only, found {strange}")
    return {path.stem: read(path) for path in paths}


# --- RESULTS.md -------------------------------------------------------------------------------


def markdown(records: Mapping[str, Record]) -> str:
    """The whole page."""
    lines = [
        "# Results",
        "",
        "Written by `python -m benchmarks.report` from `benchmarks/records/`; do not edit. Each",
        "number was measured with the command below its table; numbers of papers are given only",
        "where they were read, with the place. Speeds were taken on shared machines: take ratios.",
        "",
        *(f"- **{name}**: {meaning}" for name, meaning in STATUSES.items()),
        "",
        *_counts(records),
    ]
    for system in SYSTEMS:
        own = {name: r for name, r in records.items() if r.system == system}
        if own:
            order = sorted(own, key=lambda name: [*STATUSES].index(records[name].status))
            own = {name: records[name] for name in order}
            lines += ["", f"## {system}", "", *_section(own)]
    return "\n".join(lines) + "\n"


def _counts(records: Mapping[str, Record]) -> Iterator[str]:
    yield f"| system | {' | '.join(STATUSES)} |"
    yield "|---" * (len(STATUSES) + 1) + "|"
    for system in SYSTEMS:
        own = [r.status for r in records.values() if r.system == system]
        if own:
            counts = (str(own.count(status) or "") for status in STATUSES)
            yield f"| [{system}](#{_anchor(system)}) | {' | '.join(counts)} |"
    total = [r.status for r in records.values()]
    yield f"| all | {' | '.join(str(total.count(status)) for status in STATUSES)} |"


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9-]", "", title.lower().replace(" ", "-"))


def _section(records: Mapping[str, Record]) -> Iterator[str]:
    papers = {r.paper.title: r.paper for r in records.values() if r.paper}
    for paper in papers.values():
        yield f"{paper.title}{f' (arXiv {paper.arxiv})' if paper.arxiv else ''}."
    if papers:
        yield ""
    yield "| result | ours | the paper | status | budget |"
    yield "|---|---|---|---|---|"
    for record in records.values():
        cells = (record.result, _ours(record), _paper(record), record.status, _budget(record))
        yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
    yield ""
    for name, record in records.items():
        how = "no command yet" if record.command == "none" else f"`{record.command}`"
        yield f"- `{name}`: {how}; [{Path(record.page).stem}]({record.page})"
    notes = [r for r in records.values() if r.note]
    if notes:
        yield ""
        yield from (f"> {record.result}: {record.note}  " for record in notes)


def _ours(record: Record) -> str:
    ours = record.ours
    spread = f" {ours.interval}" if ours.interval else ""
    parts = ["no number"] if ours.value == "none" else [f"**{ours.value}**{spread}"]
    parts += [f"runs: {ours.runs}"] if ours.runs else []
    parts += [ours.also] if ours.also else []
    if ours.seeds:
        parts.append(f"{len(ours.seeds)} seeds" if len(ours.seeds) > 1 else "one seed")
    return "; ".join(parts)


def _paper(record: Record) -> str:
    if record.paper is None:
        return ""
    if not record.paper.headline:
        return "no verified number"
    return f"{record.paper.headline} ({record.paper.source})"


def _budget(record: Record) -> str:
    budget = record.budget
    parts = [budget.data]
    parts += [budget.size] if budget.size else []
    parts += [f"{budget.steps:,} step{'s' * (budget.steps > 1)}"] if budget.steps else []
    parts += [f"{budget.seconds:g} s"] if budget.seconds else []
    return ", ".join([*parts, budget.hardware])


# --- a record from a run ----------------------------------------------------------------------


def numbers(report: Any, prefix: str = "") -> dict[str, float]:
    """Path -> number of everything in a report that is one."""
    if isinstance(report, Mapping):
        found: dict[str, float] = {}
        for key, value in report.items():
            found |= numbers(value, f"{prefix}.{key}" if prefix else str(key))
        return found
    if isinstance(report, (int, float)) and not isinstance(report, bool):
        return {prefix: float(report)}
    return {}


def from_run(run: Path, values: flags.FlagValues) -> Record:
    """A record of a finished run.

    Raises:
      FileNotFoundError: config.json or report.json is missing.
      ValueError: no such number, or a flag that the record needs was left out.
    """
    parts = []
    for name in ("config.json", "report.json"):
        if not (run / name).is_file():
            raise FileNotFoundError(f"{run} has no {name}: not a finished run")
        parts.append(json.loads((run / name).read_text(encoding="utf-8")))
    info, found = parts[0], numbers(parts[1])
    if values.score not in found:
        listed = ", ".join(f"{k} {v:g}" for k, v in found.items())
        raise ValueError(f"--score={values.score!r} is not in report.json; it has {listed}")
    missing = [n for n in ("name", "system", "result", "page") if not values[n].value]
    if missing:
        raise ValueError(f"a record needs {', '.join('--' + n for n in missing)}")
    train = info["config"].get("train", {})
    program, *arguments = info["command"]
    module = ".".join(Path(program).with_suffix("").parts[-2:])
    paper = None
    if values.paper:
        paper = Paper(values.paper, values.arxiv, values.headline, values.source)
    return Record(
        system=values.system,
        result=values.result,
        status=values.status,
        page=values.page,
        command=shlex.join(["python", "-m", module, *arguments]),
        ours=Ours(f"{found[values.score]:.5g}{values.unit}", (int(train.get("seed", 0)),)),
        budget=Budget(
            data=values.data or str(info["config"].get("data", {}).get("name", "see the command")),
            hardware=f"{len(info['devices'])} x {re.sub(r'[:_].*', '', info['devices'][0])}",
            steps=int(train.get("steps", 0)),
        ),
        paper=paper,
        note=values.note,
    )


def as_toml(record: Record) -> str:
    """The text of a record's file; `read` gives the record back."""
    lines: list[str] = []
    blocks: list[tuple[str, Any]] = []
    for key, value in config_lib.to_dict(record).items():
        if isinstance(value, dict):
            blocks.append((key, value))
        elif value not in (None, ""):
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    for key, block in blocks:
        lines += ["", f"[{key}]"]
        kept = {k: v for k, v in block.items() if v not in ("", 0) or k in ("value", "seeds")}
        lines += [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in kept.items()]
    return "\n".join(lines) + "\n"


_FLAGS = flags.FlagValues()
flags.DEFINE_bool("check", False, "Only compare.", flag_values=_FLAGS)
for _name, _help in (
    ("run", "Workdir of a finished run to make a record of."),
    ("score", "Path of the number in its report.json, e.g. test.nll."),
    ("unit", "What follows the number, e.g. ' %'."),
    ("name", "Name of the new record."),
    ("system", "One of the systems of RESULTS.md."),
    ("result", "What was measured, in words."),
    ("page", "Page of the documentation, e.g. docs/ostl.md."),
    ("data", "What it was trained on."),
    ("paper", "Title of the paper whose claim this is about."),
    ("arxiv", "Its id."),
    ("headline", "Its number."),
    ("source", "Where the number was read, e.g. 'table 2'."),
    ("note", "What the reader must know."),
):
    flags.DEFINE_string(_name, "", _help, flag_values=_FLAGS)
flags.DEFINE_enum("status", "measured", list(STATUSES), "How it compares.", flag_values=_FLAGS)


def add(values: flags.FlagValues, folder: Path = RECORDS) -> Path:
    """Writes the record of a run; FileExistsError where the name is taken."""
    record = from_run(Path(values.run), values)
    if not re.fullmatch(r"[a-z0-9_]+", values.name):
        raise ValueError(f"--name takes small letters, digits and _, got {values.name!r}")
    path = folder / f"{values.name}.toml"
    if path.exists():
        raise FileExistsError(f"{path} exists already; choose another --name")
    files.write_text(path, as_toml(record))
    return path


def main(values: flags.FlagValues) -> None:
    """Does what the flags ask for."""
    with cli.explain():
        if values.run:
            print(f"written: {add(values)}")
        text = markdown(read_all())
    if values.check:
        if not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
            print("RESULTS.md is not what the records say: python -m benchmarks.report")
            sys.exit(1)
        return
    files.write_text(TARGET, text)
    print(f"written: {TARGET}")


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")

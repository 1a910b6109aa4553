# SPDX-License-Identifier: Apache-2.0
"""Tables and figures of a comparison, made from its results alone."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core import files, plots
from nlp.annotations import pseudonyms
from nlp.evaluation import stats
from nlp.personalization.scores import Spread, spread

BASES = ("baseline", "LM", "CLS", "Q")  # not personalised; the first of them in a group is its base


def write(results: Mapping[str, Any], workdir: str | Path) -> str:
    """Writes results.json, summary.md, annotators.csv, gains.png; returns the summary.

    Names of annotators become pseudonyms if the configuration names the variable of a key.

    Raises:
      ValueError: that variable is not set.
    """
    folder = Path(workdir)
    results = _with_pseudonyms(results)
    files.write_text(folder / "results.json", json.dumps(results, indent=1, sort_keys=True))
    text = summary(results)
    files.write_text(folder / "summary.md", text)
    _write_annotators(results, folder / "annotators.csv")
    _draw(results, folder / "gains.png")
    return text


def _with_pseudonyms(results: Mapping[str, Any]) -> Mapping[str, Any]:
    variable = results["config"].get("pseudonym_key_env", "")
    if not variable:
        return results
    key = os.environ.get(variable, "")
    if not key:
        raise ValueError(f"the environment variable {variable} with the pseudonyms' key is not set")
    copy = json.loads(json.dumps(results))
    for system in copy["systems"]:
        for run in system["seeds"]:
            own = run["by_annotator"]
            run["by_annotator"] = dict(zip(pseudonyms(list(own), key), own.values(), strict=True))
    return copy


def spread_of(system: Mapping[str, Any], name: str) -> Spread:
    """Mean and interval of one score over the seeds of a system."""
    return spread([run[name] for run in system["seeds"]])


def base_of(system: Mapping[str, Any], systems: Sequence[Mapping[str, Any]]) -> Any:
    """The system without personalisation that a system is compared with, or None."""
    same = {s["name"]: s for s in systems if s["group"] == system["group"]}
    method = system["name"].split("@")[0].split("-")[0]
    for name in (method, *BASES):
        if name in same and name in BASES:
            return None if same[name] is system else same[name]
    return None


def gains(system: Mapping[str, Any], base: Mapping[str, Any], name: str) -> tuple[Spread, float]:
    """(paired difference over seeds, normalised gain of the means in percent) of a score."""
    pairs = zip(system["seeds"], base["seeds"], strict=True)
    difference = spread([own[name] - other[name] for own, other in pairs])
    means = [100 * spread_of(s, name).mean for s in (system, base)]
    return difference, stats.gain(means[0], means[1])[1]


def summary(results: Mapping[str, Any]) -> str:
    """Markdown: the data, and one row for each system."""
    about, systems = results["data"], results["systems"]
    seeds = len(systems[0]["seeds"])
    lines = [
        f"# {about['name']}: {', '.join(about['tasks'][:6])}",
        "",
        f"{about['annotations']:,} annotations of {about['texts']:,} texts by"
        f" {about['annotators']:,} annotators; Krippendorff's alpha {about['alpha']}.",
        f"Macro-F1 in percent, mean and 95 % t interval over {seeds} seeds (each with its own test"
        " fold); gains over the system without personalisation are paired.",
        "",
        "| text | model | pooled | per annotator | gain pooled | gain per annotator"
        " | normalised | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for system in systems:
        base = base_of(system, systems)
        cells = [str(spread_of(system, name)) for name in ("pooled", "personal")]
        if base is None:
            cells += ["", "", ""]
        else:
            both = [gains(system, base, name) for name in ("pooled", "personal")]
            cells += [_signed(difference) for difference, _ in both]
            cells.append(" / ".join(f"{normalised:+.1f}" for _, normalised in both))
        seconds = np.mean([run["seconds"] for run in system["seeds"]])
        lines.append(
            f"| {system['group']} | {system['name']} | {' | '.join(cells)} | {seconds:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _signed(value: Spread) -> str:
    half = "" if math.isinf(value.half) else f" ± {100 * value.half:.2f}"
    return f"{100 * value.mean:+.2f}{half}"


def _write_annotators(results: Mapping[str, Any], path: Path) -> None:
    """One row for each annotator: mean macro-F1 over the seeds in which they are tested."""
    table: dict[str, dict[str, list[float]]] = {}
    columns = []
    for system in results["systems"]:
        column = f"{system['group']} / {system['name']}"
        columns.append(column)
        for run in system["seeds"]:
            for person, value in run["by_annotator"].items():
                table.setdefault(person, {}).setdefault(column, []).append(value)
    with files.atomic_write(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["annotator", *columns])
        for person in sorted(table):
            cells = [table[person].get(c) for c in columns]
            writer.writerow([person, *(f"{np.mean(c):.4f}" if c else "" for c in cells)])


def _draw(results: Mapping[str, Any], path: Path) -> None:
    """Pooled against per-annotator macro-F1, one point with intervals for each system."""
    plt = plots.pyplot()
    systems = results["systems"]
    figure, axes = plt.subplots(figsize=(7.5, 0.6 + 0.32 * len(systems)), layout="constrained")
    places = np.arange(len(systems))
    for name, colour, shift in (("pooled", "tab:blue", -0.12), ("personal", "tab:orange", 0.12)):
        found = [spread_of(system, name) for system in systems]
        half = [0.0 if math.isinf(s.half) else 100 * s.half for s in found]
        label = "pooled" if name == "pooled" else "mean over annotators"
        axes.errorbar(
            [100 * s.mean for s in found], places + shift, xerr=half, fmt="o", color=colour,
            label=label, markersize=4, capsize=2,
        )  # fmt: skip
    axes.set_yticks(places, [f"{s['group']} / {s['name']}" for s in systems], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="macro-F1 (%)", title=results["data"]["name"])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    plots.save_figure(figure, path)

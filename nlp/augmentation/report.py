# SPDX-License-Identifier: Apache-2.0
"""Tables and the figure of an augmentation experiment, made from its results alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from core import files, plots
from nlp.augmentation import training


def write(results: dict[str, Any], workdir: str | Path) -> str:
    """Writes results.json, summary.md, gains.png and latency.png; returns the summary."""
    folder = Path(workdir)
    files.write_text(folder / "results.json", json.dumps(results, indent=1, sort_keys=True))
    text = summary(results)
    files.write_text(folder / "summary.md", text)
    _draw_gains(results, folder / "gains.png")
    _draw(results, folder / "latency.png")
    return text


def students(results: dict[str, Any]) -> list[str]:
    """Names in order."""
    return list(dict.fromkeys(row["student"] for row in results["table"]))


def summary(results: dict[str, Any]) -> str:
    """Markdown: how many texts were made and kept, and gains of every combination."""
    cfg = results["config"]
    lines = [
        f"# Augmentation: {cfg['data']}",
        "",
        f"Generator: {results['generator']}.",
        f"{cfg['train']} training, {cfg['validation']} validation, {cfg['test']} test texts;"
        f" {len(results['labels'])} classes; macro-F1 in percent with 95 % t intervals over"
        f" {cfg['training']['seeds']} seeds.",
        "",
        "| kind | made | kept | refused because of |",
        "|---|---|---|---|",
    ]
    for kind, made in results["made"].items():
        why = ", ".join(f"{k} {v}" for k, v in sorted(results["refused"].get(kind, {}).items()))
        lines.append(f"| {kind} | {made} | {results['kept'].get(kind, 0)} | {why} |")
    for student in students(results):
        found = training.gains(results["table"], student)
        best = training.best_by_validation(results["table"], student)
        lines += ["", f"**{student}**; best by validation: {best}", "",
                  "| texts | macro-F1 | gain, points | gain, normalised |",
                  "|---|---|---|---|"]  # fmt: skip
        for name, gain in found.items():
            half = "" if math.isinf(gain.points.half) else f" ± {gain.points.half:.2f}"
            cells = f"{gain.points.mean:+.2f}{half} | {gain.normalised:+.2f}"
            lines.append(f"| {name} | {gain.f1} | {cells if name != 'original' else ' | '} |")
    return "\n".join(lines) + "\n"


def _draw_gains(results: dict[str, Any], path: Path) -> None:
    """Macro-F1 of every combination less that of the original texts, in points."""
    plt = plots.pyplot()
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    names = students(results)
    for number, student in enumerate(names):
        found = training.gains(results["table"], student)
        base = 100 * found.pop("original").f1.mean
        halves = [math.nan if math.isinf(g.points.half) else g.points.half for g in found.values()]
        axes.barh(
            [row + 0.8 * (number + 0.5) / len(names) - 0.4 for row in range(len(found))],
            [gain.points.mean for gain in found.values()],
            height=0.8 / len(names),
            xerr=halves,
            capsize=2,
            label=f"{student}; original texts {base:.1f}",
        )
        axes.set_yticks(range(len(found)), list(found))
    axes.axvline(0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set(xlabel="gain over the original texts (points of test macro-F1)")
    axes.grid(alpha=0.3, axis="x")
    axes.legend(fontsize=8)
    plots.save_figure(figure, path)


def _draw(results: dict[str, Any], path: Path) -> None:
    """Time to encode a text against macro-F1: original texts, and the best by validation."""
    plt = plots.pyplot()
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for student in students(results):
        found = training.gains(results["table"], student)
        best = training.best_by_validation(results["table"], student)
        rows = (r for r in results["table"] if r["student"] == student)
        latency = max(next(rows)["latency_ms"], 1e-3)
        for name, marker in (("original", "o"), (best, "*")):
            axes.errorbar(
                latency, 100 * found[name].f1.mean, yerr=100 * found[name].f1.half, fmt=marker,
                capsize=2, label=f"{student}, {name}",
            )  # fmt: skip
    axes.set(xscale="log", xlabel="CPU time to encode a text (ms)", ylabel="test macro-F1 (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    plots.save_figure(figure, path)

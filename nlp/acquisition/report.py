# SPDX-License-Identifier: Apache-2.0
"""Tables and figures of an acquisition experiment, made from its results alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from core import files, plots
from nlp.acquisition.experiment import PAPER
from nlp.acquisition.simulation import area_under
from nlp.personalization.scores import spread


def write(results: dict[str, Any], workdir: str | Path) -> str:
    """Writes results.json, summary.md and figures; returns the summary."""
    folder = Path(workdir)
    files.write_text(folder / "results.json", json.dumps(results, indent=1, sort_keys=True))
    text = summary(results)
    files.write_text(folder / "summary.md", text)
    _draw(results, folder / "curves.png")
    if "simulation" in results:
        _draw_simulation(results, folder / "simulation.png")
    return text


def at_rate(results: dict[str, Any], policy: str, rate: float = PAPER) -> dict[str, float]:
    """The point of a policy's curve at a share of removed annotations."""
    return next(p for p in results["curves"][policy] if abs(p["removed"] - rate) < 1e-9)


def summary(results: dict[str, Any]) -> str:
    """Markdown tables."""
    data = results["data"]
    lines = [
        f"# Acquisition: {data['name']}",
        "",
        f"{data['texts']:,} texts, {len(data['labels'])} tasks, share of relevant pairs"
        f" {data['pi']:.4f}; {data['distinct_predicted']} distinct predicted task vectors against"
        f" {data['distinct_truth']} true ones.",
        "",
        f'At {PAPER:.0%} of annotations removed (the paper\'s figure, with "negligible loss"):',
        "",
        "| policy | positives kept | AER | AAL | MLRAL |",
        "|---|---|---|---|---|",
    ]
    for policy in results["curves"]:
        p = at_rate(results, policy)
        lines.append(
            f"| {policy} | {100 * p['kept']:.1f} ± {100 * p['half']:.1f} | {p['aer']:.3f} |"
            f" {p['aal']:.3f} | {p['mlral']:.3f} |"
        )
    lines += ["", "Asked iff the probability is at least 0.5, mean ± deviation over folds:", "",
              "| models | F1 (two-class) | AER | AAL | MLRAL | removed |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    table = dict(results["cut_half"])
    table |= {f"with defect {k}": v for k, v in results.get("reproduced", {}).items()}
    for name, row in table.items():
        cells = [
            f"{row[k][0]:.3f}±{row[k][1]:.3f}" for k in ("f1", "aer", "aal", "mlral", "removed")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if results["thetas"]:
        lines += ["", "| θ | relevant pairs | F1 positive | F1 two-class | kept at 40 % removed |",
                  "|---|---|---|---|---|"]  # fmt: skip
        for r in results["thetas"]:
            lines.append(
                f"| {r['theta']} | {r['pi']:.3f} | {r['f1_positive']:.3f} | {r['f1']:.3f} |"
                f" {100 * r['kept']:.1f} |"
            )
    if results["kept_quality"]:
        kept = results["kept_quality"]
        lines += ["", "Two-class F1 of a model that learns only what was asked:", "",
                  f"| policy | {' | '.join(f'{r:.0%}' for r in kept['rates'])} |",
                  "|---" * (len(kept["rates"]) + 1) + "|"]  # fmt: skip
        for name, values in kept["f1"].items():
            lines.append(f"| {name} | {' | '.join(f'{v:.3f}' for v in values)} |")
    lines += ["", "| folds learned | texts | F1 two-class | AER | AAL |", "|---|---|---|---|---|"]
    for r in results["incremental"]:
        lines.append(
            f"| {r['folds']} | {r['texts']:.0f} | {r['f1']:.3f} | {r['aer']:.3f} | {r['aal']:.3f} |"
        )
    return "\n".join(lines + _simulation_lines(results)) + "\n"


def _simulation_lines(results: dict[str, Any]) -> list[str]:
    if "simulation" not in results:
        return []
    table = results["simulation"]
    last = max(row["annotations"] for row in table)
    lines = ["", f"Active learning, mean over rounds, and after {last} annotations:", "",
             "| selector | per annotator, mean over rounds | at the end | pooled at the end |"
             " positives found |", "|---|---|---|---|---|"]  # fmt: skip
    for name in dict.fromkeys(row["selector"] for row in table):
        end = [r for r in table if r["selector"] == name and r["annotations"] == last]
        mean = lambda key, rows: np.mean([r[key] for r in rows])
        lines.append(
            f"| {name} | {spread(area_under(table, name))} | {100 * mean('personal', end):.2f} |"
            f" {100 * mean('pooled', end):.2f} | {mean('positives', end):.0f} |"
        )
    return lines


def _draw(results: dict[str, Any], path: Path) -> None:
    plt = plots.pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, points in results["curves"].items():
        x = [100 * p["removed"] for p in points]
        left.plot(x, [100 * p["kept"] for p in points], label=name)
        right.plot([100 * p["aal"] for p in points], [100 * p["aer"] for p in points], label=name)
    left.axvline(100 * PAPER, color="gray", linestyle=":", label="the paper's share")
    left.set(xlabel="annotations removed (%)", ylabel="positives kept (%)")
    right.set(xlabel="AAL (%): relevant pairs lost", ylabel="AER (%): questions saved")
    figure.suptitle(results["data"]["name"])
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    plots.save_figure(figure, path)


def _draw_simulation(results: dict[str, Any], path: Path) -> None:
    plt = plots.pyplot()
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    table = results["simulation"]
    for name in dict.fromkeys(row["selector"] for row in table):
        own = [r for r in table if r["selector"] == name]
        x = sorted({r["annotations"] for r in own})
        y = [100 * np.mean([r["personal"] for r in own if r["annotations"] == n]) for n in x]
        axes.plot(x, y, marker="o", markersize=3, label=name)
    axes.set(xlabel="annotations", ylabel="macro-F1 per annotator (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    plots.save_figure(figure, path)

# SPDX-License-Identifier: Apache-2.0
"""Figures of a report, from results.json only. Needs matplotlib (extra `plots`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core import plots
from nlp.evaluation import stats

Results = Mapping[str, Any]
_COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB", "#000000")


def models(results: Results) -> list[str]:
    """Names of the evaluated models."""
    return [m["name"] for m in results["models"]]


def write_all(results: Results, folder: Path) -> list[tuple[str, str]]:
    """Draws every figure the results allow: [(file name, caption)]."""
    folder.mkdir(parents=True, exist_ok=True)
    done = []
    makers: list[tuple[str, str, Callable[[Results], Any]]] = [
        ("scores.png", "Main metric of every task with 95 % intervals; baselines in grey.", scores),
        ("loss.png", "Loss of the models against the published state of the art.", losses),
        ("difficulty.png", "Loss against difficulty (100 - SOTA), with a linear fit.", difficulty),
        ("bias.png", "How often each label is said, relative to how often it is right.", bias),
        ("gain.png", "Gain from personal examples, pooled and per annotator.", gains),
        ("shapes.png", "How answers could be read.", shapes),
        ("cost.png", "Tokens and money for each task.", cost),
    ]  # fmt: skip
    for name, caption, maker in makers:
        figure = maker(results)
        if figure is not None:
            plots.save_figure(figure, folder / name)
            done.append((name, caption))
    for entry in results["tasks"]:
        figure = confusion(results, entry)
        if figure is not None:
            name = f"confusion_{entry['id'].replace('@', '_')}.png"
            plots.save_figure(figure, folder / name)
            done.append((name, f"{entry['name']}: confusion matrices (rows gold, share of a row)."))
    return done


def _axes(width: float, height: float) -> tuple[Any, Any]:
    return plots.pyplot().subplots(figsize=(width, height), layout="constrained")


def scores(results: Results) -> Any:
    """Horizontal bars of the main metric."""
    entries, names = results["tasks"], models(results)
    figure, axes = _axes(9, 1.6 + 0.42 * len(entries) * max(1, len(names)) ** 0.6)
    places = np.arange(len(entries))[::-1]
    height = 0.8 / max(len(names), 1)
    for i, name in enumerate(names):
        values = [e["systems"][name]["metrics"][e["metric"]] for e in entries]
        middle = 100 * np.array([v["value"] for v in values])
        error = [100 * np.abs([v[side] - v["value"] for v in values]) for side in ("low", "high")]
        axes.barh(places + 0.4 - height * (i + 0.5), middle, height * 0.9, xerr=error, label=name,
                  color=_COLOURS[i % len(_COLOURS)], error_kw={"lw": 0.8})  # fmt: skip
    for kind, marker in (("majority", "|"), ("tf-idf", "D"), ("random", "x")):
        found = [
            (p, e["systems"][kind])
            for p, e in zip(places, entries, strict=True)
            if kind in e["systems"]
        ]
        if found:
            x = [100 * s["metrics"][e["metric"]]["value"] for (p, s), e in zip(
                found, [e for e in entries if kind in e["systems"]], strict=True)]  # fmt: skip
            axes.plot(x, [p for p, _ in found], marker, color="0.35", ms=6, label=kind)
    axes.set_yticks(places, [f"{e['name']} ({e['metric']})" for e in entries], fontsize=8)
    axes.set(xlabel="%", xlim=(0, 100), ylim=(-0.7, len(entries) - 0.3))
    axes.grid(axis="x", alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper")
    return figure


def _with_sota(results: Results) -> list[Mapping[str, Any]]:
    return [e for e in results["tasks"] if e["published"]["sota"]]


def task_loss(entry: Mapping[str, Any], name: str) -> float:
    """100 (SOTA - model) / SOTA of a model on a task, in percent."""
    value = 100 * entry["systems"][name]["metrics"][entry["metric"]]["value"]
    return stats.loss(entry["published"]["sota"], value)


def losses(results: Results) -> Any:
    """Loss by task, ordered by size, with the study's model for comparison."""
    entries, names = _with_sota(results), models(results)
    if not entries:
        return None
    entries = sorted(entries, key=lambda e: task_loss(e, names[0]))
    figure, axes = _axes(max(6, 1.2 + 0.6 * len(entries)), 4.5)
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        values = [task_loss(e, name) for e in entries]
        axes.bar(np.arange(len(entries)) - 0.4 + width * (i + 0.5), values, width * 0.9, label=name,
                 color=_COLOURS[i % len(_COLOURS)])  # fmt: skip
    study = [(i, e["published"]) for i, e in enumerate(entries) if e["published"]["model"]]
    if study:
        axes.plot([i for i, _ in study], [stats.loss(p["sota"], p["model"]) for _, p in study],
                  "_", color="k", ms=22, mew=2, label="ChatGPT in the study")  # fmt: skip
    axes.set_xticks(
        range(len(entries)), [e["name"] for e in entries], rotation=45, ha="right", fontsize=8
    )
    axes.set_ylabel("loss against SOTA (%)")
    axes.axhline(0, color="0.4", lw=0.8)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float] | None:
    """Slope, intercept and R² of the least-squares line; None for fewer than three points."""
    if len(x) < 3 or len(set(x)) < 2:
        return None
    slope, intercept = np.polyfit(x, y, 1)
    spread = float(np.var(y))
    r2 = (
        1 - float(np.var(np.asarray(y) - slope * np.asarray(x) - intercept)) / spread
        if spread
        else 0.0
    )
    return float(slope), float(intercept), r2


def difficulty(results: Results) -> Any:
    """Loss of the first model against difficulty, coloured by domain, as in the study."""
    entries, names = _with_sota(results), models(results)
    if not entries:
        return None
    figure, axes = _axes(7.5, 5)
    domains = sorted({e["domain"] for e in entries})
    for i, domain in enumerate(domains):
        own = [e for e in entries if e["domain"] == domain]
        x = [100 - e["published"]["sota"] for e in own]
        axes.scatter(x, [task_loss(e, names[0]) for e in own], label=domain, s=36,
                     color=_COLOURS[i % len(_COLOURS)])  # fmt: skip
        for e, place in zip(own, x, strict=True):
            axes.annotate(e["name"], (place, task_loss(e, names[0])), xytext=(4, 4),
                          textcoords="offset points", fontsize=7)  # fmt: skip
    x = [100 - e["published"]["sota"] for e in entries]
    line = fit(x, [task_loss(e, names[0]) for e in entries])
    if line:
        ends = np.array([min(x), max(x)])
        axes.plot(ends, line[0] * ends + line[1], "--", color="0.4",
                  label=f"{line[0]:.2f} x + {line[1]:.1f}, R² {line[2]:.2f}")  # fmt: skip
    axes.margins(x=0.15, y=0.12)
    axes.set(xlabel="difficulty, 100 - SOTA (%)", ylabel=f"loss of {names[0]} (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def confusion(results: Results, entry: Mapping[str, Any]) -> Any:
    """Confusion matrices of the models on one task, with the column "no answer"."""
    names = [n for n in models(results) if "confusion" in entry["systems"][n]]
    labels = entry["labels"]
    if not names or len(labels) > 20:
        return None
    cell = 0.38 if len(labels) > 8 else 0.7
    size = cell * len(labels) + 2.0
    plt = plots.pyplot()
    figure, grid = plt.subplots(
        1, len(names), figsize=(size * len(names) + 0.6, size), squeeze=False, layout="constrained"
    )
    for axes, name in zip(grid[0], names, strict=True):
        counts = np.array(entry["systems"][name]["confusion"], float)
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(
            range(len(labels) + 1),
            [*_short(labels), "no answer"],
            rotation=60,
            ha="right",
            fontsize=7,
        )
        axes.set_yticks(range(len(labels)), _short(labels), fontsize=7)
        axes.set(title=name, xlabel="said", ylabel="gold")
        for (i, j), count in np.ndenumerate(counts):
            if len(labels) <= 8:
                axes.text(j, i, f"{int(count)}", ha="center", va="center", fontsize=7,
                          color="white" if share[i, j] > 0.6 else "black")  # fmt: skip
    return figure


def _short(labels: Sequence[str]) -> list[str]:
    """Labels that every font can show: emoji become their code points."""
    return [
        label if label.isascii() or any(c.isalpha() for c in label)
        else " ".join(f"U+{ord(c):X}" for c in label)
        for label in labels
    ]  # fmt: skip


def bias(results: Results) -> Any:
    """Said over gold for each label: above 1 a label is over-used."""
    entries = [e for e in results["tasks"] if 2 <= len(e["labels"]) <= 12]
    names = models(results)
    rows = [
        (f"{e['name']}: {c['label']}", [
            _ratio(next(k for k in e["systems"][n]["classes"] if k["label"] == c["label"]))
            for n in names
        ])
        for e in entries
        for c in e["systems"][names[0]].get("classes", ())
        if c["gold"]
    ]  # fmt: skip
    if not rows:
        return None
    figure, axes = _axes(8, 1.4 + 0.2 * len(rows))
    places = np.arange(len(rows))[::-1]
    for i, name in enumerate(names):
        values = np.clip([ratios[i] for _, ratios in rows], 1 / 32, 32)
        axes.plot(values, places, "o", ms=4, label=name, color=_COLOURS[i % len(_COLOURS)])
    axes.set_xscale("log", base=2)
    axes.axvline(1, color="0.3", lw=1)
    axes.set_yticks(places, [label for label, _ in rows], fontsize=6)
    axes.set(xlabel="said / gold (clipped to 1/32 .. 32)", xlim=(1 / 40, 40), ylim=(-1, len(rows)))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _ratio(row: Mapping[str, float]) -> float:
    return row["predicted"] / row["gold"] if row["gold"] else 0.0


def gains(results: Results) -> Any:
    """Personalisation gain against the number of examples."""
    found = [g for g in results["gains"] if g.get("n")]
    if not found:
        return None
    plt = plots.pyplot()
    figure, grid = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    lines = sorted({(g["task"], g["model"]) for g in found})
    for axes, kind in zip(grid, ("pooled", "per_annotator"), strict=True):
        for i, (task, model) in enumerate(lines):
            own = [g for g in found if (g["task"], g["model"]) == (task, model)]
            x = [g["shots"] + 0.06 * (i - len(lines) / 2) for g in own]
            y = np.array([g[kind]["points"] for g in own])
            error = np.abs([[g[kind]["low"], g[kind]["high"]] for g in own] - y[:, None]).T
            axes.errorbar(x, y, error, fmt="o-", ms=4, lw=1, capsize=2, label=f"{task}, {model}",
                          color=_COLOURS[i % len(_COLOURS)])  # fmt: skip
        axes.axhline(0, color="0.4", lw=0.8)
        axes.set(title=kind.replace("_", " "), xlabel="examples of the annotator")
        axes.set_xticks(sorted({g["shots"] for g in found}))
        axes.grid(alpha=0.3)
    grid[0].set_ylabel("gain over no examples (percentage points)")
    handles, names = grid[1].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=7, loc="outside right upper")
    return figure


_GOOD = {"ok": "#228833", "repaired": "#66BB77", "near_miss": "#CCBB44", "partial": "#EEDD88"}


def shapes(results: Results) -> Any:
    """Shares of answers by how they could be read."""
    rows = [
        (f"{e['name']} - {n}" if len(models(results)) > 1 else e["name"], e["systems"][n])
        for e in results["tasks"]
        for n in models(results)
    ]
    kinds = list(dict.fromkeys(s for _, r in rows for s in r["statuses"]))
    if not kinds:
        return None
    bad = [k for k in kinds if k not in _GOOD]
    reds = dict(
        zip(bad, ("#EE6677", "#AA3377", "#882255", "#994455", "#BBBBBB", "#555555"), strict=False)
    )
    order = [k for k in _GOOD if k in kinds] + bad
    figure, axes = _axes(9, 1.4 + 0.3 * len(rows))
    places = np.arange(len(rows))[::-1]
    left = np.zeros(len(rows))
    for kind in order:
        share = np.array([100 * r["statuses"].get(kind, 0) / max(1, r["asked"]) for _, r in rows])
        axes.barh(places, share, 0.7, left=left, label=kind.replace("_", " "),
                  color={**_GOOD, **reds}[kind])  # fmt: skip
        left += share
    rest = {"color": "white", "edgecolor": "0.6", "hatch": "//", "lw": 0.5}
    axes.barh(places, 100 - left, 0.7, left=left, label="not answered", **rest)
    axes.set_yticks(places, [name for name, _ in rows], fontsize=7)
    axes.set(xlabel="% of questions", xlim=(0, 100), ylim=(-0.7, len(rows) - 0.3))
    figure.legend(fontsize=7, loc="outside right upper")
    return figure


def cost(results: Results) -> Any:
    """Tokens of each task, prompt and answer."""
    names = models(results)
    rows = [(e["name"], e["systems"][n]["usage"]) for e in results["tasks"] for n in names[:1]]
    figure, axes = _axes(8, 1.4 + 0.3 * len(rows))
    places = np.arange(len(rows))[::-1]
    prompt = np.array([u["prompt_tokens"] for _, u in rows])
    said = np.array([u["completion_tokens"] for _, u in rows])
    if not (prompt + said).any():
        return None
    axes.barh(places, prompt, 0.7, label="prompt", color=_COLOURS[0])
    axes.barh(places, said, 0.7, left=prompt, label="answer", color=_COLOURS[1])
    for place, (_, u), total in zip(places, rows, prompt + said, strict=True):
        if float(u["cost"]):
            axes.text(total, place, f" {float(u['cost']):.3g}", va="center", fontsize=7)
    axes.set_yticks(places, [name for name, _ in rows], fontsize=7)
    axes.set_xlabel(f"tokens of {names[0]}, with the cost where prices are given")
    axes.set(ylim=(-0.7, len(rows) - 0.3), xlim=(0, 1.12 * (prompt + said).max()))
    axes.legend(fontsize=8)
    return figure

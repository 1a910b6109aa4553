# SPDX-License-Identifier: Apache-2.0
"""Pictures of a network that was trained on the visual oddity task.

accuracy.png    accuracy of each riddle and family
learning.png    accuracy against training samples
distance.png    how far the odd frame's code is from the others, against accuracy, by riddle
saccades.png    a scan path over the frames of some problems, with the decision at each fixation
membranes.png   decision neuron and membranes along the saccades, with and without the oddity
initial.png     accuracy against the number of initial saccades
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from core import files, metrics, plots
from core.task import PyTree
from perception.data.oddity import FRAMES
from perception.networks.saccadic import Saccadic
from perception.tasks import oddity_mechanism as mechanism
from perception.tasks import oddity_setup
from perception.tasks.oddity import OddityTask

CHANCE = 1 / FRAMES
PROBLEMS = 1000  # of the test split that the mechanism is studied on


def run_pictures(
    cfg: oddity_setup.RunConfig, task: OddityTask, params: PyTree, report: dict[str, Any], out: Path
) -> None:
    """Draws all pictures of a finished run, and writes their numbers to mechanism.json.

    Args: cfg: its configuration; task, params: what was trained; report: its report; out: folder.
    """
    title = f"{report['network']}, {report['riddle']}, {report['samples']:,} samples"
    accuracies(report, out / "accuracy.png", title)
    learning([(title, report, out / "metrics.jsonl")], out / "learning.png")
    source = oddity_setup.open_source(cfg, "test", min(cfg.data.test, PROBLEMS))
    codes, batch = mechanism.codes_of(task.network, params, source, cfg.data.eval_batch_size)
    found = mechanism.distances(np.asarray(codes), batch["label"])
    numbers: dict[str, Any] = {
        "distance_ratio": float(found.ratio.mean()),
        "odd_is_farthest": float(found.farthest.mean()),
    }
    numbers["correlation"] = distance(report, batch["riddle"], found, out / "distance.png", title)
    if isinstance(task.network, Saccadic):
        numbers["by_initial"] = mechanism.by_initial(task.network, params, codes, batch["label"])
        initial(numbers["by_initial"], cfg.model.initial, out / "initial.png", title)
        images = oddity_setup.open_images(cfg, "test", 2).rows(np.arange(2))["image"]
        logits, states = task.network.decide(params, codes[:2], jnp.asarray(batch["saccade"][:2]))
        scan_paths(images, batch, np.asarray(logits), cfg.model.initial, out / "saccades.png")
        if isinstance(states, tuple):
            seen = mechanism.traces(task.network, params, codes, batch)
            membranes(seen, cfg.model.initial, out / "membranes.png", title)
            numbers["membrane_shift"] = [float(x) for x in seen.shift]
            numbers["decision"] = {k: [float(x) for x in v] for k, v in seen.decision.items()}
    files.write_text(out / "mechanism.json", json.dumps(numbers, indent=2) + "\n")


def accuracies(report: dict[str, Any], path: Path | None, title: str) -> Any:
    """Bars for riddles and families, with the level of chance."""
    plt = plots.pyplot()
    riddles = [(f"{k} {v['name']}", v["accuracy"]) for k, v in report["test"]["riddles"].items()]
    families = [(k, v["accuracy"]) for k, v in report["test"]["families"].items()]
    height = 1.5 + 0.2 * (len(riddles) + len(families))
    figure, axis = plt.subplots(figsize=(7, height), layout="constrained")
    names, values = zip(*(riddles + families)[::-1], strict=True)
    colours = ["tab:orange"] * len(families) + ["tab:blue"] * len(riddles)
    axis.barh(range(len(names)), values, color=colours)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.axvline(CHANCE, color="black", linestyle=":")
    axis.set(xlim=(0, 1), xlabel="accuracy (dotted: chance)", title=title)
    return plots.save_figure(figure, path)


def learning(runs: list[tuple[str, dict[str, Any], Path]], path: Path | None = None) -> Any:
    """Validation accuracy against training samples of (label, report, metrics file)."""
    plt = plots.pyplot()
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for label, report, file in runs:
        steps, values = plots.series(metrics.read_jsonl(file), "eval/accuracy")
        samples = np.asarray(steps) * (report["samples"] / report["steps"])
        name = f"{label}: {report['parameters']:,} parameters"
        axis.plot(samples, values, "o-", markersize=3, label=name)
    axis.axhline(CHANCE, color="black", linestyle=":")
    axis.set(xlabel="training samples", ylabel="validation accuracy", ylim=(0, 1.01))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    return plots.save_figure(figure, path)


def distance(
    report: dict[str, Any],
    riddle: np.ndarray,
    found: mechanism.Distances,
    path: Path,
    title: str,
) -> float | None:
    """Accuracy of each riddle against the mean ratio of distances; their correlation over riddles,
    None for fewer than three riddles."""
    plt = plots.pyplot()
    scores = report["test"]["riddles"]
    own = [int(r) for r in scores if (riddle == int(r)).any()]
    ratio = np.array([found.ratio[riddle == r].mean() for r in own])
    accuracy = np.array([scores[str(r)]["accuracy"] for r in own])
    figure, axis = plt.subplots(figsize=(6, 4.4), layout="constrained")
    axis.scatter(ratio, accuracy, s=12)
    for r, x, y in zip(own, ratio, accuracy, strict=True):
        axis.annotate(str(r), (x, y), fontsize=7)
    known = len(own) > 2 and ratio.std() > 0 and accuracy.std() > 0
    value = float(np.corrcoef(ratio, accuracy)[0, 1]) if known else None
    label = "" if value is None else f", correlation {value:.2f}"
    axis.axhline(CHANCE, color="black", linestyle=":")
    axis.set(
        xlabel="distance to the mean of the others: odd frame / conforming frames",
        ylabel="accuracy of the riddle",
        title=title + label,
    )
    plots.save_figure(figure, path)
    return value


def initial(found: dict[int, float], trained: int, path: Path | None, title: str) -> Any:
    """Accuracy against S_I."""
    plt = plots.pyplot()
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    axis.plot(list(found), list(found.values()), "o-")
    axis.axhline(CHANCE, color="black", linestyle=":")
    axis.axvline(trained, color="tab:grey", linestyle="--")
    axis.set(xlabel="initial saccades (dashed: as trained)", ylabel="accuracy", title=title)
    axis.grid(alpha=0.3)
    return plots.save_figure(figure, path)


def membranes(found: mechanism.Traces, initial: int, path: Path | None, title: str) -> Any:
    """Decision neuron, mean membrane, and what the oddity changes, along the saccades."""
    plt = plots.pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    steps = np.arange(1, len(found.shift) + 1)
    labels = {"odd": "at the odd frame", "rest": "at others", "without": "odd frame replaced"}
    for axis, values in zip(axes, (found.decision, found.membrane), strict=False):
        for name, series in values.items():
            axis.plot(steps, series, "o-", markersize=3, label=labels[name])
    axes[0].set_title("decision neuron (logit)")
    axes[1].set_title("mean membrane, last layer")
    axes[2].plot(steps, found.shift, "o-", markersize=3)
    axes[2].set_title("membranes: with - without oddity (rms)")
    for axis in axes:
        axis.axvline(initial + 0.5, color="tab:grey", linestyle="--")
        axis.set_xlabel("saccade (dashed: evaluation begins)")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.suptitle(title)
    return plots.save_figure(figure, path)


def scan_paths(
    images: np.ndarray,
    batch: dict[str, np.ndarray],
    logits: np.ndarray,
    initial: int,
    path: Path | None = None,
) -> Any:
    """Saccades over the frames [n, F, H, H] of problems: initial ones, and those that decide."""
    plt = plots.pyplot()
    figure, axes = plt.subplots(
        len(images), 2, figsize=(10, 3.6 * len(images)), squeeze=False, layout="constrained"
    )
    side = images.shape[-1]
    centre = lambda f: ((f % 3 + 0.5) * side, (f // 3 + 0.5) * side)
    for row, (frames, plan) in enumerate(zip(images, batch["saccade"], strict=False)):
        sheet = np.concatenate([np.concatenate(list(half), axis=1) for half in np.split(frames, 2)])
        for axis, part in zip(axes[row], (slice(0, initial), slice(initial, None)), strict=True):
            axis.imshow(sheet, cmap="gray", vmin=0, vmax=255)
            x, y = np.array([centre(f) for f in plan[part]]).reshape(-1, 2).T
            axis.plot(x, y, "-", color="tab:red", alpha=0.5)
            for number, (a, b) in enumerate(zip(x, y, strict=True)):
                step = number + (part.start or 0)
                odds = 1 / (1 + np.exp(-logits[row, step]))
                label = f"{step + 1}" if part.start == 0 else f"{step + 1}: p={odds:.2f}"
                axis.annotate(
                    label, (a, b), color="tab:red", fontsize=9, ha="center", va="center",
                    bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
                )  # fmt: skip
            odd = centre(int(batch["label"][row]))
            axis.add_patch(
                plt.Rectangle(
                    (odd[0] - side / 2, odd[1] - side / 2), side - 1, side - 1,
                    fill=False, edgecolor="tab:green", linewidth=2,
                )
            )  # fmt: skip
            axis.set(xticks=[], yticks=[])
            axis.set_title("initial saccades" if part.start == 0 else "evaluation (green: odd)")
    return plots.save_figure(figure, path)

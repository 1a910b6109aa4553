# SPDX-License-Identifier: Apache-2.0
"""Pictures of one sequence on its way through a network: raster, membranes, answers.

Needs matplotlib (extra `plots`). Each function returns its figure; with a path it is written there
as PNG, without one it stays open for a notebook.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from core import metrics, plots, random
from core.task import PyTree
from snn import cells
from snn.tasks.problems import Digits, Frames, NextNotes
from snn.tasks.sequence import SequenceTask

MAX_STEPS, SHOWN_UNITS = 200, 6


def draw(
    task: SequenceTask, params: PyTree, batch: Mapping[str, jax.Array], folder: Path
) -> list[Path]:
    """Writes raster.png and, for cells with a membrane, membranes.png of the first row.

    Args:
      task: of the network.
      params: its parameters.
      batch: at least one sequence; the first is drawn, up to its last weighted step.
      folder: where to write.

    Returns:
      Paths of the pictures.
    """
    key = random.stream(task.seed, "picture")
    ys, targets, weights, traces = jax.device_get(jax.jit(task.outputs)(params, batch, key))
    length = min(int(np.flatnonzero(weights[:, 0]).max()) + 1, MAX_STEPS)
    first = jax.tree.map(lambda x: np.asarray(x)[:length, 0], (ys, targets, weights, traces))
    written = [folder / "raster.png"]
    outputs, labels, weight, states = first
    raster(task, outputs, labels, weight, states, written[0])
    membranes = {k: v for k, v in states.items() if isinstance(v, dict) and {"s", "v"} & {*v}}
    if membranes:
        written.append(folder / "membranes.png")
        membrane_traces(task, params, membranes, written[1])
    return written


def learning_curve(
    metrics_file: Path, path: Path | None, title: str, score: str, label: str
) -> Any:
    """Training and validation loss on one axis, and the validation score below if it is another.

    Args: metrics_file: a run's metrics.jsonl; score: metric "eval/..."; label: of its axis.
    """
    plt = plots.pyplot()
    records = metrics.read_jsonl(metrics_file)
    extra = score != "eval/nll"
    figure, axes = plt.subplots(
        1 + extra, 1, figsize=(7.5, 3.8 + 2.2 * extra), sharex=True, layout="constrained"
    )
    axes = np.atleast_1d(axes)
    axes[0].plot(*plots.series(records, "nll"), color="tab:blue", label="training")
    steps, losses = plots.series(records, "eval/nll")
    if losses:
        axes[0].plot(steps, losses, ".-", color="tab:orange", label="validation")
        best = int(np.argmin(losses))
        note = f"lowest: {losses[best]:.3f} at step {steps[best]}"
        axes[0].plot(steps[best], losses[best], "o", color="tab:red", label=note)
    axes[0].set(ylabel="loss (nats a step)", title=title)
    axes[0].legend()
    if extra:
        axes[1].plot(*plots.series(records, score), ".-", color="tab:orange")
        axes[1].set_ylabel(f"validation {label}")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    return plots.save_figure(figure, path)


def is_binary(x: np.ndarray) -> bool:
    """True if all values are 0 or 1."""
    return bool(np.isin(x, (0.0, 1.0)).all())


def raster(
    task: SequenceTask,
    ys: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    traces: Mapping[str, Any],
    path: Path | None = None,
) -> Any:
    """Input, activity of every hidden layer, and answers over time, one panel each.

    Args: ys [T, m], targets [T, ...], weights [T], traces: {"input": [T, ...], layer: states}.
    """
    plt = plots.pyplot()
    hidden = {
        name: np.concatenate([states[key] for key in _layer(task, name).sent], axis=-1)
        for name, states in traces.items()
        if name != "input"
    }
    figure, axes = plt.subplots(
        2 + len(hidden),
        1,
        figsize=(9, 2.4 * (2 + len(hidden))),
        sharex=True,
        layout="constrained",
        squeeze=False,
    )
    panels = list(axes[:, 0])
    _activity(figure, panels[0], traces["input"], "input", _input_label(task))
    for axis, (name, values) in zip(panels[1:], hidden.items(), strict=False):
        kind = type(_layer(task, name)).__name__
        _activity(figure, axis, values, f"hidden {name} ({kind})", "unit")
    _answers(figure, panels[-1], task, ys, targets, weights)
    panels[-1].set_xlabel("time step")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    return plots.save_figure(figure, path)


def _layer(task: SequenceTask, name: str) -> Any:
    return task.net.layers[int(name.removeprefix("layer_"))]


def _input_label(task: SequenceTask) -> str:
    if isinstance(task.problem, NextNotes):
        return "key (0 = A0)"
    if isinstance(task.problem, Digits):
        return "pixel" if task.problem.coding == "rate" else "column"
    return "feature" if isinstance(task.problem, Frames) else "token"


def _activity(figure: Any, axis: Any, x: np.ndarray, title: str, label: str) -> None:
    """Dots for spikes, a heat map for graded values, a line for tokens."""
    if x.ndim == 1:
        axis.plot(x, ".", color="black", markersize=3)
    elif is_binary(x):
        time, unit = np.nonzero(x)
        # Few steps: a dash as wide as half a step; many: a tick.
        marker, size = ("_", min(160 / len(x), 12)) if len(x) <= 60 else ("|", 4)
        axis.plot(time, unit, marker, color="black", markersize=size, mew=0.7)
        axis.set_ylim(max(unit.min(initial=0) - 5, -1), min(unit.max(initial=0) + 5, x.shape[1]))
        title += f": {x.sum() / max(x.size, 1):.3f} spikes per unit and step"
    else:
        order = np.argsort(x.mean(axis=0)) if title.startswith("hidden") else np.arange(x.shape[1])
        largest = float(np.abs(x).max())
        signed = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
        how = signed if x.min() < 0 else {"cmap": "magma"}
        image = axis.imshow(
            x[:, order].T, aspect="auto", origin="lower", interpolation="nearest", **how
        )
        figure.colorbar(image, ax=axis, pad=0.01)
        if title.startswith("hidden"):
            label = "unit, by mean output"
    axis.set_ylabel(label)
    axis.set_title(title, fontsize=10, loc="left")


def _answers(
    figure: Any,
    axis: Any,
    task: SequenceTask,
    ys: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
) -> None:
    if isinstance(task.problem, NextNotes):
        p = 1.0 / (1.0 + np.exp(-ys))
        image = axis.imshow(p.T, aspect="auto", origin="lower", cmap="Greys", vmin=0, vmax=1)
        figure.colorbar(image, ax=axis, pad=0.01)
        time, key = np.nonzero(targets)
        axis.plot(time, key, "o", mfc="none", color="tab:red", markersize=3, mew=0.7)
        axis.set_ylim(key.min() - 4, key.max() + 4)
        axis.set_ylabel("key")
        title = "probability of the notes of the next step; rings: the notes that follow"
    else:
        z = np.exp(ys - ys.max(axis=1, keepdims=True))
        p = z / z.sum(axis=1, keepdims=True)
        asked = weights > 0
        true = np.take_along_axis(p, targets[:, None].astype(int), axis=1)[:, 0]
        right = p.argmax(axis=1) == targets
        steps = np.arange(len(p))
        axis.plot(steps, true, color="silver", lw=1)
        axis.plot(steps[asked], true[asked], color="tab:blue", lw=1)
        axis.plot(steps[asked & right], true[asked & right], ".", color="tab:green", label="right")
        wrong = asked & ~right
        axis.plot(steps[wrong], true[wrong], ".", color="tab:red", label="wrong")
        axis.set(ylim=(-0.02, 1.02), ylabel="probability")
        axis.legend(fontsize=8, loc="lower right")
        title = "probability of the correct answer at each step (dots: asked)"
        if isinstance(task.problem, Digits):
            title += f"; digit {int(targets[0])}"
    axis.set_title(title, fontsize=10, loc="left")


def membrane_traces(
    task: SequenceTask, params: PyTree, traces: Mapping[str, Any], path: Path | None = None
) -> Any:
    """Membranes of some units of every layer, relative to threshold, with their output.

    The units shown are those whose output varies most, the most varying one on top.
    """
    plt = plots.pyplot()
    figure, axes = plt.subplots(
        SHOWN_UNITS,
        len(traces),
        figsize=(2 + 6.5 * len(traces), 1.35 * SHOWN_UNITS),
        sharex=True,
        layout="constrained",
        squeeze=False,
    )
    for column, (name, state) in enumerate(traces.items()):
        layer = _layer(task, name)
        potential = state["s"] if "s" in state else state["v"]
        bias = np.broadcast_to(-getattr(layer, "threshold", 0.0), potential.shape[1:])
        if isinstance(layer, cells.Snu):
            bias = np.asarray(params[name]["bias"])
        units = np.argsort(-state["y"].std(axis=0))[:SHOWN_UNITS]
        for axis, unit in zip(axes[:, column], units, strict=False):
            v = potential[:, unit] + bias[unit]
            y = state["y"][:, unit]
            axis.plot(v, color="tab:blue", lw=1.2, label="membrane - threshold")
            axis.axhline(0.0, color="grey", lw=0.6, ls="--")
            axis.set_ylabel(f"unit {unit}", fontsize=8)
            if is_binary(state["y"]):
                times = np.flatnonzero(y)
                low, high = min(v.min(), 0.0), max(v.max(), 0.1)
                axis.vlines(times, high, high + 0.25 * (high - low), color="tab:red", lw=1)
                axis.plot([], [], color="tab:red", label="spikes")
            else:
                right = axis.twinx()
                right.fill_between(np.arange(len(y)), y, color="tab:orange", alpha=0.3, lw=0)
                right.set_ylim(0, 1.05)
                right.tick_params(labelsize=7)
                axis.plot([], [], color="tab:orange", lw=5, alpha=0.3, label="output (right)")
        axes[0, column].set_title(f"{name} ({type(layer).__name__})", fontsize=10, loc="left")
        axes[0, column].legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
        axes[-1, column].set_xlabel("time step")
        axes[-1, column].xaxis.get_major_locator().set_params(integer=True)
    return plots.save_figure(figure, path)

# SPDX-License-Identifier: Apache-2.0
"""Pictures of a run. The only file of `core` that imports matplotlib (extra `plots`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from core import files, metrics


def pyplot() -> Any:
    """matplotlib.pyplot drawing into files; ImportError says which extra to install.

    Whoever imported pyplot before (a notebook) keeps the backend that shows its own figures.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'rwkvjax[plots]'") from error
    if "matplotlib.pyplot" not in sys.modules:
        matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure: Any, path: str | os.PathLike[str] | None) -> Any:
    """Writes a figure as PNG, atomically, closes it, and returns it.

    Without a path nothing is written and the figure stays open: a notebook shows it.
    """
    if path is not None:
        with files.atomic_write(path) as f:
            figure.savefig(f, format="png", dpi=120)
        pyplot().close(figure)
    return figure


def series(records: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and finite values of one metric in the records of a metrics file."""
    pairs = [(r["step"], r[name]) for r in records if isinstance(r.get(name), float)]
    return [step for step, _ in pairs], [value for _, value in pairs]


def loss_curve(
    metrics_file: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    title: str = "",
    train: tuple[str, str] = ("loss", "training loss (nats per token)"),
    held_out: tuple[str, str] | None = None,
) -> Any:
    """Plots a training metric, and a held-out one on a second axis, against the step.

    Args:
      metrics_file: a run's metrics.jsonl.
      path: PNG to write; None leaves the figure open.
      title: above the plot.
      train, held_out: (metric name, axis label).

    Returns:
      The figure; see `save_figure`.
    """
    plt = pyplot()
    records = metrics.read_jsonl(metrics_file)
    figure, left = plt.subplots(figsize=(7, 4.2), layout="constrained")
    steps, values = series(records, train[0])
    lines = left.plot(steps, values, color="tab:blue", label=train[1])
    left.set(xlabel="step", ylabel=train[1], title=title)
    left.grid(alpha=0.3)
    if held_out and series(records, held_out[0])[0]:
        right = left.twinx()
        steps, values = series(records, held_out[0])
        label = f"{held_out[1]}, last {values[-1]:.3f}"
        lines += right.plot(steps, values, "o-", color="tab:orange", label=label)
        right.set_ylabel(held_out[1])
    left.legend(handles=lines, loc="upper right")
    return save_figure(figure, path)

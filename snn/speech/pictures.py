# SPDX-License-Identifier: Apache-2.0
"""One utterance as a picture: spectrogram, activity of every encoder layer, emitted labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from core import plots
from snn.speech import accounting, features
from snn.speech.manifest import Item
from snn.speech.recogniser import Recogniser, Transcript


def utterance(recogniser: Recogniser, samples: np.ndarray, item: Item, path: Path) -> Transcript:
    """Draws what the recogniser heard, how its units answered, and what it wrote when.

    Args:
      recogniser: with a front end for sound.
      samples: float32 [N].
      item: its reference text, and its words' times if they are known.
      path: PNG to write.

    Returns:
      the transcript that is shown.
    """
    cfg, net = recogniser.front_end, recogniser.net
    audio, count = jnp.asarray(samples)[None], jnp.asarray([len(samples)])
    spectrum, frames = features.base_features(cfg, audio, count)
    x, steps = features.features(cfg, audio, count)
    _, traces = net.encode(recogniser.params, x, steps)
    found = recogniser.transcribe(samples)
    plt = plots.pyplot()
    heights = [2.2, *(1.8 for _ in traces), 1.4]
    figure, axes = plt.subplots(
        len(heights),
        1,
        figsize=(10, 1.35 * sum(heights)),
        sharex=True,
        layout="constrained",
        height_ratios=heights,
    )
    seconds = float(frames[0]) * cfg.hop_ms / 1000
    _spectrogram(axes[0], np.asarray(spectrum[0, : int(frames[0])]), seconds)
    for axis, (name, states) in zip(axes[1:], traces.items(), strict=False):
        cell = net.encoder_cells[int(name.split("_")[-1])]
        _activity(
            figure,
            axis,
            np.asarray(cell.output(states))[: int(steps[0]), 0],
            cell,
            name.replace("_", " "),
            cfg.seconds_per_step,
        )
    _labels(axes[-1], recogniser, item, found, seconds)
    axes[-1].set_xlabel("seconds")
    plots.save_figure(figure, path)
    return found


def _spectrogram(axis: Any, bands: np.ndarray, seconds: float) -> None:
    axis.imshow(
        bands.T,
        aspect="auto",
        origin="lower",
        cmap="magma",
        extent=(0, seconds, 0, bands.shape[1]),
        vmin=np.percentile(bands, 5),
    )
    axis.set_ylabel("mel band")
    axis.set_title("log-mel spectrogram", fontsize=10, loc="left")


def _activity(
    figure: Any, axis: Any, ys: np.ndarray, cell: Any, name: str, seconds_per_step: float
) -> None:
    """Ticks for spikes (as dark as they are large), a heat map for graded outputs."""
    kind = accounting.signal_kind(cell)
    title = f"encoder {name} ({type(cell).__name__}, {kind})"
    end = len(ys) * seconds_per_step
    if kind == "graded":
        # In the order of their time of greatest activity, so that structure shows.
        order = np.argsort(np.abs(ys - ys.mean(axis=0)).argmax(axis=0), kind="stable")
        largest = float(np.abs(ys).max()) or 1.0
        signed = ys.min() < -0.01
        image = axis.imshow(
            ys[:, order].T,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            extent=(0, end, 0, ys.shape[1]),
            cmap="RdBu_r" if signed else "Greys",
            vmin=-largest if signed else 0,
            vmax=largest,
        )
        figure.colorbar(image, ax=axis, pad=0.01)
    else:
        step, unit = np.nonzero(ys)
        strength = ys[step, unit] / max(float(ys.max()), 1e-9)
        axis.scatter(
            (step + 0.5) * seconds_per_step,
            unit,
            marker="|",
            s=9,
            linewidths=0.8,
            c=1 - strength,
            cmap="gray",
            vmin=0,
            vmax=1.15,
        )
        axis.set_ylim(-1, ys.shape[1])
        title += f": {(ys > 0).mean():.3f} spikes per unit and step"
    axis.set_ylabel("unit")
    axis.set_title(title, fontsize=10, loc="left")


def _labels(
    axis: Any, recogniser: Recogniser, item: Item, found: Transcript, seconds: float
) -> None:
    """The words that were said (spans, where known) and the labels when they came out."""
    for number, (word, start, end) in enumerate(item.words):
        axis.axvspan(start, end, ymin=0.55, color=f"C{number % 10}", alpha=0.25, lw=0)
        axis.text((start + end) / 2, 0.78, word, ha="center", va="center", fontsize=9)
    step = recogniser.front_end.seconds_per_step
    delay = recogniser.front_end.lookahead_seconds
    for label, frame in zip(found.labels, found.frames, strict=True):
        when = frame * step + delay
        axis.axvline(when, ymax=0.5, color="black", lw=1)
        text = recogniser.tokens.symbols[label - 1]
        axis.text(when, 0.3, f" {text}", ha="left", va="center", fontsize=9)
    axis.set(ylim=(0, 1), yticks=(0.25, 0.78), xlim=(0, seconds))
    axis.set_yticklabels(("emitted", "said"))
    axis.set_title(f"said: {item.text!r}, recognised: {found.text!r}", fontsize=10, loc="left")

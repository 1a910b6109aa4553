# SPDX-License-Identifier: Apache-2.0
"""Pictures of looking: saliency, the path over the image, what was seen, and who attends to whom.

Needs matplotlib (extra `plots`). Each function returns its figure; with a path it is written there
as PNG, without one it stays open for a notebook.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import metrics, plots
from core.task import PyTree
from perception import fixation
from perception import images as images_lib
from perception.frontend import FrontEndConfig, look
from perception.saliency import saliency
from perception.tasks import glimpse_sets, image_sets

SHOWN = 3  # problems in a picture


def scan_path(images: np.ndarray, cfg: FrontEndConfig, path: str | Path | None = None) -> Any:
    """Image, saliency, numbered path and glimpses of each image, one row an image.

    Args:
      images: uint8 [M, H, H, C], a few.
      cfg: how they are looked at.
      path: PNG to write; None leaves the figure open for a notebook.
    """
    plt = plots.pyplot()
    ready = images_lib.prepare(images, cfg.polarity)
    key = jax.random.key(0) if cfg.policy == "random" else None
    seen = jax.device_get(look(ready, cfg, key))
    maps = np.asarray(jax.jit(saliency, static_argnums=1)(ready, cfg.saliency))
    figure, axes = plt.subplots(
        len(images), 3, figsize=(13.5, 3.9 * len(images)), squeeze=False, layout="constrained"
    )
    for row, (left, middle, right) in enumerate(axes):
        left.imshow(maps[row], cmap="inferno")
        left.set_title("saliency" if row == 0 else "")
        _draw_path(middle, images[row], seen.pixel[row], cfg)
        middle.set_title("fixations in order, inhibited discs" if row == 0 else "")
        # Ink is 1 in what the networks receive, but dark to the eye.
        content = 1 - seen.content[row] if cfg.polarity == "ink" else seen.content[row]
        right.imshow(_mosaic(content, images.shape[-1]), cmap="gray")
        right.set_title("what is seen there" if row == 0 else "")
        for axis in (left, middle, right):
            axis.set_xticks([])
            axis.set_yticks([])
    return plots.save_figure(figure, path)


def _draw_path(axis: Any, image: np.ndarray, pixels: np.ndarray, cfg: FrontEndConfig) -> None:
    """Fixations as numbers joined by a line; discs of a hard inhibition around them."""
    plt = plots.pyplot()
    _show(axis, image)
    axis.plot(pixels[:, 1], pixels[:, 0], "-", color="tab:orange", linewidth=1, alpha=0.8)
    # Discs lie around the reported locations, up to a pixel off the fixated ones.
    height = len(image)
    places = np.asarray(fixation.locations(jnp.asarray(pixels), height, cfg.fixation.offset))
    centres = (places + 1) / 2 * (height - 1)  # (x, y) in pixels of the grid
    radius = cfg.fixation.size / height / 2 * (height - 1)
    for number, (row, column) in enumerate(pixels, 1):
        if cfg.policy == "salient" and cfg.fixation.inhibition == "hard":
            disc = plt.Circle(
                centres[number - 1], radius, color="tab:blue", alpha=0.18, linewidth=0
            )
            axis.add_patch(disc)
        axis.annotate(
            str(number), (column, row), color="tab:red", fontsize=9, weight="bold",
            xytext=(3, 3), textcoords="offset points",
        )  # fmt: skip
    axis.plot(pixels[:, 1], pixels[:, 0], ".", color="tab:red", markersize=5)


def _show(axis: Any, image: np.ndarray) -> None:
    grey = image.shape[-1] == 1
    axis.imshow(image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0, vmax=255)
    axis.set_xlim(-0.5, image.shape[1] - 0.5)
    axis.set_ylim(image.shape[0] - 0.5, -0.5)


def _mosaic(content: np.ndarray, colours: int) -> np.ndarray:
    """Glimpses [T, K, g, g] side by side: fixations along columns of a grid, scales below.

    Args:
      content: contents of one image, whose channels are scales x colours.
      colours: of the image, 1 or 3.

    Returns:
      [h, w] with NaN between glimpses, or [h, w, 3] with white between them.
    """
    count, channels, side, _ = content.shape
    scales = channels // colours
    across = -(-count // 3)
    rows = -(-count // across)
    gap = 2
    canvas = np.full(
        (rows * (scales * side + gap * 2), across * (side + gap), colours), np.nan, np.float32
    )
    for t in range(count):
        top, left = t // across * (scales * side + gap * 2), t % across * (side + gap)
        tiles = content[t].reshape(scales, colours, side, side)
        for s in range(scales):
            tile = np.moveaxis(tiles[s], 0, -1)
            canvas[top + s * side : top + (s + 1) * side, left : left + side] = tile
    return canvas[..., 0] if colours == 1 else np.nan_to_num(canvas, nan=1.0).clip(0, 1)


def attention(
    image: np.ndarray,
    pixels: np.ndarray,
    weights: np.ndarray,
    path: str | Path | None = None,
    title: str = "",
) -> Any:
    """Attention between the fixations of one image: over the image, and as a matrix by layer.

    Args:
      image: uint8 [H, H, C].
      pixels: [T, 2], (row, column).
      weights: [L, heads, T, T]; rows sum to 1. Further rows (a summary token) are left out.
      path: PNG to write; None leaves the figure open for a notebook.
      title: above the picture.
    """
    plt = plots.pyplot()
    count = len(pixels)
    layers = weights.mean(axis=1)[:, :count, :count]
    shown = [0, len(layers) - 1] if len(layers) > 1 else [0]
    figure, axes = plt.subplots(
        len(shown), 2, figsize=(9.6, 4.6 * len(shown)), squeeze=False, layout="constrained"
    )
    figure.suptitle(title)
    for (left, right), layer in zip(axes, shown, strict=True):
        matrix = layers[layer]
        _show(left, image)
        _links(left, pixels, matrix)
        left.set_title(f"layer {layer + 1}: strongest links")
        shown_matrix = right.imshow(matrix, cmap="viridis", vmin=0)
        right.set(xlabel="fixation attended to", ylabel="fixation", title="mean over heads")
        ticks = range(0, count, max(1, count // 8))
        right.set_xticks(ticks, [str(t + 1) for t in ticks])
        right.set_yticks(ticks, [str(t + 1) for t in ticks])
        figure.colorbar(shown_matrix, ax=right, shrink=0.8)
        left.set_xticks([])
        left.set_yticks([])
    return plots.save_figure(figure, path)


def _links(axis: Any, pixels: np.ndarray, matrix: np.ndarray) -> None:
    """An arrow from each fixation to the other one that it attends to most, as wide as strong."""
    others = np.where(np.eye(len(matrix), dtype=bool), -1, matrix)
    for source, target in enumerate(others.argmax(axis=1)):
        strength = float(matrix[source, target])
        axis.annotate(
            "", pixels[target][::-1], pixels[source][::-1],
            arrowprops={"arrowstyle": "->", "color": "tab:red",
                        "linewidth": 0.4 + 4 * strength, "alpha": min(1.0, 0.3 + strength)},
        )  # fmt: skip
    for number, (row, column) in enumerate(pixels, 1):
        axis.annotate(str(number), (column, row), color="tab:blue", fontsize=9, weight="bold")


def learning_curve(metrics_file: Path, path: Path | None, title: str) -> Any:
    """Accuracy in training and on the validation split."""
    plt = plots.pyplot()
    records = metrics.read_jsonl(metrics_file)
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name, label, style in (
        ("accuracy", "training", "-"),
        ("eval/accuracy", "validation", "o-"),
    ):
        steps, values = plots.series(records, name)
        if steps:
            axis.plot(steps, values, style, label=f"{label}, last {values[-1]:.3f}")
    axis.set(xlabel="step", ylabel="accuracy", title=title, ylim=(None, 1.01))
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return plots.save_figure(figure, path)


def run_pictures(cfg: Any, task: Any, params: PyTree, out: Path) -> None:
    """Pictures of a finished run: accuracy.png, glimpses.png and, with attention, attention.png.

    Args: cfg: its `RunConfig`; task, params: what was trained; out: folder.
    """
    title = f"{cfg.model.network}, {cfg.data.name}, {cfg.data.train} problems"
    learning_curve(out / "metrics.jsonl", out / "accuracy.png", title)
    network = task.network
    if "content" not in network.inputs:
        return
    size = max(cfg.data.test, SHOWN)
    batch = image_sets.open_set(cfg.data.name, "test", size, cfg.data.seed).rows(np.arange(SHOWN))
    panels = image_sets.candidates(batch["image"], cfg.data.grey)
    images = panels.reshape(-1, *panels.shape[2:])[:SHOWN]
    scan_path(images, cfg.frontend, out / "glimpses.png")
    if not hasattr(network, "attention"):
        return
    content, location = glimpse_sets.take(images, cfg.frontend, 0)
    inputs = {"content": content.astype(np.float32), "location": location}
    weights = np.asarray(network.attention(params, inputs))
    # The second image: for problems of one image that is one of label 1.
    offset = 1 if cfg.frontend.fixation.offset else 0
    span = images.shape[1] - 1 + offset
    pixels = np.rint((location[1, :, ::-1] + 1) / 2 * span).astype(int) - offset
    label = int(batch["label"][1 // panels.shape[1]])
    attention(images[1], pixels, weights[:, 1], out / "attention.png", f"{title}, label {label}")

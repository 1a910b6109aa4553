# SPDX-License-Identifier: Apache-2.0
"""What the configurations of glimpse-based perception share: arguments, networks, settings."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from configs.perception import arguments
from perception.tasks.reasoning_run import DataConfig

# Of SVRT#1-OOD; the first nine have training sets of their own.
FAMILIES = (
    "irregular", "regular", "open", "wider_line", "random_colour", "filled", "scrambled", "lines",
    "arrows", "rectangles", "straight_lines", "connected_squares", "connected_circles",
)  # fmt: skip


@dataclasses.dataclass
class Recipe:
    """Arguments of a configuration, "name=value" separated by commas.

    network: see `perception.tasks.reasoning_run.NETWORKS`. size: "small" (minutes on a CPU) or
    "published". sensor: "logpolar" or "multiscale". policy: "salient", "random" or "grid".
    streams: "both", "content" or "location". train: training problems. epochs: passes over them;
    0 takes the default of the size. noise, blank, swap: what disturbs contents in training, see
    `perception.networks.stem.StemConfig`. recombine: share of the training examples of label 0 with
    the contents of another image; splice: of those with a scan path pieced together from two of
    label 1; see `perception.tasks.image_sets.Reader`.
    """

    network: str = "abstractor"
    size: str = "small"
    sensor: str = "logpolar"
    policy: str = "salient"
    streams: str = "both"
    train: int = 1000
    epochs: int = 0
    noise: float = 0.0
    blank: float = 0.0
    swap: float = 0.0
    recombine: float = 0.0
    splice: float = 0.0
    seed: int = 0


def parse(arg: str, recipe: Recipe, **own: Any) -> tuple[Recipe, dict[str, Any]]:
    """(recipe, values of the arguments in `own`) of a configuration's argument string."""
    fields = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    values = arguments.parse(arg, {**fields, **own})
    return Recipe(**{name: values.pop(name) for name in fields}), values


def model(recipe: Recipe, cnn_channels: int = 27) -> dict[str, Any]:
    """The model block. cnn_channels: of the glimpse encoder of the published size."""
    small = recipe.size == "small"
    stem: dict[str, Any] = {"encoder": "mlp" if small else "cnn", "streams": recipe.streams}
    stem.update(noise=recipe.noise, blank=recipe.blank, swap=recipe.swap)
    if not small:
        stem["channels"] = cnn_channels
    options: dict[str, dict[str, Any]] = {
        "abstractor": {"depth": 2 if small else 24},
        "transformer": {"depth": 2 if small else 12},
        "esbn": {"units": 128, "key_size": 64} if small else {},
        "cnn": {"shrink": 2} if small else {},
        "resnet": {"width": 16, "blocks": (1, 1, 1, 1), "shrink": 2} if small else {},
        "vit": {"patch": 8, "depth": 4, "heads": 2, "shrink": 2} if small else {"patch": 8},
    }
    return {"network": recipe.network, "stem": stem, "options": options.get(recipe.network, {})}


def frontend(recipe: Recipe, count: int, size: int, **more: Any) -> dict[str, Any]:
    """The front-end block. count: fixations; size: of the inhibition of return."""
    return {
        "sensor": recipe.sensor,
        "policy": recipe.policy,
        "fixation": {"count": count, "size": size},
        **more,
    }


def inhibition(recipe: Recipe) -> int:
    """Published size of the inhibited disc on SVRT: that of the glimpse but for the Abstractor."""
    if recipe.sensor == "multiscale":
        return 15
    return 21 if recipe.size == "published" and recipe.network == "transformer" else 11


def config(
    recipe: Recipe,
    data: dict[str, Any],
    front: dict[str, Any],
    *,
    batch_size: int,
    epochs: int,
    learning_rate: float = 1e-3,
    objective: str = "classes",
    cnn_channels: int = 27,
    stem: dict[str, Any] | None = None,
) -> ConfigDict:
    """A whole configuration: constant learning rate, no decay, no clipping, as published."""
    block = model(recipe, cnn_channels)
    block["stem"].update(stem or {})
    steps = max(1, (recipe.epochs or epochs) * recipe.train // batch_size)
    every = max(1, min(steps // 12, 10_000))
    return ConfigDict(
        {
            "task": "reasoning",
            "objective": objective,
            # Every key, so that the command line can set it.
            "data": {
                **dataclasses.asdict(DataConfig(data["name"])),
                "train": recipe.train,
                "recombine": recipe.recombine,
                "splice": recipe.splice,
                **data,
            },
            "frontend": front,
            "model": block,
            "optimizer": {
                "learning_rate": learning_rate,
                "schedule": "constant",
                "warmup_steps": 0,
                "beta2": 0.999,
                "clip_norm": 0.0,
            },
            "train": {
                "steps": steps,
                "batch_size": batch_size,
                "seed": recipe.seed,
                "log_every": every,
                "eval_every": every,
                "save_every": arguments.save_every(steps),
                "keep": 1,
            },
        }
    )

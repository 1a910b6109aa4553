# SPDX-License-Identifier: Apache-2.0
"""From a configuration to a trained network that reasons about images, and its report."""

from __future__ import annotations

import dataclasses
import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from core import config as config_lib
from core import files, optim
from core import params as params_lib
from core.data import Source
from core.loop import Trainer, make_evaluate
from core.task import PyTree, TrainConfig
from perception.frontend import FrontEndConfig
from perception.networks import StemConfig
from perception.tasks import launch
from perception.tasks.glimpse_sets import GlimpseSet
from perception.tasks.image_sets import Reader, WholeImages, candidates, open_set
from perception.tasks.reasoning import ReasoningTask

# Network -> (module, class).
NETWORKS = {
    "abstractor": ("perception.networks", "Abstractor"),
    "transformer": ("perception.networks", "GapTransformer"),
    "corelnet": ("perception.networks", "CoRelNet"),
    "esbn": ("perception.networks", "Esbn"),
    "rwkv": ("perception.rwkv_cells", "GlimpseRwkv"),
    "cnn": ("perception.networks", "ConvNet"),
    "resnet": ("perception.networks", "ResNet"),
    "vit": ("perception.networks", "VisionTransformer"),
}
IMAGE_NETWORKS = ("cnn", "resnet", "vit")  # those that see the whole image at once


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is learned and tested.

    Attributes:
      name: data set to train on, see `tasks.image_sets`.
      train, validation, test: problems in each split; no validation split with 0.
      others: further sets to test on, out of the distribution of training.
      test_others: problems of each.
      seed: of the images (that of the training: `train.seed`).
      flips: flip training images at random along both axes.
      recombine: share of the training examples of label 0 whose contents are those of another
        one, see `image_sets.Reader.donors`; for networks over glimpses.
      splice: share of those whose scan path is pieced together, see `image_sets.Reader.halves`.
      grey: turn coloured images into grey ones.
      workers: processes that draw images.
      eval_batch_size: problems scored at a time.
      folder: of the glimpses; empty: the user's cache.
    """

    name: str
    train: int = 1000
    validation: int = 500
    test: int = 2000
    others: tuple[str, ...] = ()
    test_others: int = 1000
    seed: int = 0
    flips: bool = True
    recombine: float = 0.0
    splice: float = 0.0
    grey: bool = False
    workers: int = 0
    eval_batch_size: int = 100
    folder: str = ""

    def __post_init__(self) -> None:
        launch.check_least(self, train=1, validation=0, test=1, test_others=1)
        launch.check_least(self, seed=0, workers=0, eval_batch_size=1)
        if not 0 <= self.recombine <= 1 or not 0 <= self.splice <= 1:
            raise ValueError(
                f"recombine and splice must be in [0, 1], got {self.recombine=}, {self.splice=}"
            )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
      network: a key of `NETWORKS`.
      stem: encoders of content and location, for networks over glimpses.
      options: further arguments of the network, e.g. {"depth": 2}.
    """

    network: str = "abstractor"
    stem: StemConfig = StemConfig()
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise ValueError(f"network must be one of {sorted(NETWORKS)}, got {self.network!r}")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole configuration file. `objective`: see `tasks.reasoning`."""

    task: str
    data: DataConfig
    train: TrainConfig
    objective: str = "classes"
    frontend: FrontEndConfig = FrontEndConfig()
    model: ModelConfig = ModelConfig()
    optimizer: optim.AdamWConfig = optim.AdamWConfig()

    def __post_init__(self) -> None:
        whole, stem = self.model.network in IMAGE_NETWORKS, self.model.stem
        if (self.data.recombine or self.data.splice) and (
            whole or not self.data.name.startswith(("svrt/", "svrt_ood/"))
        ):
            raise ValueError(
                "recombine and splice need a network over glimpses, and labels of which 0 says that"
                f" no rule holds (SVRT); got network {self.model.network!r}, data"
                f" {self.data.name!r}"
            )
        if whole and (stem.noise or stem.blank or stem.swap):
            raise ValueError(
                "noise, blank and swap need a network over glimpses, got network"
                f" {self.model.network!r}"
            )


def build_network(cfg: ModelConfig, example: dict[str, np.ndarray], objective: str) -> Any:
    """The network for examples such as `example`.

    Raises:
      ValueError: options that the network does not have.
    """
    module, name = NETWORKS[cfg.network]
    kind = getattr(importlib.import_module(module), name)
    sizes: dict[str, Any] = {"outputs": 2 if objective == "classes" else 1}
    if "image" in kind.inputs:
        sizes["image"] = example["image"].shape[2:]
    else:
        sizes.update(glimpses=example["content"].shape[2:], stem=cfg.stem)
    try:
        return kind(**sizes, **dict(cfg.options))
    except TypeError as error:
        raise ValueError(f"options of network {cfg.network!r}: {error}") from error


def open_source(cfg: RunConfig, name: str, split: str, size: int) -> Source:
    """Examples of one split, in the form that the configured network reads."""
    data = cfg.data
    images = open_set(name, split, size, data.seed, data.workers)
    reader = Reader(size, split == "train", data.flips, cfg.train.seed, data.recombine, data.splice)
    if cfg.model.network in IMAGE_NETWORKS:
        return WholeImages(images, reader, data.grey)
    return GlimpseSet(images, cfg.frontend, reader, grey=data.grey, folder=data.folder or None)


def build_config(values: Any) -> RunConfig:
    """Checks a ConfigDict."""
    return config_lib.build(RunConfig, values)


def make_trainer(
    cfg: RunConfig,
    workdir: Path,
    report: Callable[[str], None] | None = None,
    train: Source | None = None,
) -> Trainer:
    """Builds data (taking glimpses where they are missing), task and optimiser.

    Args:
      cfg: the configuration.
      workdir: of the run.
      report: see `Trainer`.
      train: examples instead of those that the configuration names.

    Raises:
      ValueError: the folder holds another run, or the configuration cannot be followed.
    """
    launch.check_resumed(cfg, workdir, build_config)
    check_sets(cfg)
    data = cfg.data
    train = train or open_source(cfg, data.name, "train", data.train)
    held_out = None
    if data.validation:
        held_out = open_source(cfg, data.name, "validation", data.validation)
    network = build_network(cfg.model, train.get(np.arange(1)), cfg.objective)
    task = ReasoningTask(
        network, cfg.objective, cfg.frontend.polarity, held_out, data.eval_batch_size
    )
    return launch.trainer(task, cfg, train, workdir, report)


def check_sets(cfg: RunConfig) -> None:
    """Raises ValueError, before any training, for a test set that does not exist or whose problems
    the network cannot read."""
    data = cfg.data

    def shape(name: str, split: str) -> tuple[int, ...]:
        images = open_set(name, split, 1, data.seed)
        drawn = images.unpack(images.make(np.arange(1)))["image"]
        return candidates(drawn, data.grey).shape[1:]

    expected = shape(data.name, "train")
    for name, _ in test_sets(cfg):
        found = shape(name, "test")
        if found != expected:
            raise ValueError(
                f"problems of {name!r} are images [P, H, H, C] of shape {found}, but those of"
                f" {data.name!r}, on which is trained, {expected}"
            )


def test_sets(cfg: RunConfig) -> list[tuple[str, int]]:
    """(name, problems) of every set that a run is tested on, its own first."""
    data = cfg.data
    return [(data.name, data.test), *((name, data.test_others) for name in data.others)]


def score(
    cfg: RunConfig, trainer: Trainer, params: PyTree, sets: list[tuple[str, int]]
) -> dict[str, dict[str, float]]:
    """Test accuracy and loss on each set: name -> {"accuracy", "nll", "count"}."""
    task: ReasoningTask = trainer.task  # type: ignore[assignment]
    found = {}
    for name, size in sets:
        task.eval_source = open_source(cfg, name, "test", size)
        evaluate = make_evaluate(task, cfg.train, trainer.mesh)
        assert evaluate is not None
        values = evaluate(params)
        found[name] = {k.removeprefix("eval/"): v for k, v in values.items()} | {"count": size}
    return found


def run(cfg: RunConfig, trainer: Trainer) -> tuple[dict[str, Any], PyTree]:
    """Trains and tests; (report, which is also written to report.json, and parameters)."""
    start = time.monotonic()
    state = trainer.run()
    seconds = time.monotonic() - start
    params = state.ema if cfg.train.ema else state.params
    report = {
        "network": cfg.model.network,
        "parameters": params_lib.count(trainer.specs),
        "train": [cfg.data.name, cfg.data.train],
        "seed": cfg.train.seed,
        "steps": cfg.train.steps,
        "seconds": round(seconds, 1),
        "test": score(cfg, trainer, params, test_sets(cfg)),
    }
    if jax.process_index() == 0:
        files.write_text(trainer.workdir / "report.json", json.dumps(report, indent=2) + "\n")
    return report, params


def main(config: Any, workdir: str) -> None:
    """Trains as configured; writes report.json, accuracy.png and pictures of what was seen."""
    launch.launch(config, workdir, build=build_config, prepare=make_trainer, run=run, draw=_draw)


def _draw(cfg: RunConfig, task: Any, params: PyTree, report: dict[str, Any], out: Path) -> None:
    from perception import pictures

    pictures.run_pictures(cfg, task, params, out)

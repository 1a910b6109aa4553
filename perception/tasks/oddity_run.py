# SPDX-License-Identifier: Apache-2.0
"""From a configuration to a trained network that finds the odd frame, and its report."""

from __future__ import annotations

import dataclasses
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
from core.loop import Trainer
from core.task import PyTree, TrainConfig
from perception import saccades
from perception.data import image_set
from perception.data.oddity import FAMILIES, NAMES, Oddity, riddle_numbers
from perception.frontend import FrontEndConfig
from perception.networks.eyes import FrameEncoder, GlimpseEye
from perception.networks.oren import Oren
from perception.networks.saccadic import Saccadic
from perception.tasks import launch
from perception.tasks.glimpse_sets import GlimpseSet
from perception.tasks.image_sets import Reader
from perception.tasks.oddity import OddityTask, OnlineOddityTask

NETWORKS = ("snu", "ssnu", "snu_feedforward", "lstm", "gru", "rwkv", "oren")
EYES = ("cnn", "glimpses")
LEARNING = {"bptt": OddityTask, "ostl": OnlineOddityTask}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is learned and tested; see `perception.data.oddity`.

    Attributes:
      riddle: a number, a family, "all", or several numbers joined by "+".
      without: riddles or a family held out of training, named in the same way; empty: none. They
        are tested as a set of their own.
      train, validation, test: problems in each split; no validation split with 0.
      resolution: pixels of a frame's side.
      contrast: of the deviation of the odd frame.
      seed: of the images, and of the order in which the eye "cnn" gets those of training (initial
        values, dropout and saccades: `train.seed`).
      workers: processes that draw images.
      eval_batch_size: problems scored at a time.
    """

    riddle: str = "all"
    without: str = ""
    train: int = 8000
    validation: int = 500
    test: int = 2000
    resolution: int = 48
    contrast: float = 1.0
    seed: int = 0
    workers: int = 0
    eval_batch_size: int = 100

    def __post_init__(self) -> None:
        launch.check_least(
            self, train=1, validation=0, test=1, seed=0, workers=0, eval_batch_size=1
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
      network: one of `NETWORKS`: the cell of the saccadic network, or "oren".
      eye: "cnn", or "glimpses": see `networks.eyes`.
      channels: of the CNN.
      width: of a frame's code.
      size, depth: units and number of the recurrent layers.
      initial, evaluation: saccades S_I and S_E.
      relation, decision, dropout: of OReN.
    """

    network: str = "snu"
    eye: str = "cnn"
    channels: tuple[int, ...] = (32, 32, 32, 32)
    width: int = 64
    size: int = 128
    depth: int = 2
    initial: int = 6
    evaluation: int = 6
    relation: tuple[int, ...] = (256, 256, 256)
    decision: tuple[int, ...] = (256,)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise ValueError(f"network must be one of {NETWORKS}, got {self.network!r}")
        if self.eye not in EYES:
            raise ValueError(f"eye must be one of {EYES}, got {self.eye!r}")
        saccades.check(self.initial, self.evaluation)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole configuration file.

    Attributes:
      task: "oddity".
      data, train, model, optimizer: see there.
      frontend: how the eye "glimpses" looks at a frame.
      objective: see `tasks.oddity`.
      learning: "bptt", or "ostl": the recurrent layers learn online, see `CellReader.online`.
    """

    task: str
    data: DataConfig
    train: TrainConfig
    objective: str = "binary"
    learning: str = "bptt"
    model: ModelConfig = ModelConfig()
    frontend: FrontEndConfig = FrontEndConfig()
    optimizer: optim.AdamWConfig = optim.AdamWConfig()

    def __post_init__(self) -> None:
        if self.learning not in LEARNING:
            raise ValueError(f"learning must be one of {sorted(LEARNING)}, got {self.learning!r}")


def parse_riddles(text: str) -> tuple[int, ...]:
    """Riddle numbers of "7", "3+4+41", a family or "all".

    Raises:
      ValueError: no such riddle or family.
    """
    parts = text.split("+")
    if all(part.isdigit() for part in parts):
        return riddle_numbers([int(part) for part in parts])
    return riddle_numbers(text)


def build_network(cfg: ModelConfig, resolution: int, frontend: FrontEndConfig | None = None) -> Any:
    """The network for frames of `resolution` pixels; the eye "glimpses" looks by `frontend`."""
    eye: Any = FrameEncoder(resolution, cfg.channels, cfg.width)
    if cfg.eye == "glimpses":
        eye = GlimpseEye((frontend or FrontEndConfig()).content_shape(1), width=cfg.width)
    if cfg.network == "oren":
        return Oren(eye, cfg.relation, cfg.decision, cfg.dropout)
    inputs = cfg.width + saccades.FRAMES
    reader: Any
    if cfg.network == "rwkv":
        from perception.rwkv_cells import SaccadeRwkv

        reader = SaccadeRwkv(inputs, width=cfg.size, depth=cfg.depth)
    else:
        from perception.snn_cells import CellReader

        reader = CellReader(inputs, cfg.network, cfg.size, cfg.depth)
    return Saccadic(eye, reader, cfg.evaluation)


class FrameGlimpses(Source):
    """Glimpses of the frames of riddles, taken once: "content", "location", "label", "riddle"."""

    def __init__(self, images: Oddity, cfg: FrontEndConfig, reader: Reader):
        """Args: images: the riddles; cfg: how they are looked at; reader: their order."""
        self._images, self._reader = images, reader
        self._glimpses = GlimpseSet(images, cfg, reader)

    def __len__(self) -> int:
        return len(self._glimpses)

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.get`."""
        rows, _ = self._reader(indices)
        return {**self._glimpses.get(indices), "riddle": self._images.rows(rows)["riddle"]}


def open_images(
    cfg: RunConfig, split: str, size: int, riddles: tuple[int, ...] | None = None
) -> Oddity:
    """Riddles of one split; by default of the kinds that are trained on."""
    data = cfg.data
    if riddles is None:
        held_out = parse_riddles(data.without) if data.without else ()
        riddles = tuple(r for r in parse_riddles(data.riddle) if r not in held_out)
        if not riddles:
            raise ValueError(f"no riddle is left of {data.riddle!r} without {data.without!r}")
    return Oddity(
        riddles, split, size, data.seed, resolution=data.resolution, contrast=data.contrast,
        cache_dir=image_set.default_cache_dir(), workers=data.workers,
    )  # fmt: skip


def open_source(
    cfg: RunConfig, split: str, size: int, riddles: tuple[int, ...] | None = None
) -> Source:
    """What the eye sees of the riddles of `open_images`, with the saccades."""
    frames: Source = open_images(cfg, split, size, riddles)
    # Held-out problems are seen in the same orders whatever the seed of the training.
    seed = cfg.train.seed if split == "train" else 0
    if cfg.model.eye == "glimpses":
        reader = Reader(size, split == "train", False, seed)
        frames = FrameGlimpses(frames, cfg.frontend, reader)  # type: ignore[arg-type]
    return saccades.WithSaccades(frames, cfg.model.initial, cfg.model.evaluation, seed)


def build_config(values: Any) -> RunConfig:
    """Checks a ConfigDict."""
    return config_lib.build(RunConfig, values)


def make_trainer(
    cfg: RunConfig, workdir: Path, report: Callable[[str], None] | None = None
) -> Trainer:
    """Builds data, task and optimiser.

    Raises:
      ValueError: the folder holds another run, or the configuration cannot be followed.
    """
    launch.check_resumed(cfg, workdir, build_config)
    data = cfg.data
    train = open_source(cfg, "train", data.train)
    held_out = open_source(cfg, "validation", data.validation) if data.validation else None
    network = build_network(cfg.model, data.resolution, cfg.frontend)
    task = LEARNING[cfg.learning](network, cfg.objective, held_out, data.eval_batch_size)
    return launch.trainer(task, cfg, train, workdir, report)


def answers(
    task: OddityTask, params: PyTree, source: Source, batch_size: int
) -> dict[str, np.ndarray]:
    """ "right" bool [N] and "riddle" int32 [N] of all problems of a source."""
    scores_of = jax.jit(task.scores)
    right, riddle = [], []
    for start in range(0, len(source), batch_size):
        # One size for all calls; rows past the end come again from the beginning and are dropped.
        batch = source.get(np.arange(start, start + batch_size))
        inputs = {name: batch[name] for name in task.network.inputs}
        found = np.asarray(scores_of(params, inputs)).argmax(axis=-1)
        keep = min(batch_size, len(source) - start)
        right.append((found == batch["label"])[:keep])
        riddle.append(batch["riddle"][:keep])
    return {"right": np.concatenate(right), "riddle": np.concatenate(riddle)}


def by_group(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Accuracies of all problems, of each family and of each riddle: {"accuracy", "count", ...}."""

    def score(chosen: np.ndarray) -> dict[str, float]:
        right = found["right"][chosen]
        return {"accuracy": float(right.mean()), "count": int(right.size)}

    riddles = sorted({int(r) for r in found["riddle"]})
    families = {name: np.isin(found["riddle"], members) for name, members in FAMILIES.items()}
    return {
        **score(np.ones(len(found["right"]), bool)),
        "families": {name: score(own) for name, own in families.items() if own.any()},
        "riddles": {str(r): {"name": NAMES[r], **score(found["riddle"] == r)} for r in riddles},
    }


def run(cfg: RunConfig, trainer: Trainer) -> tuple[dict[str, Any], PyTree]:
    """Trains and tests; (report, which is also written to report.json, and parameters)."""
    start = time.monotonic()
    state = trainer.run()
    seconds = time.monotonic() - start
    params = state.ema if cfg.train.ema else state.params
    data = cfg.data
    tests = {"test": open_source(cfg, "test", data.test)}
    if data.without:
        tests["held_out"] = open_source(cfg, "test", data.test, parse_riddles(data.without))
    task: OddityTask = trainer.task  # type: ignore[assignment]
    scored = {
        name: by_group(answers(task, params, source, data.eval_batch_size))
        for name, source in tests.items()
    }
    report = {
        "network": cfg.model.network,
        "eye": cfg.model.eye,
        "objective": cfg.objective,
        "learning": cfg.learning,
        "riddle": data.riddle,
        "without": data.without,
        "parameters": params_lib.count(trainer.specs),
        "train": data.train,
        "samples": cfg.train.steps * cfg.train.batch_size,
        "resolution": data.resolution,
        "seed": cfg.train.seed,
        "steps": cfg.train.steps,
        "seconds": round(seconds, 1),
        **scored,
    }
    if jax.process_index() == 0:
        files.write_text(trainer.workdir / "report.json", json.dumps(report, indent=2) + "\n")
    return report, params


def main(config: Any, workdir: str) -> None:
    """Trains as configured; writes report.json and figures."""
    launch.launch(config, workdir, build=build_config, prepare=make_trainer, run=run, draw=_draw)


def _draw(cfg: RunConfig, task: Any, params: PyTree, report: dict[str, Any], out: Path) -> None:
    from perception import oddity_pictures

    oddity_pictures.run_pictures(cfg, task, params, report, out)

# SPDX-License-Identifier: Apache-2.0
"""A configuration of the oddity task, and the network and the riddles that it names."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from core import config as config_lib
from core import optim
from core.data import Source
from core.task import TrainConfig
from perception import saccades
from perception.data import image_set
from perception.data.oddity import Oddity, riddle_numbers
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

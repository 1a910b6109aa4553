# SPDX-License-Identifier: Apache-2.0
"""Problem and data of each sequence task, from the data block of a configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

from core import data as data_lib
from snn.sequences import chorales, digits, phonemes, text
from snn.tasks.problems import Digits, Frames, NextNotes, NextToken, Problem


@dataclasses.dataclass(frozen=True)
class Setting:
    """A problem, its three parts, and one line about them."""

    problem: Problem
    train: data_lib.Source
    valid: data_lib.Source
    test: data_lib.Source
    note: str


@dataclasses.dataclass(frozen=True)
class ChoralesConfig:
    """JSB chorales.

    Attributes:
      shuffle: new order in every epoch; False: the order of the file, as the authors did.
      multiple: batches are padded to a multiple of so many steps.
      pieces: use the first so many pieces of each part; 0 for all.
      eval_batch_size: pieces in an evaluation batch.
    """

    shuffle: bool = True
    multiple: int = 32
    pieces: int = 0
    eval_batch_size: int = 80

    def load(self, seed: int, batch_size: int) -> Setting:
        """Reads the data; see the class."""
        del batch_size
        parts = chorales.read_chorales()
        parts = {k: v[: self.pieces or None] for k, v in parts.items()}
        order = seed if self.shuffle else None
        source = lambda part, how: chorales.next_step_source(
            parts[part], seed=how, multiple=self.multiple
        )
        note = ", ".join(f"{len(v)} pieces {k}" for k, v in parts.items())
        return Setting(
            NextNotes(), source("train", order), source("valid", None), source("test", None), note
        )


@dataclasses.dataclass(frozen=True)
class DigitsConfig:
    """Digits over time; see `problems.Digits`.

    Attributes:
      name: "mnist" or another set of `snn.ttfs.images` with images of one channel.
      coding, steps, spikes, answer, readout: see `problems.Digits`.
      examples: use the first so many images of each part; 0 for all.
      eval_batch_size: images in an evaluation batch.
    """

    name: str = "mnist"
    coding: str = "rate"
    steps: int = 20
    spikes: float = 6.0
    answer: int = 0
    readout: str = "steps"
    examples: int = 0
    eval_batch_size: int = 500

    def load(self, seed: int, batch_size: int) -> Setting:
        """Reads the data; see the class."""
        del batch_size
        parts = digits.digit_arrays(self.name, self.examples)
        height, width = parts["train"]["x"].shape[1:]
        problem = Digits(
            self.coding, self.steps, self.spikes, self.answer, self.readout, height, width
        )
        source = lambda part, how: digits.digit_source(parts[part], how)
        counts = " / ".join(str(len(part["x"])) for part in parts.values())
        return Setting(
            problem,
            source("train", seed),
            source("valid", None),
            source("test", None),
            f"{counts} images to train, validate, test",
        )


@dataclasses.dataclass(frozen=True)
class PhonemesConfig:
    """TIMIT sample, frame-wise.

    Attributes:
      delay: the phone of a frame is asked for so many frames later.
      input_noise: standard deviation of noise on the normalised features in training.
      utterances: use the first so many of each part; 0 for all.
      eval_batch_size: utterances in an evaluation batch.
    """

    delay: int = 0
    input_noise: float = 0.0
    utterances: int = 0
    eval_batch_size: int = 8

    def load(self, seed: int, batch_size: int) -> Setting:
        """Reads the data; see the class."""
        del batch_size
        parts = phonemes.split(phonemes.read_timit())
        parts = {k: v[: self.utterances or None] for k, v in parts.items()}
        width = parts["train"][0].features.shape[1]
        fold = tuple(int(i) for i in phonemes.folding())
        problem = Frames(width, len(phonemes.PHONES), fold, self.input_noise)
        source = lambda part, how: phonemes.frame_source(parts[part], delay=self.delay, seed=how)
        note = ", ".join(
            f"{len(v)} utterances ({sum(len(u.labels) for u in v)} frames) {k}"
            for k, v in parts.items()
        )
        return Setting(
            problem, source("train", seed), source("valid", None), source("test", None), note
        )


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """Words or bytes of WikiText-2's validation part.

    Attributes:
      unit: "byte" or "word".
      min_count: rarer words of the training part become <unk>.
      context: tokens of a training window.
      tokens: use the first so many tokens of each part; 0 for all.
      eval_window, eval_context: tokens predicted in an evaluation window, and read before it.
      eval_batch_size: windows in an evaluation batch.
    """

    unit: str = "word"
    min_count: int = 1
    context: int = 32
    tokens: int = 0
    eval_window: int = 128
    eval_context: int = 64
    eval_batch_size: int = 16

    def load(self, seed: int, batch_size: int) -> Setting:
        """Reads the data; see the class."""
        del seed
        corpus = text.read_wikitext2(self.unit, self.min_count)
        size = len(corpus.vocabulary)
        cut = lambda x: x[: self.tokens or None]
        held = lambda x: text.Windows(cut(x), self.eval_window, self.eval_context)
        note = f"{len(corpus.train)} / {len(corpus.valid)} / {len(corpus.test)} {self.unit}s"
        return Setting(
            NextToken(size, size, self.unit),
            text.Streams(cut(corpus.train), self.context, batch_size),
            held(corpus.valid),
            held(corpus.test),
            f"{note} to train, validate, test; vocabulary {size}",
        )


DataConfig = ChoralesConfig | DigitsConfig | PhonemesConfig | LanguageConfig
KINDS: dict[str, type[Any]] = {
    "chorales": ChoralesConfig,
    "digits": DigitsConfig,
    "phonemes": PhonemesConfig,
    "language": LanguageConfig,
}

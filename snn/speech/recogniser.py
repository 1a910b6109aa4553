# SPDX-License-Identifier: Apache-2.0
"""A trained recogniser: whole utterances, or sound as it arrives with partial results.

    recogniser = load("runs/asr_fsdd")
    recogniser.transcribe(samples).text

    stream = Stream(recogniser)
    for piece in audio.pipe(sys.stdin.buffer, 16_000, recogniser.rate):
        print(stream.feed(piece).text)
    print(stream.finish().text)

A stream keeps the tail of the samples, the normalisation, the states of encoder and prediction
network, and the labels so far; it gives the labels of the whole utterance.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import checkpoint as checkpoint_lib
from core import config as config_lib
from core.task import PyTree
from snn.speech import beam, features, greedy, tokenizer
from snn.speech.beam import BeamConfig
from snn.speech.feature_stream import FeatureStream
from snn.speech.features import FeatureConfig
from snn.speech.language import LanguageModel
from snn.speech.network import Transducer, TransducerConfig
from snn.speech.tokenizer import Tokenizer

# Whole utterances are padded to a multiple of so many seconds: few shapes to compile.
PAD_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Word:
    """A recognised word; seconds from the beginning of the input frame that emitted its first label
    to the end of the one that emitted its last. Labels come out after they are heard, so both are
    late (docs/speech.md measures how much)."""

    text: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What was recognised.

    Attributes:
      text: of all labels.
      labels, frames: labels, and the input frames that emitted them.
      words: with their times.
      log_prob: log probability of the labels (beam search only).
    """

    text: str
    labels: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    words: tuple[Word, ...] = ()
    log_prob: float | None = None


@dataclasses.dataclass(frozen=True)
class Recogniser:
    """Network, front end and tokenizer."""

    net: Transducer
    params: PyTree
    front_end: FeatureConfig
    tokens: Tokenizer
    max_symbols: int = 4

    @property
    def rate(self) -> int:
        """Samples a second that it takes."""
        return self.front_end.rate

    @property
    def streams(self) -> bool:
        """Whether it can work while the sound arrives."""
        cfg = self.front_end
        causal = cfg.kind != "given" and cfg.normalise != "utterance"
        return causal and not self.net.cfg.bidirectional

    def transcript(self, labels: Any, frames: Any, log_prob: float | None = None) -> Transcript:
        """Text and words of labels and the frames that emitted them."""
        labels, frames = tuple(int(k) for k in labels), tuple(int(t) for t in frames)
        # Of a stacked frame, without what its slopes look ahead.
        step = self.front_end.seconds_per_step
        length = (
            self.front_end.frame_ms + self.front_end.hop_ms * (self.front_end.stack - 1)
        ) / 1e3
        words = tuple(
            Word(text, round(frames[first] * step, 3), round(frames[last] * step + length, 3))
            for text, first, last in self.tokens.words(labels)
        )
        return Transcript(self.tokens.decode(labels), labels, frames, words, log_prob)

    def encode(self, samples: np.ndarray) -> tuple[jax.Array, int]:
        """(encoder outputs for the joint [1, T, J], frames that count) of samples [N].

        Raises:
          ValueError: not a vector of finite numbers.
        """
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise ValueError(f"expected finite samples [N], got shape {samples.shape}")
        unit = round(PAD_SECONDS * self.rate)
        padded = np.zeros((1, max(1, -(-len(samples) // unit)) * unit), np.float32)
        padded[0, : len(samples)] = samples
        e, frames = _encode(self.net, self.front_end, self.params, padded, len(samples))
        return e, int(frames)

    def transcribe(self, samples: np.ndarray) -> Transcript:
        """Greedy decoding of a whole utterance; sound shorter than a frame has no labels."""
        e, frames = self.encode(samples)
        if frames < 1:
            return Transcript("")
        out, _ = _decode(self.net, self.max_symbols, self.params, e, jnp.asarray([frames]))
        count = int(out.counts[0])
        return self.transcript(out.labels[0, :count], out.frames[0, :count])

    def search(
        self,
        samples: np.ndarray,
        cfg: BeamConfig | None = None,
        language: LanguageModel | None = None,
        method: str = "alsd",
    ) -> list[Transcript]:
        """Beam search over a whole utterance, best first; method "alsd" or "tsd"."""
        methods = {"alsd": beam.alsd, "tsd": beam.tsd}
        if method not in methods:
            raise ValueError(f"method must be one of {sorted(methods)}, got {method!r}")
        e, frames = self.encode(samples)
        if frames < 1:
            return [Transcript("", log_prob=0.0)]
        found = methods[method](self.net, self.params, e[0, :frames], cfg, language)
        return [self.transcript(h.labels, h.frames, h.log_prob) for h in found]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(
    net: Transducer, cfg: FeatureConfig, params: PyTree, audio: jax.Array, samples: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, frames = features.features(cfg, audio, jnp.asarray(samples)[None])
    encoded, _ = net.encode(params, x, frames)
    return net.for_joint(params, encoded), frames[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _decode(
    net: Transducer, max_symbols: int, params: PyTree, e: jax.Array, frames: jax.Array
) -> tuple[greedy.Decoded, greedy.Carry]:
    return greedy.decode(net, params, e, frames, max_symbols=max_symbols)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _frame(
    net: Transducer, max_symbols: int, params: PyTree, carry: Any, x: jax.Array
) -> tuple[Any, greedy.Decoded]:
    """One input frame x [1, F]: (states of encoder and decoding) -> (the same, labels)."""
    state, decoding = carry
    state, y = net.encoder.step(params["encoder"], state, x)
    e = net.for_joint(params, y)[:, None]
    out, decoding = greedy.decode(
        net, params, e, jnp.ones(1, jnp.int32), decoding, max_symbols=max_symbols, window=1
    )
    return (state, decoding), out


class Stream:
    """Greedy recognition of one stream of sound."""

    def __init__(self, recogniser: Recogniser):
        """Raises ValueError for a network or front end that needs the whole utterance."""
        if recogniser.net.cfg.bidirectional:
            raise ValueError("a stream needs a unidirectional encoder")
        self._of = recogniser
        self._features = FeatureStream(recogniser.front_end)
        net = recogniser.net
        self._carry = (net.encoder.init_state(1), greedy.start(net, recogniser.params, 1))
        self._labels: list[int] = []
        self._frames: list[int] = []
        self._heard = 0
        self._so_far = Transcript("")

    @property
    def text(self) -> str:
        """What was recognised so far."""
        return self._so_far.text

    def feed(self, samples: np.ndarray) -> Transcript:
        """Takes samples [N] at `Recogniser.rate`; returns everything recognised so far."""
        return self._run(self._features.feed(samples))

    def finish(self) -> Transcript:
        """The transcript of the whole stream."""
        return self._run(self._features.finish())

    def _run(self, xs: np.ndarray) -> Transcript:
        of = self._of
        for x in xs:
            args = (of.params, self._carry, jnp.asarray(x[None]))
            self._carry, out = _frame(of.net, of.max_symbols, *args)
            count = int(out.counts[0])
            self._labels += np.asarray(out.labels[0, :count]).tolist()
            self._frames += [self._heard] * count
            self._heard += 1
        # Written anew only if there is something new: an hour of sound comes in many pieces.
        if len(self._labels) > len(self._so_far.labels):
            self._so_far = of.transcript(self._labels, self._frames)
        return self._so_far


def load(checkpoint: str | os.PathLike[str]) -> Recogniser:
    """The recogniser of a run: its workdir, a directory of checkpoints, or one step.

    Raises:
      FileNotFoundError: no checkpoint there. ValueError: one of another task.
    """
    params, meta = checkpoint_lib.load_params(checkpoint)
    stored = meta.get("config", {})
    if stored.get("task") != "transducer":
        raise ValueError(
            f"{checkpoint} is no speech recogniser: its task is {stored.get('task')!r}"
        )
    front_end = config_lib.build(FeatureConfig, stored["features"], "features")
    tokens = tokenizer.restore(stored["tokenizer"])
    model = config_lib.build(TransducerConfig, stored["model"], "model")
    net = Transducer(model, front_end.size, tokens.size)
    return Recogniser(net, params, front_end, tokens, stored["loss"]["max_symbols"])

# SPDX-License-Identifier: Apache-2.0
"""Beam search for transducers: alignment-length synchronous and time synchronous.

Both keep hypotheses by their labels and add up the probabilities of all paths to the same labels
(prefix merging), so with an unlimited beam they give the exact log P(labels | sound).

ALSD (Saon et al., ICASSP 2020): step i holds hypotheses at frame i - |labels|; every step takes a
blank or a label. TSD (time synchronous): each frame lets a hypothesis emit some labels, then a
blank. The networks run on all hypotheses of a step together; the prediction network once for each
prefix. The search itself is bookkeeping on the host.

Dimensions: J joint size, V labels with the blank, K hypotheses.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.task import PyTree
from snn.speech.language import LanguageModel
from snn.speech.network import BLANK, Transducer

Prefix = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class BeamConfig:
    """Settings of the search.

    Attributes:
      beam: hypotheses kept.
      max_labels: most labels of an utterance (ALSD); 0: as many as frames.
      max_symbols: most labels of a frame (TSD).
      lm_weight: what the language model's log probability is multiplied by ("shallow fusion").
      label_bonus: added for each label, against the language model's liking for few.
    """

    beam: int = 4
    max_labels: int = 0
    max_symbols: int = 4
    lm_weight: float = 0.0
    label_bonus: float = 0.0

    def __post_init__(self) -> None:
        if self.beam < 1 or self.max_labels < 0 or self.max_symbols < 1:
            raise ValueError(
                "expected beam >= 1, max_labels >= 0 and max_symbols >= 1, got"
                f" {self.beam}, {self.max_labels}, {self.max_symbols}"
            )


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """Labels with their probability.

    Attributes:
      labels: without blanks.
      log_prob: log P of the sound's model, summed over the paths that were kept.
      score: what hypotheses are compared by: log_prob, language model and bonus.
      frames: frame of each label on the best path.
    """

    labels: Prefix
    log_prob: float
    score: float
    frames: Prefix


@dataclasses.dataclass
class _Open:
    """A hypothesis during the search; `best` is the log probability of the path of `frames`."""

    labels: Prefix
    log_prob: float
    frames: Prefix
    best: float

    def then(self, label: int, log_prob: float, frame: int) -> _Open:
        """One label more, or a blank."""
        blank = label == BLANK
        return _Open(
            self.labels if blank else (*self.labels, label),
            self.log_prob + log_prob,
            self.frames if blank else (*self.frames, frame),
            self.best + log_prob,
        )


def _merge(into: dict[Prefix, _Open], new: _Open) -> None:
    """Adds up the probabilities of paths to the same labels."""
    old = into.get(new.labels)
    if old is None:
        into[new.labels] = new
        return
    total = float(np.logaddexp(old.log_prob, new.log_prob))
    better = new if new.best > old.best else old
    into[new.labels] = dataclasses.replace(better, log_prob=total)


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(net: Transducer, params: PyTree, e: jax.Array, p: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(net.logits(params, e, p))


@functools.partial(jax.jit, static_argnums=0)
def _predict(net: Transducer, params: PyTree, state: PyTree, labels: jax.Array) -> Any:
    return net.predict_step(params, state, labels)


class _Prefixes:
    """What follows from a prefix alone, computed once: p, the state, the language model's view."""

    def __init__(
        self, net: Transducer, params: PyTree, cfg: BeamConfig, language: LanguageModel | None
    ):
        self._net, self._params, self._cfg, self._language = net, params, cfg, language
        state, p = net.start(params, 1)
        self._known: dict[Prefix, tuple[Any, np.ndarray]] = {
            (): (jax.tree.map(np.asarray, state), np.asarray(p)[0])
        }
        self._spoken: dict[Prefix, tuple[Any, np.ndarray]] = {}
        self._totals: dict[Prefix, float] = {(): 0.0}
        if language is not None:
            self._spoken[()] = language.start()

    def log_probs(self, e: np.ndarray, prefixes: list[Prefix]) -> np.ndarray:
        """[K, V] at one frame e [J] each: e [K, J]."""
        self._extend(prefixes)
        p = np.stack([self._known[prefix][1] for prefix in prefixes])
        width = _padded(len(prefixes))
        rows = np.arange(width) % len(prefixes)
        scores = _log_probs(self._net, self._params, jnp.asarray(e[rows]), jnp.asarray(p[rows]))
        return np.asarray(scores, np.float64)[: len(prefixes)]

    def _extend(self, prefixes: Iterable[Prefix]) -> None:
        """Runs the prediction network for prefixes that were not seen; their parents were."""
        new = [prefix for prefix in dict.fromkeys(prefixes) if prefix not in self._known]
        if not new:
            return
        rows = np.arange(_padded(len(new))) % len(new)
        parents = [self._known[new[i][:-1]][0] for i in rows]
        states = jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)), *parents)
        labels = jnp.asarray([new[i][-1] for i in rows], jnp.int32)
        states, p = jax.device_get(_predict(self._net, self._params, states, labels))
        for i, prefix in enumerate(new):
            self._known[prefix] = (jax.tree.map(lambda x, i=i: x[i : i + 1], states), p[i])

    def score(self, hypothesis: _Open) -> float:
        """What hypotheses are ranked by."""
        score = hypothesis.log_prob + self._cfg.label_bonus * len(hypothesis.labels)
        if self._language is None:
            return score
        return score + self._cfg.lm_weight * self._spoken_total(hypothesis.labels)

    def _spoken_total(self, prefix: Prefix) -> float:
        """The language model's log probability of a prefix."""
        if prefix not in self._totals:
            parent = prefix[:-1]
            before = self._spoken_total(parent)
            _, scores = self._view(parent)
            self._totals[prefix] = before + float(scores[prefix[-1]])
        return self._totals[prefix]

    def _view(self, prefix: Prefix) -> tuple[Any, np.ndarray]:
        """The language model's (state, log probabilities of what follows) after a prefix."""
        assert self._language is not None
        if prefix not in self._spoken:
            state, _ = self._view(prefix[:-1])
            self._spoken[prefix] = self._language.step(state, prefix[-1])
        return self._spoken[prefix]

    def best(self, hypotheses: Iterable[_Open]) -> list[_Open]:
        """The beam: the best hypotheses, best first; equal ones by their labels."""
        ranked = sorted(hypotheses, key=lambda h: (-self.score(h), h.labels))
        return ranked[: self._cfg.beam]

    def closed(self, hypotheses: Iterable[_Open]) -> list[Hypothesis]:
        """Results, best first."""
        return [
            Hypothesis(h.labels, h.log_prob, self.score(h), h.frames) for h in self.best(hypotheses)
        ]


def _padded(count: int) -> int:
    """The next power of two: few shapes to compile."""
    return 1 << (count - 1).bit_length()


def _checked(e: jax.Array | np.ndarray) -> np.ndarray:
    e = np.asarray(e)
    if e.ndim != 2 or len(e) < 1:
        raise ValueError(f"expected the frames of one utterance [T >= 1, J], got {e.shape}")
    return e


def alsd(
    net: Transducer,
    params: PyTree,
    e: jax.Array | np.ndarray,
    cfg: BeamConfig | None = None,
    language: LanguageModel | None = None,
) -> list[Hypothesis]:
    """Alignment-length synchronous decoding of one utterance.

    Args:
      net, params: the network.
      e: encoder outputs for the joint [T, J].
      cfg: settings.
      language: a model of label sequences; see `snn.speech.language`.

    Returns:
      at most `cfg.beam` hypotheses, best first.
    """
    e, cfg = _checked(e), cfg or BeamConfig()
    prefixes = _Prefixes(net, params, cfg, language)
    time, most = len(e), cfg.max_labels or len(e)
    beam, complete = [_Open((), 0.0, (), 0.0)], []
    for step in range(time + most):
        alive = [h for h in beam if step - len(h.labels) < time]
        if not alive:
            break
        frames = np.array([step - len(h.labels) for h in alive])
        scores = prefixes.log_probs(e[frames], [h.labels for h in alive])
        grown: dict[Prefix, _Open] = {}
        for h, frame, row in zip(alive, frames.tolist(), scores, strict=True):
            blank = h.then(BLANK, float(row[BLANK]), frame)
            if frame == time - 1:
                complete.append(blank)
            else:
                _merge(grown, blank)
            if len(h.labels) < most:
                for label in _likely(row, cfg.beam):
                    _merge(grown, h.then(label, float(row[label]), frame))
        beam = prefixes.best(grown.values())
    return prefixes.closed(complete)


def tsd(
    net: Transducer,
    params: PyTree,
    e: jax.Array | np.ndarray,
    cfg: BeamConfig | None = None,
    language: LanguageModel | None = None,
) -> list[Hypothesis]:
    """Time synchronous decoding of one utterance; see `alsd` for the arguments."""
    e, cfg = _checked(e), cfg or BeamConfig()
    prefixes = _Prefixes(net, params, cfg, language)
    beam = [_Open((), 0.0, (), 0.0)]
    for frame, now in enumerate(e):
        done: dict[Prefix, _Open] = {}
        growing = beam
        for symbols in range(cfg.max_symbols + 1):
            repeated = np.broadcast_to(now, (len(growing), len(now)))
            scores = prefixes.log_probs(repeated, [h.labels for h in growing])
            grown: dict[Prefix, _Open] = {}
            for h, row in zip(growing, scores, strict=True):
                _merge(done, h.then(BLANK, float(row[BLANK]), frame))
                if symbols < cfg.max_symbols:
                    for label in _likely(row, cfg.beam):
                        _merge(grown, h.then(label, float(row[label]), frame))
            growing = prefixes.best(grown.values())
            if not growing:
                break
        beam = prefixes.best(done.values())
    return prefixes.closed(beam)


def _likely(row: np.ndarray, count: int) -> list[int]:
    """Labels worth a hypothesis: no more than the beam could hold of one parent.

    With a language model a less likely label may still win; four times the beam are looked at.
    """
    labels = [k for k in range(len(row)) if k != BLANK]
    if len(labels) <= 4 * count:
        return labels
    order = np.argsort(-row[labels], kind="stable")[: 4 * count]
    return [labels[i] for i in order]

# SPDX-License-Identifier: Apache-2.0
"""The front end on sound that arrives in pieces: the same features, frame for frame.

A stacked frame comes out as soon as its last sample (and the context of its slopes) was heard. All
computation runs in blocks of one shape, so that a stream compiles once.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from snn.speech import features
from snn.speech.features import FeatureConfig, Running


@functools.partial(jax.jit, static_argnums=0)
def _spectra(cfg: FeatureConfig, frames: jax.Array) -> jax.Array:
    return features.spectral(cfg, frames)


@functools.partial(jax.jit, static_argnums=0)
def _normalise(
    cfg: FeatureConfig, carry: Running, block: jax.Array, used: jax.Array
) -> tuple[Running, jax.Array]:
    """Block [K, F], of which the first `used` frames count."""

    def step(carry: Running, item: tuple[jax.Array, jax.Array]) -> tuple[Running, jax.Array]:
        frame, counts = item
        new, y = features.normalise_running(cfg, carry, frame[None, None])
        new = jax.tree.map(lambda a, b: jnp.where(counts, a, b), new, carry)
        return new, y[0, 0]

    return jax.lax.scan(step, carry, (block, jnp.arange(len(block)) < used))


@functools.partial(jax.jit, static_argnums=0)
def _deltas(cfg: FeatureConfig, padded: jax.Array) -> jax.Array:
    return features.add_deltas(cfg, padded[None])[0]


class FeatureStream:
    """Features of one stream of samples.

    stream = FeatureStream(cfg)
    for piece in pieces:
        x = stream.feed(piece)        # [n, cfg.size], n = 0, 1, ...
    x = stream.finish()
    """

    def __init__(self, cfg: FeatureConfig, block: int = 8):
        """Args: block: frames computed together.

        Raises:
          ValueError: features that need the whole utterance.
        """
        if cfg.kind == "given":
            raise ValueError("a stream of sound needs kind log_mel or mfcc, got given")
        if cfg.normalise == "utterance":
            raise ValueError(
                "normalise 'utterance' needs the whole utterance; a stream needs 'running' or"
                " 'none'"
            )
        self.cfg, self._block = cfg, max(block, 1 + 2 * cfg.context)
        self._samples = np.zeros(0, np.float32)
        self._running = features.start_running(cfg, 1)
        self._base = np.zeros((0, cfg.base_size), np.float32)  # normalised, slopes not yet known
        self._known = np.zeros((0, cfg.base_size * (1 + cfg.deltas)), np.float32)
        self._started = self._finished = False

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Takes samples [N] (range of 16-bit integers, any N); returns new features [n, size].

        Raises:
          ValueError: not a vector of finite numbers, or after `finish`.
        """
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise ValueError(f"expected finite samples [N], got shape {samples.shape}")
        if self._finished:
            raise ValueError("the stream is finished; start another one")
        self._samples = np.concatenate([self._samples, samples])
        count = self.cfg.count(len(self._samples))
        assert isinstance(count, int)
        if count:
            view = np.lib.stride_tricks.sliding_window_view(self._samples, self.cfg.window)
            self._base_frames(view[:: self.cfg.hop][:count])
            self._samples = self._samples[count * self.cfg.hop :]
        return self._stacks(self._slopes(last=False))

    def finish(self) -> np.ndarray:
        """The features that only waited for what might have followed, [n, size]."""
        self._finished = True
        return self._stacks(self._slopes(last=True))

    def _base_frames(self, frames: np.ndarray) -> None:
        cfg = self.cfg
        for first in range(0, len(frames), self._block):
            part = frames[first : first + self._block]
            block = np.zeros((self._block, cfg.window), np.float32)
            block[: len(part)] = part
            y = _spectra(cfg, jnp.asarray(block))
            if cfg.normalise == "running":
                self._running, y = _normalise(cfg, self._running, y, jnp.asarray(len(part)))
            new = np.asarray(y)[: len(part)]
            if not self._started:
                # The frames before the first are copies of it.
                self._base = np.repeat(new[:1], cfg.context, axis=0)
                self._started = True
            self._base = np.concatenate([self._base, new])

    def _slopes(self, last: bool) -> np.ndarray:
        """Frames with their slopes, as far as the context allows [n, F (1 + deltas)]."""
        context = self.cfg.context
        if not self._started:
            return self._known[:0]
        if last:
            self._base = np.concatenate([self._base, np.repeat(self._base[-1:], context, axis=0)])
        count = len(self._base) - 2 * context
        if count <= 0 or not self.cfg.deltas:
            ready = self._base[: max(count, 0)]
            self._base = self._base[max(count, 0) :]
            return np.zeros((0, self._known.shape[1]), np.float32) if count <= 0 else ready
        out = []
        for first in range(0, count, self._block):
            used = min(self._block, count - first)
            block = np.zeros((self._block + 2 * context, self.cfg.base_size), np.float32)
            part = self._base[first : first + used + 2 * context]
            block[: len(part)] = part
            out.append(np.asarray(_deltas(self.cfg, jnp.asarray(block)))[:used])
        self._base = self._base[count:]
        return np.concatenate(out)

    def _stacks(self, new: np.ndarray) -> np.ndarray:
        cfg = self.cfg
        self._known = np.concatenate([self._known, new])
        count = cfg.stacked_count(len(self._known))
        assert isinstance(count, int)
        index = np.arange(count)[:, None] * cfg.skip + np.arange(cfg.stack)
        stacks = self._known[index].reshape(count, cfg.size)
        self._known = self._known[count * cfg.skip :]
        return stacks

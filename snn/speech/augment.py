# SPDX-License-Identifier: Apache-2.0
"""Distortions of training speech: noise and masks on the device, speed on the host.

Speed perturbation (Ko et al., Interspeech 2015) plays a recording faster or slower, which moves
tempo, pitch and formants together. Vocal tract length perturbation (Jaitly and Hinton, 2013) moves
the formants alone: the spectrum of an utterance is read at frequencies that are all larger or
smaller by one factor. A random channel (after FilterAugment, arXiv 2110.03282) colours the
spectrum as another microphone and room do. SpecAugment (arXiv 1904.08779) masks bands of frequency
and spans of time (without its time warping, which gains least).
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from core import permute
from snn.sequences.features import mel
from snn.speech import audio as audio_lib
from snn.speech.features import FeatureConfig

CHANNEL_KNOTS = 5


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Distortions; the defaults are none.

    Attributes:
      speeds: factors, one drawn for each use of a recording; () for none.
      noise_snr_db: (low, high) ratio of signal to added white noise; () for none.
      noise_probability: share of utterances that get it.
      gain_db: loudness is drawn within plus or minus so much.
      warp: (low, high) factor of the frequencies at which log-mel energies are read, drawn for each
        utterance, evenly in its logarithm; () for none.
      channel_db: gains of an utterance's channel, within plus or minus so much at `CHANNEL_KNOTS`
        frequencies and straight between them (on the axes of a log-mel spectrum).
      frequency_masks, frequency_width: number of masks, and their largest width in bands.
      time_masks, time_width: the same for frames (before stacking).
      time_share: a time mask is at most this share of the utterance.
    """

    speeds: tuple[float, ...] = ()
    noise_snr_db: tuple[float, ...] = ()
    noise_probability: float = 0.5
    gain_db: float = 0.0
    warp: tuple[float, ...] = ()
    channel_db: float = 0.0
    frequency_masks: int = 0
    frequency_width: int = 8
    time_masks: int = 0
    time_width: int = 20
    time_share: float = 0.2

    def __post_init__(self) -> None:
        if any(not 0.5 <= s <= 2 for s in self.speeds):
            raise ValueError(f"speeds must be in 0.5 ... 2, got {self.speeds}")
        snr = self.noise_snr_db
        if snr and (len(snr) != 2 or snr[0] > snr[1]):
            raise ValueError(f"noise_snr_db must be (low, high), got {snr}")
        if not (0 <= self.noise_probability <= 1 and 0 <= self.time_share <= 1):
            raise ValueError(
                f"shares must be in 0 ... 1, got {self.noise_probability=}, {self.time_share=}"
            )
        if self.warp and not (len(self.warp) == 2 and 0.5 <= self.warp[0] <= self.warp[1] <= 2):
            raise ValueError(f"warp must be (low, high) within 0.5 ... 2, got {self.warp}")
        if min(self.frequency_masks, self.time_masks, self.gain_db, self.channel_db) < 0:
            raise ValueError(
                "numbers of masks, gain_db and channel_db must not be negative, got"
                f" {self.frequency_masks=}, {self.time_masks=}, {self.gain_db=}, {self.channel_db=}"
            )


def change_speed(samples: np.ndarray, factor: float, rate: int) -> np.ndarray:
    """Samples [N] played `factor` times as fast: [about N / factor]."""
    if factor == 1.0:
        return samples
    return audio_lib.resample(samples, rate * factor, rate, quality="MQ")


def draw_speed(cfg: AugmentConfig, seed: int, use: int) -> float:
    """The factor of one use of a recording: a pure function of (seed, use)."""
    if not cfg.speeds:
        return 1.0
    return cfg.speeds[permute.derive_seed(seed, "speed", use) % len(cfg.speeds)]


def add_noise(
    cfg: AugmentConfig, key: jax.Array, audio: jax.Array, samples: jax.Array
) -> jax.Array:
    """White noise and a gain on sound [B, N]; padding stays as it is."""
    if not (cfg.noise_snr_db or cfg.gain_db):
        return audio
    rows = (len(audio), 1)
    draw, choose, level, gain = jax.random.split(key, 4)
    inside = jnp.arange(audio.shape[1]) < samples[:, None]
    if cfg.noise_snr_db:
        power = jnp.where(inside, jnp.square(audio), 0).sum(axis=1, keepdims=True)
        loudness = jnp.sqrt(power / jnp.maximum(samples[:, None], 1))
        low, high = cfg.noise_snr_db
        snr = jax.random.uniform(level, rows, minval=low, maxval=high)
        chosen = jax.random.bernoulli(choose, cfg.noise_probability, rows)
        scale = jnp.where(chosen, loudness * 10 ** (-snr / 20), 0.0)
        audio = audio + jnp.where(inside, scale * jax.random.normal(draw, audio.shape), 0.0)
    if cfg.gain_db:
        decibels = jax.random.uniform(gain, rows, minval=-cfg.gain_db, maxval=cfg.gain_db)
        audio = audio * 10 ** (decibels / 20)
    return audio


def warp_frequencies(
    cfg: AugmentConfig, key: jax.Array, x: jax.Array, front_end: FeatureConfig
) -> jax.Array:
    """Log-mel energies [B, T, F] of other vocal tracts, before normalisation.

    Band b of row i becomes the energy at `factor_i` times the frequency of its centre, between the
    two nearest bands; beyond the first and last centre it is that band's.
    """
    if not cfg.warp:
        return x
    low, high = np.log(cfg.warp)
    factors = jnp.exp(jax.random.uniform(key, (len(x), 1), minval=low, maxval=high))
    top = front_end.high_hz or front_end.rate / 2
    edges = mel(np.array([front_end.low_hz, top]))
    width = (edges[1] - edges[0]) / (front_end.bands + 1)
    centres = edges[0] + width * np.arange(1, front_end.bands + 1)
    # mel(c f) as a number of the band, counted from zero; 700 (exp(m / 1127) - 1) is f.
    ratio = jnp.asarray(np.expm1(centres / 1127), x.dtype)
    at = (1127 * jnp.log1p(factors * ratio) - centres[0]) / width
    at = jnp.clip(at, 0, front_end.bands - 1)
    left = jnp.minimum(at.astype(jnp.int32), front_end.bands - 2)
    share = (at - left)[:, None]
    below, above = (jnp.take_along_axis(x, (left + i)[:, None], axis=2) for i in (0, 1))
    return below + share * (above - below)


def colour(cfg: AugmentConfig, key: jax.Array, x: jax.Array, frames: jax.Array) -> jax.Array:
    """Log-mel energies [B, T, F] through a random channel for each row; padding stays as it is."""
    if not cfg.channel_db:
        return x
    limit = cfg.channel_db * math.log(10) / 10  # of the logarithm of a power
    knots = jax.random.uniform(key, (len(x), CHANNEL_KNOTS), minval=-limit, maxval=limit)
    curve = jax.image.resize(knots, (len(x), x.shape[2]), "linear")
    inside = jnp.arange(x.shape[1]) < frames[:, None]
    return x + jnp.where(inside[:, :, None], curve[:, None], 0.0)


def spec_augment(cfg: AugmentConfig, key: jax.Array, x: jax.Array, frames: jax.Array) -> jax.Array:
    """Sets spans of normalised features [B, T, F] to zero, their mean."""
    bands = jnp.full((len(x),), x.shape[2])
    along_band, along_time = jax.random.split(key)
    width = jnp.minimum(cfg.time_width, (cfg.time_share * frames).astype(jnp.int32))
    hidden = _spans(along_time, cfg.time_masks, width, frames, x.shape[1])[:, :, None]
    limit = jnp.minimum(cfg.frequency_width, bands)
    hidden |= _spans(along_band, cfg.frequency_masks, limit, bands, x.shape[2])[:, None]
    return jnp.where(hidden, 0.0, x)


def _spans(key: jax.Array, masks: int, width: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """bool [B, size]: union of `masks` spans of at most `width` [B] within `length` [B]."""
    widths, starts = jax.random.uniform(key, (2, len(length), masks))
    spans = jnp.floor(widths * (width[:, None] + 1))
    first = jnp.floor(starts * (length[:, None] - spans + 1))
    at = jnp.arange(size)[None, None]
    return ((at >= first[..., None]) & (at < (first + spans)[..., None])).any(axis=1)

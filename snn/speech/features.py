# SPDX-License-Identifier: Apache-2.0
"""Features of speech as Kaldi computes them (without dither), batched, for `jax.jit`.

    frames of 25 ms every 10 ms, no partial ones -> mean removed -> pre-emphasis -> Povey window
    -> power spectrum -> mel filters -> log [-> cosine transform, lifter: MFCC]
    -> normalisation -> slopes of the trajectories ("deltas") -> several frames side by side

Dimensions: B batch, N samples, T frames, F features, W samples of a frame.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from snn.sequences import features as numpy_features

KINDS = ("log_mel", "mfcc", "given")
NORMALISATIONS = ("none", "utterance", "running")
DELTA_WINDOW = 2


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
    """The front end.

    Attributes:
      kind: "log_mel", "mfcc", or "given" (stored features of `coefficients` columns).
      rate: samples a second; sound is resampled to it.
      bands: mel filters.
      coefficients: cepstral coefficients of an MFCC.
      energy: put the log energy of the frame in place of the first coefficient.
      lifter: cepstral lifter; 0 for none.
      low_hz, high_hz: range of the filters; high 0 is half the rate.
      frame_ms, hop_ms: length of a frame, and time between frames.
      normalise: "none", "utterance" (mean and variance of the whole; not for streams), or
        "running" (of what came before; the same in a stream).
      prior_mean, prior_std, prior_frames: what a running normalisation starts from, and how many
        frames it counts as.
      memory_frames: after so many frames a running normalisation forgets the oldest.
      deltas: order of the slopes, 0 ... 2.
      stack, skip: frames side by side, and frames from one stack to the next.
    """

    kind: str = "log_mel"
    rate: int = 16_000
    bands: int = 40
    coefficients: int = 13
    energy: bool = False
    lifter: float = 22.0
    low_hz: float = 20.0
    high_hz: float = 0.0
    frame_ms: int = 25
    hop_ms: int = 10
    normalise: str = "running"
    prior_mean: float = 12.0
    prior_std: float = 4.0
    prior_frames: int = 30
    memory_frames: int = 3000
    deltas: int = 0
    stack: int = 1
    skip: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}")
        if self.normalise not in NORMALISATIONS:
            raise ValueError(f"normalise must be one of {NORMALISATIONS}, got {self.normalise!r}")
        if not 0 <= self.low_hz < (self.high_hz or self.rate / 2) <= self.rate / 2:
            raise ValueError(
                f"filters must lie within 0 ... {self.rate / 2} Hz, got {self.low_hz=}"
                f" {self.high_hz=}"
            )
        if self.kind == "mfcc" and not 1 <= self.coefficients <= self.bands:
            raise ValueError(f"coefficients must be in 1 ... {self.bands}, got {self.coefficients}")
        if min(self.stack, self.skip, self.hop_ms, self.bands, self.prior_frames) < 1:
            raise ValueError(
                "stack, skip, hop_ms, bands and prior_frames must be at least 1, got"
                f" {self.stack}, {self.skip}, {self.hop_ms}, {self.bands}, {self.prior_frames}"
            )
        if self.deltas not in (0, 1, 2):
            raise ValueError(f"deltas must be 0, 1 or 2, got {self.deltas}")

    @property
    def window(self) -> int:
        """Samples of a frame."""
        return self.rate * self.frame_ms // 1000

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return self.rate * self.hop_ms // 1000

    @property
    def base_size(self) -> int:
        """Features of a frame before slopes and stacking."""
        return self.bands if self.kind == "log_mel" else self.coefficients

    @property
    def size(self) -> int:
        """Features of a stacked frame: the width of the network's input."""
        return self.base_size * (1 + self.deltas) * self.stack

    @property
    def context(self) -> int:
        """Frames on each side that the slopes of a frame depend on."""
        return DELTA_WINDOW * self.deltas

    @property
    def seconds_per_step(self) -> float:
        """Seconds from one stacked frame to the next."""
        return self.skip * self.hop_ms / 1000

    @property
    def lookahead_seconds(self) -> float:
        """Sound that must be heard after the beginning of a stacked frame before it is known."""
        return (self.hop_ms * (self.context + self.stack - 1) + self.frame_ms) / 1000

    def count(self, samples: jax.Array | int) -> jax.Array | int:
        """Frames (before stacking) of so many samples; 0 if there is not one."""
        xp = jnp if isinstance(samples, jax.Array) else np
        whole = xp.maximum(0, 1 + (samples - self.window) // self.hop)
        return whole if isinstance(samples, (jax.Array, np.ndarray)) else int(whole)

    def stacked_count(self, frames: jax.Array | int) -> jax.Array | int:
        """Stacks of so many frames."""
        xp = jnp if isinstance(frames, jax.Array) else np
        whole = xp.maximum(0, 1 + (frames - self.stack) // self.skip)
        return whole if isinstance(frames, (jax.Array, np.ndarray)) else int(whole)


# --- spectra --------------------------------------------------------------------------------------


def frames_of(cfg: FeatureConfig, audio: jax.Array) -> jax.Array:
    """[B, N] -> overlapping frames [B, T, W]."""
    count = cfg.count(audio.shape[1])
    assert isinstance(count, int)
    index = np.arange(count)[:, None] * cfg.hop + np.arange(cfg.window)
    return audio[:, index]


def spectral(cfg: FeatureConfig, frames: jax.Array) -> jax.Array:
    """Log-mel energies or MFCC [..., F] of frames [..., W] in the range of 16-bit integers."""
    size = 1 << (cfg.window - 1).bit_length()
    position = np.arange(cfg.window) / (cfg.window - 1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * position)) ** 0.85
    frames = frames - frames.mean(axis=-1, keepdims=True)
    log_energy = _floored_log(jnp.square(frames).sum(axis=-1, keepdims=True))
    before = jnp.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
    emphasised = (frames - 0.97 * before) * window.astype(frames.dtype)
    spectrum = jnp.fft.rfft(emphasised, size)[..., : size // 2]
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    filters = numpy_features.mel_filters(cfg.bands, size, cfg.rate, cfg.low_hz, cfg.high_hz)
    log_mel = _floored_log(power @ filters.astype(frames.dtype))
    if cfg.kind == "log_mel":
        return log_mel
    cepstra = log_mel @ _cosines(cfg).astype(frames.dtype)
    if cfg.energy:
        cepstra = jnp.concatenate([log_energy, cepstra[..., 1:]], axis=-1)
    return cepstra


def _floored_log(x: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(x, numpy_features.FLOOR))


def _cosines(cfg: FeatureConfig) -> np.ndarray:
    """Orthonormal cosine transform with the lifter [bands, coefficients]."""
    k = np.arange(cfg.coefficients)
    table = np.cos(np.pi / cfg.bands * (np.arange(cfg.bands)[:, None] + 0.5) * k)
    table *= np.where(k == 0, np.sqrt(1 / cfg.bands), np.sqrt(2 / cfg.bands))
    if cfg.lifter:
        table *= 1 + 0.5 * cfg.lifter * np.sin(np.pi * k / cfg.lifter)
    return table


def base_features(
    cfg: FeatureConfig, audio: jax.Array, samples: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Features before normalisation.

    Args:
      audio: [B, N], range of 16-bit integers; what lies beyond `samples` is not looked at.
      samples: length of each row, int [B].

    Returns:
      (features [B, T, F], zero in the padding; frames of each row [B]).

    Raises:
      ValueError: N is less than one frame.
    """
    if audio.ndim != 2 or audio.shape[1] < cfg.window:
        raise ValueError(f"expected [B, N >= {cfg.window}] samples, got {audio.shape}")
    frames = jnp.asarray(cfg.count(samples))
    x = spectral(cfg, frames_of(cfg, audio.astype(jnp.float32)))
    return _zero_padding(x, frames), frames


def _zero_padding(x: jax.Array, frames: jax.Array) -> jax.Array:
    inside = jnp.arange(x.shape[1]) < frames[:, None]
    return jnp.where(inside[:, :, None], x, 0.0)


# --- normalisation --------------------------------------------------------------------------------

Running = tuple[jax.Array, jax.Array, jax.Array]


def start_running(cfg: FeatureConfig, batch: int) -> Running:
    """(frames counted [B, 1], mean [B, F], variance [B, F]) before the first frame."""
    shape = (batch, cfg.base_size)
    return (
        jnp.full((batch, 1), float(cfg.prior_frames)),
        jnp.full(shape, float(cfg.prior_mean)),
        jnp.full(shape, float(cfg.prior_std) ** 2),
    )


def normalise_running(
    cfg: FeatureConfig, carry: Running, x: jax.Array
) -> tuple[Running, jax.Array]:
    """Each frame by the mean and variance up to it: x [B, T, F] -> (carry, [B, T, F])."""

    def step(carry: Running, frame: jax.Array) -> tuple[Running, jax.Array]:
        count, mean, variance = carry
        count = jnp.minimum(count + 1, cfg.memory_frames)
        distance = frame - mean
        mean = mean + distance / count
        variance = variance + (distance * (frame - mean) - variance) / count
        return (count, mean, variance), (frame - mean) * jax.lax.rsqrt(variance + 1e-5)

    carry, y = jax.lax.scan(step, carry, x.swapaxes(0, 1))
    return carry, y.swapaxes(0, 1)


def normalise_utterance(x: jax.Array, frames: jax.Array) -> jax.Array:
    """Zero mean and unit variance of each feature over each row's frames; x zero-padded."""
    count = jnp.maximum(frames, 1)[:, None, None]
    mean = x.sum(axis=1, keepdims=True) / count
    centred = _zero_padding(x - mean, frames)
    variance = jnp.square(centred).sum(axis=1, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + 1e-5)


def normalise(cfg: FeatureConfig, x: jax.Array, frames: jax.Array) -> jax.Array:
    """Normalisation of whole utterances x [B, T, F]; padding stays zero."""
    if cfg.normalise == "none":
        return x
    if cfg.normalise == "utterance":
        return normalise_utterance(x, frames)
    _, y = normalise_running(cfg, start_running(cfg, len(x)), x)
    return _zero_padding(y, frames)


# --- slopes and stacks ----------------------------------------------------------------------------


def _delta_taps(order: int) -> np.ndarray:
    """Weights of the frames t - 2 order ... t + 2 order (Kaldi convolves the slopes)."""
    once = np.arange(-DELTA_WINDOW, DELTA_WINDOW + 1) / 10.0
    taps = np.ones(1)
    for _ in range(order):
        taps = np.convolve(taps, once)
    return taps


def add_deltas(cfg: FeatureConfig, padded: jax.Array) -> jax.Array:
    """Features and their slopes, from frames with `cfg.context` more at each end.

    Args:
      padded: [B, context + T + context, F].

    Returns:
      [B, T, F (1 + deltas)].
    """
    time = padded.shape[1] - 2 * cfg.context
    parts = []
    for order in range(cfg.deltas + 1):
        taps = _delta_taps(order)
        first = cfg.context - len(taps) // 2
        parts.append(
            sum(float(w) * padded[:, first + i : first + i + time] for i, w in enumerate(taps) if w)
        )
    return jnp.concatenate(parts, axis=-1)


def pad_edges(cfg: FeatureConfig, x: jax.Array, frames: jax.Array) -> jax.Array:
    """Repeats the first and the last frame of each row `cfg.context` times."""
    last = jnp.maximum(frames - 1, 0)[:, None]
    at = jnp.arange(-cfg.context, x.shape[1] + cfg.context)
    index = jnp.clip(at[None], 0, last)
    return jnp.take_along_axis(x, index[:, :, None], axis=1)


def stack_frames(cfg: FeatureConfig, x: jax.Array) -> jax.Array:
    """[B, T, F] -> [B, 1 + (T - stack) // skip, F stack]; incomplete stacks are left out."""
    count = cfg.stacked_count(x.shape[1])
    assert isinstance(count, int)
    index = np.arange(count)[:, None] * cfg.skip + np.arange(cfg.stack)
    return x[:, index].reshape(len(x), count, -1)


def finish(cfg: FeatureConfig, x: jax.Array, frames: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Slopes and stacking of normalised features [B, T, F] -> ([B, T', size], frames [B])."""
    if cfg.deltas:
        x = add_deltas(cfg, pad_edges(cfg, x, frames))
    x = stack_frames(cfg, x)
    frames = jnp.asarray(cfg.stacked_count(frames))
    return _zero_padding(x, frames), frames


def features(
    cfg: FeatureConfig, audio: jax.Array, samples: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The whole front end: (audio [B, N], samples [B]) -> (input [B, T', size], frames [B])."""
    x, frames = base_features(cfg, audio, samples)
    return finish(cfg, normalise(cfg, x, frames), frames)

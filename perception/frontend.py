# SPDX-License-Identifier: Apache-2.0
"""From images to glimpses: saliency, fixations, sensor. Nothing in it is trained.

    glimpses = look(images, FrontEndConfig())      # images [B, H, H, C] in [0, 1]
    glimpses.content [B, T, K, g, g]   what was seen, K = scales x channels
    glimpses.location [B, T, 2]        where, (x, y) in [-1, 1]

Images are processed in small chunks, whose maps stay in the processor's cache; memory does not
grow with the batch beyond the glimpses themselves.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from perception import fixation as fixation_lib
from perception import images as images_lib
from perception.fixation import FixationConfig
from perception.saliency import SaliencyConfig, saliency
from perception.sensors import LogPolar, MultiScale, Sensor

SENSORS = {"multiscale": MultiScale, "logpolar": LogPolar}
POLICIES = ("salient", "random", "grid")


@dataclasses.dataclass(frozen=True)
class FrontEndConfig:
    """Everything before the first trained parameter.

    Attributes:
      sensor: "logpolar" or "multiscale".
      side, scales: of the sensor; side 0 takes its default.
      radius: R of the log-polar sensor; 0 takes its default.
      policy: where to look: "salient"; for comparison "random" pixels, or a regular "grid".
      saliency: the map.
      fixation: the loop.
      polarity: see `images.prepare`.
      chunk: images processed together; on a CPU 4 to 8 are best, on an accelerator all.
    """

    sensor: str = "logpolar"
    side: int = 0
    radius: float = 0.0
    scales: tuple[int, ...] = (4, 8)
    policy: str = "salient"
    saliency: SaliencyConfig = SaliencyConfig()
    fixation: FixationConfig = FixationConfig()
    polarity: str = "ink"
    chunk: int = 8

    def __post_init__(self) -> None:
        if self.sensor not in SENSORS:
            raise ValueError(f"sensor must be one of {sorted(SENSORS)}, got {self.sensor!r}")
        if self.policy not in POLICIES:
            raise ValueError(f"policy must be one of {POLICIES}, got {self.policy!r}")
        if self.polarity not in images_lib.POLARITIES:
            raise ValueError(
                f"polarity must be one of {images_lib.POLARITIES}, got {self.polarity!r}"
            )
        if self.side < 0 or self.radius < 0 or self.chunk < 1:
            raise ValueError(f"side, radius: not negative, chunk: at least 1; got {self}")

    def make_sensor(self) -> Sensor:
        """The sensor."""
        if self.sensor == "logpolar":
            return LogPolar(self.side or LogPolar.side, self.radius or LogPolar.radius)
        return MultiScale(self.side or MultiScale.side, self.scales)

    def content_shape(self, colours: int) -> tuple[int, int, int, int]:
        """Shape (T, K, g, g) of the glimpses of an image with that many channels."""
        sensor = self.make_sensor()
        return (self.fixation.count, sensor.channels(colours), sensor.side, sensor.side)


class Glimpses(NamedTuple):
    """What the front end hands on."""

    content: jax.Array  # [B, T, K, g, g]
    location: jax.Array  # [B, T, 2], x first
    pixel: jax.Array  # int32 [B, T, 2], (row, column)


def look(
    images: jax.Array | np.ndarray, cfg: FrontEndConfig | None = None, key: jax.Array | None = None
) -> Glimpses:
    """Glimpses of images.

    Args:
      images: float [B, H, H, C] in [0, 1]; see `images.prepare`.
      cfg: see `FrontEndConfig`.
      key: one key, or keys [B], for policy "random".

    Returns:
      See `Glimpses`. Differentiable with respect to the images (contents only).

    Raises:
      TypeError, ValueError: unusable images, too many fixations, or a missing key.
    """
    cfg = cfg or FrontEndConfig()
    images_lib.check(images)
    # Half precision would blur what is salient: a sum over patches has more digits.
    wide = jnp.promote_types(images.dtype, jnp.float32)
    images = jnp.asarray(images, jax.dtypes.canonicalize_dtype(wide))
    fixation_lib.check_room(cfg.fixation, images.shape[1])
    if (key is None) == (cfg.policy == "random"):
        raise ValueError(
            f"a key is needed for policy 'random' and for no other, got {cfg.policy!r}"
        )
    if key is not None and key.ndim == 0:
        key = jax.random.split(key, images.shape[0])
    return _look(images, key, cfg)


@functools.partial(jax.jit, static_argnums=2)
def _look(images: jax.Array, keys: jax.Array | None, cfg: FrontEndConfig) -> Glimpses:
    if cfg.chunk >= images.shape[0]:
        return _look_at_chunk((images, keys), cfg)
    rows = images.shape[0]
    short = -rows % cfg.chunk
    fold = lambda x: jnp.concatenate([x, x[:1].repeat(short, 0)]).reshape(
        -1, cfg.chunk, *x.shape[1:]
    )
    chunks = jax.tree.map(fold, (images, keys))
    found = jax.lax.map(functools.partial(_look_at_chunk, cfg=cfg), chunks)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:rows], found)


def _look_at_chunk(chunk: tuple[jax.Array, jax.Array | None], cfg: FrontEndConfig) -> Glimpses:
    images, keys = chunk
    height = images.shape[1]
    if cfg.policy == "salient":
        maps = jax.lax.stop_gradient(saliency(images, cfg.saliency))
        pixels = fixation_lib.fixate(maps, cfg.fixation)
    elif cfg.policy == "random":
        draw = lambda k: jax.random.randint(k, (cfg.fixation.count, 2), 0, height)
        pixels = jax.vmap(draw)(keys)
    else:
        grid = jnp.asarray(grid_pixels(cfg.fixation.count, height))
        pixels = jnp.broadcast_to(grid, (images.shape[0], *grid.shape))
    content = cfg.make_sensor()(images, pixels)
    return Glimpses(content, fixation_lib.locations(pixels, height, cfg.fixation.offset), pixels)


def grid_pixels(count: int, height: int) -> np.ndarray:
    """Centres int32 [T, 2] of a regular grid of the most square factors of T, in raster order."""
    rows = max(r for r in range(1, int(count**0.5) + 1) if count % r == 0)
    centres = lambda n: (np.arange(n) + 0.5) * height / n
    down, across = np.meshgrid(centres(rows), centres(count // rows), indexing="ij")
    return np.stack([down.ravel(), across.ravel()], axis=-1).astype(np.int32)

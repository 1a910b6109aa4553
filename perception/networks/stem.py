# SPDX-License-Identifier: Apache-2.0
"""From glimpses to two sequences of vectors, what was seen and where, each in its own context.

    content [N, T, K, g, g] -> glimpse encoder -> temporal context norm -> [N, T, Dg]
    location [N, T, 2] -> standardised over T -> MLP -> temporal context norm -> [N, T, Dp]

The temporal context norm (TCN) makes contents relative: a shape is coded by its deviation from the
average of the glimpses of its own image, which is what transfers to shapes never seen. T. Webb et
al., "Learning representations that support extrapolation", ICML 2020; form and sizes as in Kolner
et al., arXiv 2409.20213.

Dimensions: N images, T fixations, K channels of a glimpse, g its side.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from core.params import ParamSpec, ones, zeros
from perception.networks import layers
from perception.networks.layers import Params, Specs

ENCODERS = ("mlp", "cnn")
NORMS = ("step", "feature", "none")
STREAMS = ("both", "content", "location")
KERNELS = {15: (3,) * 7, 21: (5, 5, 5, 5, 3, 3)}  # glimpse side -> published kernel sizes


@dataclasses.dataclass(frozen=True)
class StemConfig:
    """Encoders of content and location.

    Attributes:
      encoder: "mlp" (layer norm, one hidden layer; quick on a CPU) or "cnn" (published: unpadded
        convolutions, each with ReLU, then the mean over what is left).
      features: outputs of the MLP.
      hidden: hidden units of the MLP.
      channels: of every convolution.
      groups: groups of channels that the convolutions keep apart; one for each scale.
      fold: sum so many consecutive channels to one feature; 1 keeps all.
      kernels: sizes of the convolutions; empty takes the published ones for the glimpse's side.
      place: width Dp of the location code.
      place_hidden: hidden units of its MLP.
      standardise: subtract mean and divide by sd of the locations over the fixations.
      norm: temporal context norm with scale and shift for each "step" (published for glimpses) or
        for each "feature" (Webb et al.), or "none".
      streams: "both"; for comparison "content" or "location" alone (the other one is zeroed).
      noise: sd of Gaussian noise on the normalised contents (whose sd is 1), in training only: what
        is seen matches less sharply, so that where it is seen has to be used as well.
      blank: share of images whose contents are blanked (zeroed), in training only.
      swap: share of images that receive the contents of another one, in training only.
    """

    encoder: str = "mlp"
    features: int = 32
    hidden: int = 128
    channels: int = 9
    groups: int = 1
    fold: int = 1
    kernels: tuple[int, ...] = ()
    place: int = 64
    place_hidden: int = 32
    standardise: bool = True
    norm: str = "step"
    streams: str = "both"
    noise: float = 0.0
    blank: float = 0.0
    swap: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("encoder", ENCODERS), ("norm", NORMS), ("streams", STREAMS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.channels % self.groups or self.channels % self.fold:
            raise ValueError(
                f"{self.channels=} must be a multiple of {self.groups=} and of {self.fold=}"
            )
        if not 0 <= self.noise < math.inf or not 0 <= self.blank <= 1 or not 0 <= self.swap <= 1:
            raise ValueError(
                "noise must not be negative, blank and swap must be in [0, 1], got"
                f" {self.noise=}, {self.blank=}, {self.swap=}"
            )

    @property
    def width(self) -> int:
        """Dg, the width of a glimpse's code."""
        return self.features if self.encoder == "mlp" else self.channels // self.fold

    def kernels_of(self, side: int) -> tuple[int, ...]:
        """Kernel sizes for glimpses of that side."""
        kernels = self.kernels or KERNELS.get(side, ())
        if not kernels:
            raise ValueError(
                f"no published kernel sizes for glimpses of side {side} (only"
                f" {sorted(KERNELS)}): give `kernels`"
            )
        if sum(k - 1 for k in kernels) >= side:
            raise ValueError(f"kernels {kernels} leave nothing of a glimpse of side {side}")
        return kernels


def specs(cfg: StemConfig, shape: tuple[int, int, int, int]) -> Specs:
    """Parameters for glimpses of shape (T, K, g, g)."""
    count = shape[0]
    return {
        "content": encoder_specs(cfg, shape[1:]),
        "content_norm": norm_specs(cfg.norm, count, cfg.width),
        "place": {
            "up": layers.dense_specs(2, cfg.place_hidden),
            "down": layers.dense_specs(cfg.place_hidden, cfg.place),
        },
        "place_norm": norm_specs(cfg.norm, count, cfg.place),
    }


def apply(
    p: Params, cfg: StemConfig, inputs: Mapping[str, jax.Array], key: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """(contents [N, T, Dg], places [N, T, Dp]) of a batch with "content" and "location".

    Args:
      p: see `specs`.
      cfg: see `StemConfig`.
      inputs: "content" [N, T, K, g, g] and "location" [N, T, 2].
      key: of what disturbs the contents in training; None switches it off.
    """
    content, location = inputs["content"], inputs["location"]
    if cfg.streams == "content":
        location = jnp.zeros_like(location)
    elif cfg.streams == "location":
        content = jnp.zeros_like(content)
    rows, count = content.shape[:2]
    seen = encode(p["content"], cfg, content.reshape(rows * count, *content.shape[2:]))
    seen = context_norm(p["content_norm"], cfg.norm, seen.reshape(rows, count, -1))
    seen = disturbed(cfg, seen, key)
    if cfg.standardise:
        location = layers.standardised(location, axis=1)
    place = layers.dense(p["place"]["up"], location)
    place = layers.dense(p["place"]["down"], jax.nn.relu(place))
    return seen, context_norm(p["place_norm"], cfg.norm, place)


def disturbed(cfg: StemConfig, seen: jax.Array, key: jax.Array | None) -> jax.Array:
    """Contents [N, T, Dg] with noise, zero or swapped for some images; unchanged without a key."""
    if key is None or not (cfg.noise or cfg.blank or cfg.swap):
        return seen
    of_noise, of_blank, of_swap = jax.random.split(key, 3)
    share = lambda k, rate: jax.random.bernoulli(k, rate, (len(seen), 1, 1))
    seen = jnp.where(share(of_swap, cfg.swap), jnp.roll(seen, 1, axis=0), seen)
    seen = seen + cfg.noise * jax.random.normal(of_noise, seen.shape, seen.dtype)
    return jnp.where(share(of_blank, cfg.blank), 0.0, seen)


# --- temporal context norm ----------------------------------------------------------------------


def norm_specs(kind: str, count: int, dim: int) -> Specs:
    """Scale and shift: [T] for "step", [D] for "feature", none for "none"."""
    if kind == "none":
        return {}
    if kind == "feature":
        return layers.norm_specs(dim)
    axes = ("glimpse",)
    return {
        "weight": ParamSpec((count,), axes, ones),
        "bias": ParamSpec((count,), axes, zeros),
    }


def context_norm(p: Params, kind: str, x: jax.Array) -> jax.Array:
    """Normalises each feature over the steps of its sequence: x [N, T, D].

    "step": biased variance, epsilon 1e-5, scale and shift of each step shared by all features (a
    layer norm of the transposed tensor). "feature": sd = sqrt(unbiased variance + 1e-8), scale and
    shift of each feature.
    """
    if kind == "none":
        return x
    if kind == "step":
        return layers.standardised(x, axis=1) * p["weight"][:, None] + p["bias"][:, None]
    centred = x - x.mean(axis=1, keepdims=True)
    variance = jnp.square(centred).sum(axis=1, keepdims=True) / max(x.shape[1] - 1, 1)
    return centred * jax.lax.rsqrt(variance + 1e-8) * p["weight"] + p["bias"]


# --- glimpse encoders ---------------------------------------------------------------------------


def encoder_specs(cfg: StemConfig, shape: tuple[int, int, int]) -> Specs:
    """Parameters of the encoder for glimpses of shape (K, g, g)."""
    colours, side, _ = shape
    if cfg.encoder == "mlp":
        inputs = colours * side * side
        return {
            "norm": layers.norm_specs(inputs),
            "up": layers.dense_specs(inputs, cfg.hidden),
            "down": layers.dense_specs(cfg.hidden, cfg.features),
        }
    if colours % cfg.groups:
        raise ValueError(f"{colours} channels of a glimpse cannot form {cfg.groups} groups")
    inputs, found = colours // cfg.groups, {}
    for layer, kernel in enumerate(cfg.kernels_of(side)):
        found[f"conv_{layer}"] = layers.conv_specs(kernel, inputs, cfg.channels)
        inputs = cfg.channels // cfg.groups
    return found


def encode(p: Params, cfg: StemConfig, glimpses: jax.Array) -> jax.Array:
    """Glimpses [M, K, g, g] -> features [M, Dg]."""
    if cfg.encoder == "mlp":
        x = layers.layer_norm(p["norm"], glimpses.reshape(len(glimpses), -1))
        return layers.dense(p["down"], jax.nn.relu(layers.dense(p["up"], x)))
    x = jnp.moveaxis(glimpses, 1, -1)
    # Groups never meet, so each is a network of its own: ten times as quick on a CPU as a grouped
    # convolution, whose gradient XLA computes channel by channel.
    towers = [_tower(p, cfg.groups, number, x) for number in range(cfg.groups)]
    features = jnp.concatenate(towers, axis=-1)
    return features.reshape(*features.shape[:-1], -1, cfg.fold).sum(axis=-1)


def _tower(p: Params, groups: int, number: int, x: jax.Array) -> jax.Array:
    """The convolutions of one group of channels, averaged over the pixels left: [M, channels]."""

    def part(values: jax.Array) -> jax.Array:
        size = values.shape[-1] // groups
        return jax.lax.slice_in_dim(values, number * size, (number + 1) * size, axis=-1)

    x = part(x)
    for layer in range(len(p)):
        x = jax.nn.relu(layers.conv(jax.tree.map(part, p[f"conv_{layer}"]), x))
    return x.mean(axis=(1, 2))

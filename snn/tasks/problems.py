# SPDX-License-Identifier: Apache-2.0
"""What a recurrent network is asked: inputs, per-step losses and scores of each sequence task.

A problem turns a batch into time-major inputs xs [T, B, ...], targets [T, B, ...] and weights
[T, B]. The loss is a sum over time of losses of one step, so that online rules apply:

    E = sum_t sum_b weight[t, b] * loss(y[t, b], target[t, b])

A pooled problem has instead one loss for each sequence, that of its mean output (BPTT only).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Sums = dict[str, jax.Array]
Encoded = tuple[jax.Array, jax.Array, jax.Array]


class Problem(Protocol):
    """See the module docstring."""

    @property
    def inputs(self) -> int:
        """Width of the input, or number of tokens."""

    @property
    def outputs(self) -> int:
        """Width of the output."""

    @property
    def pooled(self) -> bool:
        """True if the loss is that of the mean output of a sequence."""

    def encode(self, batch: Mapping[str, jax.Array], key: jax.Array) -> Encoded:
        """(xs, targets, weights), time-major; `key` only matters where coding is random."""

    def losses(self, ys: jax.Array, targets: jax.Array) -> jax.Array:
        """Losses in nats [...] of outputs [..., m]."""

    def sums(self, ys: jax.Array, targets: jax.Array, weights: jax.Array) -> Sums:
        """Sums for `scores` over outputs [T, B, m]; rows of weight 0 do not count."""

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Metrics from sums over a data set."""


def pool(ys: jax.Array, targets: jax.Array, weights: jax.Array) -> Encoded:
    """Mean outputs [1, B, m] over weighted steps, last targets [1, B], weights 0 or 1 [1, B]."""
    total = weights.sum(axis=0, keepdims=True)
    mean = (ys * weights[..., None]).sum(axis=0, keepdims=True)
    mean = mean / jnp.maximum(total, 1e-9)[..., None]
    return mean, targets[-1:], (total > 0).astype(weights.dtype)


def _time_major(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, 0, 1)


def categorical(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy in nats [...] of logits [..., m] and labels [...]."""
    true = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - true


def bernoulli(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Sigmoid cross-entropy in nats [...], summed over the last axis, of 0/1 targets [..., m]."""
    return (jax.nn.softplus(logits) - logits * targets).sum(axis=-1)


@dataclasses.dataclass(frozen=True)
class NextNotes:
    """Notes of the next step: 88 independent Bernoulli variables, summed."""

    inputs: int = 88
    outputs: int = 88
    pooled: ClassVar[bool] = False

    def encode(self, batch: Mapping[str, jax.Array], key: jax.Array) -> Encoded:
        """See `Problem`."""
        del key
        x, target = (_time_major(batch[k].astype(jnp.float32)) for k in ("x", "target"))
        return x, target, _time_major(batch["weight"])

    def losses(self, ys: jax.Array, targets: jax.Array) -> jax.Array:
        """See `Problem`."""
        return bernoulli(ys, targets)

    def sums(self, ys: jax.Array, targets: jax.Array, weights: jax.Array) -> Sums:
        """See `Problem`."""
        nll = self.losses(ys, targets) * weights
        steps = weights.sum(axis=0)
        right = ((ys > 0) * targets).sum(axis=-1) * weights
        shown = ((ys > 0) + targets > 0).sum(axis=-1) * weights
        return {
            "nll": nll.sum(),
            "steps": steps.sum(),
            "piece_nll": (nll.sum(axis=0) / jnp.maximum(steps, 1)).sum(),
            "pieces": (steps > 0).sum(),
            "right": right.sum(),
            "shown": shown.sum(),
        }

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """nll: all steps pooled, as the authors count; piece_nll: mean over pieces of their means;
        frame_accuracy: right notes over notes sounded or predicted (threshold 1/2).
        """
        return {
            "nll": sums["nll"] / sums["steps"],
            "piece_nll": sums["piece_nll"] / sums["pieces"],
            "frame_accuracy": sums["right"] / max(sums["shown"], 1.0),
        }


@dataclasses.dataclass(frozen=True)
class Frames:
    """One label for each step; `fold` maps labels to coarser classes for a second score."""

    inputs: int
    outputs: int
    fold: tuple[int, ...] = ()
    input_noise: float = 0.0
    pooled: ClassVar[bool] = False

    def encode(self, batch: Mapping[str, jax.Array], key: jax.Array) -> Encoded:
        """See `Problem`; Gaussian noise on the inputs if asked for (training only)."""
        x = _time_major(batch["x"]).astype(jnp.float32)
        if self.input_noise and "valid" not in batch:
            x = x + self.input_noise * jax.random.normal(key, x.shape)
        return x, _time_major(batch["target"]), _time_major(batch["weight"])

    def losses(self, ys: jax.Array, targets: jax.Array) -> jax.Array:
        """See `Problem`."""
        return categorical(ys, targets)

    def sums(self, ys: jax.Array, targets: jax.Array, weights: jax.Array) -> Sums:
        """See `Problem`."""
        guess = ys.argmax(axis=-1)
        found = {
            "nll": (self.losses(ys, targets) * weights).sum(),
            "correct": ((guess == targets) * weights).sum(),
            "steps": weights.sum(),
        }
        if self.fold:
            fold = jnp.asarray(self.fold)
            found["folded"] = ((fold[guess] == fold[targets]) * weights).sum()
        return found

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Mean nll, accuracy, and accuracy after folding the classes."""
        n = sums["steps"]
        found = {"nll": sums["nll"] / n, "accuracy": sums["correct"] / n}
        if self.fold:
            found["folded_accuracy"] = sums["folded"] / n
        return found


@dataclasses.dataclass(frozen=True)
class NextToken:
    """Language modelling: inputs are token indices; `unit` "byte" or "word" names the scores."""

    inputs: int
    outputs: int
    unit: str = "word"
    pooled: ClassVar[bool] = False

    def encode(self, batch: Mapping[str, jax.Array], key: jax.Array) -> Encoded:
        """See `Problem`."""
        del key
        return _time_major(batch["x"]), _time_major(batch["target"]), _time_major(batch["weight"])

    def losses(self, ys: jax.Array, targets: jax.Array) -> jax.Array:
        """See `Problem`."""
        return categorical(ys, targets)

    def sums(self, ys: jax.Array, targets: jax.Array, weights: jax.Array) -> Sums:
        """See `Problem`."""
        return {"nll": (self.losses(ys, targets) * weights).sum(), "steps": weights.sum()}

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Mean nll, and perplexity (words) or bits per byte (bytes)."""
        nll = sums["nll"] / sums["steps"]
        if self.unit == "byte":
            return {"nll": nll, "bits_per_byte": nll / float(np.log(2.0))}
        return {"nll": nll, "perplexity": float(np.exp(min(nll, 50.0)))}


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images over time: rate-coded (one Bernoulli spike train a pixel) or row by row.

    Attributes:
      coding: "rate" or "rows".
      steps: time steps of the rate code; ignored for rows, which have one step a row.
      spikes: expected spikes of a white pixel over all steps (rate).
      answer: the last so many steps are asked for the label; 0 for all.
      readout: "steps": a loss at every asked step; "mean": one loss, that of the mean output.
      height, width, classes: of the images.
    """

    coding: str
    steps: int = 20
    spikes: float = 6.0
    answer: int = 0
    readout: str = "steps"
    height: int = 28
    width: int = 28
    classes: int = 10

    def __post_init__(self) -> None:
        if self.coding not in ("rate", "rows"):
            raise ValueError(f"coding must be rate or rows, got {self.coding!r}")
        if self.readout not in ("steps", "mean"):
            raise ValueError(f"readout must be steps or mean, got {self.readout!r}")
        if self.coding == "rate" and not 0 < self.spikes <= self.steps:
            raise ValueError(f"spikes must be in (0, steps]: {self.spikes=}, {self.steps=}")
        if not 0 <= self.answer <= self.time:
            raise ValueError(f"answer must be in [0, {self.time}], got {self.answer}")

    @property
    def pooled(self) -> bool:
        """See `Problem`."""
        return self.readout == "mean"

    @property
    def time(self) -> int:
        """Number of steps."""
        return self.steps if self.coding == "rate" else self.height

    @property
    def inputs(self) -> int:
        """Inputs of one step."""
        return self.height * self.width if self.coding == "rate" else self.width

    @property
    def outputs(self) -> int:
        """Classes."""
        return self.classes

    def encode(self, batch: Mapping[str, jax.Array], key: jax.Array) -> Encoded:
        """See `Problem`; new spikes for every key."""
        image = batch["x"].astype(jnp.float32) / 255.0
        rows = image.shape[0]
        if self.coding == "rate":
            p = image.reshape(rows, -1) * (self.spikes / self.steps)
            # Sixteen random bits for each spike: half the cost of a uniform number.
            draw = jax.random.bits(key, (self.steps, *p.shape), jnp.uint16).astype(jnp.int32)
            x = (draw < jnp.round(p * 65536.0).astype(jnp.int32)).astype(jnp.float32)
        else:
            x = _time_major(image)
        targets = jnp.broadcast_to(batch["target"], (self.time, rows))
        asked = jnp.arange(self.time) >= self.time - (self.answer or self.time)
        return x, targets, jnp.broadcast_to(asked[:, None], targets.shape).astype(jnp.float32)

    def losses(self, ys: jax.Array, targets: jax.Array) -> jax.Array:
        """See `Problem`."""
        return categorical(ys, targets)

    def sums(self, ys: jax.Array, targets: jax.Array, weights: jax.Array) -> Sums:
        """See `Problem`; the answer is the class of the largest mean output over asked steps."""
        mean, label, valid = pool(ys, targets, weights)
        if self.pooled:
            ys, targets, weights = mean, label, valid
        return {
            "nll": (self.losses(ys, targets) * weights).sum(),
            "steps": weights.sum(),
            "correct": ((mean.argmax(axis=-1) == label) * valid).sum(),
            "count": valid.sum(),
        }

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Mean nll of a step (or of a pooled answer), and accuracy of the answers."""
        return {"nll": sums["nll"] / sums["steps"], "accuracy": sums["correct"] / sums["count"]}

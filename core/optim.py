# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules, and AdamW with groups chosen by parameter path."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from core import params as params_lib

PyTree = Any
Schedule = Callable[[jax.Array], jax.Array]


SCHEDULES = ("cosine", "exponential", "cosine_exponential", "linear", "constant")


@dataclasses.dataclass(frozen=True)
class AdamWConfig:
    """AdamW with warm-up and decay.

    Attributes:
      learning_rate: peak rate.
      final_learning_rate: rate at the last step.
      schedule: "cosine", "exponential", "linear", "constant" between the two, or
        "cosine_exponential" (the mean of the first two).
      warmup_steps: steps of linear warm-up.
      warmup_start: fraction of the rate at step 0.
      beta1, beta2, eps: Adam's constants.
      weight_decay: decoupled decay, applied to the decay set only.
      final_weight_decay: if positive, the decay moves exponentially to this value.
      clip_norm: global norm at which gradients are clipped; 0 turns clipping off.
    """

    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-4
    schedule: str = "cosine"
    warmup_steps: int = 10
    warmup_start: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    final_weight_decay: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {SCHEDULES}, got {self.schedule!r}")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.eps > 0):
            raise ValueError(f"Adam: {self.beta1=} {self.beta2=} in [0, 1), {self.eps=} > 0")
        for name in ("warmup_steps", "clip_norm", "weight_decay", "final_weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.learning_rate <= 0 or self.final_learning_rate < 0:
            raise ValueError(f"learning rates: {self.learning_rate=} {self.final_learning_rate=}")
        if "exponential" in self.schedule and self.final_learning_rate == 0:
            raise ValueError("an exponential schedule needs final_learning_rate > 0")
        if self.final_weight_decay and not self.weight_decay:
            raise ValueError("final_weight_decay needs weight_decay > 0")


def _cosine(start: float, end: float, progress: jax.Array) -> jax.Array:
    return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def _exponential(start: float, end: float, progress: jax.Array) -> jax.Array:
    return start * jnp.exp(math.log(end / start) * progress)


def _linear(start: float, end: float, progress: jax.Array) -> jax.Array:
    return start + (end - start) * progress


def _constant(start: float, end: float, progress: jax.Array) -> jax.Array:
    del end
    return jnp.full_like(progress, start)


_SHAPES = {
    "cosine": _cosine,
    "exponential": _exponential,
    "linear": _linear,
    "constant": _constant,
}


def _progress(cfg: AdamWConfig, steps: int, step: jax.Array, shape: str) -> jax.Array:
    """Fraction of the decay that is done at a step, as the official trainer counts it.

    The cosine counts from the end of the warm-up and would reach 1 at step `steps`; the others
    are one step ahead and reach 1 at the last step.
    """
    span = max(1, steps - cfg.warmup_steps)
    ahead = 0 if shape == "cosine" else 1
    return jnp.clip((step - cfg.warmup_steps + ahead) / span, 0.0, 1.0)


def make_schedule(cfg: AdamWConfig, steps: int) -> Schedule:
    """Learning rate as a function of the step: warm-up times decay.

    The warm-up multiplies by `warmup_start + (1 - warmup_start) step / warmup_steps`. With the
    defaults this is the token-based schedule of the official RWKV trainer; "exponential" is its
    default one, and "cosine_exponential" what it uses for a negative number of exit tokens.
    """

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        ends = (cfg.learning_rate, cfg.final_learning_rate)
        parts = cfg.schedule.split("_")
        rates = [_SHAPES[p](*ends, _progress(cfg, steps, step, p)) for p in parts]
        rate = jnp.stack(rates).mean(axis=0)
        warm = jnp.clip(step / max(1, cfg.warmup_steps), 0.0, 1.0)
        scale = cfg.warmup_start + (1 - cfg.warmup_start) * warm if cfg.warmup_steps else 1.0
        return rate * scale

    return schedule


def make_decay_schedule(cfg: AdamWConfig, steps: int) -> float | Schedule:
    """Weight decay: constant, or exponential towards `final_weight_decay`."""
    if not cfg.final_weight_decay:
        return cfg.weight_decay

    def schedule(step: jax.Array) -> jax.Array:
        progress = _progress(cfg, steps, jnp.asarray(step, jnp.float32), "exponential")
        return _exponential(cfg.weight_decay, cfg.final_weight_decay, progress)

    return schedule


@dataclasses.dataclass(frozen=True)
class Group:
    """How one parameter is optimised: a multiple of the rate, and whether it decays."""

    lr_scale: float = 1.0
    decay: bool = False
    trainable: bool = True

    @property
    def label(self) -> str:
        """Readable name used as the key of `optax.multi_transform`."""
        if not self.trainable:
            return "frozen"
        return f"lr{self.lr_scale:g}{'_decay' if self.decay else ''}"


GroupFn = Callable[[str, tuple[int, ...]], Group]


def matrices_decay(path: str, shape: tuple[int, ...]) -> Group:
    """The common rule: weight decay on matrices, none on vectors (stacked layers do not count)."""
    rank = len(shape) - path.startswith("blocks/")
    return Group(decay=rank >= 2)


def describe_groups(specs: PyTree, group_fn: GroupFn = matrices_decay) -> Mapping[str, list[str]]:
    """Label -> parameter paths: a dry run of the grouping, for logs and tests."""
    table: dict[str, list[str]] = {}
    for path, spec in params_lib.flatten(specs):
        table.setdefault(group_fn(path, tuple(spec.shape)).label, []).append(path)
    return table


def adamw(
    cfg: AdamWConfig, specs: PyTree, steps: int, group_fn: GroupFn = matrices_decay
) -> optax.GradientTransformation:
    """AdamW whose learning-rate multiples, decay set and frozen set follow the parameter path.

    Gradients are clipped by their global norm over all trainable parameters first.
    """
    schedule = make_schedule(cfg, steps)
    groups = {g.label: g for g in (group_fn(p, tuple(s.shape)) for p, s in _items(specs))}
    labels = params_lib.map_with_path(lambda p, s: group_fn(p, tuple(s.shape)).label, specs)
    decay = make_decay_schedule(cfg, steps)
    transforms = {label: _group_transform(cfg, schedule, decay, g) for label, g in groups.items()}
    inner = optax.multi_transform(transforms, labels)
    if not cfg.clip_norm:
        return inner
    return optax.chain(_clip_trainable(cfg.clip_norm, labels), inner)


def _items(specs: PyTree) -> list[tuple[str, params_lib.ParamSpec]]:
    return list(params_lib.flatten(specs))


def _group_transform(
    cfg: AdamWConfig, schedule: Schedule, decay: float | Schedule, group: Group
) -> optax.GradientTransformation:
    if not group.trainable:
        return optax.set_to_zero()
    return optax.chain(
        optax.scale_by_adam(cfg.beta1, cfg.beta2, cfg.eps),
        optax.add_decayed_weights(decay if group.decay else 0.0),
        optax.scale_by_learning_rate(lambda step: group.lr_scale * schedule(step)),
    )


def _clip_trainable(max_norm: float, labels: PyTree) -> optax.GradientTransformation:
    """Global-norm clipping that does not count (unused) gradients of frozen parameters."""

    def update(grads: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        del params
        squares = jax.tree.map(
            lambda g, label: 0.0 if label == "frozen" else jnp.sum(jnp.square(g)), grads, labels
        )
        norm = jnp.sqrt(sum(jax.tree.leaves(squares)))
        scale = jnp.minimum(1.0, max_norm / (norm + 1e-6))
        return jax.tree.map(lambda g: g * scale, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

# SPDX-License-Identifier: Apache-2.0
"""Training of ReLU networks with batch norm, to be mapped to spikes afterwards.

Running means and variances live in the carry. During training evaluation uses the statistics of
the evaluation batch; the report at the end uses the running ones, as the mapped network does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from core import config as config_lib
from core import optim
from core import params as params_lib
from core.task import Aux, PyTree, TrainConfig
from snn.tasks.ttfs import DataConfig, ModelConfig, cross_entropy
from snn.ttfs import relu

STATISTICS = ("mean", "var")


@dataclasses.dataclass(frozen=True)
class SgdConfig:
    """Stochastic gradient descent with momentum; the rate halves every `halve_every` steps."""

    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    halve_every: int = 7800


@dataclasses.dataclass(frozen=True)
class ReluLoss:
    """Cross-entropy, dropout before the read-out, L1 on activations (fewer spikes), inputs.

    Attributes:
      mean, std, low, high: the raw input is (pixel - mean) / std, of the range [low, high], which
        becomes [0, 1] in the spiking network.
      momentum: of the running statistics.
    """

    dropout: float = 0.0
    activity: float = 0.0
    label_smoothing: float = 0.0
    momentum: float = 0.9
    mean: float = 120.707
    std: float = 64.15
    low: float = -3.0
    high: float = 3.0


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole configuration file; `sgd` replaces `optimizer` if given."""

    task: str
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    loss: ReluLoss = ReluLoss()
    optimizer: optim.AdamWConfig = optim.AdamWConfig()
    sgd: SgdConfig | None = None


def build_config(values: Any) -> RunConfig:
    """Checks a ConfigDict."""
    return config_lib.build(RunConfig, values)


def group(path: str, shape: tuple[int, ...]) -> optim.Group:
    """Running statistics are not trained by gradients; matrices and kernels decay."""
    if path.split("/")[-1] in STATISTICS:
        return optim.Group(trainable=False)
    return optim.Group(decay=len(shape) >= 2)


def make_optimizer(cfg: RunConfig, specs: PyTree) -> optax.GradientTransformation:
    """AdamW, or SGD where the configuration has a block `sgd`."""
    if cfg.sgd is None:
        return optim.adamw(cfg.optimizer, specs, cfg.train.steps, group)
    sgd = cfg.sgd
    boundaries = range(sgd.halve_every, cfg.train.steps, sgd.halve_every)
    schedule = optax.piecewise_constant_schedule(
        sgd.learning_rate, {step: 0.5 for step in boundaries}
    )
    labels = params_lib.map_with_path(lambda p, s: group(p, s.shape).label, specs)
    step = optax.sgd(schedule, sgd.momentum, sgd.nesterov)
    kinds = {
        "lr1_decay": optax.chain(optax.add_decayed_weights(sgd.weight_decay), step),
        "lr1": step,
        "frozen": optax.set_to_zero(),
    }
    return optax.multi_transform(kinds, labels)


class ReluTask:
    """Classification by a chain of layers (no residual blocks) with trained batch norm."""

    def __init__(
        self, cfg: RunConfig, input_shape: tuple[int, ...], eval_source: Any = None
    ) -> None:
        self.cfg, self.layers = cfg.loss, cfg.model.layers()
        self.input_shape = tuple(input_shape)
        self.eval_source, self.eval_batch_size = eval_source, cfg.data.eval_batch_size
        self.units = ("images", 1)
        self.names = relu.layer_names(self.layers)

    def param_specs(self) -> PyTree:
        """See `Task.param_specs`."""
        return relu.param_specs(self.layers, self.input_shape)

    def init_carry(self, batch_size: int) -> PyTree:
        """Running statistics of each batch norm."""
        del batch_size
        specs = self.param_specs()
        fill = {"mean": jnp.zeros, "var": jnp.ones}
        return {
            name: {key: fill[key](specs[name][key].shape) for key in STATISTICS}
            for name, layer in zip(self.names, self.layers, strict=True)
            if isinstance(layer, relu.BatchNorm)
        }

    def carry_axes(self, carry: PyTree) -> PyTree:
        """Statistics are replicated."""
        return jax.tree.map(lambda _: (None,), carry)

    def raw(self, image: jax.Array) -> jax.Array:
        """Normalised input of the ReLU network."""
        return (image.astype(jnp.float32) - self.cfg.mean) / self.cfg.std

    def forward(
        self, params: PyTree, x: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, PyTree, jax.Array]:
        """(logits, statistics of this batch, sum of hidden activations per example)."""
        statistics: dict[str, Any] = {}
        total = jnp.zeros(())
        last = len(self.layers) - 1
        for i, (name, layer) in enumerate(zip(self.names, self.layers, strict=True)):
            block = params.get(name, {})
            if isinstance(layer, relu.BatchNorm):
                axes = tuple(range(x.ndim - 1))
                statistics[name] = {"mean": x.mean(axes), "var": x.var(axes)}
                block = {**block, **statistics[name]}
            if i == last and key is not None and self.cfg.dropout:
                keep = 1.0 - self.cfg.dropout
                x = jnp.where(jax.random.bernoulli(key, keep, x.shape), x / keep, 0.0)
            x = relu.apply_layer(layer, block, x)
            if isinstance(layer, relu.Relu):
                total = total + x.sum() / x.shape[0]
        return x, statistics, total

    def loss(
        self, params: PyTree, carry: PyTree, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Aux]]:
        """See `Task.loss`."""
        logits, statistics, total = self.forward(params, self.raw(batch["image"]), key)
        loss = cross_entropy(logits, batch["label"], self.cfg.label_smoothing)
        loss = loss + self.cfg.activity * total
        m = self.cfg.momentum
        carry = jax.tree.map(
            lambda old, new: m * old + (1 - m) * jax.lax.stop_gradient(new), carry, statistics
        )
        return loss, (carry, {"accuracy": (logits.argmax(-1) == batch["label"]).mean()})

    def eval_sums(self, params: PyTree, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Sums over the valid rows, with the statistics of the batch."""
        logits, _, _ = self.forward(params, self.raw(batch["image"]), None)
        correct = (logits.argmax(-1) == batch["label"]) * batch["valid"]
        return {"correct": correct.sum(), "count": batch["valid"].sum()}

    def eval_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Accuracy."""
        return {"accuracy": sums["correct"] / sums["count"]}


def merge(params: PyTree, carry: PyTree) -> dict[str, Any]:
    """Parameters with the running statistics in their places."""
    return {name: {**block, **carry.get(name, {})} for name, block in params.items()}

# SPDX-License-Identifier: Apache-2.0
"""Training of ReLU networks with batch norm, to be mapped to spikes afterwards.

Batch norm uses the statistics of each batch, in training and in the evaluations during it. The
statistics of the trained network belong to the parameters that are kept (the last ones, their
running mean, or those chosen by validation): `with_statistics` computes them from training images
once these are known. Statistics that ran along with the training would fit none of the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    """Cross-entropy, dropout before dense layers, L1 on activations (fewer spikes), inputs.

    Attributes:
      dropout: rate before each dense layer that does not read the input.
      activity: weight of the sum of all activations (mean over the batch).
      label_smoothing: of the cross-entropy.
      mean, std, low, high: the raw input is (pixel - mean) / std, of the range [low, high], which
        becomes [0, 1] in the spiking network.
      windows: what sets the windows of the mapped network, see `windows.from_data`.
    """

    dropout: float = 0.0
    activity: float = 0.0
    label_smoothing: float = 0.0
    mean: float = 120.707
    std: float = 64.15
    low: float = -3.0
    high: float = 3.0
    windows: str = "max"


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
    """Statistics are not trained; matrices and kernels decay."""
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
        weighted = [isinstance(layer, relu.Dense | relu.Conv) for layer in self.layers]
        self.first = weighted.index(True)

    def param_specs(self) -> PyTree:
        """See `Task.param_specs`."""
        return relu.param_specs(self.layers, self.input_shape)

    def init_carry(self, batch_size: int) -> PyTree:
        """Nothing crosses batches."""
        del batch_size
        return ()

    def raw(self, image: jax.Array) -> jax.Array:
        """Normalised input of the ReLU network."""
        return (image.astype(jnp.float32) - self.cfg.mean) / self.cfg.std

    def forward(
        self, params: PyTree, x: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, PyTree, jax.Array]:
        """(logits, statistics of this batch, sum of hidden activations per example)."""
        statistics: dict[str, Any] = {}
        total = jnp.zeros(())
        for i, (name, layer) in enumerate(zip(self.names, self.layers, strict=True)):
            block = params.get(name, {})
            if isinstance(layer, relu.BatchNorm):
                axes = tuple(range(x.ndim - 1))
                statistics[name] = {"mean": x.mean(axes), "var": x.var(axes)}
                block = {**block, **statistics[name]}
            rate = layer.rate if isinstance(layer, relu.Dropout) else 0.0
            if isinstance(layer, relu.Dense) and i > self.first:
                rate = self.cfg.dropout
            if rate and key is not None:
                kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1.0 - rate, x.shape)
                x = jnp.where(kept, x / (1.0 - rate), 0.0)
            x = relu.apply_layer(layer, block, x)
            if isinstance(layer, relu.Relu):
                total = total + x.sum() / x.shape[0]
        return x, statistics, total

    def loss(
        self, params: PyTree, carry: PyTree, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Aux]]:
        """See `Task.loss`."""
        logits, _, total = self.forward(params, self.raw(batch["image"]), key)
        loss = cross_entropy(logits, batch["label"], self.cfg.label_smoothing)
        loss = loss + self.cfg.activity * total
        return loss, (carry, {"accuracy": (logits.argmax(-1) == batch["label"]).mean()})

    def eval_sums(self, params: PyTree, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Sums over the valid rows, with the statistics of the batch."""
        logits, _, _ = self.forward(params, self.raw(batch["image"]), None)
        valid, labels = batch["valid"], batch["label"]
        log_p = jax.nn.log_softmax(logits)
        nll = -jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
        return {
            "correct": ((logits.argmax(-1) == labels) * valid).sum(),
            "nll": (nll * valid).sum(),
            "count": valid.sum(),
        }

    def eval_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Accuracy and cross-entropy (nats)."""
        n = sums["count"]
        return {"accuracy": sums["correct"] / n, "cross_entropy": sums["nll"] / n}


def with_statistics(
    task: ReluTask, params: PyTree, batches: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """The parameters with the means and variances of their batch norms over some batches.

    Each batch is normalised by its own statistics, as in training (without dropout); mean and
    variance are those of all batches together, which must be of one size.

    Raises:
      ValueError: no batches.
    """
    found = jax.jit(lambda p, image: task.forward(p, task.raw(image), None)[1])
    square = lambda s: {"mean": s["mean"], "square": s["var"] + s["mean"] ** 2}
    parts = [
        {name: square(s) for name, s in found(params, jnp.asarray(batch["image"])).items()}
        for batch in batches
    ]
    if not parts:
        raise ValueError("statistics of batch norm: no batches were given")
    mean = jax.tree.map(lambda *x: np.mean(np.stack(x).astype(np.float64), axis=0), *parts)
    merged = {name: dict(block) for name, block in params.items()}
    for name, s in mean.items():
        merged[name] |= {"mean": s["mean"], "var": s["square"] - s["mean"] ** 2}
    return merged

# SPDX-License-Identifier: Apache-2.0
"""The task of finding the odd frame: losses over the scores of the frames, and who was right.

"binary": each frame's score is the logit of a decision neuron, "this one is odd", and is trained
by binary cross-entropy (published for the saccadic network). "softmax": the scores compete
(published for OReN).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from core.data import Source
from core.task import Aux, PyTree

OBJECTIVES = ("binary", "softmax")


class OddityTask:
    """Training and scoring of one network."""

    def __init__(
        self,
        network: Any,
        objective: str = "binary",
        eval_source: Source | None = None,
        eval_batch_size: int = 128,
    ):
        """Describes the task.

        Args:
          network: `Saccadic` or `Oren`, see `perception.networks`.
          objective: one of `OBJECTIVES`.
          eval_source: held-out problems.
          eval_batch_size: problems scored at a time.
        """
        if objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {OBJECTIVES}, got {objective!r}")
        self.network, self.objective = network, objective
        self.eval_source, self.eval_batch_size = eval_source, eval_batch_size
        self.units = ("problems", 1)

    def param_specs(self) -> PyTree:
        """See `Task.param_specs`."""
        return self.network.param_specs()

    def init_carry(self, batch_size: int) -> PyTree:
        """Nothing crosses batches."""
        return ()

    def scores(
        self, params: PyTree, batch: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> jax.Array:
        """Scores of the frames [B, F]; the highest is the answer."""
        inputs = {name: batch[name] for name in self.network.inputs}
        return self.network.apply(params, inputs, key)

    def losses(self, scores: jax.Array, labels: jax.Array) -> jax.Array:
        """Loss of each problem [B], in nats, of scores [B, F]; "binary": mean over the frames."""
        if self.objective == "softmax":
            return optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        odd = jax.nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
        return optax.sigmoid_binary_cross_entropy(scores, odd).mean(axis=-1)

    def loss(
        self, params: PyTree, carry: PyTree, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Aux]]:
        """See `Task.loss`."""
        scores = self.scores(params, batch, key)
        right = (jnp.argmax(scores, axis=-1) == batch["label"]).mean()
        return self.losses(scores, batch["label"]).mean(), (carry, {"accuracy": right})

    def eval_sums(self, params: PyTree, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Sums over the valid rows of a batch."""
        scores, valid = self.scores(params, batch), batch["valid"]
        right = jnp.argmax(scores, axis=-1) == batch["label"]
        return {
            "count": valid.sum(),
            "right": (right * valid).sum(),
            "nll": (self.losses(scores, batch["label"]) * valid).sum(),
        }

    def eval_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Accuracy and mean loss."""
        count = max(sums["count"], 1.0)
        return {"accuracy": sums["right"] / count, "nll": sums["nll"] / count}


class OnlineOddityTask(OddityTask):
    """The saccadic network with a recurrent part that learns online; see `CellReader.online`."""

    def __init__(self, network: Any, objective: str = "binary", *args: Any, **kwargs: Any):
        """See `OddityTask`.

        Raises:
          ValueError: a network, an objective or saccades without an online rule.
        """
        super().__init__(network, objective, *args, **kwargs)
        if not hasattr(getattr(network, "reader", None), "online"):
            raise ValueError("learning online needs a saccadic network with cells of snn")
        if objective != "binary" or network.evaluation != network.frames:
            raise ValueError(
                "learning online needs the objective binary and one evaluation saccade a frame,"
                f" got {objective!r} and {network.evaluation} for {network.frames} frames"
            )

    def grads(
        self, params: PyTree, carry: PyTree, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[tuple[jax.Array, tuple[PyTree, Aux]], PyTree]:
        """See `Task`: ((loss, (carry, metrics)), gradients)."""
        del key
        net, plan = self.network, batch["saccade"]
        inputs = {name: batch[name] for name in net.eye.inputs}
        xs, back = jax.vjp(lambda p: net.seen(net.eye.apply(p, inputs), plan), params["eye"])
        odd = (plan == batch["label"][:, None]).astype(xs.dtype)
        decides = jnp.arange(plan.shape[1]) >= plan.shape[1] - net.evaluation
        weight = decides.astype(xs.dtype) / net.evaluation
        value, logits, reader, below = net.reader.online(params["reader"], xs, odd, weight)
        scores = net.by_frame(logits, plan)
        right = (jnp.argmax(scores, axis=-1) == batch["label"]).mean()
        return (value, (carry, {"accuracy": right})), {"eye": back(below)[0], "reader": reader}

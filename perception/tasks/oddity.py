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
from perception.tasks.problems import ProblemTask

OBJECTIVES = ("binary", "softmax")


class OddityTask(ProblemTask):
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
        super().__init__(network, objective, OBJECTIVES, eval_source, eval_batch_size)

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

    def judged(
        self, params: PyTree, batch: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """See `ProblemTask.judged`."""
        scores, labels = self.scores(params, batch, key), batch["label"]
        return self.losses(scores, labels), jnp.argmax(scores, axis=-1) == labels


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

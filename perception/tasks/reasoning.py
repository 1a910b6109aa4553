# SPDX-License-Identifier: Apache-2.0
"""The task of every visual reasoning problem: one logit vector an image, or one score a candidate.

A problem has P images. With P = 1 the network's logits are classes ("classes"), or one logit is
the probability of label 1 ("binary"). With P > 1 each image is scored by the same network, and the
scores compete ("candidates"), or each is a probability of its own, the one right answer weighing as
much as the P - 1 wrong ones ("weighted", used for the Abstractor on CLEVR-ART).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from core.data import Source
from core.task import PyTree
from perception.tasks.problems import ProblemTask

OBJECTIVES = ("classes", "binary", "candidates", "weighted")


class ReasoningTask(ProblemTask):
    """Training and scoring of one network."""

    def __init__(
        self,
        network: Any,
        objective: str,
        polarity: str = "ink",
        eval_source: Source | None = None,
        eval_batch_size: int = 100,
    ):
        """Describes the task.

        Args:
          network: see `perception.networks`.
          objective: one of `OBJECTIVES`.
          polarity: how networks on whole images receive them, see `images.prepare`.
          eval_source: held-out problems.
          eval_batch_size: problems scored at a time.
        """
        super().__init__(network, objective, OBJECTIVES, eval_source, eval_batch_size)
        if objective != "classes" and network.outputs != 1:
            raise ValueError(f"objective {objective!r} needs one output, got {network.outputs}")
        if objective == "classes" and network.outputs < 2:
            raise ValueError(f"classes need at least two outputs, got {network.outputs}")
        self.polarity = polarity

    def judged(
        self, params: PyTree, batch: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """See `ProblemTask.judged`."""
        logits, labels = self.logits(params, batch, key), batch["label"]
        return self._losses(logits, labels), self.predict(logits) == labels

    def logits(
        self, params: PyTree, batch: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> jax.Array:
        """[B, outputs] for one image a problem, [B, P] scores for several."""
        flat, rows = self.network_inputs(batch)
        out = self.network.apply(params, flat, key)
        return out.reshape(rows, -1)

    def network_inputs(self, batch: Mapping[str, jax.Array]) -> tuple[dict[str, jax.Array], int]:
        """(inputs of the network with all images of all problems as rows, number of problems)."""
        found = {}
        for name in self.network.inputs:
            x = batch[name]
            if (self.objective in ("classes", "binary")) != (x.shape[1] == 1):
                raise ValueError(
                    f"objective {self.objective!r} does not fit problems of {x.shape[1]} images"
                )
            flat = x.reshape(-1, *x.shape[2:])
            if name == "image":
                light = flat.astype(jnp.float32) / 255
                flat = 1 - light if self.polarity == "ink" else light
            found[name] = flat.astype(jnp.float32)
        return found, x.shape[0]

    def predict(self, logits: jax.Array) -> jax.Array:
        """Labels [B]."""
        if self.objective == "binary":
            return (logits[:, 0] > 0).astype(jnp.int32)
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def _losses(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Loss of each problem, [B], in nats."""
        if self.objective == "binary":
            return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels.astype(logits.dtype))
        if self.objective == "weighted":
            count = logits.shape[-1]
            right = jax.nn.one_hot(labels, count)
            weight = jnp.where(right > 0, count - 1.0, 1.0)
            return (weight * optax.sigmoid_binary_cross_entropy(logits, right)).mean(axis=-1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

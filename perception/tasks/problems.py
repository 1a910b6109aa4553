# SPDX-License-Identifier: Apache-2.0
"""What the tasks of this package share: each problem has one right answer."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from core.data import Source
from core.task import Aux, PyTree


class ProblemTask(abc.ABC):
    """Training and scoring of one network on problems with a label; see `core.task.Task`.

    Dimensions: B problems.
    """

    def __init__(
        self,
        network: Any,
        objective: str,
        objectives: Sequence[str],
        eval_source: Source | None,
        eval_batch_size: int,
    ):
        """Describes the task.

        Args:
          network: with `param_specs()` and the names of its `inputs`.
          objective: how it is trained, one of `objectives`.
          objectives: those that the task knows.
          eval_source: held-out problems.
          eval_batch_size: problems scored at a time.
        """
        if objective not in objectives:
            raise ValueError(f"objective must be one of {tuple(objectives)}, got {objective!r}")
        self.network, self.objective = network, objective
        self.eval_source, self.eval_batch_size = eval_source, eval_batch_size
        self.units = ("problems", 1)

    @abc.abstractmethod
    def judged(
        self, params: PyTree, batch: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """(loss in nats [B], whether the answer is right [B]); key: of dropout, None for none."""

    def param_specs(self) -> PyTree:
        """See `Task.param_specs`."""
        return self.network.param_specs()

    def init_carry(self, batch_size: int) -> PyTree:
        """Nothing crosses batches."""
        return ()

    def loss(
        self, params: PyTree, carry: PyTree, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Aux]]:
        """See `Task.loss`."""
        losses, right = self.judged(params, batch, key)
        return losses.mean(), (carry, {"accuracy": right.mean()})

    def eval_sums(self, params: PyTree, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Sums over the valid rows of a batch."""
        (losses, right), valid = self.judged(params, batch), batch["valid"]
        return {
            "count": valid.sum(),
            "right": (right * valid).sum(),
            "nll": (losses * valid).sum(),
        }

    def eval_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Accuracy and mean loss."""
        count = max(sums["count"], 1.0)
        return {"accuracy": sums["right"] / count, "nll": sums["nll"] / count}

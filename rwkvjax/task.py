# SPDX-License-Identifier: Apache-2.0
"""Language modelling with RWKV, as a task for the training loop."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from core.sharding import Shard, no_shard
from rwkvjax import context_parallel, flops, losses, model, segments
from rwkvjax.config import Config

PyTree = Any


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """How the language model is trained.

    Attributes:
      l2_wrap: strength of the pull on the largest logit (official 1e-4); 0 turns it off.
      carry_state: start each batch from the (detached) state at the end of the previous one:
        truncated back-propagation through documents longer than the context. The data source must
        then give consecutive windows in each row.
      stage: 1 from scratch, 2 continued training (changes learning-rate multiples).
      segment: work through each window in segments of so many tokens with the state carried over
        (see `rwkvjax.segments`): windows longer than memory; 0 takes the window at once.
      reach: segments over which the gradient of the state reaches back: 1 truncates at every
        border, n at every n-th, 0 never (the gradient of the whole window).
      loss_slice: positions whose logits exist at a time; 0 takes all for a small vocabulary and 128
        for a large one.
    """

    l2_wrap: float = 1e-4
    carry_state: bool = False
    stage: int = 1
    segment: int = 0
    reach: int = 0
    loss_slice: int = 0

    def __post_init__(self) -> None:
        if self.l2_wrap < 0 or min(self.segment, self.reach, self.loss_slice) < 0:
            raise ValueError(
                "expected l2_wrap, segment, reach and loss_slice not to be negative, got"
                f" {self.l2_wrap=} {self.segment=} {self.reach=} {self.loss_slice=}"
            )


class LanguageModelTask:
    """Next-token prediction over windows of T+1 tokens; see `core.loop.Task`."""

    def __init__(
        self,
        cfg: Config,
        context: int,
        options: TaskConfig | None = None,
        *,
        shard: Shard = no_shard,
        mesh: Mesh | None = None,
        eval_source: Any = None,
        eval_batch_size: int = 0,
        token_bytes: np.ndarray | None = None,
    ):
        """Args:
        cfg: the model.
        context: T, tokens predicted in each window.
        options: see `TaskConfig`.
        shard: sharding constraint for activations.
        mesh: devices; an axis "sequence" splits time, see `rwkvjax.context_parallel`.
        eval_source: held-out windows, each token predicted once; None for no evaluation.
        eval_batch_size: windows in one evaluation batch.
        token_bytes: length in bytes of each token id [V], for bits per byte; None if every token
          is one byte.
        """
        self.cfg, self.context = cfg, context
        self.options = options or TaskConfig()
        self._shard, self._mesh = shard, mesh
        self._time_parts = 1 if mesh is None else context_parallel.devices(mesh)
        if self.options.segment:
            # The loop takes a task's own gradients where there are any.
            self.grads = self._segmented
        self.units = ("tokens", context)
        self.eval_batch_size = eval_batch_size
        if eval_source is not None:
            self.eval_source = eval_source
        lengths = np.ones(cfg.vocab_size) if token_bytes is None else token_bytes
        self._token_bytes = np.asarray(lengths, np.float32)
        if self._token_bytes.shape != (cfg.vocab_size,):
            raise ValueError(
                f"token_bytes must have shape ({cfg.vocab_size},), got {self._token_bytes.shape}"
            )

    def param_specs(self) -> PyTree:
        """See `core.loop.Task`."""
        return model.param_specs(self.cfg)

    def init_carry(self, batch_size: int) -> PyTree:
        """The model's state, if batches continue each other."""
        return model.init_state(self.cfg, batch_size) if self.options.carry_state else ()

    def carry_axes(self, carry: PyTree) -> PyTree:
        """Logical axes of the carry: [L, B, ...]."""
        return jax.tree.map(lambda x: ("layers", "batch", *(None,) * (x.ndim - 2)), carry)

    def flops_per_step(self, batch_size: int) -> float:
        """Analytic operations of one training step."""
        return flops.train_flops_per_token(self.cfg) * self.context * batch_size

    def _losses(
        self, params: PyTree, state: PyTree, positions: Mapping[str, jax.Array], total: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        """(losses [B, T], state after them); the pull of `l2_wrap` is in their gradient."""
        tokens, targets = positions["tokens"], positions["targets"]
        state = state or model.init_state(self.cfg, tokens.shape[0])
        run = model.hidden
        if self._mesh is not None and self._time_parts > 1:
            run = functools.partial(context_parallel.hidden, mesh=self._mesh)
        reset = positions["reset"]
        x, state = run(params, self.cfg, tokens, state, reset=reset, shard=self._shard)
        head = params["head"]["weight"]
        pull = self.options.l2_wrap * positions["mask"] / total
        count = losses.slices(
            tokens.shape[1], self.cfg.vocab_size, self.options.loss_slice, self._time_parts
        )
        return (
            losses.head_losses(x, head, targets, pull, count=count, shard=self._shard),
            state,
        )

    def loss(
        self, params: PyTree, carry: PyTree, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]:
        """Mean loss in nats per predicted token; see `core.loop.Task`."""
        del key
        loss, state, weight = self._objective(params, jax.lax.stop_gradient(carry), batch)
        carry = state if self.options.carry_state else ()
        return loss, (carry, {"weight": weight})

    def _objective(
        self, params: PyTree, state: PyTree, batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, PyTree, jax.Array]:
        """(loss, state after the batch, number of predicted tokens)."""
        positions = _positions(batch)
        weight = positions["mask"].sum()
        total = jnp.maximum(weight, 1.0)
        found, state = self._losses(params, state, positions, total)
        return (found * positions["mask"]).sum() / total, state, weight

    def _segmented(
        self, params: PyTree, carry: PyTree, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> Any:
        """Loss and gradients of `loss`, segment by segment; see `core.task.Task`."""
        del key
        positions = _positions(batch)
        weight = positions["mask"].sum()
        total = jnp.maximum(weight, 1.0)

        def one(params: PyTree, state: PyTree, segment: Mapping[str, jax.Array]) -> Any:
            found, state = self._losses(params, state, segment, total)
            return (found * segment["mask"]).sum() / total, state

        groups = segments.cut(positions, self.options.segment, self.options.reach)
        state = carry or model.init_state(self.cfg, batch["tokens"].shape[0])
        loss, state, grads = segments.value_and_grad(one, params, state, groups)
        carry = state if self.options.carry_state else ()
        return (loss, (carry, {"weight": weight})), grads

    def eval_sums(self, params: PyTree, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Sums over one held-out batch."""
        return self._sums(params, (), batch)

    def _sums(
        self, params: PyTree, state: PyTree, batch: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        positions = _positions(batch)
        found, _ = self._losses(params, state, positions, jnp.ones(()))
        mask = positions["mask"] * batch["valid"][:, None]
        lengths = jnp.asarray(self._token_bytes)[positions["targets"]]
        return {
            "nats": (found * mask).sum(),
            "tokens": mask.sum(),
            "bytes": (lengths * mask).sum(),
        }

    def eval_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Held-out loss (nats per token) and bits per byte."""
        if sums["tokens"] == 0:
            raise ValueError("the held-out data holds no token to predict")
        loss = sums["nats"] / sums["tokens"]
        return {
            "loss": loss,
            "bits_per_byte": sums["nats"] / math.log(2) / max(sums["bytes"], 1.0),
        }


def _positions(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """A batch of windows of T+1 tokens as arrays over its T predictions, each [B, T]."""
    tokens = batch["tokens"]
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "reset": batch["reset"][:, :-1],
        "mask": batch["loss_mask"].astype(jnp.float32),
    }


@functools.partial(jax.jit, static_argnums=1)
def score(params: PyTree, cfg: Config, tokens: jax.Array) -> jax.Array:
    """Log-probabilities of each token after the first: tokens [B, T] -> [B, T-1], in nats."""
    logits, _ = model.apply(params, cfg, tokens[:, :-1])
    return -losses.cross_entropy(logits, tokens[:, 1:])

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

from core.sharding import Shard, no_shard
from rwkvjax import flops, model
from rwkvjax.config import Config

PyTree = Any


@jax.custom_vjp
def l2_wrap(loss: jax.Array, logits: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns the loss; its gradient also pulls the largest logit of each position towards zero.

    Forward: `loss`. Backward: adds `weight * max_logit` to the gradient of the logits at each
    position's arg-max, independent of the incoming gradient, as the official trainer does with
    weight = 1e-4 / (B T): the gradient of half the weighted sum of squared maxima.

    Args:
      loss: scalar. logits: [B, T, V]. weight: [B, T].
    """
    del logits, weight
    return loss


def _l2_wrap_fwd(loss: jax.Array, logits: jax.Array, weight: jax.Array) -> Any:
    top = jnp.argmax(logits, axis=-1)
    largest = jnp.take_along_axis(logits, top[..., None], axis=-1)[..., 0]
    # An empty slice carries the vocabulary size and dtype without keeping the logits alive.
    return loss, (top, largest * weight, logits[:0], weight)


def _l2_wrap_bwd(residuals: Any, g: jax.Array) -> Any:
    top, pull, empty, weight = residuals
    hot = jax.nn.one_hot(top, empty.shape[-1], dtype=empty.dtype)
    return g, hot * pull[..., None].astype(empty.dtype), jnp.zeros_like(weight)


l2_wrap.defvjp(_l2_wrap_fwd, _l2_wrap_bwd)


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Negative log-likelihood in nats: logits [B, T, V], targets [B, T] -> [B, T]."""
    log_z = jax.nn.logsumexp(logits, axis=-1)
    return log_z - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """How the language model is trained.

    Attributes:
      l2_wrap: strength of the pull on the largest logit (official 1e-4); 0 turns it off.
      carry_state: start each batch from the (detached) state at the end of the previous one:
        truncated back-propagation through documents longer than the context. The data source must
        then give consecutive windows in each row.
      stage: 1 from scratch, 2 continued training (changes learning-rate multiples).
    """

    l2_wrap: float = 1e-4
    carry_state: bool = False
    stage: int = 1


class LanguageModelTask:
    """Next-token prediction over windows of T+1 tokens; see `core.loop.Task`."""

    def __init__(
        self,
        cfg: Config,
        context: int,
        options: TaskConfig | None = None,
        *,
        shard: Shard = no_shard,
        eval_source: Any = None,
        eval_batch_size: int = 0,
        token_bytes: np.ndarray | None = None,
    ):
        """Args:
        cfg: the model.
        context: T, tokens predicted in each window.
        options: see `TaskConfig`.
        shard: sharding constraint for activations.
        eval_source: held-out windows, each token predicted once; None for no evaluation.
        eval_batch_size: windows in one evaluation batch.
        token_bytes: length in bytes of each token id [V], for bits per byte; None if every token
          is one byte.
        """
        self.cfg, self.context = cfg, context
        self.options = options or TaskConfig()
        self._shard = shard
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
        self, params: PyTree, state: PyTree, batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array, PyTree]:
        tokens = batch["tokens"]
        logits, state = model.apply(
            params,
            self.cfg,
            tokens[:, :-1],
            state or None,
            reset=batch["reset"][:, :-1],
            shard=self._shard,
        )
        mask = batch["loss_mask"].astype(logits.dtype)
        return cross_entropy(logits, tokens[:, 1:]), mask, logits, state

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
        losses, mask, logits, state = self._losses(params, state, batch)
        total = jnp.maximum(mask.sum(), 1.0)
        loss = (losses * mask).sum() / total
        if self.options.l2_wrap:
            loss = l2_wrap(loss, logits, self.options.l2_wrap * mask / total)
        return loss, state, mask.sum()

    def eval_sums(self, params: PyTree, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Sums over one held-out batch."""
        return self._sums(params, (), batch)

    def _sums(
        self, params: PyTree, state: PyTree, batch: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        losses, mask, _, _ = self._losses(params, state, batch)
        mask = mask * batch["valid"][:, None]
        lengths = jnp.asarray(self._token_bytes)[batch["tokens"][:, 1:]]
        return {
            "nats": (losses * mask).sum(),
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


@functools.partial(jax.jit, static_argnums=1)
def score(params: PyTree, cfg: Config, tokens: jax.Array) -> jax.Array:
    """Log-probabilities of each token after the first: tokens [B, T] -> [B, T-1], in nats."""
    logits, _ = model.apply(params, cfg, tokens[:, :-1])
    return -cross_entropy(logits, tokens[:, 1:])

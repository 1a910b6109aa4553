# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning a frozen RWKV for annotators, as a task for the training loop.

What may be trained beside the base, by variant: LoRA on all projections, a classification head, a
vector for each annotator that is read before the text (a new token), an initial matrix state for
each annotator. The state of annotator u is shared + own[u], so that little data moves the shared
part only; strangers (row 0) have the shared part alone, and a zero vector as their token.

Sequences are padded on the right, which a causal model does not see. Dimensions: B batch, T time,
D width, L layers, H heads, N head size, U annotators, C classes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import params as params_lib
from core.params import Normal, ParamSpec, zeros
from nlp import rwkv_models as rwkv
from nlp.personalization.llm_variants import Llm, Variant

PyTree = Any
LORA_PARTS = ("att", "ffn")


class LlmTask:
    """One variant; see `core.task.Task` and the module.

    A batch has tokens [B, T], length [B] (of the prompt), annotator [B] (row 0 is a stranger),
    label [B], for "LM" also total [B]: the length with the label's text.
    """

    def __init__(
        self,
        variant: Variant,
        how: Llm,
        cfg: rwkv.Config,
        base: PyTree,
        annotators: int,
        weights: np.ndarray,
    ):
        """Args:
        variant, how: which form, and settings.
        cfg, base: the frozen model.
        annotators: U.
        weights: of the classes in the loss, [C].
        """
        if variant.person == "state" and cfg.version == "4":
            raise ValueError("RWKV-4 has no matrix state to learn; use another base")
        self.variant, self.how, self.cfg = variant, how, cfg
        self._annotators, self._weights = annotators, np.asarray(weights, np.float32)
        self.frozen = {"base": base}

    @property
    def has_lora(self) -> bool:
        """Learned states take the place of LoRA."""
        return self.variant.person != "state"

    def param_specs(self) -> PyTree:
        cfg, specs = self.cfg, {}
        if self.has_lora:
            specs["adapter"] = rwkv.lowrank.specs(cfg, self.how.rank, LORA_PARTS, ())
        if self.variant.method == "CLS":
            classes = len(self._weights)
            specs["head"] = {
                "weight": ParamSpec((cfg.dim, classes), ("embed", "label"), zeros),
                "bias": ParamSpec((classes,), ("label",), zeros),
            }
        rows = self._annotators + 1
        if self.variant.person == "token":
            specs["tokens"] = ParamSpec((rows, cfg.dim), ("user", "embed"), Normal(0.1))
        if self.variant.person == "state":
            shape = (cfg.layers, cfg.heads, cfg.head_size, cfg.head_size)
            axes = ("layers", "heads", None, None)
            specs["shared_state"] = ParamSpec(shape, axes, zeros)
            specs["own_state"] = ParamSpec((rows, *shape), ("user", *axes), zeros)
        return specs

    def init_carry(self, batch_size: int) -> PyTree:
        return ()

    def hidden(
        self,
        params: PyTree,
        frozen: PyTree,
        tokens: jax.Array,
        rows: jax.Array,
        key: jax.Array | None = None,
    ) -> tuple[PyTree, jax.Array]:
        """(parameters with LoRA, normed activations [B, T, D]) of tokens [B, T]."""
        base, cfg = frozen["base"], self.cfg
        if self.has_lora and "adapter" in params:
            adapter = params["adapter"]
            if key is not None and self.how.dropout:
                adapter = _drop_inputs(adapter, key, self.how.dropout)
            base = rwkv.lowrank.attach(base, adapter, self.how.alpha / self.how.rank)
        x = rwkv.model.embed(base, cfg, tokens)
        state = rwkv.model.init_state(cfg, tokens.shape[0])
        if "own_state" in params:
            own = params["shared_state"] + jnp.where(
                (rows > 0)[:, None, None, None, None], params["own_state"][rows], 0.0
            )
            state = state._replace(wkv=jnp.moveaxis(own, 0, 1).astype(state.wkv.dtype))
        if "tokens" in params:
            own = jnp.where((rows > 0)[:, None], params["tokens"][rows], 0.0)
            first = own[:, None].astype(x.dtype)
            x = jnp.concatenate([first, x], axis=1)
        h, _ = rwkv.model.run_blocks(base, cfg, x, state)
        return base, h[:, 1:] if "tokens" in params else h

    def class_logits(
        self,
        params: PyTree,
        frozen: PyTree,
        batch: Mapping[str, jax.Array],
        key: jax.Array | None = None,
    ) -> jax.Array:
        """CLS: logits of the classes from the activation of the prompt's last token, [B, C]."""
        _, h = self.hidden(params, frozen, batch["tokens"], batch["annotator"], key)
        last = jnp.take_along_axis(h, (batch["length"] - 1)[:, None, None], axis=1)[:, 0]
        return last @ params["head"]["weight"] + params["head"]["bias"]

    def answer_losses(
        self,
        params: PyTree,
        frozen: PyTree,
        batch: Mapping[str, jax.Array],
        key: jax.Array | None = None,
    ) -> jax.Array:
        """LM, Q: negative log-probability of the label's text after the prompt, nats [B]."""
        tokens = batch["tokens"]
        base, h = self.hidden(params, frozen, tokens[:, :-1], batch["annotator"], key)
        logits = rwkv.model.logits_of(base, h)
        losses = rwkv.losses.cross_entropy(logits, tokens[:, 1:])
        place = jnp.arange(1, tokens.shape[1])
        response = (place >= batch["length"][:, None]) & (place < batch["total"][:, None])
        return jnp.where(response, losses, 0.0).sum(axis=1)

    def loss(
        self,
        params: PyTree,
        carry: PyTree,
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        frozen: PyTree,
    ) -> tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]:
        weight = jnp.asarray(self._weights)[batch["label"]]
        if self.variant.method == "CLS":
            log_p = jax.nn.log_softmax(self.class_logits(params, frozen, batch, key))
            losses = -jnp.take_along_axis(log_p, batch["label"][:, None], axis=1)[:, 0]
        else:
            losses = self.answer_losses(params, frozen, batch, key)
        return (weight * losses).mean(), (carry, {})


def _drop_inputs(adapter: PyTree, key: jax.Array, rate: float) -> PyTree:
    """LoRA's dropout: input channels of A are dropped, the same ones for a whole batch."""
    leaves = dict(params_lib.flatten(adapter))
    for number, path in enumerate(sorted(leaves)):
        if path.endswith("/down"):
            down = leaves[path]
            kept = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - rate, down.shape[:2])
            leaves[path] = down * kept[..., None] / (1 - rate)
    return params_lib.unflatten(leaves)

# SPDX-License-Identifier: Apache-2.0
"""Training an adapter beside a frozen base, as a task for the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from core import params as params_lib
from core.params import ParamSpec
from rwkvjax import model
from rwkvjax.config import Config
from rwkvjax.finetune import lowrank
from rwkvjax.finetune.adapter import Adapter, lora_to_official, state_to_official
from rwkvjax.finetune.config import FinetuneConfig
from rwkvjax.task import LanguageModelTask

PyTree = Any


class AdapterTask(LanguageModelTask):
    """Next-token prediction where only an adapter's parameters are trained.

    The base lies in `frozen`; see `core.task.Task`. With a tuned initial state every window starts
    from it, and resets inside the windows are not followed: they would clear it.
    """

    def __init__(
        self,
        cfg: Config,
        context: int,
        how: FinetuneConfig,
        base: PyTree,
        *,
        initial: PyTree | None = None,
        **kwargs: Any,
    ):
        """Args:
        cfg, context: see `LanguageModelTask`, as well as the further keyword arguments.
        how: method "lora", "pissa" or "state".
        base: parameters of the base, for PiSSA without their principal parts.
        initial: those principal parts (`lowrank.principal_factors`), only for PiSSA.
        """
        super().__init__(cfg, context, **kwargs)
        if not how.has_adapter:
            raise ValueError(f"method {how.method!r} trains no adapter")
        if self.options.carry_state or self.options.segment:
            raise NotImplementedError("adapters are trained without a carried state or segments")
        if how.method == "state" and cfg.version == "4":
            raise NotImplementedError("RWKV-4 has no matrix state to tune; use lora")
        self.how, self.frozen, self.initial = how, base, initial

    def param_specs(self) -> PyTree:
        """Those of the adapter."""
        cfg = self.cfg
        if self.how.method == "state":
            shape = (cfg.layers, cfg.heads, cfg.head_size, cfg.head_size)
            axes = ("layers", "heads", "head_dim", None)
            return {"time_state": ParamSpec(shape, axes, params_lib.zeros)}
        return lowrank.specs(cfg, self.how.rank, self.how.parts, self.how.train_parts)

    def assemble(self, params: PyTree, frozen: PyTree, rows: int) -> tuple[PyTree, Any]:
        """(parameters of the whole model, initial state of `rows` sequences)."""
        if self.how.method != "state":
            return lowrank.attach(frozen, params, self.how.scale), ()
        state = model.init_state(self.cfg, rows)
        tuned = params["time_state"].astype(state.wkv.dtype)[:, None]
        return frozen, state._replace(wkv=jnp.broadcast_to(tuned, state.wkv.shape))

    def _without_resets(self, batch: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        if self.how.method != "state":
            return batch
        return {**batch, "reset": jnp.zeros_like(batch["reset"])}

    def loss(  # type: ignore[override]
        self,
        params: PyTree,
        carry: PyTree,
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        frozen: PyTree,
    ) -> tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]:
        """Mean loss in nats per predicted token; see `core.task.Task`."""
        del key
        whole, state = self.assemble(params, frozen, batch["tokens"].shape[0])
        loss, _, weight = self._objective(whole, state, self._without_resets(batch))
        return loss, (carry, {"weight": weight})

    def eval_sums(  # type: ignore[override]
        self, params: PyTree, batch: Mapping[str, jax.Array], frozen: PyTree
    ) -> dict[str, jax.Array]:
        """Sums over one held-out batch."""
        whole, state = self.assemble(params, frozen, batch["tokens"].shape[0])
        return self._sums(whole, state, self._without_resets(batch))

    def adapter(self, params: PyTree) -> Adapter:
        """What was trained, with the official names."""
        params = jax.device_get(params)
        if self.how.method == "state":
            return Adapter("state", state_to_official(self.cfg, params["time_state"]))
        tensors = lora_to_official(self.cfg, params, self.initial)
        return Adapter("lora", tensors, self.how.scale)

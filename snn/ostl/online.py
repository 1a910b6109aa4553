# SPDX-License-Identifier: Apache-2.0
"""Online methods made of one rule for each layer: OSTL, e-prop, RFLO, OTTT, SnAp-1.

Each step runs the stack forward, every layer advancing its own traces, and then sends the loss of
this step once down through the stack (arXiv 2007.12723, eqs. 13-19). What a method is depends on
the rule it takes for a recurrent layer and on the matrices the signal goes down through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core import params as params_lib
from snn.cells.base import Cell, PyTree, Units
from snn.cells.stack import Stack, stack_of
from snn.cells.stateless import Dense
from snn.ostl import rules
from snn.ostl.complete import Complete
from snn.ostl.diagonal import Diagonal, Presynaptic

Loss = Callable[[jax.Array, Any], jax.Array]


class Carry(NamedTuple):
    """What an online method keeps between steps.

    Attributes:
      state: of the cell.
      traces: one entry for each layer.
      feedback: one random matrix (or None) for each layer.
    """

    state: PyTree
    traces: PyTree
    feedback: PyTree


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {known}, got {value!r}")


class Layered:
    """A method with one rule for each layer; subclasses choose it."""

    feedback: str = "symmetric"
    seed: int = 0

    def rule(self, cell: Any) -> rules.Rule:
        """The rule of a stateful layer."""
        raise NotImplementedError

    def rule_of(self, cell: Cell) -> rules.Rule:
        """The rule of a layer."""
        if rules.is_stateless(cell):
            return rules.Spatial()
        own = getattr(cell, "online_rule", None)  # cells with a structure of their own bring one
        return own() if own is not None else self.rule(cell)

    def init(self, net: Cell, params: PyTree, batch_size: int) -> Carry:
        """Zero state and traces."""
        stack = stack_of(net)
        layer_params = _layer_params(net, params)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        state = net.init_state(batch_size, dtype)
        traces = tuple(
            self.rule_of(cell).init(cell, own, old)
            for cell, own, old in zip(stack.layers, layer_params, _states(net, state), strict=True)
        )
        return Carry(state, traces, self._random_matrices(stack, layer_params))

    def _random_matrices(self, stack: Stack, layer_params: tuple) -> tuple:
        if self.feedback == "symmetric":
            return (None,) * len(stack.layers)
        key = jax.random.key(self.seed)
        drawn: list[jax.Array | None] = []
        for i, (cell, own) in enumerate(zip(stack.layers, layer_params, strict=True)):
            if not isinstance(cell, Dense | Units):
                drawn.append(None)
                continue
            spec = params_lib.init({"w": cell.param_specs()["w"]}, jax.random.fold_in(key, i))
            drawn.append(spec["w"].astype(own["w"].dtype))
        return tuple(drawn)

    def step(
        self, net: Cell, loss: Loss, params: PyTree, carry: Carry, x: jax.Array, target: Any
    ) -> tuple[jax.Array, Carry, PyTree]:
        """One time step: (loss, carry, gradient contribution)."""
        stack = stack_of(net)
        layer_params, to_params = jax.vjp(lambda p: _layer_params(net, p), params)
        states, traces, pulls = [], [], []
        for cell, own, old, trace in zip(
            stack.layers, layer_params, _states(net, carry.state), carry.traces, strict=True
        ):
            done = self.rule_of(cell).advance(cell, own, old, trace, x)
            x = done.y
            states.append(done.state)
            traces.append(done.trace)
            pulls.append(done.pull)
        value, signal = jax.value_and_grad(loss)(x, target)
        grads: list[PyTree] = []
        for pull, feedback in zip(reversed(pulls), reversed(carry.feedback), strict=True):
            grad, signal = pull(signal, feedback)
            grads.append(grad)
        (total,) = to_params(tuple(reversed(grads)))
        state = tuple(states) if isinstance(net, Stack) else states[0]
        return value, Carry(state, tuple(traces), carry.feedback), total


def _layer_params(net: Cell, params: PyTree) -> tuple:
    return net.layer_params(params) if isinstance(net, Stack) else (params,)


def _states(net: Cell, state: PyTree) -> tuple:
    return state if isinstance(net, Stack) else (state,)


def is_diagonal(cell: Any) -> bool:
    """True for cells whose units do not see each other through the past."""
    return isinstance(cell, Units) and cell.elementwise and not cell.recurrent


def _is_units(cell: Any) -> bool:
    return isinstance(cell, Units) and cell.elementwise


def _need_units(cell: Any, method: str) -> None:
    if not _is_units(cell):
        raise NotImplementedError(
            f"{method} needs cells made of elementwise units, got {type(cell).__name__}; Ostl takes"
            " any cell"
        )


@dataclasses.dataclass(frozen=True)
class Ostl(Layered):
    """Online spatio-temporal learning (arXiv 2007.12723).

    Exact for the last stateful layer of any stack, with the complete traces; layers below lose
    the part of the gradient that travels through the past of the layers above (R), unless
    deep="kept".

    Attributes:
      recurrent: traces of a recurrent cell: "complete" (exact, O(N^4) a step for N units),
        "without_h" (drops the way through H, O(N^2)) or "generic" (one-step Jacobians of any
        cell; the same numbers as "complete", slower). Feed-forward cells always have their exact
        rank-2 traces, O(N M).
      deep: "dropped" (the paper's rule) or "kept": the stack is one cell whose sensitivities are
        carried whole, exact for every layer, O((K N)^2 P) a step.
      feedback: "symmetric", or "random": fixed random matrices bring the signal to the layers
        below (an approximation).
      seed: of those matrices.
    """

    recurrent: str = "complete"
    deep: str = "dropped"
    feedback: str = "symmetric"
    seed: int = 0

    def __post_init__(self) -> None:
        _choice("recurrent", self.recurrent, ("complete", "without_h", "generic"))
        _choice("deep", self.deep, ("dropped", "kept"))
        _choice("feedback", self.feedback, ("symmetric", "random"))
        if self.deep == "kept" and self.feedback == "random":
            raise ValueError("deep='kept' is exact and has no random feedback; choose one of them")

    def rule(self, cell: Any) -> rules.Rule:
        """Rank-2, complete or generic traces."""
        if is_diagonal(cell):
            return Diagonal()
        if _is_units(cell):
            known: dict[str, rules.Rule] = {"without_h": Diagonal(), "complete": Complete()}
            return known.get(self.recurrent, rules.Sensitivity())
        if self.recurrent == "without_h":
            raise NotImplementedError(
                f"traces without H need a cell of elementwise units, got {type(cell).__name__};"
                " use recurrent='complete'"
            )
        return rules.Sensitivity()

    def init(self, net: Cell, params: PyTree, batch_size: int) -> Carry:
        """Zero state and traces."""
        if self.deep == "dropped":
            return super().init(net, params, batch_size)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        state = net.init_state(batch_size, dtype)
        return Carry(state, rules.Sensitivity().init(net, params, state), None)

    def step(
        self, net: Cell, loss: Loss, params: PyTree, carry: Carry, x: jax.Array, target: Any
    ) -> tuple[jax.Array, Carry, PyTree]:
        """One time step: (loss, carry, gradient contribution)."""
        if self.deep == "dropped":
            return super().step(net, loss, params, carry, x, target)
        done = rules.Sensitivity().advance(net, params, carry.state, carry.traces, x)
        value, signal = jax.value_and_grad(loss)(done.y, target)
        grads, _ = done.pull(signal, None)
        return value, Carry(done.state, done.trace, None), grads


@dataclasses.dataclass(frozen=True)
class Eprop(Layered):
    """e-prop (Nature Communications 11, 3625, 2020): drops H and detaches the reset in the trace.

    An approximation, also for a single feed-forward layer (the reset). Exact for one layer without
    reset and without H.
    """

    feedback: str = "symmetric"
    seed: int = 0

    def __post_init__(self) -> None:
        _choice("feedback", self.feedback, ("symmetric", "random"))

    def rule(self, cell: Any) -> rules.Rule:
        """Diagonal traces with the signals of the last step held fixed."""
        _need_units(cell, "e-prop")
        return Diagonal(through_signals=False)


@dataclasses.dataclass(frozen=True)
class Rflo(Layered):
    """Random-feedback local online learning (eLife 8, e43299, 2019): an approximation.

    Inputs filtered by the leak alone, and random feedback to the layers below.
    """

    feedback: str = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        _choice("feedback", self.feedback, ("symmetric", "random"))

    def rule(self, cell: Any) -> rules.Rule:
        """Filtered inputs."""
        _need_units(cell, "RFLO")
        return Presynaptic()


@dataclasses.dataclass(frozen=True)
class Ottt(Layered):
    """Online training through time (arXiv 2210.04195): an approximation.

    Inputs filtered by the leak, the reset left out of the past, exact spatial back-propagation.
    Exact for a linear leaky integrator without reset.
    """

    def rule(self, cell: Any) -> rules.Rule:
        """Filtered inputs."""
        _need_units(cell, "OTTT")
        return Presynaptic()


@dataclasses.dataclass(frozen=True)
class Snap1(Layered):
    """SnAp-1 (arXiv 2006.07232): keeps the entries of the influence that one step can reach.

    These are the effects of a weight on its own unit, with the unit's self connection in H. Exact
    for a layer whose H is diagonal (or absent), an approximation otherwise.
    """

    def rule(self, cell: Any) -> rules.Rule:
        """Diagonal traces with the diagonal of H."""
        _need_units(cell, "SnAp-1")
        return Diagonal(self_connections=cell.recurrent)

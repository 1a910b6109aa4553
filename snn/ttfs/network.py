# SPDX-License-Identifier: Apache-2.0
"""Time-to-first-spike (TTFS) networks: what they are made of, and their closed form.

A neuron spikes at most once. Its value is the lead time `x = t_max - t` of its spike before the
end of its layer's window; a silent neuron has x = 0. In [t_min_prev, t_min] the potential rises
with slope `A + sum of the J of the inputs that have spiked`; from t_min on with the fixed slope S,
until it reaches the threshold `S Delta + A Delta_prev - D`. If the threshold is not reached before
t_min, the spike's lead time is (Stanojevic et al., arXiv 2212.12522 and 2306.08744)

    x_i = relu((D_i + sum_j J_ij x_j) / S_i)

Rules for (A, S): "b1": (0, 1), so that J and D are the weights and biases of a ReLU network;
"alpha1": (1, 1 + sum J); "alpha": (alpha, alpha + sum J) with silent neurons forced to spike at
t_max; "b1_forced": (1 - sum J, 1), forced as well.

"autonomous" neurons have neither clock nor drive: from t_min_prev on they fire where the potential
sum_j J_ij K(t - t_j) first reaches `threshold - D_i`, for any kernel K of `kernels`; a neuron that
has not fired by t_max is silent. They have no closed form.

Dimensions: B batch, N inputs of a layer, M neurons of a layer, H W C image axes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from snn.ttfs.kernels import Kernel, Ramp
from snn.ttfs.ops import DELAYS, Op, Scale, apply_op, delay_shape, delayed_sum, weight_shape
from snn.ttfs.ops import Conv as Conv  # names of a description, found here by its users
from snn.ttfs.ops import Dense as Dense
from snn.ttfs.ops import Pads as Pads
from snn.ttfs.ops import Shape as Shape

Params = Mapping[str, Mapping[str, Any]]

RULES = ("b1", "alpha1", "alpha", "b1_forced", "autonomous")
SEMANTICS = ("ideal", "clip", "causal")


# --- parts of a network -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Edge:
    """Synapses from the node `source`. Spikes of earlier windows are delayed into the layer's.

    `delay` ("axonal" or "synaptic", see `ops`) adds learnable delays, parameters of their own.
    """

    source: str
    op: Op
    delay: str = ""


@dataclasses.dataclass(frozen=True)
class Layer:
    """Neurons with a common window, or (spiking=False) integrators read at t_min.

    Attributes:
      name: key of its parameters.
      shape: shape of one example's neurons, (M,) or (H, W, C).
      edges: incoming synapses; potentials of several edges add up.
      spiking: False for the read-out.
      rule: see the module docstring; the read-out is always affine.
      alpha: slope of the "alpha" rule.
      kernel, threshold: of rule "autonomous".
    """

    name: str
    shape: Shape
    edges: tuple[Edge, ...]
    spiking: bool = True
    rule: str = "b1"
    alpha: float = 1.0
    kernel: Kernel = Ramp()
    threshold: float = 1.0

    def __post_init__(self) -> None:
        if not self.edges or math.prod(self.shape) < 1:
            raise ValueError(f"layer {self.name!r} is empty: {self.shape=}, {self.edges=}")
        if self.rule not in RULES:
            raise ValueError(f"layer {self.name!r}: rule must be one of {RULES}, got {self.rule!r}")
        if self.alpha <= 0:
            raise ValueError(f"layer {self.name!r}: alpha must be positive, got {self.alpha}")
        if self.kernel != Ramp() and not self.autonomous:
            raise ValueError(
                f"layer {self.name!r}: kernel {self.kernel} needs rule 'autonomous' and spikes;"
                f" rule {self.rule!r} is for ramps"
            )
        for edge in self.edges:
            if edge.delay not in DELAYS or (edge.delay and isinstance(edge.op, Scale)):
                raise ValueError(
                    f"layer {self.name!r}: delay must be one of {DELAYS}, and none for Scale, got"
                    f" {edge}"
                )
            if edge.delay and self.forced:
                raise ValueError(
                    f"layer {self.name!r}: rule {self.rule!r} forces silent neurons to spike at"
                    " t_max, and needs all of them by t_min: no delays"
                )

    @property
    def autonomous(self) -> bool:
        """True for neurons without a change of regime: they fire whenever they cross."""
        return self.spiking and self.rule == "autonomous"

    @property
    def forced(self) -> bool:
        """True if silent neurons are made to spike at t_max."""
        return self.spiking and self.rule in ("alpha", "b1_forced")


@dataclasses.dataclass(frozen=True)
class Pool:
    """Max pooling on times: the earliest spike of each window.

    `latest` marks channels that take the latest spike instead (min pooling of values); empty means
    none. Padded places take no part.
    """

    name: str
    source: str
    shape: Shape
    window: tuple[int, int]
    strides: tuple[int, int]
    padding: Pads = ((0, 0), (0, 0))
    latest: tuple[bool, ...] = ()


Node = Layer | Pool
INPUT = "input"


@dataclasses.dataclass(frozen=True)
class Network:
    """Nodes in topological order; the last one is the read-out."""

    input_shape: Shape
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        known = {INPUT}
        for node in self.nodes:
            sources = [e.source for e in node.edges] if isinstance(node, Layer) else [node.source]
            missing = [s for s in sources if s not in known]
            if missing or node.name in known:
                raise ValueError(f"node {node.name!r}: unknown sources {missing} or a name twice")
            known.add(node.name)
        if not self.nodes or not isinstance(self.nodes[-1], Layer) or self.nodes[-1].spiking:
            raise ValueError("the last node must be the read-out, a Layer with spiking=False")

        for layer in self.layers:
            for edge in layer.edges:
                origin = self._neurons_of(edge.source)
                if layer.autonomous and origin is not None and origin.forced:
                    raise ValueError(
                        f"layer {layer.name!r}: rule 'autonomous' cannot read layer"
                        f" {origin.name!r}: forced spikes (rule {origin.rule!r}) mean silence"
                    )

    def _neurons_of(self, name: str) -> Layer | None:
        """The layer whose spikes a node passes on; None for the input."""
        node = next((n for n in self.nodes if n.name == name), None)
        return self._neurons_of(node.source) if isinstance(node, Pool) else node

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Spiking layers and the read-out, in order."""
        return tuple(n for n in self.nodes if isinstance(n, Layer))

    @property
    def hidden(self) -> tuple[Layer, ...]:
        """Spiking layers, in order."""
        return tuple(n for n in self.layers if n.spiking)

    @property
    def readout(self) -> Layer:
        """The last node."""
        return self.layers[-1]

    def shape_of(self, name: str) -> Shape:
        """Shape of one example's neurons of a node (or of "input")."""
        if name == INPUT:
            return self.input_shape
        return next(n.shape for n in self.nodes if n.name == name)

    def with_rule(self, rule: str, alpha: float = 1.0) -> Network:
        """The same network with another rule in every spiking layer."""
        change = lambda n: (
            dataclasses.replace(n, rule=rule, alpha=alpha)
            if isinstance(n, Layer) and n.spiking
            else n
        )
        return dataclasses.replace(self, nodes=tuple(change(n) for n in self.nodes))


def weight_name(index: int) -> str:
    """Key of the weight of a layer's edge: weight, weight_1, weight_2, ..."""
    return "weight" if index == 0 else f"weight_{index}"


def delay_name(index: int) -> str:
    """Key of the delays of a layer's edge: delay, delay_1, delay_2, ..."""
    return "delay" if index == 0 else f"delay_{index}"


def param_shapes(network: Network) -> dict[str, dict[str, Shape]]:
    """Shapes of all parameters; biases have one element per channel."""
    shapes: dict[str, dict[str, Shape]] = {}
    for layer in network.layers:
        block: dict[str, Shape] = {}
        for k, edge in enumerate(layer.edges):
            source = network.shape_of(edge.source)
            block[weight_name(k)] = weight_shape(edge.op, source, layer.shape)
            if edge.delay:
                block[delay_name(k)] = delay_shape(edge.op, edge.delay, source, layer.shape)
        block["bias"] = (layer.shape[-1],)
        shapes[layer.name] = block
    return shapes


def check_params(network: Network, params: Params) -> None:
    """Raises ValueError naming the layer whose parameters are missing, misshapen or not finite."""
    for name, block in param_shapes(network).items():
        if name not in params:
            raise ValueError(f"layer {name!r}: no parameters; found {sorted(params)}")
        for key, shape in block.items():
            if key not in params[name]:
                raise ValueError(f"layer {name!r}: parameter {key!r} is missing")
            value = params[name][key]
            full = network.shape_of(name)
            if tuple(value.shape) != shape and not (key == "bias" and tuple(value.shape) == full):
                raise ValueError(
                    f"layer {name!r}: {key} has shape {tuple(value.shape)}, expected {shape}"
                )
            if not bool(np.isfinite(np.asarray(value)).all()):
                raise ValueError(f"layer {name!r}: {key} holds NaN or infinite values")
            if key.startswith("delay") and float(np.min(value)) < 0:
                raise ValueError(f"layer {name!r}: {key} holds negative delays, {np.min(value)}")


def check_input(network: Network, x: Any) -> None:
    """Raises ValueError unless x [B, *input_shape] holds lead times in [0, 1] (t = 1 - x)."""
    if tuple(x.shape[1:]) != network.input_shape or x.ndim != 1 + len(network.input_shape):
        raise ValueError(f"input: expected [batch, *{network.input_shape}], got {tuple(x.shape)}")
    if isinstance(x, jax.core.Tracer):
        return
    low, high = float(np.min(x)), float(np.max(x))
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(
            f"input: lead times must lie in [0, 1], found {low} to {high}; code pixels of the range"
            " [p, q] as (pixel - p) / (q - p)"
        )


def no_closed_form(layer: Layer) -> str:
    """Why what rests on the closed form does not exist for an autonomous layer."""
    return (
        f"layer {layer.name!r}: rule 'autonomous' ({layer.kernel}) has no closed form, and no"
        " window makes it exact; use causal semantics with the back-end solver or events"
    )


def check_closed_form(network: Network) -> None:
    """Raises ValueError naming the first layer that has no closed form."""
    for layer in network.hidden:
        if layer.autonomous:
            raise ValueError(no_closed_form(layer))


# --- the closed form ----------------------------------------------------------------------------


def drive(layer: Layer, block: Mapping[str, Any], leads: Mapping[str, jax.Array]) -> jax.Array:
    """D + sum of J x (with delays: of J (x - d)_+) over all edges, [B, *layer.shape]."""
    total = block["bias"]
    for k, edge in enumerate(layer.edges):
        x, weight = leads[edge.source], block[weight_name(k)]
        if isinstance(edge.op, Scale):
            x = x.reshape(x.shape[0], *layer.shape)
        if edge.delay:
            late = delayed_sum(edge.op, weight, block[delay_name(k)], edge.delay, x)
            total = total + late.reshape(-1, *layer.shape)
        else:
            total = total + apply_op(edge.op, weight, x)
    return total


def weight_sums(layer: Layer, block: Mapping[str, Any]) -> jax.Array:
    """Sum over j of J_ij for each neuron, [channels]; padding counts as inputs at t_min."""
    total = 0.0
    for k, edge in enumerate(layer.edges):
        w = block[weight_name(k)]
        total = total + (w if isinstance(edge.op, Scale) else w.sum(axis=tuple(range(w.ndim - 1))))
    return jnp.asarray(total)


def slopes(layer: Layer, block: Mapping[str, Any]) -> tuple[Any, Any]:
    """(A, S): slope without inputs before t_min, slope at threshold; see the module docstring."""
    if layer.rule == "b1" or not layer.spiking:
        return 0.0, 1.0
    if layer.autonomous:
        raise ValueError(no_closed_form(layer))
    sums = weight_sums(layer, block)
    if layer.rule == "b1_forced":
        return 1.0 - sums, 1.0
    alpha = 1.0 if layer.rule == "alpha1" else layer.alpha
    return alpha, alpha + sums


def pool(node: Pool, x: jax.Array) -> jax.Array:
    """Earliest (or latest) spike of each window, on lead times [B, H, W, C]."""
    if node.window == node.strides and node.padding == ((0, 0), (0, 0)):
        earliest = max_of_tiles(x, node.window)
        if not any(node.latest):
            return earliest
        last = _tiles(x, node.window).min(axis=(2, 4))
        return jnp.where(jnp.asarray(node.latest), last, earliest)
    size, step = (1, *node.window, 1), (1, *node.strides, 1)
    pads = ((0, 0), *node.padding, (0, 0))
    earliest = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, size, step, pads)
    if not any(node.latest):
        return earliest
    last = jax.lax.reduce_window(x, jnp.inf, jax.lax.min, size, step, pads)
    return jnp.where(jnp.asarray(node.latest), last, earliest)


def _tiles(x: jax.Array, window: tuple[int, int]) -> jax.Array:
    """[B, H, W, C] -> [B, H / h, h, W / w, w, C]; left-over rows and columns are dropped."""
    height, width = x.shape[1] // window[0], x.shape[2] // window[1]
    x = x[:, : height * window[0], : width * window[1]]
    return x.reshape(-1, height, window[0], width, window[1], x.shape[-1])


def max_of_tiles(x: jax.Array, window: tuple[int, int]) -> jax.Array:
    """Maximum over windows that tile the image; its derivative is much cheaper in this form."""
    return _tiles(x, window).max(axis=(2, 4))


def rectify(
    layer: Layer, block: Mapping[str, Any], z: jax.Array, window: Any, semantics: str
) -> jax.Array:
    """Lead times from D + sum J x. A neuron with slope S <= 0 never reaches its threshold.

    Raises:
      ValueError: an autonomous layer, whose spike times depend on the causal set of each neuron.
    """
    _, slope = slopes(layer, block)
    if layer.rule == "b1":
        x = jax.nn.relu(z)
    else:
        fires = slope > 0
        x = jnp.where(fires, jax.nn.relu(z / jnp.where(fires, slope, 1.0)), 0.0)
    return jnp.minimum(x, jnp.asarray(window, x.dtype)) if semantics == "clip" else x


def closed_form(
    network: Network,
    params: Params,
    x: jax.Array,
    windows: Mapping[str, Any] | None = None,
    semantics: str = "ideal",
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One matrix product or convolution per layer, on lead times.

    Args:
      network, params: see the module docstring.
      x: lead times of the input spikes in [0, 1], [B, *input_shape].
      windows: Delta of each spiking layer; needed by "clip" only.
      semantics: "ideal" (no early spikes whatever the window) or "clip" (a potential that is above
        threshold at t_min fires there, x = Delta). Early crossings are `simulate.causal`.

    Returns:
      Logits [B, classes] and the lead times of every node by name.
    """
    if semantics not in ("ideal", "clip"):
        raise ValueError(f"semantics of the closed form: ideal or clip, got {semantics!r}")
    if semantics == "clip" and windows is None:
        raise ValueError("clip semantics needs the windows of all spiking layers")
    leads = {INPUT: x}
    for node in network.nodes[:-1]:
        if isinstance(node, Pool):
            leads[node.name] = pool(node, leads[node.source])
            continue
        block = params[node.name]
        window = windows[node.name] if windows is not None else jnp.inf
        leads[node.name] = rectify(node, block, drive(node, block, leads), window, semantics)
    readout = network.readout
    return drive(readout, params[readout.name], leads), leads

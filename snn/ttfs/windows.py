# SPDX-License-Identifier: Apache-2.0
"""Windows from data, the time line, and certificates that the closed form is the true dynamics.

The closed form is exact iff no neuron reaches its threshold before t_min. In lead times, with the
slopes A (drive) and S (threshold) of a neuron, that is

    Delta >= needed_i(x) = (D_i + max over s in {0, x_1 ... x_N} of
                            [sum_j J_ij (x_j - s)_+ - A_i s]) / S_i

Potentials are piecewise linear, so the maximum lies at an arrival or at an end. s = 0 gives the
ReLU activation itself; the largest activation alone is not enough when late inputs inhibit. A
potential that touches the threshold at some s > 0 fires there, so that equality is enough at s = 0
only. A neuron with S <= 0, which the closed form calls silent, must stay below its threshold
S Delta + A Delta_prev - D as well; no longer window helps it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from snn.ttfs import network as net
from snn.ttfs import synapses

Windows = dict[str, float]
MODES = ("max", "quantile", "certified", "bound")


# --- the time line ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Timeline:
    """(t_min, t_max) of each spiking layer; `readout` is when the logits are read: the latency."""

    spans: Mapping[str, tuple[float, float]]
    readout: float


def timeline(network: net.Network, windows: Mapping[str, Any]) -> Timeline:
    """Windows one after the other in the order of the layers; the input window is [0, 1]."""
    spans, now = {net.INPUT: (0.0, 1.0)}, 1.0
    for layer in network.hidden:
        if layer.name not in windows:
            raise ValueError(f"layer {layer.name!r} has no window; found {sorted(windows)}")
        delta = float(windows[layer.name])
        if not (np.isfinite(delta) and delta > 0):
            raise ValueError(f"layer {layer.name!r}: its window must be positive, got {delta}")
        spans[layer.name] = (now, now + delta)
        now += delta
    return Timeline(spans, now)


def previous_window(network: net.Network, windows: Mapping[str, Any], name: str) -> Any:
    """Length of the window before that of layer `name` (Delta_prev)."""
    before: Any = 1.0
    for layer in network.layers:
        if layer.name == name:
            return before
        before = windows[layer.name]
    raise ValueError(f"no layer {name!r}")


# --- what each layer needs ----------------------------------------------------------------------


def needed(
    layer: net.Layer,
    block: Mapping[str, Any],
    leads: Mapping[str, Any],
    previous: Any = 0.0,
) -> jax.Array:
    """Smallest exact window of each neuron for each example, [B, *layer.shape].

    0 for neurons with S <= 0, whose potential no longer window keeps below threshold (`certify`).
    `previous`, the length of the window before, matters only for negative drives (their potential
    is highest at its start).
    """
    _, slope = net.slopes(layer, block)
    before, at_end = _peaks(layer, block, leads, previous)
    best = jnp.maximum(before, at_end)
    return jnp.where(slope > 0, best / jnp.where(slope > 0, slope, 1.0), 0.0)


def _peaks(
    layer: net.Layer, block: Mapping[str, Any], leads: Mapping[str, Any], previous: Any
) -> tuple[jax.Array, jax.Array]:
    """S times the need of each neuron before t_min (s > 0) and at t_min, [B, *layer.shape]."""
    inputs = synapses.arrivals(layer, block, leads)
    drive, _ = net.slopes(layer, block)
    units, delay = inputs.weight.shape[1], inputs.delay
    drives = jnp.broadcast_to(jnp.asarray(drive, inputs.lead.dtype), (units,))
    if delay is None or delay.ndim == 1:
        lead = inputs.lead if delay is None else jax.nn.relu(inputs.lead - delay)
        best, last = _walk(lead, inputs.weight, drives, previous)
    else:  # every neuron has its own order of arrivals

        def one(item: Any) -> Any:
            j, d, a = item
            found = _walk(jax.nn.relu(inputs.lead - d), j[:, None], a[None], previous)
            return found[0][:, 0], found[1][:, 0]

        best, last = (v.T for v in jax.lax.map(one, (inputs.weight.T, delay.T, drives)))
    shaped = lambda v: block["bias"] + v.reshape(-1, *layer.shape)
    return shaped(best), shaped(last)


def _walk(
    lead: jax.Array, weight: jax.Array, drive: jax.Array, previous: Any
) -> tuple[jax.Array, jax.Array]:
    """Largest potential at an arrival or the start, and that at t_min, without bias, [R, M]."""
    order = jnp.argsort(-lead, axis=1)
    x = jnp.take_along_axis(lead, order, axis=1)
    zero = jnp.zeros((x.shape[0], weight.shape[1]), x.dtype)

    def body(carry: Any, item: Any) -> Any:
        best, total, moment = carry
        now, index = item
        j = weight[index]
        total, moment = total + j, moment + j * now[:, None]
        value = moment - now[:, None] * (total + drive)
        best = jnp.maximum(best, jnp.where(now[:, None] > 0, value, -jnp.inf))
        return (best, total, moment), None

    start = (zero - drive * previous, zero, zero)
    (best, _, moment), _ = jax.lax.scan(body, start, (x.T, order.T))
    return best, moment


def bound(layer: net.Layer, block: Mapping[str, Any], leads: Mapping[str, Any]) -> jax.Array:
    """A cheap upper bound of `needed` for rule "b1": D_i + sum_j max(J_ij, 0) x_j."""
    if layer.rule != "b1":
        raise ValueError(f"layer {layer.name!r}: the cheap bound holds for rule b1 only")
    positive = {k: jnp.maximum(v, 0) if k.startswith("weight") else v for k, v in block.items()}
    return net.drive(layer, positive, leads)


def from_data(
    network: net.Network,
    params: net.Params,
    batches: Iterable[Any],
    zeta: float = 0.5,
    mode: str = "max",
    quantile: float = 0.99,
) -> Windows:
    """Delta = (1 + zeta) times a statistic of each layer over the data.

    Args:
      network, params: of any rule.
      batches: input lead times, each [B, *input_shape].
      zeta: margin; 0.5 in both papers.
      mode: "max" (largest lead time), "quantile" (of the positive lead times: low latency, clips),
        "certified" (largest need, exact on these data for zeta > 0) or "bound" (its upper bound).
      quantile: for mode "quantile"; the mean over batches is taken.
    """
    net.check_closed_form(network)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    if zeta <= -1 or not 0 < quantile <= 1:
        raise ValueError(f"zeta must exceed -1 and 0 < quantile <= 1: {zeta=}, {quantile=}")
    found: dict[str, list[float]] = {layer.name: [] for layer in network.hidden}
    for x in batches:
        net.check_input(network, x)
        for name, value in _statistics(network, params, x, mode, quantile).items():
            found[name].append(float(value))
    if network.hidden and not next(iter(found.values())):
        raise ValueError("windows from data: no batches were given")
    windows = {}
    for name, values in found.items():
        size = float(np.mean(values) if mode == "quantile" else np.max(values))
        if not size > 0:
            raise ValueError(f"layer {name!r} never spikes on these data: no window can be chosen")
        windows[name] = (1.0 + zeta) * size
    return _positive_thresholds(network, params, windows)


def _positive_thresholds(network: net.Network, params: net.Params, windows: Windows) -> Windows:
    """Windows no smaller than what keeps S Delta + A Delta_prev - D >= 0 under negative drives."""
    result: Windows = {}
    for layer in network.hidden:
        previous = previous_window(network, result, layer.name)
        drive, slope = (np.asarray(v) for v in net.slopes(layer, params[layer.name]))
        need = (np.asarray(params[layer.name]["bias"]) - drive * previous) / slope
        at_start = np.where((drive < 0) & (slope > 0), need, 0.0)
        result[layer.name] = max(windows[layer.name], float(at_start.max()) * (1.0 + 1e-9))
    return result


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _statistics(
    network: net.Network, params: net.Params, x: jax.Array, mode: str, quantile: float
) -> dict[str, jax.Array]:
    _, leads = net.closed_form(network, params, x)
    result = {}
    for layer in network.hidden:
        values, block = leads[layer.name], params[layer.name]
        if mode == "max":
            result[layer.name] = values.max()
        elif mode == "quantile":
            positive = jnp.where(values > 0, values, jnp.nan)
            result[layer.name] = jnp.nan_to_num(jnp.nanquantile(positive, quantile))
        else:
            need = needed if mode == "certified" else bound
            result[layer.name] = need(layer, block, leads).max()
    return result


# --- the certificate ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What a layer needed on the given inputs, and whether its window is large enough.

    Attributes:
      layer, rule: name and rule of the layer.
      window: its Delta.
      needed: the smallest Delta that would do; inf where none does (S <= 0).
      early_fraction: of its neurons over the inputs, those that cross before t_min.
    """

    layer: str
    window: float
    needed: float
    early_fraction: float
    rule: str = "b1"

    @property
    def holds(self) -> bool:
        """True if no neuron crosses its threshold before t_min: the closed form is exact."""
        return self.early_fraction == 0.0


def certify(
    network: net.Network, params: net.Params, x: Any, windows: Mapping[str, Any]
) -> list[Certificate]:
    """A certificate of each spiking layer for the inputs x [B, *input_shape].

    Layers behind one that fails are judged by the closed form's lead times.
    """
    return certify_batches(network, params, [x], windows)


def certify_batches(
    network: net.Network, params: net.Params, batches: Iterable[Any], windows: Mapping[str, Any]
) -> list[Certificate]:
    """A certificate of each spiking layer over all batches of inputs [B, *input_shape]."""
    timeline(network, windows)  # checks the windows
    net.check_closed_form(network)
    needed = dict.fromkeys((layer.name for layer in network.hidden), -np.inf)
    early = dict.fromkeys(needed, 0.0)
    examples = 0
    for x in batches:
        net.check_input(network, x)
        for name, (need, share) in _needs(network, params, x, dict(windows)).items():
            needed[name] = max(needed[name], float(need))
            early[name] += float(share) * len(x)
        examples += len(x)
    if not examples:
        raise ValueError("certificates: no inputs were given")
    return [
        Certificate(
            layer.name,
            float(windows[layer.name]),
            needed[layer.name],
            early[layer.name] / examples,
            layer.rule,
        )
        for layer in network.hidden
    ]


@functools.partial(jax.jit, static_argnums=0)
def _needs(
    network: net.Network, params: net.Params, x: jax.Array, windows: Mapping[str, Any]
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Largest need, and fraction of neurons that fire although the closed form does not see it."""
    _, leads = net.closed_form(network, params, x)
    result = {}
    for layer in network.hidden:
        block, previous = params[layer.name], previous_window(network, windows, layer.name)
        _, slope = net.slopes(layer, block)
        before, at_end = _peaks(layer, block, leads, previous)
        room = slope * windows[layer.name]
        rises = slope > 0
        early = (before >= room) | jnp.where(rises, at_end > room, at_end >= room)
        need = jnp.maximum(before, at_end) / jnp.where(rises, slope, 1.0)
        falls = jnp.where(early, jnp.inf, 0.0)  # a longer window makes it worse
        result[layer.name] = (jnp.where(rises, need, falls).max(), early.mean())
    return result


def require(certificates: Iterable[Certificate]) -> None:
    """Raises ValueError naming every layer whose window is too small, and its rule."""
    failed = [c for c in certificates if not c.holds]
    if failed:
        lines = ", ".join(
            f"layer {c.layer!r} (rule {c.rule!r}): window {c.window:.6g}, needed {c.needed:.6g}"
            f" ({c.early_fraction:.2%} of the neurons fire before t_min)"
            for c in failed
        )
        raise ValueError(f"windows are too small for the closed form to be exact; {lines}")


def summary(certificates: Sequence[Certificate], examples: int) -> dict[str, Any]:
    """Certificates as plain values for a report; `examples`: on how many inputs.

    `needed` is None where no window would do (JSON has no infinity).
    """
    layers = [dataclasses.asdict(c) for c in certificates]
    for layer in layers:
        layer["needed"] = layer["needed"] if np.isfinite(layer["needed"]) else None
    return {
        "examples": examples,
        "exact": all(c.holds for c in certificates),
        "layers": layers,
    }

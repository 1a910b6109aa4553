# SPDX-License-Identifier: Apache-2.0
"""Pictures of spikes: raster, membrane voltages, windows, one image on its way through a network.

Needs matplotlib (extra `plots`). Each function returns its figure; with a path it is written there
as PNG, without one it stays open for a notebook.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from core import plots
from snn.ttfs import network as net
from snn.ttfs import simulate, synapses, windows

Path = str | os.PathLike[str]


def _run(network: net.Network, params: net.Params, x: Any, deltas: Mapping[str, float]) -> Any:
    return _run_batch(network, params, np.asarray(x)[None], deltas)


def _run_batch(
    network: net.Network, params: net.Params, x: Any, deltas: Mapping[str, float]
) -> Any:
    if any(layer.autonomous for layer in network.hidden):
        return simulate.run(network, params, np.asarray(x), deltas, "causal", "solver")
    return simulate.run(network, params, np.asarray(x), deltas, "clip")


def raster(
    network: net.Network,
    params: net.Params,
    x: Any,
    deltas: Mapping[str, float],
    path: Path | None = None,
) -> Any:
    """Spike times of all neurons for one example x [*input_shape], one panel a layer."""
    plt = plots.pyplot()
    times = _run(network, params, x, deltas).times(network, deltas)
    spans = windows.timeline(network, deltas).spans
    figure, axes = plt.subplots(
        len(spans), 1, figsize=(8, 1.2 + 1.3 * len(spans)), sharex=True, layout="constrained"
    )
    axes = np.atleast_1d(axes)
    for axis, (name, (start, end)) in zip(axes, spans.items(), strict=True):
        t = np.asarray(times[name]).ravel()
        fired = np.flatnonzero(np.isfinite(t))
        axis.axvspan(start, end, color="tab:blue", alpha=0.08)
        axis.plot(t[fired], fired, "|", color="black", markersize=3)
        axis.set(ylim=(-1, t.size), ylabel="neuron")
        axis.set_title(f"{name}: {fired.size} of {t.size} neurons spike", fontsize=9, loc="left")
    axes[-1].set_xlabel("time (input window = 1)")
    return plots.save_figure(figure, path)


def voltages(
    network: net.Network,
    params: net.Params,
    x: Any,
    deltas: Mapping[str, float],
    layer_name: str,
    path: Path | None = None,
    neurons: int = 8,
) -> Any:
    """Potentials of the first neurons that spike (and one that does not) of a layer, to threshold.

    Drawn relative to each neuron's threshold, which is what decides.
    """
    layer = next((n for n in network.hidden if n.name == layer_name), None)
    if layer is None:
        known = [n.name for n in network.hidden]
        raise ValueError(f"no spiking layer {layer_name!r}; the network has {known}")
    plt = plots.pyplot()
    run = _run(network, params, x, deltas)
    grid, v, theta = potentials(network, params, run.leads, deltas, layer)
    lead = np.asarray(run.leads[layer_name]).reshape(-1)
    rows = np.concatenate([np.flatnonzero(lead > 0)[:neurons], np.flatnonzero(lead == 0)[:1]])
    start, end = windows.timeline(network, deltas).spans[layer_name]
    figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
    axis.axvspan(start, end, color="tab:blue", alpha=0.08, label="window of the layer")
    for i in rows:
        shown = grid <= (end - lead[i] if lead[i] > 0 else end)
        line = axis.plot(grid[shown], (v[:, i] - theta[i])[shown], lw=1.2)[0]
        if lead[i] > 0:
            axis.plot([end - lead[i]], [0.0], "o", color=line.get_color(), markersize=5)
    axis.axhline(0.0, color="black", lw=0.8, ls="--", label="threshold")
    axis.set(xlabel="time (input window = 1)", ylabel="potential - threshold", title=layer_name)
    axis.legend(loc="lower right")
    return plots.save_figure(figure, path)


def potentials(
    network: net.Network,
    params: net.Params,
    leads: Mapping[str, Any],
    deltas: Mapping[str, float],
    layer: net.Layer,
    points: int = 400,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(times [T], potentials [T, M] of the first example, thresholds [M])."""
    block = params[layer.name]
    inputs = synapses.arrivals(layer, block, leads)
    lead, weight = np.asarray(inputs.lead), np.asarray(inputs.weight)
    positions = int(np.prod(layer.shape)) // weight.shape[1]
    lead = lead[:positions, :, None]
    delay: Any = 0.0 if inputs.delay is None else np.asarray(inputs.delay)
    delay = delay[:, None] if np.ndim(delay) == 1 else delay
    window = float(deltas[layer.name])
    previous = float(windows.previous_window(network, deltas, layer.name))
    start, end = windows.timeline(network, deltas).spans[layer.name]
    grid = np.linspace(start - previous, end, points)
    bias = np.asarray(block["bias"])
    if layer.autonomous:
        drive, slope, theta = np.zeros(1), np.zeros(1), layer.threshold - bias
    else:
        drive, slope = (np.asarray(s, np.float64) for s in net.slopes(layer, block))
        theta = slope * window + drive * previous - bias
    v = []
    for t in grid:
        now = t - start
        if not layer.autonomous:
            now = min(now, 0.0)  # regime 1 ends at t_min
        since = now + lead - delay
        current = np.where((since > 0) & (lead > 0), layer.kernel.value(np.maximum(since, 0.0)), 0)
        value = (current * weight).sum(axis=1)
        value = value + drive * (now + previous) + slope * max(t - start, 0.0)
        v.append(np.reshape(value, -1))
    return grid, np.array(v), np.broadcast_to(theta, layer.shape).reshape(-1)


def window_map(
    network: net.Network,
    params: net.Params,
    x: Any,
    deltas: Mapping[str, float],
    path: Path | None = None,
) -> Any:
    """Windows on the time line and the distribution of spike times in them, over a batch x."""
    plt = plots.pyplot()
    run = _run_batch(network, params, x, deltas)
    times = run.times(network, deltas)
    line = windows.timeline(network, deltas)
    figure, axis = plt.subplots(figsize=(8, 1 + 0.7 * len(line.spans)), layout="constrained")
    for row, (name, (start, end)) in enumerate(line.spans.items()):
        t = np.asarray(times[name]).ravel()
        spiking = t[np.isfinite(t)]
        axis.barh(row, end - start, left=start, height=0.8, color="tab:blue", alpha=0.15)
        if spiking.size:
            counts, edges = np.histogram(spiking, bins=60, range=(start, end))
            height = 0.8 * counts / counts.max()
            axis.bar(edges[:-1], -height, np.diff(edges), row + 0.4, align="edge", color="tab:blue")
        label = f" {spiking.size / t.size:.2f} spikes/neuron"
        axis.text(end, row, label, va="center", fontsize=8)
    axis.axvline(line.readout, color="tab:red", lw=1, label=f"read-out at {line.readout:.1f}")
    axis.set(
        yticks=range(len(line.spans)),
        yticklabels=list(line.spans),
        xlabel="time (input window = 1)",
        xlim=(0, line.readout * 1.25),
    )
    axis.invert_yaxis()
    axis.legend(loc="lower left", fontsize=8)
    return plots.save_figure(figure, path)


def strip(
    network: net.Network,
    params: net.Params,
    x: Any,
    deltas: Mapping[str, float],
    path: Path | None = None,
    frames: int = 8,
) -> Any:
    """One example travelling through the network: which neurons have spiked at successive times.

    A column is an instant, a row a layer; dark neurons have not spiked yet.
    """
    plt = plots.pyplot()
    times = _run(network, params, x, deltas).times(network, deltas)
    line = windows.timeline(network, deltas)
    moments = _moments(times, line, frames)
    figure, axes = plt.subplots(
        len(line.spans),
        frames,
        figsize=(1.25 * frames, 1.35 * len(line.spans)),
        layout="constrained",
        squeeze=False,
    )
    for row, (name, (start, end)) in enumerate(line.spans.items()):
        lead = end - np.asarray(times[name])[0]
        brightest = max(end - start, 1e-9) if name == net.INPUT else max(lead.max(), 1e-9)
        for column, moment in enumerate(moments):
            shown = np.where(np.asarray(times[name])[0] <= moment, lead, 0.0)
            axis = axes[row, column]
            axis.imshow(_tile(shown), cmap="magma", vmin=0, vmax=brightest, aspect="auto")
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(f"t = {moment:.2f}", fontsize=8)
            if column == 0:
                axis.set_ylabel(name, fontsize=8)
    return plots.save_figure(figure, path)


def _moments(times: Mapping[str, Any], line: windows.Timeline, frames: int) -> np.ndarray:
    """Instants between which about equally many neurons of each layer spike."""
    share, rest = divmod(frames, len(line.spans))
    moments: list[float] = []
    for number, (name, (_, end)) in enumerate(line.spans.items()):
        count = max(1, share + (number < rest))
        t = np.asarray(times[name])
        t = t[np.isfinite(t)]
        levels = (np.arange(count) + 1) / count
        moments += list(np.quantile(t, levels) if t.size else [end] * count)
    return np.array(sorted(moments)[-frames:])


def _tile(x: np.ndarray) -> np.ndarray:
    """Neurons of one layer as a picture: channels side by side, vectors folded to a rectangle."""
    if x.ndim == 3:
        if x.shape[2] in (1, 3):
            return x.mean(axis=2)
        columns = int(np.ceil(np.sqrt(x.shape[2])))
        rows = -(-x.shape[2] // columns)
        padded = np.zeros((x.shape[0], x.shape[1], rows * columns))
        padded[..., : x.shape[2]] = x
        grid = padded.reshape(x.shape[0], x.shape[1], rows, columns)
        return grid.transpose(2, 0, 3, 1).reshape(rows * x.shape[0], columns * x.shape[1])
    flat = x.ravel()
    width = int(np.ceil(np.sqrt(flat.size)))
    padded = np.zeros(width * -(-flat.size // width))
    padded[: flat.size] = flat
    return padded.reshape(-1, width)

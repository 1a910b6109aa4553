# SPDX-License-Identifier: Apache-2.0
"""Neurons of one layer for one example, between the events of the reference simulator `events`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from snn.ttfs import network as net

Array = np.ndarray

_GRID = 64  # points of the search for a crossing before the next event


class State:
    """What both kinds of neurons have: times of the layer, spikes, version of the next crossing."""

    def __init__(self, layer: net.Layer, block: Mapping[str, Any], times: tuple[float, ...]):
        self.layer = layer
        self.start, self.t_min, self.t_max = times
        full = np.broadcast_to(np.asarray(block["bias"], np.float64), layer.shape)
        self.bias = full.reshape(-1)
        self.spiked = np.full_like(self.bias, np.inf)
        self.now = -np.inf
        self.version = 0

    def advance(self, t: float) -> None:
        """Moves on to time t."""
        self.now = t

    def arrive(self, t: float, jumps: Array) -> bool:
        """Spikes arrive with `jumps` [M]; False if they come too late to matter."""
        raise NotImplementedError

    def regime(self, t: float, kind: str) -> None:
        """The integration begins ("drive") or ends ("ramp")."""
        self.advance(t)

    def next_crossing(self) -> tuple[float, int]:
        """(time, neuron) of the next threshold crossing as things stand; inf if there is none."""
        raise NotImplementedError


class Regimes(State):
    """Potentials that are straight lines between events; see `network` for the two regimes."""

    def __init__(self, layer: net.Layer, block: Mapping[str, Any], times: tuple[float, ...]):
        super().__init__(layer, block, times)
        drive, slope = (np.asarray(v, np.float64) for v in net.slopes(layer, block))
        full = lambda v: np.broadcast_to(v, layer.shape).reshape(-1).astype(np.float64)
        self.final_slope, self.drive = full(slope), full(drive)
        window, previous = self.t_max - self.t_min, self.t_min - self.start
        self.theta = self.final_slope * window + self.drive * previous - self.bias
        self.v, self.slope = np.zeros_like(self.bias), np.zeros_like(self.bias)

    def advance(self, t: float) -> None:
        """See `State`."""
        if np.isfinite(self.now):
            self.v = self.v + self.slope * (t - self.now)
        self.now = t

    def arrive(self, t: float, jumps: Array) -> bool:
        """See `State`; once the ramp to the threshold has begun, currents no longer count."""
        if self.now >= self.t_min and t >= self.t_min:
            return False
        self.advance(t)
        self.slope = self.slope + jumps
        return True

    def regime(self, t: float, kind: str) -> None:
        """See `State`."""
        self.advance(t)
        if kind == "drive":
            self.slope = self.slope + (self.drive if self.layer.spiking else 0.0)
        else:
            self.slope = self.final_slope if self.layer.spiking else np.zeros_like(self.v)

    def next_crossing(self) -> tuple[float, int]:
        """See `State`."""
        waiting = ~np.isfinite(self.spiked)
        above = waiting & (self.v >= self.theta)
        if above.any():
            return self.now, int(np.argmax(above))
        rising = waiting & (self.slope > 0)
        wait = np.full_like(self.v, np.inf)
        np.divide(self.theta - self.v, self.slope, out=wait, where=rising)
        i = int(np.argmin(wait))
        return self.now + float(wait[i]), i


class Autonomous(State):
    """Sums of kernels; crossings by search on a grid, of peaks between its points, and bisection.

    Kernels with one extremum between two arrivals (all of `kernels` but General) are resolved
    whatever the grid; of others, an excursion above threshold within one step may be missed.
    """

    def __init__(self, layer: net.Layer, block: Mapping[str, Any], times: tuple[float, ...]):
        super().__init__(layer, block, times)
        self.theta = layer.threshold - self.bias
        self.arrived: list[tuple[float, Array]] = []

    def arrive(self, t: float, jumps: Array) -> bool:
        """See `State`."""
        self.advance(t)
        self.arrived.append((t, jumps))
        return True

    def excess(self, t: Array, neurons: Array) -> Array:
        """Potential minus threshold of some neurons: at times t [G, 1], or at its own t [1, M]."""
        theta = np.broadcast_to(-self.theta[neurons], (t.shape[0], neurons.size))
        if not self.arrived:
            return theta
        since = t[None] - np.array([a for a, _ in self.arrived])[:, None, None]  # [arrived, G, M]
        kernel = np.asarray(self.layer.kernel.value(jnp.asarray(np.maximum(since, 0.0))))
        jumps = np.stack([j[neurons] for _, j in self.arrived])[:, None]
        return theta + (np.where(since > 0, kernel, 0.0) * jumps).sum(axis=0)

    def next_crossing(self) -> tuple[float, int]:
        """See `State`."""
        neurons = np.flatnonzero(~np.isfinite(self.spiked))
        begin = max(self.now, self.start)
        if begin >= self.t_max or not neurons.size:
            return np.inf, 0
        grid = np.linspace(begin, self.t_max, _GRID)
        values = self.excess(grid[:, None], neurons)  # [G, M]
        if (values[0] >= 0).any():
            return begin, int(neurons[np.argmax(values[0] >= 0)])
        above = values >= 0
        high = np.where(above.any(0), grid[above.argmax(0)], np.inf)
        low = np.where(above.any(0), grid[np.maximum(above.argmax(0) - 1, 0)], begin)
        # A peak between grid points exceeds the largest of them by less than a second difference.
        bend = np.abs(np.diff(values, 2, axis=0)).max(axis=0)
        for i in np.flatnonzero(~above.any(0) & (values.max(0) + bend >= 0)):
            peak = self._peak(grid, int(values[:, i].argmax()), neurons[i : i + 1])
            if self.excess(np.full((1, 1), peak), neurons[i : i + 1])[0, 0] >= 0:
                high[i] = peak
        if not np.isfinite(high).any():
            return np.inf, 0
        found = [
            self._root(low[i], high[i], neurons[i : i + 1]) if low[i] <= high.min() else np.inf
            for i in range(neurons.size)
        ]
        return float(np.min(found)), int(neurons[np.argmin(found)])

    def _peak(self, grid: Array, top: int, neuron: Array) -> float:
        """Where a neuron's potential is largest around grid point `top` (ternary search)."""
        low, high = grid[max(top - 1, 0)], grid[min(top + 1, grid.size - 1)]
        for _ in range(60):
            a, b = low + (high - low) / 3, high - (high - low) / 3
            left, right = self.excess(np.array([[a], [b]]), neuron)[:, 0]
            low, high = (low, b) if left > right else (a, high)
        return float(0.5 * (low + high))

    def _root(self, low: float, high: float, neuron: Array) -> float:
        """Where a neuron's potential crosses its threshold between low and high (bisection)."""
        if not np.isfinite(high):
            return np.inf
        for _ in range(56):
            middle = 0.5 * (low + high)
            if self.excess(np.full((1, 1), middle), neuron)[0, 0] >= 0:
                high = middle
            else:
                low = middle
        return float(high)

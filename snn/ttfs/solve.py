# SPDX-License-Identifier: Apache-2.0
"""First threshold crossings of many neurons from sorted arrivals, with implicit derivatives.

Arrivals are sorted once for each row; one scan over them keeps the two sums of the kernel for each
neuron and takes the first interval that holds a crossing. Memory is O(rows x neurons): there is no
[rows, inputs, neurons] array, neither forward nor backward.

Derivatives follow from V_i(t_i) = theta_i (implicit function theorem), C = {j: t_j < t_i}:

    dt_i/dt_j = J_ij K'(t_i - t_j) / V'_i    dt_i/dJ_ij = -K(t_i - t_j) / V'_i
    dt_i/dtheta_i = 1 / V'_i                 dt_i/dA_i = -(t_i - t_0) / V'_i

and are 0 outside C and for neurons that do not spike.

Dimensions: R rows (examples, or positions of a convolution), N inputs, M neurons.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snn.ttfs.kernels import General, Kernel, Ramp

RAMP = Ramp()


class Problem(NamedTuple):
    """times [R, N] (inf: silent), weight [N, M], threshold and drive [R or 1, M], and the rest."""

    times: jax.Array
    weight: jax.Array
    threshold: jax.Array
    drive: jax.Array
    start: jax.Array
    end: jax.Array
    delays: jax.Array | None


def causal_solve(
    times: Any,
    weight: Any,
    threshold: Any,
    kernel: Kernel = RAMP,
    *,
    drive: Any = 0.0,
    start: Any = 0.0,
    end: Any = float("inf"),
    delays: Any = None,
    min_slope: float = 0.0,
) -> jax.Array:
    """Spike times of neurons that fire at their first threshold crossing.

    V_i(t) = drive_i (t - start) + sum over j with t_j + d_ji <= t of J_ji K(t - t_j - d_ji).

    Args:
      times: arrival times [R, N], finite or inf (no spike). Inputs before `start` act from their
        arrival on, but the neuron cannot fire before `start`. Under jit, where values cannot be
        checked, a NaN makes all spike times of its row NaN.
      weight: J [N, M].
      threshold: theta [M] or [R, M]; neurons above threshold at `start`
        fire there.
      kernel: see `snn.ttfs.kernels`.
      drive: constant slope A from `start` on, scalar, [M] or [R, M]; kernel Ramp or General.
      start: beginning of the integration.
      end: no spikes from there on (a crossing at exactly `end` is none).
      delays: axonal [N] or synaptic [N, M] delays >= 0, learnable. Synaptic ones need a sort for
        each neuron: one neuron after the other, O(R N) memory.
      min_slope: floor of V' in derivatives, against their divergence at grazing crossings.

    Returns:
      Spike times [R, M]; inf for neurons that do not spike.

    Raises:
      ValueError: shapes that do not fit, NaN times, weights or thresholds, negative delays, or a
        kernel that cannot have a drive.
    """
    times, weight = jnp.asarray(times), jnp.asarray(weight)
    if times.ndim != 2 or weight.ndim != 2 or times.shape[1] != weight.shape[0]:
        raise ValueError(
            f"times [rows, inputs] and weight [inputs, neurons] expected, got {times.shape} and"
            f" {weight.shape}"
        )
    if 0 in (*times.shape, *weight.shape):
        raise ValueError(f"empty layer: times {times.shape}, weight {weight.shape}")
    dtype = jnp.result_type(times, weight)
    if not isinstance(kernel, Ramp | General) and not _is_zero(drive):
        raise ValueError(f"a constant drive is solved for kernels Ramp and General, not {kernel}")
    if isinstance(kernel, General) and not _traced(end) and not np.isfinite(end):
        raise ValueError("a general kernel needs a finite end of its window")
    _check_values(times, weight, threshold, delays)
    if delays is not None:
        delays = jnp.asarray(delays, dtype)
        if delays.shape == weight.shape[:1]:
            times, delays = times + delays, None
        elif delays.shape != weight.shape:
            raise ValueError(f"delays: expected [{weight.shape[0]}] or {weight.shape}")
    shaped = lambda x: jnp.broadcast_to(
        jnp.asarray(x, dtype), jnp.broadcast_shapes(jnp.shape(x), (1, weight.shape[1]))
    )
    problem = Problem(
        times.astype(dtype),
        weight.astype(dtype),
        shaped(threshold),
        shaped(drive),
        jnp.asarray(start, dtype),
        jnp.asarray(end, dtype),
        delays,
    )
    return _solve(problem, kernel, float(min_slope))


def _traced(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer)


def _check_values(times: Any, weight: Any, threshold: Any, delays: Any) -> None:
    """Raises ValueError for values that would be mistaken for silence."""
    for name, value in (("weight", weight), ("threshold", threshold), ("delays", delays)):
        if value is None or _traced(value):
            continue
        if not np.isfinite(np.asarray(value)).all():
            raise ValueError(f"{name} holds NaN or infinite values")
        if name == "delays" and np.min(value) < 0:
            raise ValueError(f"delays must not be negative, found {np.min(value)}")
    if not _traced(times):
        bad = np.isnan(np.asarray(times)) | np.isneginf(np.asarray(times))
        if bad.any():
            row, index = np.argwhere(bad)[0]
            raise ValueError(
                f"spike times must be finite, or inf for no spike; {int(bad.sum())} are NaN or"
                f" -inf, the first at row {row}, input {index}"
            )


def _is_zero(x: Any) -> bool:
    return not isinstance(x, jax.Array) and not np.any(x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _solve(problem: Problem, kernel: Kernel, min_slope: float) -> jax.Array:
    del min_slope
    if isinstance(kernel, General):
        found = _general(problem, kernel)
    elif problem.delays is None:
        found = _sorted(problem, kernel)
    else:
        delays = problem.delays

        def one(m: jax.Array) -> jax.Array:
            pick = lambda x: jax.lax.dynamic_slice_in_dim(x, m, 1, axis=1)
            alone = Problem(
                problem.times + pick(delays)[:, 0],
                pick(problem.weight),
                pick(problem.threshold),
                pick(problem.drive),
                problem.start,
                problem.end,
                None,
            )
            return _sorted(alone, kernel)[:, 0]

        found = jax.lax.map(one, jnp.arange(problem.weight.shape[1])).T
    if not isinstance(kernel, Ramp):  # which has looked at the start already
        found = jnp.where(problem.threshold <= 0, problem.start, found)
    return jnp.where(jnp.isnan(problem.times).any(axis=1, keepdims=True), jnp.nan, found)


# --- forward ------------------------------------------------------------------------------------


def _sorted(problem: Problem, kernel: Any) -> jax.Array:
    """First crossings by one scan over the sorted arrivals."""
    end = problem.end
    order = jnp.argsort(problem.times, axis=1)
    arrival = jnp.take_along_axis(problem.times, order, axis=1)
    rows, units = arrival.shape[0], problem.weight.shape[1]
    dtype = arrival.dtype
    # Times relative to each row's first arrival keep exponentials in range.
    first = arrival[:, :1]
    origin = jnp.where(jnp.isfinite(first), first, problem.start)
    arrival = arrival - origin
    start, last = problem.start - origin, end - origin  # [R, 1]
    following = jnp.concatenate([arrival[:, 1:], jnp.full((rows, 1), jnp.inf, dtype)], axis=1)
    following = jnp.minimum(following, last)
    # The drive is a ramp input of weight A that arrives at the start.
    s1 = jnp.broadcast_to(problem.drive, (rows, units))
    s2 = s1 * start
    theta = problem.threshold

    def look(s1: Any, s2: Any, low: Any, high: Any, time: Any) -> jax.Array:
        """The crossing in [low, high), if none was found before."""
        guess, ok = kernel.crossing(s1, s2, theta)
        bounded = jnp.isfinite(high)
        at_end = kernel.potential(s1, s2, jnp.where(bounded, high, 0.0)) >= theta
        inside = ok & (guess >= low) & (guess < high)
        # Inputs before the start may have carried V above already.
        safe = jnp.where(jnp.isfinite(low), low, 0.0)
        above = (low == start) & (kernel.potential(s1, s2, safe) >= theta)
        guess, inside = jnp.where(above, low, guess), inside | above
        # Rounding may put a crossing at an arrival into neither interval: the sign at the end of
        # the interval decides, the root is only clipped to it.
        found = (inside | (bounded & at_end)) & (low < high) & ~jnp.isfinite(time)
        return jnp.where(found, jnp.minimum(jnp.maximum(guess, low), high), time)

    time = jnp.full((rows, units), jnp.inf, dtype)
    if isinstance(kernel, Ramp):
        time = look(s1, s2, start, jnp.minimum(arrival[:, :1], last), time)

    def body(carry: Any, item: Any) -> Any:
        s1, s2, time = carry
        index, now, then = item
        finite = jnp.isfinite(now)
        f1, f2 = kernel.features(jnp.where(finite, now, 0.0))
        j = problem.weight[index] * finite[:, None]
        s1, s2 = s1 + j * f1[:, None], s2 + j * f2[:, None]
        low = jnp.maximum(jnp.where(finite, now, jnp.inf)[:, None], start)
        return (s1, s2, look(s1, s2, low, then[:, None], time)), None

    (_, _, time), _ = jax.lax.scan(body, (s1, s2, time), (order.T, arrival.T, following.T))
    time = time + origin
    return jnp.where(time < end, time, jnp.inf)


def _delayed(problem: Problem, index: jax.Array) -> jax.Array:
    """Arrival of input `index` at each neuron, [R, M] or [R, 1]."""
    arrival = problem.times[:, index][:, None]
    return arrival if problem.delays is None else arrival + problem.delays[index]


def potential_and_slope(
    problem: Problem, kernel: Kernel, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """V_i(t_i) and V'_i(t_i) at each neuron's own time t [R, M]; left-hand derivative."""

    def body(carry: Any, index: jax.Array) -> Any:
        v, slope = carry
        dt = t - _delayed(problem, index)
        active = dt > 0
        dt = jnp.where(active, dt, 0.0)
        j = problem.weight[index]
        v = v + jnp.where(active, j * kernel.value(dt), 0.0)
        return (v, slope + jnp.where(active, j * kernel.derivative(dt), 0.0)), None

    drive = jnp.broadcast_to(problem.drive, t.shape)
    start = (drive * (t - problem.start), drive)
    return jax.lax.scan(body, start, jnp.arange(problem.weight.shape[0]))[0]


def _general(problem: Problem, kernel: General) -> jax.Array:
    """First crossings by a grid and safeguarded Newton steps within the bracket."""
    end = problem.end
    rows, units = problem.times.shape[0], problem.weight.shape[1]
    grid = problem.start + (end - problem.start) * jnp.arange(kernel.grid + 1) / kernel.grid
    grid = grid.astype(problem.times.dtype)

    def look(carry: Any, t: jax.Array) -> Any:
        low, high, before = carry
        v, _ = potential_and_slope(problem, kernel, jnp.broadcast_to(t, (rows, units)))
        found = (v >= problem.threshold) & ~jnp.isfinite(high)
        return (jnp.where(found, before, low), jnp.where(found, t, high), t), None

    low = jnp.full((rows, units), problem.start)
    high = jnp.full((rows, units), jnp.inf, grid.dtype)
    (low, high, _), _ = jax.lax.scan(look, (low, high, problem.start), grid)
    crossed = jnp.isfinite(high)
    high = jnp.where(crossed, high, low)

    def refine(_: int, carry: Any) -> Any:
        low, high, t = carry
        v, slope = potential_and_slope(problem, kernel, t)
        above = v >= problem.threshold
        low, high = jnp.where(above, low, t), jnp.where(above, t, high)
        newton = t - (v - problem.threshold) / jnp.where(slope > 0, slope, 1.0)
        usable = (slope > 0) & (newton > low) & (newton < high)
        return low, high, jnp.where(usable, newton, 0.5 * (low + high))

    _, _, t = jax.lax.fori_loop(0, kernel.iterations, refine, (low, high, 0.5 * (low + high)))
    return jnp.where(crossed & (t < end), t, jnp.inf)


# --- backward -----------------------------------------------------------------------------------


def _forward(problem: Problem, kernel: Kernel, min_slope: float) -> Any:
    t = _solve(problem, kernel, min_slope)
    return t, (problem, t)


def _backward(kernel: Kernel, min_slope: float, saved: Any, g: jax.Array) -> Any:
    problem, t = saved
    fired = jnp.isfinite(t) & (t > problem.start)
    safe = jnp.where(fired, t, 0.0)
    _, slope = potential_and_slope(problem, kernel, safe)
    slope = jnp.maximum(slope, min_slope) if min_slope else slope
    g = jnp.where(fired, g, 0.0) / jnp.where(fired, slope, 1.0)

    def body(_: None, index: jax.Array) -> Any:
        dt = safe - _delayed(problem, index)
        active = (dt > 0) & fired
        dt = jnp.where(active, dt, 0.0)
        to_time = jnp.where(active, problem.weight[index] * kernel.derivative(dt) * g, 0.0)
        to_weight = -jnp.where(active, kernel.value(dt) * g, 0.0).sum(axis=0)
        to_delay = to_time.sum(axis=0) if problem.delays is not None else jnp.zeros(())
        return None, (to_time.sum(axis=1), to_weight, to_delay)

    _, (times, weight, delays) = jax.lax.scan(body, None, jnp.arange(problem.weight.shape[0]))
    fit = lambda x, like: x.sum(axis=0, keepdims=True) if like.shape[0] == 1 else x
    drive = jnp.where(fired, -(safe - problem.start) * g, 0.0)
    start = (jnp.broadcast_to(problem.drive, g.shape) * g).sum()
    result = Problem(
        times.T,
        weight,
        fit(g, problem.threshold),
        fit(drive, problem.drive),
        start.astype(problem.start.dtype),
        jnp.zeros_like(problem.end),
        delays if problem.delays is not None else None,
    )
    return (result,)


_solve.defvjp(_forward, _backward)

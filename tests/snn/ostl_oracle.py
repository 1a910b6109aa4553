# SPDX-License-Identifier: Apache-2.0
"""The rules for one soft SNU layer as plain NumPy loops over time, for one sample.

    s = W x + H y' + d s' (1 - y'),  y = sigmoid(s + b),  E = sum (y - target)^2

Here W is [N, M] and H [N, N] (column vectors), as the papers write them. Influences are kept as
d s_i / d theta in full, and what a rule leaves out is set to zero in them.
"""

from __future__ import annotations

import numpy as np


def layer_gradients(rule: str, w, h, b, d: float, xs, targets) -> tuple:
    """(dW, dH, db) of one layer by `rule`.

    Rules: "full" (real-time recurrent learning), "without_h" (no way through H), "snap1" (only
    the influence of a weight on its own unit), "eprop" (no way through H or the reset), "filter"
    (inputs filtered by the decay alone: RFLO and OTTT).
    """
    n, m = w.shape
    s, y = np.zeros(n), np.zeros(n)
    ew, eh, eb = np.zeros((n, n, m)), np.zeros((n, n, n)), np.zeros((n, n))
    grads = [np.zeros((n, m)), np.zeros((n, n)), np.zeros(n)]
    slope = np.zeros(n)
    own = np.arange(n)
    mask = np.zeros((n, n))
    mask[own, own] = 1
    for x, target in zip(xs, targets, strict=True):
        jacobian = np.diag(d * (1 - y))
        through_reset = np.diag(-d * s * slope)
        through_h = h * slope[None, :]
        bias_path = np.diag(-d * s * slope) + h * slope[None, :]
        if rule in ("full", "snap1"):
            jacobian = jacobian + through_reset + through_h
        elif rule == "without_h":
            jacobian, bias_path = jacobian + through_reset, np.diag(-d * s * slope)
        elif rule == "eprop":
            bias_path = np.zeros((n, n))
        elif rule == "filter":
            jacobian, bias_path = d * np.eye(n), np.zeros((n, n))
        ew = np.einsum("ij,jkl->ikl", jacobian, ew)
        eh = np.einsum("ij,jkl->ikl", jacobian, eh)
        eb = jacobian @ eb + bias_path
        ew[own, own] += x
        eh[own, own] += y
        if rule == "snap1":
            ew, eh, eb = ew * mask[:, :, None], eh * mask[:, :, None], eb * mask
        s = w @ x + h @ y + d * s * (1 - y)
        y = 1 / (1 + np.exp(-(s + b)))
        slope = y * (1 - y)
        signal = 2 * (y - target) * slope
        grads[0] += np.einsum("i,ikl->kl", signal, ew)
        grads[1] += np.einsum("i,ikl->kl", signal, eh)
        grads[2] += signal @ eb + signal
    return tuple(grads)

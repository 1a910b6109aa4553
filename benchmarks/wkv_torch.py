# SPDX-License-Identifier: Apache-2.0
"""RWKV-6 recurrence in PyTorch, as the peers of `benchmarks.wkv`: a loop over tokens, and the chunk
form of RWKV-infctx-trainer, written anew from its formulas.

Tensors: r, k, v, log_w [B, T, H, N], u [H, N], state [B, H, N, N]; float32.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

Arrays = tuple[torch.Tensor, ...]


def token_loop(r, k, v, log_w, u, state) -> Arrays:
    """Step by step."""
    w = log_w.exp()
    out = []
    for t in range(r.shape[1]):
        kv = k[:, t, :, :, None] * v[:, t, :, None, :]
        out.append((r[:, t, :, None] @ (state + u[..., None] * kv))[:, :, 0])
        state = w[:, t, :, :, None] * state + kv
    return torch.stack(out, 1), state


def chunk_form(r, k, v, log_w, u, state, chunk: int, precision: torch.dtype) -> Arrays:
    """All chunks at once, scores factored at the decay of the chunk's middle.

    Not the same function at strong decay: w is clamped to 0.005, as the trainer does, because the
    factors overflow otherwise. `precision` is the dtype of the exponentials of the factors.
    """
    batch, steps, heads, size = r.shape
    split = lambda x: x.transpose(1, 2).reshape(batch, heads, -1, chunk, size)
    r, k, v, log_w = (split(x) for x in (r, k, v, log_w))
    log_w = log_w.clamp(min=math.log(0.005))
    inclusive = log_w.cumsum(-2)
    exclusive = inclusive - log_w
    total = inclusive[..., -1:, :]
    middle = exclusive[..., chunk // 2, None, :]
    r_scaled = r.to(precision) * (exclusive - middle).to(precision).exp()
    k_scaled = k.to(precision) * (middle - inclusive).to(precision).exp()
    scores = (r_scaled @ k_scaled.mT).tril(-1).to(r.dtype)
    scores = scores + torch.diag_embed((r * u[:, None, None] * k).sum(-1))
    added = ((k * (total - inclusive).exp()).mT @ v).unbind(2)
    kept = total.exp().mT.unbind(2)
    states = []
    for decay, kv in zip(kept, added, strict=True):
        states.append(state)
        state = decay * state + kv
    y = scores @ v + (r * exclusive.exp()) @ torch.stack(states, 2)
    return y.reshape(batch, heads, steps, size).transpose(1, 2), state


def forward_and_both(
    function: Callable[..., Arrays],
    args: tuple[np.ndarray, ...],
    cotangents: tuple[np.ndarray, ...],
) -> tuple[Callable[[], list[np.ndarray]], Callable[[], list[np.ndarray]]]:
    """Two calls: outputs only, and outputs with the gradients of all arguments."""
    tensors = [torch.from_numpy(a) for a in args]
    weights = [torch.from_numpy(c) for c in cotangents]

    def forward() -> list[np.ndarray]:
        with torch.no_grad():
            return [x.numpy() for x in function(*tensors)]

    def both() -> list[np.ndarray]:
        leaves = [t.detach().requires_grad_() for t in tensors]
        out = function(*leaves)
        torch.autograd.backward(out, weights)
        return [x.detach().numpy() for x in out] + [leaf.grad.numpy() for leaf in leaves]

    return forward, both


def cases(args, cotangents) -> dict[str, Callable]:
    """Forward and forward+backward of every PyTorch peer, by name."""
    steps = args[0].shape[1]
    forms: dict[str, Callable[..., Arrays]] = {"torch loop": token_loop}
    for chunk, precision in ((16, torch.float32), (32, torch.float32), (128, torch.float64)):
        if steps % chunk == 0:
            name = f"torch chunk {chunk}" + (" fp64" if precision == torch.float64 else "")
            forms[name] = lambda *a, c=chunk, p=precision: chunk_form(*a, c, p)
    out = {}
    for name, form in forms.items():
        out[f"{name}|forward"], out[f"{name}|both"] = forward_and_both(form, args, cotangents)
    return out

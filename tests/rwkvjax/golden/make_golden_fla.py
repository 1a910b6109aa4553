# SPDX-License-Identifier: Apache-2.0
"""Writes golden/fla/*.npz: logits of flash-linear-attention models holding our exported tensors.

Made with flash-linear-attention 0.6.0 and torch 2.13.0 on a CPU:

    python tests/rwkvjax/golden/make_golden_fla.py        # from the root of the checkout

Its kernels need a GPU, so the few that a forward pass meets are replaced by the plain PyTorch forms
that the library keeps for its own tests (and, for the RWKV-7 recurrence, by the loop below). The
layers, their parameters and how they are used are the library's own, which is what the layout is
tested against. `load_state_dict(strict=True)` checks every name and shape.
"""

import json
import pathlib
import sys
import warnings

import numpy as np
import torch

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))
warnings.simplefilter("ignore")

from rwkvjax.weights import fla as layout  # noqa: E402
from rwkvjax.weights.infer import infer  # noqa: E402
from rwkvjax.weights.source import in_memory  # noqa: E402
from rwkvjax.weights.synthetic import random_checkpoint  # noqa: E402

CASES = {
    "rwkv6": {"version": "6", "dim": 64, "head_size": 32, "ranks": {"R": 16, "P": 24}, "seed": 11},
    "rwkv7": {"version": "7", "dim": 64, "head_size": 32, "seed": 12},
}
TOKENS = np.arange(12) * 7 % 97


def plain_shift(x, cu_seqlens=None, output_cache=False, cache=None):
    """x_{t-1} - x_t."""
    delta = torch.nn.functional.pad(x, (0, 0, 1, -1)) - x
    return (delta, None) if output_cache else delta


def plain_rwkv6(r, k, v, w, u, scale, **_):
    """The library's naive recurrence, which puts heads before time."""
    from fla.ops.rwkv6.recurrent_naive import naive_recurrent_rwkv6

    out, state = naive_recurrent_rwkv6(*(x.transpose(1, 2) for x in (r, k, v, w)), u, scale=scale)
    return out.transpose(1, 2), state


def plain_rwkv7(r, w, k, v, kk, a, **_):
    """S <- S diag(exp w) - (S kk)(kk a)^T + v k^T, y = S r."""
    state = torch.zeros(*r.shape[:1], r.shape[2], v.shape[-1], r.shape[-1])
    out = []
    for t in range(r.shape[1]):
        removed = (state @ kk[:, t, :, :, None]) @ (kk * a)[:, t, :, None, :]
        added = v[:, t, :, :, None] @ k[:, t, :, None, :]
        state = state * torch.exp(w[:, t, :, None, :]) - removed + added
        out.append((state @ r[:, t, :, :, None])[..., 0])
    return torch.stack(out, 1), state


def plain_norm(self, x, *_, **__):
    """GroupNorm over the last axis, of any number of leading ones."""
    flat = x.reshape(-1, x.shape[-1])
    normed = torch.nn.functional.group_norm(flat, self.num_groups, self.weight, self.bias, self.eps)
    return normed.reshape(x.shape)


def build(version, config):
    """A model of the library with its kernels replaced."""
    from fla.modules import GroupNorm

    GroupNorm.forward = plain_norm
    if version == "6":
        from fla.layers import rwkv6 as layer
        from fla.models.rwkv6 import RWKV6Config, RWKV6ForCausalLM, modeling_rwkv6

        layer.token_shift = modeling_rwkv6.token_shift = plain_shift
        layer.fused_recurrent_rwkv6 = plain_rwkv6
        return RWKV6ForCausalLM(RWKV6Config(**config))
    from fla.layers import rwkv7 as layer
    from fla.models.rwkv7 import RWKV7Config, RWKV7ForCausalLM, modeling_rwkv7
    from fla.ops.rwkv7.fused_addcmul import torch_addcmul_rwkv7
    from fla.ops.rwkv7.fused_k_update import k_update_ref
    from fla.ops.rwkv7.gate_output_correction import gate_output_correction_ref

    layer.token_shift = modeling_rwkv7.token_shift = plain_shift
    layer.fused_addcmul_rwkv7 = torch_addcmul_rwkv7
    layer.fused_k_rwkv7 = k_update_ref
    layer.gate_output_correction = gate_output_correction_ref
    layer.fused_mul_recurrent_rwkv7 = plain_rwkv7
    # Without its kernels the channel mixing is W_v relu(W_k (x + delta x_k))^2.
    modeling_rwkv7.RWKV7FeedForward.forward = lambda self, x, *_, **__: (
        self.value(torch.relu(self.key(x + plain_shift(x) * self.x_k)) ** 2),
        None,
    )
    return RWKV7ForCausalLM(RWKV7Config(**config))


def main() -> None:
    """Writes both files."""
    for name, arguments in CASES.items():
        checkpoint = random_checkpoint(**arguments)
        version, sizes = infer({n: a.shape for n, a in checkpoint.items()})
        tensors = layout.to_fla(version, in_memory(checkpoint))
        config = layout.config_json(version, sizes, "float32")
        for key in ("architectures", "model_type", "torch_dtype"):
            del config[key]
        model = build(version, {**config, "fuse_norm": False, "fuse_cross_entropy": False})
        state = {n: torch.from_numpy(t.read()) for n, t in tensors.items()}
        model.load_state_dict(state, strict=True)
        for block in model.model.layers:
            block.attn.g_norm.eps = 64e-5  # see rwkvjax/weights/fla.py
            block.attn.gate_fn = torch.nn.functional.silu
            block.ffn.act_fn = lambda x: torch.relu(x) ** 2
        with torch.no_grad():
            logits = model.eval()(torch.from_numpy(TOKENS)[None], use_cache=False).logits[0]
        np.savez_compressed(
            HERE / "fla" / f"{name}.npz",
            arguments=json.dumps(arguments),
            tokens=TOKENS,
            logits=logits.numpy(),
        )
        print(name, float(logits.std()))


if __name__ == "__main__":
    main()

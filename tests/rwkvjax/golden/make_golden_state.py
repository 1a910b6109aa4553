# SPDX-License-Identifier: Apache-2.0
"""Writes what the official package computes from tuned initial states that this library exported.

Needs `torch` and `rwkv` (made with torch 2.13.0 and rwkv 0.8.32), which the project does not:

    python tests/rwkvjax/golden/make_golden_state.py       # from the root of the checkout

Random weights and random states, in the layout of `State.wkv`, are drawn from the seeds in `CASES`;
the states go through `save_adapter` to a `.pth` file that torch reads. Versions 5 and 6 of the
package find them in the dict of the weights by themselves; its version 7 knows no tuned states, so
there they are put into the state that it is called with ([value, key], its own layout). `state.npz`
holds, for each case, tokens [T] and logits [T, V] of "cpu fp32".
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

from rwkvjax import weights  # noqa: E402
from rwkvjax.finetune import Adapter, save_adapter  # noqa: E402
from rwkvjax.finetune.adapter import state_to_official  # noqa: E402
from rwkvjax.weights.synthetic import random_checkpoint  # noqa: E402

_SMALL = {"dim": 64, "head_size": 32, "layers": 2}
CASES = {
    "v5_2": {"version": "5.2", **_SMALL, "seed": 51},
    "v6": {"version": "6", **_SMALL, "seed": 61},
    "v7": {"version": "7", **_SMALL, "seed": 71},
}
TOKENS = [int(t) for t in np.random.RandomState(5).randint(0, 97, 12)]


def case(name):
    """(checkpoint, config, params, states [L, H, N, N] in our layout) of one case."""
    checkpoint = random_checkpoint(**CASES[name])
    config, params = weights.from_official(checkpoint)
    shape = (config.layers, config.heads, config.head_size, config.head_size)
    states = np.random.RandomState(CASES[name]["seed"]).standard_normal(shape).astype(np.float32)
    return checkpoint, config, params, states


def run_official(name: str, out: str) -> None:
    """Runs one case in this process, whose environment must fit the version."""
    import torch
    from rwkv.model import RWKV

    checkpoint, config, _, states = case(name)
    with tempfile.TemporaryDirectory() as folder:
        exported = os.path.join(folder, "state.pth")
        save_adapter(exported, Adapter("state", state_to_official(config, states)))
        tuned = torch.load(exported)
        model_file = {k: torch.from_numpy(v) for k, v in checkpoint.items()}
        path = os.path.join(folder, "model")
        if config.version == "7":
            torch.save(model_file, path + ".pth")
            model = RWKV(model=path, strategy="cpu fp32")
            state = model.generate_zero_state()
            for layer in range(config.layers):
                state[3 * layer + 1] = tuned[f"blocks.{layer}.att.time_state"].clone()
        else:
            torch.save({**model_file, **tuned}, path + ".pth")
            model = RWKV(model=path, strategy="cpu fp32", verbose=False)
            state = None
    with torch.no_grad():
        logits, _ = model.forward(list(TOKENS), state, full_output=True)
    np.save(out, logits.numpy())


def main() -> None:
    """Makes every case, each in its own process."""
    results = {}
    for name in CASES:
        environment = dict(os.environ, RWKV_JIT_ON="0", RWKV_CUDA_ON="0")
        if name == "v7":
            environment["RWKV_V7_ON"] = "1"
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "logits.npy")
            subprocess.run([sys.executable, __file__, name, out], env=environment, check=True)
            results[name] = np.load(out)
    np.savez_compressed(HERE / "state.npz", tokens=np.array(TOKENS, np.int32), **results)


if __name__ == "__main__":
    run_official(*sys.argv[1:]) if len(sys.argv) == 3 else main()

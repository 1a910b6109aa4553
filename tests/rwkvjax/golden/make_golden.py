# SPDX-License-Identifier: Apache-2.0
"""Writes the golden numbers: what the official package computes on random models.

Needs `torch` and `rwkv` (made with torch 2.13.0 and rwkv 0.8.32), which the project does not:

    python tests/rwkvjax/golden/make_golden.py            # from the root of the checkout

The weights are not stored: `rwkvjax.weights.synthetic.random_checkpoint` draws them again from
the arguments in `CASES`; `weights_sum` in each file proves that they are the same. A file holds

  tokens       [T]      the input
  logits       [T, V]   of one call with all tokens (sequence mode), float32
  step_gap, carried_gap largest differences between that call and, in the official package itself,
                        one call for each token, and two calls with the state carried between them
  att_shift, ffn_shift  [L, D] final states, and wkv [L, H, N, N] or num, den, max [L, A] (v4)

for "cpu fp32". v7 is another class chosen by an environment variable, hence the subprocesses.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

from rwkvjax.weights.synthetic import random_checkpoint  # noqa: E402

LENGTH = 20
SPLIT = 7
_SMALL = {"dim": 64, "head_size": 32}
CASES = {
    "v4": {"version": "4", "dim": 128, "seed": 1},
    "v5_0": {"version": "5.0", **_SMALL, "seed": 32},
    "v5_1": {"version": "5.1", **_SMALL, "seed": 3},
    "v5_2": {"version": "5.2", "seed": 4},
    "v5_2_n32": {"version": "5.2", **_SMALL, "ffn_dim": 96, "seed": 5},
    "v6": {"version": "6", "seed": 6},
    "v6_ranks": {"version": "6", **_SMALL, "ranks": {"R": 16, "P": 24}, "seed": 7},
    "v7": {"version": "7", "layers": 2, "seed": 8},
    "v7_n32": {
        "version": "7",
        **_SMALL,
        "ranks": {"P": 24, "I": 16, "U": 8, "G": 40},
        "ffn_dim": 160,
        "seed": 9,
    },
}


def tokens_of(seed: int, vocab_size: int = 97) -> list[int]:
    """The input of a case."""
    return [int(t) for t in np.random.RandomState(1000 + seed).randint(0, vocab_size, LENGTH)]


def run_official(name: str, out: str) -> None:
    """Runs one case in this process, whose environment must fit the version."""
    import torch
    from rwkv.model import RWKV

    arguments = CASES[name]
    checkpoint = random_checkpoint(**arguments)
    version = arguments["version"]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model")
        torch.save({k: torch.from_numpy(v) for k, v in checkpoint.items()}, path + ".pth")
        if version == "7":
            model = RWKV(model=path, strategy="cpu fp32")
        else:
            model = RWKV(model=path, strategy="cpu fp32", verbose=False)
    tokens = tokens_of(arguments["seed"])
    with torch.no_grad():
        logits, state = model.forward(list(tokens), None, full_output=True)
        state = [s.clone() for s in state]  # the package changes the list it returned in place
        step_state, steps = None, []
        for token in tokens:
            step, step_state = model.forward([token], step_state)
            steps.append(step.clone())
        first, carried = model.forward(tokens[:SPLIT], None, full_output=True)
        second, _ = model.forward(tokens[SPLIT:], carried, full_output=True)
    result = {
        "arguments": json.dumps(arguments),
        "tokens": np.asarray(tokens, np.int32),
        "logits": logits.numpy(),
        "step_gap": float((torch.stack(steps) - logits).abs().max()),
        "carried_gap": float((torch.cat([first, second]) - logits).abs().max()),
        "weights_sum": sum(float(np.abs(v.astype(np.float64)).sum()) for v in checkpoint.values()),
        **_named_state(version, [s.numpy() for s in state]),
    }
    np.savez_compressed(out, **result)


def _named_state(version: str, state: list[np.ndarray]) -> dict[str, np.ndarray]:
    if version == "4":
        fields = ("att_shift", "num", "den", "max", "ffn_shift")
    else:
        fields = ("att_shift", "wkv", "ffn_shift")
    count = len(fields)
    return {f: np.stack(state[i::count]) for i, f in enumerate(fields)}


def main() -> None:
    """Makes every case, each in its own process."""
    for name, arguments in CASES.items():
        environment = dict(os.environ, RWKV_JIT_ON="0", RWKV_CUDA_ON="0")
        if arguments["version"] == "7":
            environment["RWKV_V7_ON"] = "1"
        out = HERE / f"{name}.npz"
        command = [sys.executable, __file__, name, str(out)]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        with np.load(out) as data:
            gaps = {k: float(data[k]) for k in ("step_gap", "carried_gap")}
            print(name, out.stat().st_size, data["logits"].std(), gaps)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run_official(sys.argv[1], sys.argv[2])
    else:
        main()

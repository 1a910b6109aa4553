# SPDX-License-Identifier: Apache-2.0
"""Writes small files with the original programs, for the readers to be tested on.

Made with torch 2.13.0, safetensors 0.8.0, gguf 0.19.0, transformers 5.23.0 and rwkv 0.8.32:

    python tests/rwkvjax/golden/make_files.py             # from the root of the checkout

  zip.pth, legacy.pth    the same dict of tensors in both layouts of torch.save
  state_dict.pth         an nn.Module's state_dict (an OrderedDict with _metadata)
  hostile.pth, hostile_legacy.pth    a pickle that would create a file when unpickled
  torch.safetensors      written by safetensors.torch
  quantised.npz          blocks quantised by the gguf package, and its own decoding of them
  hf_rwkv4.npz           logits of transformers' RwkvForCausalLM from a folder that we exported
  time_state.npz         logits of the official package from a tuned initial state (v6)
"""

import os
import pathlib
import sys
import tempfile

import numpy as np
import torch

HERE = pathlib.Path(__file__).resolve().parent
FILES = HERE.parent / "weights" / "files"
sys.path.insert(0, str(HERE.parents[2]))
os.environ.update(RWKV_JIT_ON="0", RWKV_CUDA_ON="0")

from rwkvjax.weights.synthetic import random_checkpoint  # noqa: E402


class Hostile:
    """Unpickling this would create a file."""

    def __reduce__(self):
        return (os.system, ("touch /tmp/rwkvjax_was_here",))


def write_pth() -> None:
    """The PyTorch files."""
    values = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7
    shared = torch.arange(10, dtype=torch.float32)
    tensors = {
        "float32": values,
        "bfloat16": values.bfloat16(),
        "float16": values.half(),
        "float64": values.double(),
        "transposed": values.t(),
        "part": shared[2:5],
        "strided": shared[1::3],
        "parameter": torch.nn.Parameter(values[0].clone()),
        "scalar": torch.tensor(2.5),
    }
    torch.save(tensors, FILES / "zip.pth")
    torch.save(tensors, FILES / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.manual_seed(0)
    torch.save(torch.nn.Linear(3, 2).state_dict(), FILES / "state_dict.pth")
    torch.save({"weight": Hostile()}, FILES / "hostile.pth")
    legacy = {"_use_new_zipfile_serialization": False}
    torch.save({"weight": Hostile()}, FILES / "hostile_legacy.pth", **legacy)


def write_safetensors() -> None:
    """The safetensors file."""
    from safetensors.torch import save_file

    values = torch.arange(6, dtype=torch.float32).reshape(2, 3) / 7
    tensors = {"a": values, "b": values.bfloat16(), "c": values.half(), "d": values.double()}
    save_file(tensors, FILES / "torch.safetensors", metadata={"format": "pt"})


def write_quantised() -> None:
    """Blocks of every quantised type."""
    from gguf import GGMLQuantizationType as Kind
    from gguf import quants

    random = np.random.RandomState(0)
    values = random.standard_normal((6, 64)).astype(np.float32)
    out = {"values": values}
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        data = quants.quantize(values, Kind[name])
        out[f"{name}_bytes"] = data
        out[f"{name}_values"] = quants.dequantize(data, Kind[name])
    np.savez_compressed(FILES / "quantised.npz", **out)


def write_time_state() -> None:
    """A tuned state in the official package."""
    from rwkv.model import RWKV

    arguments = {"version": "6", "layers": 2, "dim": 64, "head_size": 32, "seed": 21}
    checkpoint = random_checkpoint(**arguments)
    random = np.random.RandomState(22)
    for layer in range(2):
        state = random.standard_normal((2, 32, 32)).astype(np.float32)
        checkpoint[f"blocks.{layer}.att.time_state"] = state
    tokens = [3, 1, 4, 1, 5]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.pth")
        torch.save({k: torch.from_numpy(v) for k, v in checkpoint.items()}, path)
        model = RWKV(model=path, strategy="cpu fp32", verbose=False)
    logits, _ = model.forward(tokens, None, full_output=True)
    np.savez_compressed(FILES / "time_state.npz", tokens=tokens, logits=logits.numpy())


def write_hf() -> None:
    """A v4 model of ours in transformers."""
    from transformers import AutoModelForCausalLM

    from rwkvjax import weights
    from rwkvjax.weights.source import in_memory

    tensors = random_checkpoint("4", layers=3, dim=64, seed=31)
    tokens = np.arange(12) * 7 % 97
    with tempfile.TemporaryDirectory() as folder:
        weights.write(os.path.join(folder, "model"), in_memory(tensors), format="hf")
        model = AutoModelForCausalLM.from_pretrained(os.path.join(folder, "model")).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
    np.savez_compressed(FILES / "hf_rwkv4.npz", tokens=tokens, logits=logits)


if __name__ == "__main__":
    FILES.mkdir(exist_ok=True)
    write_pth()
    write_safetensors()
    write_quantised()
    write_time_state()
    write_hf()

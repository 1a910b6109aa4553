# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of weights: small random models and a writer of rwkv.cpp files."""

import functools
import pathlib
import struct

import numpy as np
import pytest

from rwkvjax.weights.synthetic import random_checkpoint

VERSIONS = ("4", "5.0", "5.1", "5.2", "6", "7")
SIZES = {"layers": 2, "dim": 32, "head_size": 8, "vocab_size": 19, "ffn_dim": 48}
RANKS = {"6": {"R": 4, "P": 6}, "7": {"P": 5, "I": 6, "U": 3, "G": 7}}


@functools.cache
def _small(version):
    return random_checkpoint(version, **SIZES, ranks=RANKS.get(version), seed=5)


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def small():
    """version -> float32 tensors of a random model, a fresh dict each time."""
    return lambda version: dict(_small(version))


@pytest.fixture
def files():
    return pathlib.Path(__file__).parent / "files"


def _forward_transform(version, tensors):
    """Official tensors as the converter of rwkv.cpp stores them (see its data set's README)."""
    out = {}
    for name, x in tensors.items():
        short = name.rpartition(".")[2]
        if ".att.time_" in name or ".ffn.time_" in name:
            x = x.squeeze()
        if short == "time_decay" and version == "4":
            x = -np.exp(x)
        elif version.startswith("5") and short in ("time_decay", "time_first", "time_faaaa"):
            x = {"time_decay": lambda x: np.exp(-np.exp(x)), "time_first": np.exp}.get(
                short, lambda x: x
            )(x)
            x = x.reshape(*x.shape, *(1,) * (3 - x.ndim))
        elif version == "6" and short in ("time_decay", "time_faaaa"):
            x = x.reshape(*tensors["blocks.0.att.time_faaaa"].shape, 1)
        elif short.endswith(("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2")):
            x = np.swapaxes(x, -1, -2)
        if ".att.x_" in name:
            if not name.endswith("x_r"):
                continue
            x = np.concatenate([tensors[name[:-1] + mix] for mix in "rwkvag"])
            name = name[:-1] + "rwkvag"
        if version == "7" and name.startswith("blocks.0.att.v") and short in ("v0", "v1", "v2"):
            continue
        out[name] = np.ascontiguousarray(x, np.float32)
    return out


@pytest.fixture
def ggml_file(tmp_path):
    """(version, tensors, half) -> path of a file as rwkv.cpp writes it."""

    def write(version, tensors, half=False):
        vocab_size, dim = tensors["emb.weight"].shape
        layers = 1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("blocks."))
        out = [struct.pack("<6i", 0x67676D66, 101, vocab_size, dim, layers, int(half))]
        for name, x in _forward_transform(version, tensors).items():
            kind = int(half and x.ndim == 2 and ".time_" not in name)
            x = x.astype(np.float16 if kind else np.float32)
            key = name.encode()
            out.append(struct.pack("<3i", x.ndim, len(key), kind))
            out.append(struct.pack(f"<{x.ndim}i", *x.shape[::-1]) + key + x.tobytes())
        path = tmp_path / f"{version}.bin"
        path.write_bytes(b"".join(out))
        return path

    return write

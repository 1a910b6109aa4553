# SPDX-License-Identifier: Apache-2.0
"""Files of rwkv.cpp: undoing its transforms, and quantised blocks."""

import struct

import numpy as np
import pytest

import rwkvjax
from rwkvjax import weights
from rwkvjax.weights import ggml, ggml_blocks

KINDS = {kind.name: (number, kind) for number, kind in ggml_blocks.BLOCK_TYPES.items()}
# v5.1 with a gate and a decay for each head does not exist there.
VERSIONS = ("4", "5.0", "5.2", "6", "7")


@pytest.mark.parametrize("version", VERSIONS)
def test_transforms_are_undone(small, ggml_file, version):
    tensors = small(version)
    opened = weights.open_weights(ggml_file(version, tensors))
    assert (opened.format, opened.layout) == ("ggml", "rwkv.cpp")
    assert opened.group_norm_eps == (1e-5 if version == "5.0" or version == "5.2" else 64e-5)
    config, params = weights.from_official(opened.tensors)
    expected_config, expected = weights.from_official(tensors)
    assert config == expected_config
    for name, tensor in weights.to_official(config, params).items():
        if version == "7" and name.startswith("blocks.0.att.v") and name[-2:] in ("v0", "v1", "v2"):
            continue
        original = tensors[name]
        if version[0] in "45" and name.endswith(("time_decay", "time_first")):
            # What is stored is a function of the weight, so that function must come back: exactly
            # but for the rounding of float32.
            store = np.exp if name.endswith("time_first") or version == "4" else _decay
            np.testing.assert_allclose(store(tensor), store(original), rtol=1e-6)
        else:
            np.testing.assert_array_equal(tensor, original)
    tokens = np.arange(7)[None]
    got, _ = rwkvjax.apply(params, config, tokens)
    want, _ = rwkvjax.apply(expected, expected_config, tokens)
    np.testing.assert_allclose(got, want, atol=2e-5)


def _decay(w):
    return np.exp(-np.exp(w))


def test_half_precision(small, ggml_file):
    tensors = small("6")
    _, params = weights.load(ggml_file("6", tensors, half=True))
    expected = tensors["blocks.1.att.key.weight"].astype(np.float16).T
    np.testing.assert_array_equal(params["blocks"]["att"]["key"][1], expected)
    assert params["blocks"]["att"]["time_decay"].dtype == np.float32


def test_decays_at_the_ends_of_the_range():
    """exp(-exp(w)) rounds to 0 or 1 for trained weights; they must come back finite."""
    stored = np.array([0, 1e-45, 1e-30, 0.5, 1 - 1e-7, 1], np.float32)
    w = ggml._log_of_minus_log(stored)
    assert np.isfinite(w).all()
    np.testing.assert_allclose(np.exp(-np.exp(w.astype(np.float64))), stored, rtol=2e-5, atol=1e-45)
    stored = -np.array([0, 1e-45, 0.5, 30], np.float32)
    w = ggml._log_of_negative(stored)
    assert np.isfinite(w).all()
    np.testing.assert_allclose(-np.exp(w.astype(np.float64)), stored, rtol=1e-5, atol=2e-45)
    for bad in (np.nan, -0.1, 1.1):
        with pytest.raises(weights.WeightsError):
            ggml._log_of_minus_log(np.array([bad], np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_as_the_gguf_package_decodes_them(files, kind):
    with np.load(files / "quantised.npz") as data:
        stored, expected = data[f"{kind}_bytes"], data[f"{kind}_values"]
        original = data["values"]
    blocks = stored.reshape(-1, KINDS[kind][1].nbytes)
    got = ggml_blocks.decode(KINDS[kind][1], blocks).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    assert np.abs(got - original).max() < {"4": 0.3, "5": 0.2, "8": 0.03}[kind[1]]


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_tensors_in_a_file(files, tmp_path, kind):
    """One tensor of a file replaced by quantised blocks, found by name and shape."""
    number, block = KINDS[kind]
    with np.load(files / "quantised.npz") as data:
        stored, expected = data[f"{kind}_bytes"], data[f"{kind}_values"]
    header = struct.pack("<6i", ggml.MAGIC, 101, 6, 64, 1, number)
    entries = [
        _entry("emb.weight", (6, 64), 0, np.zeros((6, 64), np.float32).tobytes()),
        _entry("head.weight", (6, 64), number, stored.tobytes()),
        _entry("blocks.0.ln1.weight", (64,), 0, np.ones(64, np.float32).tobytes()),
    ]
    path = tmp_path / "q.bin"
    path.write_bytes(header + b"".join(entries))
    found = ggml.read_stored(path)
    assert found["head.weight"].shape == (6, 64)
    np.testing.assert_allclose(found["head.weight"].read(), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(found["blocks.0.ln1.weight"].read(), np.ones(64))


def _entry(name, shape, kind, data):
    key = name.encode()
    sizes = struct.pack(f"<{len(shape)}i", *shape[::-1])
    return struct.pack("<3i", len(shape), len(key), kind) + sizes + key + data


def _file(*entries, header=(ggml.MAGIC, 101, 4, 8, 1, 0)):
    return struct.pack("<6i", *header) + b"".join(entries)


EMB = _entry("emb.weight", (4, 8), 0, bytes(128))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_file(header=(ggml.MAGIC, 99, 4, 8, 1, 0)), "not a file of rwkv.cpp"),
        (_file(header=(ggml.MAGIC, 100, 4, 8, 1, 2)), "quantise again"),
        (_file(EMB), "the header says 1 layers"),
        (_file(EMB, header=(ggml.MAGIC, 101, 5, 8, 1, 0)), r"\(5, 8\), emb.weight has \(4, 8\)"),
        (_file(EMB, EMB), "occurs twice"),
        (_file(_entry("x", (2**30, 2**30), 0, b"")), "needs bytes"),
        (_file(_entry("x", (-4, 8), 0, b"")), "is empty"),
        (_file(_entry("x", (4, 8), 5, bytes(128))), "unknown data type 5"),
        (_file(_entry("x", (4, 8), 2, bytes(128))), "Q4_0 needs rows of 32s"),
        (_file(struct.pack("<3i", 9, 4, 0) + bytes(99)), "damaged tensor header"),
        (_file(struct.pack("<3i", 1, 2**30, 0) + bytes(99)), "damaged tensor header"),
        (_file(struct.pack("<3i", 1, 2, 0) + struct.pack("<i", 1) + b"\xff\xff"), "tensor name"),
    ],
)
def test_damaged_files(tmp_path, data, message):
    path = tmp_path / "bad.bin"
    path.write_bytes(data)
    with pytest.raises(weights.WeightsError, match=message):
        weights.open_weights(path)

# SPDX-License-Identifier: Apache-2.0
"""The trained models that rwkv.cpp publishes with logits: every step from file to logits."""

import lzma

import jax
import numpy as np
import pytest

import rwkvjax
from core.datasets import find_dataset
from rwkvjax import weights

MODELS = {
    "4v0-660K": "tiny-rwkv-4v0-660K-FP32.bin.xz",
    "5v2-730K": "tiny-rwkv-5v2-730K-FP32.bin.xz",
    "6v0-1m": "tiny-rwkv-6v0-1m-FP32.bin.xz",
    "7v0-834K": "tiny-rwkv-7v0-834K-FP32.bin.xz",
}
VERSIONS = {"4v0-660K": "4", "5v2-730K": "5.2", "6v0-1m": "6", "7v0-834K": "7"}


@pytest.fixture(scope="module")
def folder():
    try:
        return find_dataset("rwkv_tiny")
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def unpacked(folder, tmp_path_factory):
    target = tmp_path_factory.mktemp("tiny")
    for name, file in MODELS.items():
        (target / name).write_bytes(lzma.decompress((folder / file).read_bytes()))
    return target


def _logits(config, params, tokens):
    return np.asarray(jax.jit(rwkvjax.apply, static_argnums=1)(params, config, tokens)[0])


def _last_logits(config, params, prompt=b'"in'):
    return _logits(config, params, np.asarray([list(prompt)], np.int32))[0, -1]


@pytest.mark.parametrize("name", MODELS)
def test_published_logits(folder, unpacked, name):
    config, params = rwkvjax.load(unpacked / name)
    assert config.version == VERSIONS[name]
    assert config.group_norm_eps == (1e-5 if name.startswith("5") else 64e-5)
    expected = np.frombuffer((folder / f"expected-logits-{name}.bin").read_bytes(), "<f4")
    with np.load(folder / "reference_logits_fox.npz") as reference:
        prompt, fox = reference["prompt"], reference[name]
    both = np.zeros((2, len(prompt)), np.int32)  # one compilation; what follows cannot matter
    both[0, :3], both[1] = list(b'"in'), prompt
    logits = _logits(config, params, both)
    np.testing.assert_allclose(logits[0, 2], expected, atol=1e-5)
    np.testing.assert_allclose(logits[1], fox, atol=1e-5)


def test_official_epsilon_by_option(folder, unpacked):
    """rwkv.cpp runs version 5 with 1e-5; the official 64e-5 is one argument away."""
    config, params = weights.load(unpacked / "5v2-730K", group_norm_eps=64e-5)
    expected = np.frombuffer((folder / "expected-logits-5v2-730K.bin").read_bytes(), "<f4")
    gap = np.abs(_last_logits(config, params) - expected).max()
    assert 0.5 < gap < 2  # rwkv.cpp's README of the data reports 1.1


def test_half_precision_file(folder):
    """A plain FP16 file; the published logits were computed from FP32 weights."""
    config, params = weights.load(folder / "tiny-rwkv-4v0-660K-FP16.bin")
    assert params["blocks"]["att"]["key"].dtype == np.float16
    assert params["ln0"]["weight"].dtype == np.float32
    expected = np.frombuffer((folder / "expected-logits-4v0-660K.bin").read_bytes(), "<f4")
    gap = np.abs(_last_logits(config, params) - expected).max()
    assert gap < 3e-3


def test_through_other_formats(unpacked, tmp_path):
    """The logits survive a conversion bit by bit."""
    config, params = weights.load(unpacked / "7v0-834K")
    before = _last_logits(config, params)
    weights.save(tmp_path / "model.pth", config, params, format="pth")
    weights.save(tmp_path / "fla", config, params, format="fla")
    for path in (tmp_path / "model.pth", tmp_path / "fla"):
        again, params = weights.load(path)
        assert again == config
        np.testing.assert_array_equal(_last_logits(again, params), before)

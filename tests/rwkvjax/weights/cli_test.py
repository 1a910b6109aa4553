# SPDX-License-Identifier: Apache-2.0
"""The convert and inspect programs."""

import subprocess

import numpy as np
import pytest

import rwkvjax
from core import cli
from rwkvjax import convert, inspect, weights
from rwkvjax.weights.source import in_memory


def _flags(module, *arguments):
    values = module._FLAGS
    values.unparse_flags()
    values(["program", *map(str, arguments)])
    return values


@pytest.fixture
def model(small, tmp_path):
    path = tmp_path / "model.pth"
    weights.write(path, in_memory(small("5.2")), format="pth", dtype="bfloat16")
    return path


def test_convert(model, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    arguments = ["--src", model, "--dst", out, "--format", "safetensors", "--dtype", "float32"]
    convert.main(_flags(convert, *arguments, "--names"))
    text = capsys.readouterr().out
    assert "RWKV-5.2" in text
    assert "bfloat16 -> float32" in text
    assert "blocks.1.att.time_decay -> blocks.1.att.time_decay" in text
    assert "read back" in text
    found, expected = weights.open_weights(out).tensors, weights.open_weights(model).tensors
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name].read(), tensor.read().astype(np.float32))


def test_convert_and_upcycle(model, tmp_path, capsys):
    out = tmp_path / "finch.pth"
    arguments = ["--src", model, "--dst", out, "--format", "pth", "--upcycle", "--noverify"]
    convert.main(_flags(convert, *arguments))
    assert "RWKV-6" in capsys.readouterr().out
    assert weights.load(out)[0].version == "6"


def test_convert_tells_about_the_epsilon(ggml_file, small, tmp_path, capsys):
    source, out = ggml_file("5.2", small("5.2")), tmp_path / "out.pth"
    convert.main(_flags(convert, "--src", source, "--dst", out, "--format", "pth"))
    assert "group_norm_eps=1e-05" in capsys.readouterr().out


def test_user_errors(model, tmp_path):
    for arguments in (
        ["--src", tmp_path / "none", "--dst", tmp_path / "x", "--format", "pth"],
        ["--src", model, "--dst", model, "--format", "pth"],
        ["--src", model, "--dst", tmp_path / "x", "--format", "fla"],
    ):
        with pytest.raises(cli.UserError):
            convert.main(_flags(convert, *arguments))
    with pytest.raises(cli.UserError, match="a mesh is written as"):
        inspect.main(_flags(inspect, "--path", model, "--mesh", "data"))


def test_inspect(model, small):
    text = inspect.describe(str(model), {"data": 1})
    total = sum(t.size for t in small("5.2").values())
    assert "RWKV-5.2" in text
    assert "4 heads of 8" in text
    assert f"{total:,}" in text
    assert f"parameters as bfloat16: {2 * total / 2**20:,.1f} MiB" in text


def test_memory_of_a_mesh():
    """Finch 7B over eight devices, against the sizes worked out by hand."""
    cfg = rwkvjax.get_config("finch-7b")
    whole = 2 * 7_635_746_816
    assert inspect.bytes_per_device(cfg, {"data": 1}, "dp", 2) == whole
    assert inspect.bytes_per_device(cfg, {"data": 8}, "dp", 2) == whole
    # Split by eight over the width, but for vectors and the second factor of the decay LoRA.
    kept = 2 * (32 * (128 * 4096 + 16 * 4096) + 4 * 4096)
    split = inspect.bytes_per_device(cfg, {"data": 8}, "fsdp", 2)
    assert split == (whole - kept) // 8 + kept
    assert inspect.state_bytes(cfg, 3) == 3 * 4 * 8_650_752


def test_as_a_program(model, repo, python):
    command = [python, "-m", "rwkvjax.inspect", str(model), "--mesh", "data=2,model=2"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=True)
    assert "2 data x 2 model" in done.stdout

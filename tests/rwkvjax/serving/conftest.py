# SPDX-License-Identifier: Apache-2.0
"""Engines and a server of a small random model."""

import numpy as np
import pytest

from rwkvjax.serving import Engine, Limits
from rwkvjax.tokenizers import ByteTokenizer
from tests.rwkvjax.serving.shared import (
    CACHE_MIB,
    CFG,
    SLOTS,
    WAITING,
    random_params,
    serving,
    write_checkpoint,
)


@pytest.fixture(scope="session")
def cfg():
    return CFG


@pytest.fixture(scope="session")
def params():
    return random_params()


@pytest.fixture
def make_engine(params):
    def make(slots=4, chunk=8, cache_bytes=0, **options):
        limits = Limits(slots, chunk, cache_bytes)
        return Engine(params, CFG, ByteTokenizer(), limits, **options)

    return make


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A checkpoint and two adapters."""
    from rwkvjax.finetune import Adapter, save_adapter

    folder = tmp_path_factory.mktemp("served")
    write_checkpoint(folder / "model.safetensors")
    (folder / "adapters").mkdir()
    rng = np.random.default_rng(0)
    tuned = {
        f"blocks.{i}.att.time_state": rng.normal(size=(4, 8, 8)).astype(np.float32)
        for i in range(2)
    }
    save_adapter(folder / "adapters" / "tuned.safetensors", Adapter("state", tuned))
    factors = {
        "lora_A": rng.normal(size=(2, 32)).astype(np.float32),
        "lora_B": rng.normal(size=(32, 2)).astype(np.float32),
    }
    low = {f"blocks.0.att.value.{name}": value for name, value in factors.items()}
    save_adapter(folder / "adapters" / "low.safetensors", Adapter("lora", low, 1.0))
    return folder


@pytest.fixture(scope="session")
def server(repo, folder):
    """One server for all tests that do not end it."""
    pytest.importorskip("uvicorn")
    flags = (
        f"--slots={SLOTS}",
        "--prefill_chunk=16",
        f"--cache_mib={CACHE_MIB}",
        f"--max_waiting={WAITING}",
        "--max_prompt_tokens=2000",
        "--max_tokens=3000",
        f"--adapters={folder / 'adapters'}",
    )
    with serving(repo, folder / "model.safetensors", *flags) as server:
        yield server

# SPDX-License-Identifier: Apache-2.0
"""A small random model whose state matters, shared by the tests of serving."""

import jax
import numpy as np
import pytest

from rwkvjax import model
from rwkvjax.config import Config
from rwkvjax.serving import Engine, Limits
from rwkvjax.tokenizers import ByteTokenizer

CFG = Config(version="6", vocab_size=256, dim=32, layers=2, head_size=8, wkv="scan")


def random_params(cfg=CFG, seed=0):
    start = jax.jit(lambda: model.init(jax.random.key(seed), cfg))()
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(x.dtype), start)


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


def run(engine, requests):
    """Runs requests to their end: [(text, token ids, last output)] in order."""
    numbers = [engine.submit(request) for request in requests]
    found = {number: ["", [], None] for number in numbers}
    while engine.busy:
        for number, output in engine.step():
            entry = found[number]
            entry[0] += output.text
            entry[1] += [info.token for info in output.tokens]
            entry[2] = output
    return [tuple(found[number]) for number in numbers]

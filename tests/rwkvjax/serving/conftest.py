# SPDX-License-Identifier: Apache-2.0
"""Engines of a small random model."""

import pytest

from rwkvjax.serving import Engine, Limits
from rwkvjax.tokenizers import ByteTokenizer
from tests.rwkvjax.serving.shared import CFG, random_params


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

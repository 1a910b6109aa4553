# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests that train."""

from collections.abc import Iterator

import jax
import pytest

from core import sharding


@pytest.fixture(scope="module")
def one_device() -> Iterator[None]:
    """Trainers see one of the eight virtual devices: that runs may be spread over several is
    tested elsewhere, and programs and checkpoints for one are ready in half the time."""
    make_mesh = sharding.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda shape: make_mesh(shape, jax.devices()[:1]))
        yield

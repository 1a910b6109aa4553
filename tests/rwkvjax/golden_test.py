# SPDX-License-Identifier: Apache-2.0
"""Our logits and states against those of the official package (golden/make_golden.py)."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rwkvjax import model
from rwkvjax.weights.params import from_official
from rwkvjax.weights.synthetic import random_checkpoint

GOLDEN = sorted((pathlib.Path(__file__).parent / "golden").glob("v*.npz"))
# float32 on both sides; the official package differs from itself by up to 9e-6 between its modes.
TOLERANCE = 2e-5

_apply = jax.jit(model.apply, static_argnums=1)
_step = jax.jit(model.step, static_argnums=1)


@functools.cache
def _case(path):
    with np.load(path) as data:
        golden = dict(data)
    arguments = json.loads(str(golden["arguments"]))
    checkpoint = random_checkpoint(**arguments)
    total = sum(float(np.abs(v.astype(np.float64)).sum()) for v in checkpoint.values())
    assert total == pytest.approx(float(golden["weights_sum"]), rel=1e-6), (
        "other weights were drawn"
    )
    config, params = from_official(checkpoint)
    return golden, config, jax.tree.map(jnp.asarray, params)


@pytest.fixture(params=GOLDEN, ids=lambda path: path.stem)
def case(request):
    return _case(request.param)


def _check_state(golden, config, state):
    for name in ("att_shift", "ffn_shift"):
        got = np.asarray(getattr(state, name))[:, 0]
        np.testing.assert_allclose(got, golden[name], atol=TOLERANCE)
    if config.version == "4":
        # num, den and max are defined up to a common factor, so compare what they stand for.
        num, den, top = (np.asarray(getattr(state, n))[:, 0] for n in ("num", "den", "max"))
        np.testing.assert_allclose(num / den, golden["num"] / golden["den"], atol=TOLERANCE)
        expected = golden["max"] + np.log(golden["den"])
        np.testing.assert_allclose(top + np.log(den), expected, atol=TOLERANCE)
    else:
        scale = max(1.0, np.abs(golden["wkv"]).max())
        got = np.asarray(state.wkv)[:, 0]
        np.testing.assert_allclose(got, golden["wkv"], atol=TOLERANCE * scale)


def test_every_version_is_covered():
    versions = {json.loads(str(np.load(path)["arguments"]))["version"] for path in GOLDEN}
    assert versions == {"4", "5.0", "5.1", "5.2", "6", "7"}


def test_sequence(case):
    golden, config, params = case
    logits, state = _apply(params, config, golden["tokens"][None])
    np.testing.assert_allclose(logits[0], golden["logits"], atol=TOLERANCE)
    _check_state(golden, config, state)


def test_step_by_step(case):
    golden, config, params = case
    state = model.init_state(config, 1)
    for token, expected in zip(golden["tokens"], golden["logits"], strict=True):
        logits, state = _step(params, config, token[None], state)
        np.testing.assert_allclose(logits[0], expected, atol=TOLERANCE)
    _check_state(golden, config, state)


def test_split_with_carried_state(case):
    golden, config, params = case
    tokens = golden["tokens"][None]
    first, state = _apply(params, config, tokens[:, :13])
    second, state = _apply(params, config, tokens[:, 13:], state)
    logits = np.concatenate([first, second], axis=1)[0]
    np.testing.assert_allclose(logits, golden["logits"], atol=TOLERANCE)
    _check_state(golden, config, state)


@pytest.mark.parametrize("name", ["v5_2_n32", "v7_n32"])
def test_the_test_can_fail(name):
    """The wrong epsilon of the head norm, a classic mistake, is far outside the tolerance."""
    golden, config, params = _case(GOLDEN[[path.stem for path in GOLDEN].index(name)])
    wrong = dataclasses.replace(config, group_norm_eps=1e-5)
    logits, _ = _apply(params, wrong, golden["tokens"][None])
    assert np.abs(logits[0] - golden["logits"]).max() > 50 * TOLERANCE

# SPDX-License-Identifier: Apache-2.0
"""The OSTL authors' JSB recipe against the numbers of its rerun: start, and after one epoch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn.sequences import chorales
from snn.tasks import networks, problems, sequence

# Test NLL a step of the listed configuration (rate 5e-4, d = 0.4, recurrent, Glorot values from
# NumPy's seed 1234 drawn in the order W, H, O, thresholds 1).
AT_START, AFTER_ONE_EPOCH = 62.6516, 11.9889


def authors_params():
    rng = np.random.RandomState(1234)

    def glorot(rows, columns):
        limit = np.sqrt(6) / np.sqrt(rows + columns)
        return jnp.asarray(rng.uniform(-limit, limit, (rows, columns)), jnp.float32)

    w, h, o = glorot(88, 150), glorot(150, 150), glorot(150, 88)
    hidden = {"w": w, "h": h, "bias": -jnp.ones(150)}
    return {"layer_0": hidden, "layer_1": {"w": o, "bias": jnp.zeros(88)}}


def test_first_epoch_reproduces_the_authors_configuration():
    try:
        parts = chorales.read_chorales()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    cfg = networks.NetworkConfig(hidden=(150,), recurrent=True, decay=0.4)
    net = networks.build_network(cfg, 88, 88)
    task = sequence.SequenceTask(
        problems.NextNotes(), net, sequence.LossConfig(reduction="sum"), eval_batch_size=77
    )
    source = chorales.next_step_source(parts["train"], length=128)
    pieces = source.get(np.arange(229))
    test = chorales.next_step_source(parts["test"], length=160).get(np.arange(77))
    test = {k: jnp.asarray(v) for k, v in test.items()} | {"valid": jnp.ones(77)}

    @jax.jit
    def epoch(params):
        def step(params, piece):
            batch = {k: v[None] for k, v in piece.items()}
            _, grads = task.grads(params, (), batch, jax.random.key(0))
            return jax.tree.map(lambda p, g: p - 5e-4 * g, params, grads), None

        return jax.lax.scan(step, params, {k: jnp.asarray(v) for k, v in pieces.items()})[0]

    score = jax.jit(lambda params: task.eval_sums(params, test))
    nll = lambda params: task.eval_metrics({k: float(v) for k, v in score(params).items()})["nll"]
    params = authors_params()
    assert nll(params) == pytest.approx(AT_START, abs=5e-4)
    assert nll(epoch(params)) == pytest.approx(AFTER_ONE_EPOCH, abs=2e-3)

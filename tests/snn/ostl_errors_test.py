# SPDX-License-Identifier: Apache-2.0
"""Online rules say what does not fit: modes, methods, sequences, carries."""

import jax
import jax.numpy as jnp
import optax
import pytest

from snn import cells, ostl
from tests.snn.ostl_nets import problem, snu, squared


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_unknown_modes_and_methods_that_do_not_apply():
    for make, words in (
        (lambda: ostl.Ostl(recurrent="half"), "recurrent must be one of"),
        (lambda: ostl.Ostl(deep="both"), "deep must be one of"),
        (lambda: ostl.Ostl(feedback="none"), "feedback must be one of"),
        (lambda: ostl.Ostl(deep="kept", feedback="random"), "choose one"),
        (lambda: ostl.Eprop(feedback="x"), "feedback must be one of"),
        (lambda: ostl.TruncatedBptt(0), "k must be at least 1"),
        (lambda: ostl.CheckpointedBptt(-1), "segment must not be negative"),
        (
            lambda: ostl.update(ostl.Ostl(), snu(2, 3), squared, optax.sgd(0.1), every=0),
            "every must be at least 1",
        ),
        (lambda: ostl.init(ostl.Ottt(), snu(2, 3), problem(snu(2, 3))[0], 1), "one fixed decay"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    lateral = cells.LateralSnu(2, 3)
    params = problem(lateral)[0]
    for method in (ostl.Eprop(), ostl.Ostl(recurrent="without_h")):
        with pytest.raises(NotImplementedError, match="elementwise units"):
            ostl.init(method, lateral, params, 1)
    with pytest.raises(NotImplementedError, match="read its currents|output does not"):
        net = cells.Lstm(2, 3)
        ostl.init(ostl.Snap1(), net, problem(net)[0], 1)


def test_bad_sequences_and_carries():
    net = snu(3, 2)
    params, xs, targets = problem(net, steps=4)
    carry = ostl.init(ostl.Ostl(), net, params, 2)
    f = ostl.value_and_grad(ostl.Ostl(), net, squared)
    with pytest.raises(ValueError, match="at least one time step"):
        f(params, carry, xs[:0], targets[:0])
    with pytest.raises(ValueError, match="must be finite"):
        f(params, carry, xs.at[0, 0, 0].set(jnp.nan), targets)
    with pytest.raises(ValueError, match="targets need the time axis of the inputs, 4 steps"):
        f(params, carry, xs, targets[:3])
    with pytest.raises(ValueError, match="carry does not fit"):
        f(params, ostl.init(ostl.Ostl(), net, params, 3), xs, targets)
    with pytest.raises(ValueError, match="carry does not fit"):
        f(params, net.init_state(2), xs, targets)
    with pytest.raises(ValueError, match="do not fit the config: missing w"):
        f({k: v for k, v in params.items() if k != "w"}, carry, xs, targets)

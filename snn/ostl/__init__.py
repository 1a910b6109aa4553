# SPDX-License-Identifier: Apache-2.0
"""Online Spatio-Temporal Learning (arXiv 2007.12723) and its relatives behind one interface.

    method = ostl.Ostl()              # or Bptt(), TruncatedBptt(k), Eprop(), ...
    carry = ostl.init(method, net, params, batch_size)        # neuron state, traces
    grad_fn = ostl.value_and_grad(method, net, loss)          # loss(y [B, m], target) -> number
    (value, carry), grads = grad_fn(params, carry, xs, targets)      # xs [T, B, n]

`net` is any cell or `cells.Stack`; `loss` is the loss of one time step, and `value` is its sum
over the T steps (a mask or a weight of the step goes into `targets`, a pytree of [T, ...]). Given
the carry of the previous chunk, `grad_fn` goes on where it stopped. The gradients of one call
accumulated and applied once are the deferred mode; to learn while the sequence runs,

    step_fn = ostl.update(method, net, loss, tx, every=1)     # tx an optax transformation
    params, opt_state, carry, value = step_fn(params, opt_state, carry, xs, targets)
"""

from snn.ostl.api import init as init
from snn.ostl.api import update as update
from snn.ostl.api import value_and_grad as value_and_grad
from snn.ostl.backprop import Bptt as Bptt
from snn.ostl.backprop import CheckpointedBptt as CheckpointedBptt
from snn.ostl.backprop import TruncatedBptt as TruncatedBptt
from snn.ostl.online import Eprop as Eprop
from snn.ostl.online import Ostl as Ostl
from snn.ostl.online import Ottt as Ottt
from snn.ostl.online import Rflo as Rflo
from snn.ostl.online import Snap1 as Snap1
from snn.ostl.uoro import Uoro as Uoro

__all__ = [
    "Bptt",
    "CheckpointedBptt",
    "Eprop",
    "Ostl",
    "Ottt",
    "Rflo",
    "Snap1",
    "TruncatedBptt",
    "Uoro",
    "init",
    "update",
    "value_and_grad",
]

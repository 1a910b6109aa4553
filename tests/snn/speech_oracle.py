# SPDX-License-Identifier: Apache-2.0
"""Small transducers with random parameters, and decoding in plain loops, for the speech tests."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from core import params as params_lib
from snn.speech.network import Transducer, TransducerConfig
from snn.tasks.networks import NetworkConfig


def small_net(cell="ssnu", *, inputs=5, labels=4, joint="multiplicative", hidden=(6, 5), **options):
    """A transducer whose parts differ in width, so that no transposition goes unseen."""
    units = {"recurrent": True, "train_decay": cell.endswith("snu"), "threshold": 0.3}
    cfg = TransducerConfig(
        encoder=NetworkConfig(cell=(cell,), hidden=hidden, **units),
        prediction=NetworkConfig(cell=(cell,), hidden=(4,), **units),
        label_size=3,
        joint=joint,
        joint_size=7,
        **options,
    )
    return Transducer(cfg, inputs, labels)


def random_params(net, seed=0, scale=1.0):
    """Every parameter random, so that none is without effect and labels are emitted."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda spec: jnp.asarray(rng.normal(size=spec.shape) * scale, jnp.float32),
        net.param_specs(),
        is_leaf=params_lib.is_spec,
    )


def greedy(net, params, e, max_symbols):
    """(labels, frames) of e [T, J], frame by frame, label by label."""
    state, p = net.start(params, 1)
    labels, frames = [], []
    for t in range(len(e)):
        for _ in range(max_symbols):
            best = int(net.logits(params, e[t], p[0]).argmax())
            if best == 0:
                break
            labels.append(best)
            frames.append(t)
            state, p = net.predict_step(params, state, jnp.array([best]))
    return labels, frames


def log_prob(net, params, e, labels):
    """log P(labels | e) by the forward recursion in plain Python."""
    state, p = net.start(params, 1)
    outputs = [p[0]]
    for label in labels:
        state, p = net.predict_step(params, state, jnp.array([label]))
        outputs.append(p[0])
    joint = net.joint(params, e[None], jnp.stack(outputs)[None])[0]
    scores = np.asarray(jax.nn.log_softmax(joint), np.float64)
    alpha = np.full((len(e), len(labels) + 1), -np.inf)
    alpha[0, 0] = 0.0
    for t, u in itertools.product(range(len(e)), range(len(labels) + 1)):
        if t:
            alpha[t, u] = np.logaddexp(alpha[t, u], alpha[t - 1, u] + scores[t - 1, u, 0])
        if u:
            step = alpha[t, u - 1] + scores[t, u - 1, labels[u - 1]]
            alpha[t, u] = np.logaddexp(alpha[t, u], step)
    return alpha[-1, -1] + scores[-1, -1, 0]

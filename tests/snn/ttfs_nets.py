# SPDX-License-Identifier: Apache-2.0
"""Small ReLU networks with random parameters that the TTFS tests share."""

import numpy as np

from core import params as params_lib
from snn.ttfs import relu as R

# Name -> (layers, input shape). Between them: every layer, padding, stride, dilation and group.
NETS = {
    "mlp": (R.mlp((24, 16, 12), 10), (6, 6, 1)),
    "conv_bn_pool": (
        (
            R.Conv(4, (3, 3)),
            R.Relu(),
            R.BatchNorm(),
            R.MaxPool(),
            R.Conv(6, (3, 3), padding=((2, 0), (1, 1)), strides=(1, 2)),
            R.BatchNorm(),
            R.Relu(),
            R.MaxPool((2, 2), (1, 1)),
            R.Flatten(),
            R.Dense(12),
            R.Relu(),
            R.BatchNorm(),
            R.Dropout(),
            R.Dense(10),
        ),
        (7, 8, 3),
    ),
    "pool_before_relu": (
        (
            R.Conv(4, (3, 3)),
            R.MaxPool((3, 3), (2, 2), "SAME"),
            R.BatchNorm(),
            R.Relu(),
            R.AvgPool(),
            R.Conv(4, (2, 2), padding=((1, 0), (1, 0)), groups=2),
            R.Relu(),
            R.AvgPool((2, 2)),
            R.Flatten(),
            R.Dense(10),
        ),
        (9, 8, 2),
    ),
    "residual": (
        (
            R.Conv(4, (3, 3)),
            R.BatchNorm(),
            R.Relu(),
            R.Residual(
                (R.Conv(4, (3, 3)), R.BatchNorm(), R.Relu(), R.Conv(4, (3, 3), dilation=(2, 2)))
            ),
            R.Relu(),
            R.Residual(
                (R.Conv(6, (3, 3), strides=(2, 2)), R.Relu(), R.Conv(6, (3, 3))),
                (R.Conv(6, (1, 1), strides=(2, 2)), R.BatchNorm()),
            ),
            R.Relu(),
            R.BatchNorm(),
            R.AvgPool((3, 3)),
            R.Flatten(),
            R.Dense(10),
        ),
        (6, 6, 2),
    ),
    "vgg": (R.vgg(((4, 4), (6, 6)), (8,), 10, "after"), (8, 8, 3)),
}


def random_params(layers, shape, seed=0):
    """He-like weights and batch norms with random signs, float64."""
    rng = np.random.default_rng(seed)

    def draw(path, spec):
        name = path.split("/")[-1]
        if name == "weight":
            return rng.normal(size=spec.shape) * np.sqrt(2 / np.prod(spec.shape[:-1]))
        if name == "var":
            return rng.uniform(0.3, 2.0, size=spec.shape)
        return rng.normal(size=spec.shape) * (1.0 if name == "scale" else 0.3)

    return params_lib.map_with_path(draw, R.param_specs(layers, shape))


def raw_input(shape, rows=3, seed=1):
    """Inputs in [-3, 3]."""
    return np.random.default_rng(seed).uniform(-3, 3, size=(rows, *shape))

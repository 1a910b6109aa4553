# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Learning without going back: OSTL against BPTT
#
# Back-propagation through time (BPTT) stores everything a recurrent network did and then walks back
# through it. **Online spatio-temporal learning** (OSTL, Bohnstingl et al., arXiv 2007.12723) walks
# forward only: each layer carries how its parameters have moved its state, and each step's error is
# used at once. In this notebook you
#
# 1. meet the spiking neural unit, and see it integrate, fire and reset;
# 2. compute one gradient by BPTT and by OSTL, and find the **same numbers**;
# 3. see which shortcuts (e-prop, RFLO, SnAp ...) leave out how much;
# 4. measure the memory of both as sequences grow;
# 5. train on chorales with both, and learn *while* a piece is being read.
#
# 10 to 15 minutes of reading; about two minutes of computing on a CPU. More: docs/ostl.md.

# %%
# Install, on Colab: Runtime > Change runtime type > TPU (a GPU or a CPU will do as well).
import importlib.util
import os
import subprocess
import sys

REPOSITORY = ""  # @param {type: "string"} address of the git repository, https://...
if importlib.util.find_spec("rwkvjax") is None:
    if not REPOSITORY and not os.path.exists("../pyproject.toml"):
        raise SystemExit("Put the address of the git repository into REPOSITORY and run again.")
    more = ["jax[tpu]"] if importlib.util.find_spec("libtpu") else []
    source = f"rwkvjax[plots] @ git+{REPOSITORY}" if REPOSITORY else "..[plots]"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source, *more], check=True)

import jax

print(f"jax {jax.__version__} on {jax.device_count()} x {jax.devices()[0].device_kind}")
if jax.default_backend() == "cpu":
    print("No accelerator: everything here runs, more slowly.")

# %%
SETTINGS = {
    "units": 100,
    "steps": 300,
    "window": 32,
    "batch": 8,
    "lengths": (50, 100, 200, 400, 800),
    "compare": 40,
}
if os.environ.get("RWKVJAX_TINY") == "1":  # what the tests run
    SETTINGS |= {"units": 6, "steps": 3, "window": 6, "batch": 2, "lengths": (8, 16), "compare": 6}

# %% [markdown]
# ## 1. The unit
#
# A *spiking neural unit* (SNU, arXiv 1812.07040) is a leaky integrate-and-fire neuron written as a
# cell of a recurrent network,
#
# $$
# s_t = g\big(W x_t + H y_{t-1} + d\, s_{t-1} \odot (1 - y_{t-1})\big), \qquad
# y_t = h(s_t + b),
# $$
#
# where $d$ is the decay of the membrane, $(1 - y_{t-1})$ resets it after a spike, and $-b$ is the
# threshold. With a step function $h$ it spikes; with a sigmoid it is the *soft* SNU (sSNU).
#
# Every cell in `snn.cells` has the same contract: `param_specs()`, `init_state(batch)` and a pure
# `step(params, state, x) -> (state, y)`.

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from core import params as params_lib
from snn import cells, ostl

# TPUs round the factors of products to bfloat16 unless told otherwise; here numbers are compared.
jax.config.update("jax_default_matmul_precision", "highest")

current = np.full((60, 1, 1), 0.35, np.float32)
current[30:45] = 0.0
figure, axes = plt.subplots(2, 1, figsize=(7, 4), sharex=True, layout="constrained")
for axis, fire in zip(axes, ("step", "sigmoid"), strict=True):
    cell = cells.Snu(1, 1, fire=fire, decay=0.9)
    weights = {**params_lib.init(cell.param_specs(), jax.random.key(0)), "w": jnp.ones((1, 1))}
    state, membrane, output = cell.init_state(1), [], []
    for x in current:
        state, y = cell.step(weights, state, jnp.asarray(x))
        membrane.append(float(state["s"][0, 0]))
        output.append(float(y[0, 0]))
    axis.plot(membrane, label="membrane s")
    axis.step(range(60), output, where="mid", label="output y")
    axis.axhline(1.0, color="gray", linestyle=":", label="threshold")
    axis.set_title({"step": "SNU", "sigmoid": "sSNU"}[fire], loc="left")
    axis.legend(loc="upper right")
axes[-1].set_xlabel("step (no input from 30 to 45)")
plt.show()

# %% [markdown]
# ## 2. One gradient, two ways
#
# Let $E = \sum_t E_t$. For a layer with parameters $\theta$, split the derivative at the state:
#
# $$
# \frac{dE}{d\theta} = \sum_t \mathbf{L}_t\, \mathbf{e}_t, \qquad
# \mathbf{L}_t = \frac{\partial E_t}{\partial y_t}, \qquad
# \mathbf{e}_t = \frac{\partial y_t}{\partial s_t}\, \boldsymbol\epsilon_t + \frac{\partial
# y_t}{\partial \theta}, \qquad
# \boldsymbol\epsilon_t = \frac{d s_t}{d s_{t-1}}\, \boldsymbol\epsilon_{t-1} + \frac{\partial
# s_t}{\partial \theta}.
# $$
#
# The *eligibility trace* $\boldsymbol\epsilon$ runs forward with the network; the *learning signal*
# $\mathbf{L}$ comes down through the layers at each step. For one layer without recurrent weights
# $H$, $d s_t / d s_{t-1}$ is one number a unit, the traces have the size of the weights, and the
# result is **exact**: the same gradient as BPTT.
#
# Both are *methods* behind one interface: choose a method, ask for `value_and_grad`. The loss is
# that of one time step; time comes first in all arrays.

# %%
inputs, units, outputs = 12, 8, 5
steps, batch = SETTINGS["compare"], 4
keys = jax.random.split(jax.random.key(1), 3)
xs = jax.random.normal(keys[0], (steps, batch, inputs))
targets = jax.random.normal(keys[1], (steps, batch, outputs))


def squared(y, target):
    """The loss of one step: y, target [batch, outputs] -> a number."""
    return jnp.square(y - target).sum()


def gradient(method, net, params):
    """The gradient of the whole sequence, by any method."""
    carry = ostl.init(method, net, params, batch)
    (_, _), grads = ostl.value_and_grad(method, net, squared)(params, carry, xs, targets)
    return grads


forward = cells.Stack((cells.Snu(inputs, units, fire="sigmoid"), cells.Dense(units, outputs)))
params = params_lib.init(forward.param_specs(), keys[2])
exact = gradient(ostl.Bptt(), forward, params)
online = gradient(ostl.Ostl(), forward, params)
for (path, a), (_, b) in zip(params_lib.flatten(exact), params_lib.flatten(online), strict=True):
    print(f"{path:18} largest difference {float(jnp.abs(a - b).max() / jnp.abs(a).max()):.1e}")

# %% [markdown]
# Differences of $10^{-7}$ are the rounding of float32; in float64 the tests see $10^{-16}$.
#
# ## 3. Shortcuts
#
# With recurrent weights $H$ a trace must follow how unit $i$ moved unit $j$: exact OSTL then
# carries $2 n^2 (m + n)$ numbers. The literature is full of ways to carry fewer. All are here as
# methods; the picture is their error against BPTT on a recurrent layer.

# %%
recurrent = cells.Stack(
    (cells.Snu(inputs, units, fire="sigmoid", recurrent=True), cells.Dense(units, outputs))
)
params = params_lib.init(recurrent.param_specs(), keys[2])
exact = gradient(ostl.Bptt(), recurrent, params)["layer_0"]
methods = {
    "OSTL": ostl.Ostl(),
    "OSTL without H": ostl.Ostl(recurrent="without_h"),
    "SnAp-1": ostl.Snap1(),
    "e-prop": ostl.Eprop(),
    "RFLO": ostl.Rflo(feedback="symmetric"),
    "OTTT": ostl.Ottt(),
}
errors = {}
for name, method in methods.items():
    found = gradient(method, recurrent, params)["layer_0"]
    difference = sum(float(jnp.square(exact[k] - found[k]).sum()) for k in exact)
    errors[name] = (difference / sum(float(jnp.square(v).sum()) for v in exact.values())) ** 0.5

figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
axes.barh(list(errors), [max(e, 1e-8) for e in errors.values()], log=True)
axes.invert_yaxis()
axes.set(xlabel="relative error of the layer's gradient", title="one recurrent layer")
plt.show()

# %% [markdown]
# A large error need not mean that a method does not learn, only that it follows another direction:
# an angle of less than 90 degrees is enough to go downhill.
#
# ## 4. Memory
#
# BPTT keeps every state of the sequence, so its memory grows with the length $T$. The traces of
# OSTL do not. We ask the compiler how much temporary memory each program needs; nothing is
# executed.

# %%
layer = cells.Stack((cells.Snu(64, 64, fire="sigmoid"), cells.Dense(64, 1)))
params = params_lib.init(layer.param_specs(), keys[2])
sizes = {}
for name, method in {"BPTT": ostl.Bptt(), "OSTL": ostl.Ostl()}.items():
    carry = ostl.init(method, layer, params, 4)
    function = jax.jit(ostl.value_and_grad(method, layer, squared))
    carried = sum(leaf.nbytes for leaf in jax.tree.leaves(carry))
    sizes[name] = []
    for length in SETTINGS["lengths"]:
        x = jax.ShapeDtypeStruct((length, 4, 64), jnp.float32)
        y = jax.ShapeDtypeStruct((length, 4, 1), jnp.float32)
        memory = function.lower(params, carry, x, y).compile().memory_analysis()
        sizes[name].append((memory.temp_size_in_bytes + carried) / 1e6)

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for name, values in sizes.items():
    axes.loglog(SETTINGS["lengths"], values, "o-", label=name)
axes.set(xlabel="length T of the sequence", ylabel="memory, MB", title="64 units, batch 4")
axes.legend()
plt.show()

# %% [markdown]
# Whether the lines cross, and where, depends on the sizes: BPTT needs $B\,T\,n$ numbers, OSTL
# $B\,n\,m$. Online learning pays off for long or endless sequences, and it can update *before the
# end*.
#
# ## 5. Chorales
#
# The task: from the notes so far predict those of the next quarter note, 88 keys as independent
# yes/no questions; the score is the negative log-likelihood of a step in nats. If the JSB chorales
# are not on this machine, **synthetic** four-part pieces take their place: random walks on a scale.

# %%
from snn.sequences import read_chorales


def synthetic_pieces(count, length, seed=0):
    """Four voices that walk on the C major scale; uint8 [length, 88] each."""
    rng = np.random.default_rng(seed)
    scale = [k for k in range(88) if (k + 9) % 12 in (0, 2, 4, 5, 7, 9, 11)]
    pieces = []
    for _ in range(count):
        at, piece = np.array([18, 22, 25, 29]), np.zeros((length, 88), np.uint8)
        for t in range(length):
            at = np.clip(at + rng.integers(-1, 2, 4), 0, len(scale) - 1)
            piece[t, [scale[i] for i in at]] = 1
        pieces.append(piece)
    return pieces


try:
    chorales, source = read_chorales()["train"], "JSB chorales"
except FileNotFoundError:
    chorales, source = synthetic_pieces(200, 60), "synthetic pieces"
window = SETTINGS["window"]
chorales = [piece for piece in chorales if len(piece) > window]
print(f"{source}: {len(chorales)} pieces, {sum(map(len, chorales))} steps")

figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
axes.imshow(chorales[0].T, aspect="auto", origin="lower", cmap="Greys", interpolation="nearest")
axes.set(xlabel="quarter note", ylabel="key", ylim=(20, 70), title=f"one of the {source}")
plt.show()

# %%
import optax


def draw(rng):
    """Windows of random pieces: inputs and next notes, [window, batch, 88] each."""
    rows = []
    for _ in range(SETTINGS["batch"]):
        piece = chorales[rng.integers(len(chorales))]
        first = rng.integers(len(piece) - window)
        rows.append(piece[first : first + window + 1])
    notes = np.stack(rows, axis=1).astype(np.float32)
    return jnp.asarray(notes[:-1]), jnp.asarray(notes[1:])


def bernoulli(logits, notes):
    """Nats of one step, summed over keys and rows."""
    return optax.sigmoid_binary_cross_entropy(logits, notes).sum()


def train(method, net, seed=0):
    """Nats a step of every update, and the parameters at the end."""
    params = params_lib.init(net.param_specs(), jax.random.key(seed))
    tx = optax.adam(3e-3)
    opt_state, rng, curve = tx.init(params), np.random.default_rng(seed), []

    @jax.jit
    def update(params, opt_state, xs, ys):
        carry = ostl.init(method, net, params, SETTINGS["batch"])
        (value, _), grads = ostl.value_and_grad(method, net, bernoulli)(params, carry, xs, ys)
        changes, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, changes), opt_state, value / xs[:, :, 0].size

    for _ in range(SETTINGS["steps"]):
        params, opt_state, value = update(params, opt_state, *draw(rng))
        curve.append(float(value))
    return curve, params


net = cells.Stack(
    (
        cells.Snu(88, SETTINGS["units"], fire="sigmoid", decay=0.8, membrane="leaky_relu"),
        cells.Dense(SETTINGS["units"], 88),
    )
)
curves = {}
for name, method in {"BPTT": ostl.Bptt(), "OSTL": ostl.Ostl()}.items():
    curves[name], params = train(method, net)

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.plot(curves["BPTT"], linewidth=4, alpha=0.4, label="BPTT")
axes.plot(curves["OSTL"], linewidth=1, label="OSTL")
axes.set(xlabel="update", ylabel="nats a step", title="the same network, trained by both")
axes.legend()
plt.show()
print("last update:", {name: round(curve[-1], 4) for name, curve in curves.items()})

# %% [markdown]
# The two curves lie on each other because the gradients do. (With Adam, rounding differences grow
# slowly; the network has one stateful layer without $H$, so nothing is approximated.)
#
# **Learning while reading.** `ostl.update` applies the gradient within the sequence, after every
# `every` steps. We let the trained network read one piece and adapt to it note by note; a copy with
# fixed weights reads along.

# %%
piece = np.asarray(max(chorales, key=len), np.float32)[:, None]
xs, ys = jnp.asarray(piece[:-1]), jnp.asarray(piece[1:])
tx = optax.sgd(3e-3)


def read(params, rate_on):
    """Nats of every step while reading; with `rate_on` the weights move after each."""
    method = ostl.Ostl()
    learn = jax.jit(ostl.update(method, net, bernoulli, tx if rate_on else optax.sgd(0.0), every=1))
    carry, opt_state, nats = ostl.init(method, net, params, 1), tx.init(params), []
    for t in range(len(xs)):
        params, opt_state, carry, value = learn(
            params, opt_state, carry, xs[t : t + 1], ys[t : t + 1]
        )
        nats.append(float(value))
    return np.array(nats)


fixed, learning = read(params, False), read(params, True)
average = lambda x: np.cumsum(x) / np.arange(1, len(x) + 1)
figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
axes.plot(average(fixed), label="weights fixed")
axes.plot(average(learning), label="weights move after every note")
axes.set(xlabel="quarter note", ylabel="nats a step so far", title="reading one piece")
axes.legend()
plt.show()

# %% [markdown]
# ## What to change next
#
# * **Two layers.** Add a second `Snu` to the stack: below the last stateful layer OSTL drops the
#   part of the gradient that travels through the past of the layer above. How does the error grow
#   with depth? `ostl.Ostl(deep="kept")` is exact again, at what price?
# * **Spikes.** Set `fire="step"`: the derivative of the step is replaced by a surrogate
#   (`snn.surrogates`).
# * **Other cells.** `cells.Lstm`, `cells.Lru` and `cells.Alif` work with the same methods; so do
#   blocks of RWKV (`snn.rwkv_cells`). For which of them is OSTL exact?
# * **Exercise.** Put `every=8` into the last part and divide the rate so that the reading goes
#   equally well. What happens with `ostl.TruncatedBptt(8)`?

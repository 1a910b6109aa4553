# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # When a spike comes is what it says: map and train time-to-first-spike networks
#
# In a *time-to-first-spike* (TTFS) network every neuron fires at most once, and the moment at which
# it fires is its value: early means large. In this notebook you
#
# 1. watch one neuron decide when to fire;
# 2. train an ordinary ReLU network and **map it without loss** to spikes;
# 3. ask for a certificate that the mapping is exact on your data, and see one fail;
# 4. train a spiking network directly, and make its spikes rare;
# 5. disturb it as imperfect hardware would.
#
# 10 to 15 minutes of reading; about two minutes of computing on a CPU. Sources: Stanojevic et al.,
# arXiv 2212.12522 and arXiv 2306.08744. All details: docs/ttfs.md.

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
    more += ["scikit-learn"]  # brings the digits
    source = f"rwkvjax[plots] @ git+{REPOSITORY}" if REPOSITORY else "..[plots]"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source, *more], check=True)

import jax

print(f"jax {jax.__version__} on {jax.device_count()} x {jax.devices()[0].device_kind}")
if jax.default_backend() == "cpu":
    print("No accelerator: everything here runs, more slowly.")

# %%
SETTINGS = {"hidden": (128, 64), "steps": 1500, "batch": 32, "test": 360, "weights": (0.0, 2e-3)}
if os.environ.get("RWKVJAX_TINY") == "1":  # what the tests run
    SETTINGS |= {"hidden": (16,), "steps": 5, "batch": 16, "test": 64, "weights": (2e-3,)}

# %% [markdown]
# ## 1. One neuron
#
# Layer $n$ has a time window $[t_{\min}, t_{\max}]$ of length $\Delta$ that begins where the window
# before it ends. A spike at time $t$ carries the **lead time**
#
# $$ x = t_{\max} - t , $$
#
# so a neuron that never fires has $x = 0$. Until $t_{\min}$ the potential of neuron $i$ is driven
# by the spikes that have arrived, each of which changes its *slope* by the weight $J_{ij}$; from
# $t_{\min}$ on it rises with slope 1 (the rule called B1), up to the threshold $\Delta - D_i$:
#
# $$ \dot V_i(t) = \sum_{j:\, t_j \le t} J_{ij} \quad (t < t_{\min}), \qquad
#    \dot V_i(t) = 1 \quad (t \ge t_{\min}). $$
#
# At $t_{\min}$ each spike has acted for as long as its lead time, so $V_i(t_{\min}) = \sum_j J_{ij}
# x_j$, and the rest of the way takes $\Delta - D_i -
# V_i(t_{\min})$. Hence the lead time of the neuron
#
# $$ x_i = \max\Big(0,\; D_i + \sum_j J_{ij} x_j\Big) : $$
#
# a ReLU, with the same weights and biases. Nothing is approximated.

# %%
import matplotlib.pyplot as plt
import numpy as np

from snn.ttfs import Network, closed_form, pictures
from snn.ttfs import network as net

# TPUs round the factors of products to bfloat16 unless told otherwise; here numbers are compared.
jax.config.update("jax_default_matmul_precision", "highest")

layer = net.Layer("neuron", (1,), (net.Edge("input", net.Dense(1)),))
readout = net.Layer("readout", (1,), (net.Edge("neuron", net.Dense(1)),), spiking=False)
one = Network((3,), (layer, readout))
weights = {
    "neuron": {"weight": np.array([[1.0], [-0.8], [0.6]], np.float32), "bias": np.array([0.1])},
    "readout": {"weight": np.ones((1, 1), np.float32), "bias": np.zeros(1)},
}
x = np.array([[0.9, 0.5, 0.3]], np.float32)  # three inputs: the first comes first

_, leads = closed_form(one, weights, x)
time, potential, threshold = pictures.potentials(one, weights, leads, {"neuron": 1.5}, layer)
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
axes.plot(time, potential[:, 0], label="potential")
axes.axhline(threshold[0], color="tab:red", linestyle="--", label="threshold")
for lead, weight in zip(x[0], (1.0, -0.8, 0.6), strict=True):
    axes.axvline(1 - lead, color="gray", linestyle=":")
    axes.text(1 - lead, 2.0, f"J = {weight} ", color="gray", rotation=90, ha="right", va="top")
spike = 1 + 1.5 - float(leads["neuron"][0, 0])
axes.plot([spike], threshold, "o", color="black", label=f"spike, lead time {2.5 - spike:.2f}")
axes.axvspan(0, 1, color="tab:blue", alpha=0.06)
axes.set(xlabel="time (input window = 1)", title="three inputs, one neuron")
axes.legend(loc="lower right")
plt.show()
print("ReLU says:", max(0.0, 0.1 + 0.9 * 1.0 - 0.5 * 0.8 + 0.3 * 0.6))

# %% [markdown]
# ## 2. Map a ReLU network
#
# The pictures are scikit-learn's 8 x 8 digits, so that nothing is downloaded (`"mnist"` and
# `"fashion_mnist"` work the same way where their files are at hand). `encode` turns a pixel into a
# lead time in $[0, 1]$: bright pixels spike first.

# %%
from snn.ttfs import images

data = images.load("digits")
train_x = images.encode(data.train.astype(np.float32), *data.coding)
test_x = images.encode(data.test[: SETTINGS["test"]].astype(np.float32), *data.coding)
train_y, test_y = data.train_labels, data.test_labels[: SETTINGS["test"]]
print(data.note, train_x.shape, "training,", test_x.shape, "test")

# %% [markdown]
# First an ordinary network with batch norm. `snn.ttfs.relu` describes it as a tuple of layers;
# networks from Flax, ONNX or safetensors can be imported into the same form.

# %%
import jax.numpy as jnp
import optax

from core import params as params_lib
from snn.ttfs import relu

layers = relu.mlp(SETTINGS["hidden"], 10, batch_norm="")
weights = params_lib.init(relu.param_specs(layers, (8, 8, 1)), jax.random.key(0))
optimizer = optax.adam(2e-3)


@jax.jit
def update(weights, opt_state, x, y):
    def loss(weights):
        logits = relu.apply(layers, weights, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    value, grads = jax.value_and_grad(loss)(weights)
    changes, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(weights, changes), opt_state, value


opt_state, rng = optimizer.init(weights), np.random.default_rng(0)
for _ in range(SETTINGS["steps"]):
    rows = rng.integers(0, len(train_x), SETTINGS["batch"])
    weights, opt_state, value = update(weights, opt_state, train_x[rows], train_y[rows])

relu_logits = relu.apply(layers, weights, jnp.asarray(test_x))
print(f"ReLU network: {(relu_logits.argmax(1) == test_y).mean():.1%} of the test images")

# %% [markdown]
# Now the mapping. It fuses what is linear (batch norm, input ranges, pooling by averages) into
# weights and biases, and chooses the windows from data. The logits of the spiking network, computed
# from spike times, equal those of the ReLU network up to rounding of floating-point numbers.

# %%
from snn.ttfs import map_relu, run

host = jax.tree.map(np.asarray, weights)
mapped = map_relu(layers, host, (8, 8, 1), [train_x], windows_from="certified")
spiking = run(mapped.network, mapped.params, test_x, mapped.windows, "ideal")

print("windows:", {name: round(value, 2) for name, value in mapped.windows.items()})
print("largest difference of logits:", float(jnp.abs(spiking.logits - relu_logits).max()))
assert (spiking.logits.argmax(1) == relu_logits.argmax(1)).all()

# %% [markdown]
# Here is one digit on its way through the network: every tick is a spike. Layers work one after the
# other, each in its window; many neurons stay silent, for free.

# %%
times = spiking.times(mapped.network, mapped.windows)
figure, axes = plt.subplots(
    len(times), 1, figsize=(7, 1.6 * len(times)), sharex=True, layout="constrained"
)
for axis, (name, t) in zip(np.atleast_1d(axes), times.items(), strict=True):
    moments = np.asarray(t[0]).ravel()
    fired = np.flatnonzero(np.isfinite(moments))
    axis.plot(moments[fired], fired, "|", color="black")
    axis.set_ylabel("neuron")
    axis.set_title(f"{name}: {fired.size} of {moments.size} spike", fontsize=9, loc="left")
axes[-1].set_xlabel("time (input window = 1)")
plt.show()

# %% [markdown]
# ## 3. When is it exact?
#
# The derivation assumed that no neuron reaches its threshold *before* $t_{\min}$, while inputs are
# still coming. The window must be long enough for that, and "longer than the largest activation" is
# **not** enough: inhibition may come late. With $J = (5, -10)$ and $x = (1, 0.5)$ the ReLU is
# silent ($5 - 5 = 0$), but the potential climbs to 2.5 before the inhibition arrives.
#
# `certify` computes the exact need of every layer on given inputs,
#
# $$ \Delta \;\ge\; \max_{s \in \{0, x_1, \dots, x_N\}} D + \sum_j J_j\, (x_j - s)_+ . $$

# %%
from snn.ttfs import certify

inhibited = Network(
    (2,),
    (
        net.Layer("neuron", (1,), (net.Edge("input", net.Dense(1)),)),
        net.Layer("readout", (1,), (net.Edge("neuron", net.Dense(1)),), spiking=False),
    ),
)
late = {
    "neuron": {"weight": np.array([[5.0], [-10.0]], np.float32), "bias": np.zeros(1)},
    "readout": {"weight": np.ones((1, 1), np.float32), "bias": np.zeros(1)},
}
x = np.array([[1.0, 0.5]], np.float32)
for window in (1.0, 3.0):
    (certificate,) = certify(inhibited, late, x, {"neuron": window})
    causal = run(inhibited, late, x, {"neuron": window}, "causal", "solver")
    lead = float(causal.leads["neuron"][0, 0])
    print(f"window {window}: exact is {certificate.holds}, needed {certificate.needed:.2f};")
    print(f"   true lead time {lead:.2f}, the ReLU says 0.00")

print("\nthe digits, on test images:")
for certificate in certify(mapped.network, mapped.params, test_x, mapped.windows):
    print(f"   {certificate.layer}: {certificate.window:.2f}, needed {certificate.needed:.2f}")

# %% [markdown]
# The second line of each pair comes from the *causal solver*, which sorts the arrivals and finds
# the true first crossing, in memory linear in the layer. It also knows leaky neurons and delays.
#
# ## 4. Train the spikes
#
# Since B1 has the gradient of a ReLU network, one can train spike times directly. The reward is
# control over the spikes themselves: adding $\lambda \sum_i x_i$ (the sum of the lead times) to the
# loss makes neurons silent, and silence costs no energy. `snn.train` does it from a configuration;
# here we build the same run by hand.

# %%
import pathlib
import tempfile

from ml_collections import ConfigDict

from snn.tasks import ttfs as task
from snn.tasks import ttfs_run
from snn.ttfs import accounting, from_data

folder = pathlib.Path(tempfile.mkdtemp())
results = {}
for weight in SETTINGS["weights"]:
    config = ConfigDict(
        {
            "task": "ttfs",
            "model": {"architecture": "mlp", "hidden": SETTINGS["hidden"], "rule": "b1"},
            "data": {"name": "digits", "validation": 200},
            "loss": {"activity": weight},
            "optimizer": {"learning_rate": 2e-3, "final_learning_rate": 1e-5},
            "train": {
                "steps": SETTINGS["steps"],
                "batch_size": SETTINGS["batch"],
                "log_every": max(1, SETTINGS["steps"] // 10),
            },
        }
    )
    cfg = task.build_config(config)
    trainer, _ = ttfs_run.make_trainer(cfg, folder / f"activity-{weight}", report=print)
    params, network = trainer.run().params, trainer.task.network
    windows = from_data(network, params, [train_x], 0.5)
    found = run(network, params, test_x, windows, "clip")
    cost = accounting.count(network, params, [jnp.asarray(test_x)], windows)
    accuracy = float((found.logits.argmax(1) == test_y).mean())
    results[weight] = (accuracy, cost, network, params, windows)
    print(f"activity {weight}: {accuracy:.1%}, {cost.spikes_per_neuron:.2f} spikes per neuron")

# %%
cost = accounting.count(mapped.network, mapped.params, [jnp.asarray(test_x)], mapped.windows)
mapped_accuracy = float((spiking.logits.argmax(1) == test_y).mean())
entries = {"mapped ReLU": (mapped_accuracy, cost)}
entries |= {f"trained, activity {w}": (a, c) for w, (a, c, *_) in results.items()}
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained", sharey=True)
left.barh(list(entries), [c.spikes_per_neuron for _, c in entries.values()])
left.set_xlabel("spikes per hidden neuron")
right.barh(list(entries), [100 * a for a, _ in entries.values()], color="tab:orange")
right.set(xlabel="test accuracy, %", xlim=(0, 100))
plt.show()
print(
    f"energy of a mapped inference: {cost.energy_nj:.1f} nJ, as ReLU {cost.relu_energy_nj:.1f} nJ"
)

# %% [markdown]
# (Energy is arithmetic only, at published costs of an addition and a multiply-accumulate in 45 nm.)
#
# ## 5. Imperfect hardware
#
# Real circuits jitter, lose spikes, and have clocks. `effects` runs the network with such faults;
# the same module can be switched on during training (`loss.effects` in the configuration), which
# mends most of the damage.

# %%
from snn.ttfs import effects

_, _, network, params, windows = results[SETTINGS["weights"][-1]]
levels = {
    "jitter": [0.0, 0.05, 0.1, 0.2, 0.4],
    "missing": [0.0, 0.05, 0.1, 0.2, 0.4],
    "threshold": [0.0, 0.05, 0.1, 0.2, 0.4],
}
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for name, values in levels.items():
    accuracies = []
    for value in values:
        how = effects.Effects(**{name: value})
        logits, _ = effects.run(
            network, params, jnp.asarray(test_x), windows, how, jax.random.key(0)
        )
        accuracies.append(100 * float((logits.argmax(1) == test_y).mean()))
    axes.plot(values, accuracies, "o-", label=name)
axes.set(xlabel="strength of the effect", ylabel="test accuracy, %", title="faults after training")
axes.legend()
plt.show()

# %% [markdown]
# ## What to change next
#
# * **Clocked times.** `effects.Effects(time_bits=2)` lets spikes fall on three moments of a window
#   only. How many bits does a time need? Train with `"loss": {"effects": {"time_bits": 1}}` and
#   compare.
# * **Latency.** `windows_from="quantile"` (or `from_data(..., mode="quantile")`) shortens the
#   windows until some spikes are clipped. How far can you go at one point of accuracy?
# * **Convolutions.** `relu.vgg(((16,), (32,)), (64,), 10, batch_norm="after")` maps as well: batch
#   norm after the ReLU turns max pooling into "the latest spike" for channels of negative sign.
#   Why?
# * **Leaky neurons.** Set `"rule": "autonomous", "kernel": "lif2"` and `"loss": {"semantics":
#   "causal"}`: no closed form any more, the gradient comes from the implicit function theorem.
# * **Exercise.** Find weights and inputs of three synapses whose need is three times the largest
#   activation, and check them with `certify`.

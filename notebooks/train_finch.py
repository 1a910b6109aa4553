# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Train a Finch and sample from it
#
# RWKV-6 "Finch" is a language model that reads a text token by token and keeps a memory of
# **fixed size**. In this notebook you
#
# 1. look at the recurrence at its heart, alone, with a picture;
# 2. train a small byte-level Finch from scratch on the source of Python's standard library;
# 3. draw text from it;
# 4. look inside: how long do its channels remember, and what does context buy?
#
# It takes 10 to 15 minutes to read. Training takes about three minutes on a CPU and less than a
# minute on a TPU or GPU. Source of the model: Peng et al., "Eagle and Finch" (arXiv 2404.05892).

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
SETTINGS = {"steps": 400, "dim": 128, "layers": 4, "context": 128, "batch": 16, "draw": 400}
SETTINGS["windows"] = 256  # held out, each of one context
if os.environ.get("RWKVJAX_TINY") == "1":  # what the tests run
    SETTINGS |= {"steps": 4, "dim": 32, "layers": 2, "context": 32, "batch": 4, "draw": 16}
    SETTINGS["windows"] = 32

# %% [markdown]
# ## 1. The recurrence
#
# A layer of Finch turns each token into four vectors for every head: a receptance $r_t$, a key
# $k_t$, a value $v_t$ and a decay $w_t \in (0, 1)$. The memory of a head is one matrix $S$. At
# every step it forgets a little, and the outer product of key and value is added:
#
# $$
# S_t = \mathrm{diag}(w_t)\, S_{t-1} + k_t^\top v_t, \qquad
# y_t = r_t \left(S_{t-1} + \mathrm{diag}(u)\, k_t^\top v_t\right).
# $$
#
# Read it as an associative memory: $k_t^\top v_t$ stores "under $k_t$, find $v_t$", and the
# receptance asks. Each row of $S$ belongs to one channel of the key and has a decay of its own,
# **chosen anew at each token** by the data: that is what Finch added to its predecessors, whose
# decays are learned but constant in time.
#
# `rwkvjax.wkv` has the bare recurrences as pure functions: sequence and state in, outputs and
# state out. Let us write one value at step 10 and keep asking for it.

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import rwkvjax
from rwkvjax import wkv

steps, decays = 100, (0.999, 0.97, 0.85)
heads = len(decays)  # one head for each decay, with a single key and value channel
ask = jnp.ones((1, steps, heads, 1))
write = jnp.zeros((1, steps, heads, 1)).at[:, 10].set(1.0)
log_w = jnp.broadcast_to(jnp.log(jnp.array(decays))[:, None], (1, steps, heads, 1))
bonus = jnp.ones((heads, 1))

answer, state = wkv.wkv6(ask, write, write, log_w, bonus, jnp.zeros((1, heads, 1, 1)))

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for head, w in enumerate(decays):
    half = np.log(0.5) / np.log(w)
    axes.plot(answer[0, :, head, 0], label=f"w = {w}: half is gone after {half:.0f} steps")
axes.set(xlabel="step", ylabel="answer", title="a value written at step 10")
axes.legend()
plt.show()

# %% [markdown]
# The state after step $t$ is all that the future needs to know about the past. So a sequence may be
# worked through in pieces, with the state handed over; the result is the same. This is why a
# recurrent model needs no cache that grows, and why the state can be stored, copied, differentiated
# through, or trained (the next notebook).
#
# The functions compute in *chunks*: within 16 or 64 steps everything is a product of matrices,
# which is what accelerators are good at; between chunks the state is carried. `impl="scan"` is the
# equation step by step. They agree at any decay:

# %%
keys = jax.random.split(jax.random.key(0), 4)
shape = (2, 96, 3, 8)  # [batch, time, heads, channels]
r, k, v = (jax.random.normal(key, shape) for key in keys[:3])
log_w = -jnp.exp(jax.random.normal(keys[3], shape) - 2)
bonus, empty = jnp.ones((3, 8)), jnp.zeros((2, 3, 8, 8))

slow, last = wkv.wkv6(r, k, v, log_w, bonus, empty, impl="scan")
fast, _ = wkv.wkv6(r, k, v, log_w, bonus, empty, impl="chunked")
first, middle = wkv.wkv6(r[:, :40], k[:, :40], v[:, :40], log_w[:, :40], bonus, empty)
second, end = wkv.wkv6(r[:, 40:], k[:, 40:], v[:, 40:], log_w[:, 40:], bonus, middle)

print("chunked against step by step:", float(jnp.abs(slow - fast).max()))
print("two pieces against one run:  ", float(jnp.abs(end - last).max()))
assert jnp.abs(slow - fast).max() < 1e-2 * jnp.abs(slow).max()

# %% [markdown]
# ## 2. Train a model
#
# Around the recurrence there is little else. A block is *time mixing* (the recurrence, with a norm
# for each head and a gate) followed by *channel mixing* (a two-layer network with squared ReLU).
# Both see the current and the previous token through a **token shift** that depends on the data,
#
# $$
# x^i_t = x_t + (x_{t-1} - x_t) \odot \left(\mu_i + \tanh(z_t A_i)\, B_i\right),
# \qquad i \in \{w, k, v, r, g\},
# $$
#
# and the decay comes from the shifted input,
# $w_t = \exp(-\exp(\mathrm{time\_decay} + \tanh(x^w_t C) E))$.
#
# A run is a configuration and a folder. `default_config()` holds every key; `build_config` checks
# it and refuses what it does not know; `make_trainer` opens the data and builds the optimiser. The
# data are on every machine: the source of Python's standard library, as bytes (vocabulary 256).

# %%
import pathlib
import tempfile

from rwkvjax import experiment

workdir = pathlib.Path(tempfile.mkdtemp()) / "finch"
config = experiment.default_config()
config.update(
    {
        "model": {
            "version": "6",
            "dim": SETTINGS["dim"],
            "layers": SETTINGS["layers"],
            "head_size": 32,
        },
        "data": {
            "train": ("stdlib:train",),
            "heldout": ("stdlib:heldout",),
            "tokenizer": "byte",
            "context": SETTINGS["context"],
            "heldout_tokens": SETTINGS["windows"] * SETTINGS["context"],
        },
        "optimizer": {
            "learning_rate": 3e-3,
            "final_learning_rate": 1e-4,
            "warmup_steps": min(20, SETTINGS["steps"] - 1),
            "weight_decay": 0.01,
        },
        "train": {
            "steps": SETTINGS["steps"],
            "batch_size": SETTINGS["batch"],
            "log_every": max(1, SETTINGS["steps"] // 20),
            "eval_every": max(1, SETTINGS["steps"] // 4),
        },
    }
)
run = experiment.build_config(config)
trainer = experiment.make_trainer(run, workdir, report=print)
trained = trainer.run()
params = trained.params

# %% [markdown]
# The loop wrote checkpoints and `metrics.jsonl` into the folder. Run the cell again and it finds
# its finished checkpoint; killed in the middle, it would go on where it stopped, bit for bit.
#
# A loss of $\ln 256 = 5.55$ nats is that of blind guessing. The held-out loss is given in **bits
# per byte**, $\mathcal{L} / \ln 2$, which can be compared between models with different tokenizers.

# %%
from core import metrics, plots

records = metrics.read_jsonl(workdir / "metrics.jsonl")
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
axes.plot(*plots.series(records, "loss"), label="training loss (nats per byte)")
axes.plot(*plots.series(records, "eval/loss"), "o-", label="held-out loss")
axes.axhline(np.log(256), color="gray", linestyle=":", label="guessing")
axes.set(xlabel="step", ylabel="nats per byte", title="a byte-level Finch on Python source")
axes.legend()
plt.show()
print("held-out bits per byte:", round(plots.series(records, "eval/bits_per_byte")[1][-1], 3))

# %% [markdown]
# ## 3. Draw text
#
# `prefill` reads the prompt, `step` continues it: one token in, logits and the new state out.
# `rwkvjax.sampling` does both, and draws with the usual settings. A *temperature* of 0 takes the
# likeliest byte; `top_p` keeps the smallest set of bytes whose probabilities add up to so much.

# %%
from rwkvjax.sampling import Sampling, generate
from rwkvjax.tokenizers import get_tokenizer

tokenizer = get_tokenizer("byte")
how = Sampling(temperature=0.8, top_p=0.95)
beginnings = ["def ", "class ", "import "]
drawn = generate(
    params,
    run.model,
    [tokenizer.encode(text) for text in beginnings],
    SETTINGS["draw"],
    how,
    seed=1,
)
for beginning, ids in zip(beginnings, drawn, strict=True):
    print("-" * 72)
    print(beginning + tokenizer.decode(ids))

# %% [markdown]
# Whatever the length of the text, the state has the same size. Compare with a transformer, which
# keeps a key and a value of every token and layer:

# %%
state = rwkvjax.init_state(run.model, batch_size=1)
state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
per_token = 2 * run.model.layers * run.model.dim * 4  # a key and a value, float32
print(f"state: {state_bytes:,} bytes, for a text of any length")
print(f"a transformer of these sizes: {per_token:,} bytes for each token")
print(f"they are even after {state_bytes / per_token:.0f} tokens")

# %% [markdown]
# ## 4. Look inside
#
# **How long does it remember?** Each channel has a base decay $w = e^{-e^{\mathrm{time\_decay}}}$,
# to which the data add. Its half-life $\ln 0.5 / \ln w$ says over how many bytes it averages. The
# official initialisation spreads them from one byte to hundreds; training moves them.

# %%
untrained = rwkvjax.init(jax.random.key(0), run.model)
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
for layer in range(run.model.layers):
    for which, style in ((untrained, ":"), (params, "-")):
        log_decay = -np.exp(np.asarray(which["blocks"]["att"]["time_decay"])[layer])
        half_life = np.sort(np.log(0.5) / log_decay)
        label = f"layer {layer + 1}" if style == "-" else None
        axes.semilogy(half_life, style, color=f"C{layer}", label=label)
axes.set(
    xlabel="channel, sorted", ylabel="half-life (bytes)", title="base decays; dotted: at start"
)
axes.legend()
plt.show()

# %% [markdown]
# **What does context buy?** `score` gives the log-probability of each token. Averaged over many
# windows, the loss at position $t$ says how well the model predicts with $t$ bytes of context. If
# the curve still falls at its end, the model uses everything it sees.

# %%
from rwkvjax.task import score

windows = np.stack(
    [
        w[: SETTINGS["context"] + 1]
        for w in trainer.task.eval_source.get(np.arange(SETTINGS["windows"] // 2))["tokens"]
    ]
)
nats = -np.asarray(score(params, run.model, jnp.asarray(windows)))  # [windows, positions]
bins = np.unique(np.geomspace(1, nats.shape[1], 12).astype(int))
means = [nats[:, a:b].mean() for a, b in zip([0, *bins[:-1]], bins, strict=True)]

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.semilogx(bins, means, "o-")
axes.set(xlabel="bytes of context", ylabel="nats per byte", title="loss against position")
plt.show()

# %% [markdown]
# ## What to change next
#
# * **Another version.** Set `"version"` to `"4"`, `"5.2"` (Eagle) or `"7"` (Goose) in the model
#   block. Nothing else changes. Which is best at this size, and does the order change with more
#   steps?
# * **Your own text.** `"train": ("folder/*.txt",)`; `"heldout_fraction": 0.05` holds out a part.
# * **A longer window.** Double `context`, halve `batch`: the cost of a step stays the same. Does
#   the last picture go on falling?
# * **Many devices.** On a TPU with eight cores the batch is already split over them. Add
#   `"sharding": "fsdp"` to the train block to split the parameters too (docs/scaling.md).
# * **Exercise.** Derive the half-life at which a memory of 128 bytes holds half of its first byte,
#   and set `time_decay` of one head to it before training (`make_trainer(..., init_params=...)`).
#   Where does training move it?
#
# Next: *load a released model, chat, and tune a state*.

# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Load a model, talk to it, and tune its state
#
# A recurrent language model begins every text from the same state: zeros. **State tuning** trains
# that state and nothing else. The weights stay as they are, bit for bit; what is learned fits into
# a small file and acts like a system prompt that costs no tokens. In this notebook you
#
# 1. load weights in a released format, and see what is in the file;
# 2. talk to the model, and branch a conversation by copying its state;
# 3. tune an initial state until the model answers in another style;
# 4. compare with a system prompt that was written by hand, and look at the state itself.
#
# 10 to 15 minutes of reading; about four minutes of computing on a CPU.

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
    source = f"rwkvjax[plots,hf] @ git+{REPOSITORY}" if REPOSITORY else "..[plots,hf]"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source, *more], check=True)

import jax

print(f"jax {jax.__version__} on {jax.device_count()} x {jax.devices()[0].device_kind}")
if jax.default_backend() == "cpu":
    print("No accelerator: everything here runs, more slowly.")

# %%
# A file of released weights: .pth, .safetensors, a Hugging Face folder, rwkv.cpp's .bin ...
FILE = ""  # @param {type: "string"} empty: a tiny model is trained here and written as .pth
SETTINGS = {"dim": 128, "layers": 3, "steps": 160, "batch": 16, "tune_steps": 120}
if os.environ.get("RWKVJAX_TINY") == "1":  # what the tests run
    SETTINGS |= {"dim": 32, "layers": 2, "steps": 3, "batch": 2, "tune_steps": 3}

# %% [markdown]
# ## 1. A model in a file
#
# If you gave a file above, it is loaded below. If not, we make one: a byte-level Finch is trained
# on **synthetic** conversations about capital cities. Some begin with a system message that asks
# for a style, and the answer follows it:
#
#     System: Talk like a pirate.
#
#     User: What is the capital of France?
#
#     Assistant: Arr, Paris!
#
# Conversations are JSON lines; only the words of the assistant are predicted in training.

# %%
import json
import pathlib
import tempfile

folder = pathlib.Path(tempfile.mkdtemp())
CAPITALS = dict(
    pair.split(":")
    for pair in (
        "France:Paris Italy:Rome Spain:Madrid Greece:Athens Norway:Oslo Poland:Warsaw"
        " Austria:Vienna Ireland:Dublin Egypt:Cairo Kenya:Nairobi Japan:Tokyo China:Beijing"
        " Cuba:Havana Peru:Lima Chile:Santiago Canada:Ottawa Russia:Moscow Ukraine:Kyiv"
        " Sweden:Stockholm Finland:Helsinki Hungary:Budapest Portugal:Lisbon Iraq:Baghdad"
        " Iran:Tehran"
    ).split()
)
STYLES = {
    "": "{}.",
    "Talk like a pirate.": "Arr, {}!",
    "Be polite.": "It is {}, my friend.",
}


def conversation(country: str, system: str, style: str) -> str:
    """One line of JSON; `style` says how the answer is worded, `system` what was asked for."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [
        {"role": "user", "content": f"What is the capital of {country}?"},
        {"role": "assistant", "content": STYLES[style].format(CAPITALS[country])},
    ]
    return json.dumps({"messages": messages})


def write(name: str, countries: list[str], pairs: list[tuple[str, str]]) -> str:
    """Writes conversations for every country and (system, style); returns the path."""
    lines = [conversation(c, system, style) for c in countries for system, style in pairs]
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


everything = write("talk.jsonl", list(CAPITALS), [(style, style) for style in STYLES])
print(pathlib.Path(everything).read_text().split("\n")[1])

# %%
from rwkvjax import experiment, weights

if not FILE:
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
                "train": (everything,),
                "format": "chat",
                "packing": "none",
                "tokenizer": "byte",
                "context": 112,
            },
            "optimizer": {"learning_rate": 3e-3, "final_learning_rate": 3e-4, "warmup_steps": 2},
            "train": {
                "steps": SETTINGS["steps"],
                "batch_size": SETTINGS["batch"],
                "log_every": max(1, SETTINGS["steps"] // 8),
            },
        }
    )
    run = experiment.build_config(config)
    trained = experiment.make_trainer(run, folder / "base", report=print).run()
    FILE = str(folder / "tiny-finch.pth")
    weights.save(FILE, run.model, trained.params, format="pth")

# %% [markdown]
# A `.pth` file of PyTorch is a zip with a *pickle* inside, and a pickle can run any program when
# it is opened the usual way. Here nothing in a file is executed: a small interpreter knows
# numbers, strings and tensors, and everything else is an error. Version and sizes are read off the
# names and shapes.

# %%
import rwkvjax

opened = weights.open_weights(FILE)  # reads the header only
print(f"{opened.format}, {len(opened.tensors)} tensors, the first of block 0:")
for name in [n for n in opened.tensors if n.startswith("blocks.0.att")][:6]:
    print(f"   {name:32} {opened.tensors[name].shape}")

config, params = rwkvjax.load(FILE)
params = jax.tree.map(jax.numpy.asarray, params)
print(
    f"\nRWKV-{config.version}: {config.layers} layers, width {config.dim}, {config.vocab_size} ids"
)

# %% [markdown]
# ## 2. Talk
#
# `prompts.conversation` writes messages as the World models expect them: an empty line ends a
# message, and the model is asked by an open `Assistant:`. Many prompts, of different length, are
# answered as one batch; each row draws from its own prompt and seed alone.

# %%
from rwkvjax import model_flags, prompts
from rwkvjax.sampling import Sampling, generate

tokenizer = model_flags.tokenizer_for(config, {})
ends = {int(tokenizer.encode(text)[0]) for text in ("\n", "\n\n")}


ROWS = len(CAPITALS) // 2  # one batch size for all calls: every shape is compiled once


def answers(conversations, state=None, temperature=0.0, seed=0):
    """Answers to lists of (role, text) messages, from an initial state (zeros if None)."""
    asked = [tokenizer.encode(prompts.conversation(messages)) for messages in conversations]
    asked += [asked[-1]] * (ROWS - len(asked))
    how = Sampling(temperature=temperature, top_p=0.95, stop=tuple(ends))
    drawn = generate(params, config, asked, 32, how, seed, state=state)[: len(conversations)]
    texts = ([int(t) for t in row if t >= 0] for row in drawn)
    return [tokenizer.decode_bytes(ids).decode(errors="replace").strip() for ids in texts]


def ask(country, system=""):
    """The messages of one question."""
    start = [("system", system)] if system else []
    return [*start, ("user", f"What is the capital of {country}?")]


asked = [ask(country, system) for system in STYLES for country in ("France", "Peru")]
for messages, answer in zip(asked, answers(asked), strict=True):
    print(f"{' | '.join(text for _, text in messages):52} -> {answer}")

# %% [markdown]
# The state after a prompt is the whole memory of the conversation. Keep it and you can go on from
# there as often as you like, without reading the conversation again: several answers to one
# question, another question after the same beginning, a conversation put away and taken up
# tomorrow. Its size does not depend on how much was said. (`chat_session.Session` keeps such a
# tree of messages; `python -m rwkvjax.chat` and the server keep the states of its nodes.)

# %%
from rwkvjax.chat_session import Session

session = Session("Talk like a pirate.")
session.ask("What is the capital of Italy?")
session.answer(answers([session.messages()])[0])
session.retry()  # another branch beside the first answer
session.answer(answers([session.messages()], temperature=1.5, seed=1)[0])
session.undo()
session.ask("What is the capital of Japan?")
session.answer(answers([session.messages()])[0])
print(session.tree())
state = rwkvjax.init_state(config, batch_size=1)
print("\na state:", sum(leaf.nbytes for leaf in jax.tree.leaves(state)), "bytes")

# %% [markdown]
# ## 3. Tune a state
#
# Write $F_\theta(\mathrm{tokens}, S_0)$ for the model with weights $\theta$ and initial state
# $S_0$. Training usually looks for
#
# $$ \min_\theta\; \mathcal{L}\big(F_\theta(\mathrm{tokens}, 0)\big), \qquad
# \text{state tuning for} \qquad
# \min_{S_0}\; \mathcal{L}\big(F_\theta(\mathrm{tokens}, S_0)\big). $$
#
# $S_0$ has one matrix $N \times N$ for each head and layer. It costs nothing at inference: the
# model starts from it instead of zeros. The gradient goes through the whole recurrence, which JAX
# differentiates like any function.
#
# We tune on **half of the countries**, pirate answers, *without* a system message. If the state
# learns "talk like a pirate" rather than a list of answers, the other half will follow.

# %%
half = len(CAPITALS) // 2
seen, unseen = list(CAPITALS)[:half], list(CAPITALS)[half:]
PIRATE = "Talk like a pirate."
tune = experiment.default_config()
tune.update(
    {
        "finetune": {"method": "state", "base": FILE},
        "data": {
            "train": (write("seen.jsonl", seen, [("", PIRATE)]),),
            "heldout": (write("unseen.jsonl", unseen, [("", PIRATE)]),),
            "format": "chat",
            "packing": "none",
            "tokenizer": {256: "byte", 65536: "world"}[config.vocab_size],
            "context": 112,
        },
        "optimizer": {"learning_rate": 0.3, "final_learning_rate": 0.01, "warmup_steps": 2},
        "train": {
            "steps": SETTINGS["tune_steps"],
            "batch_size": min(12, SETTINGS["batch"]),
            "log_every": max(1, SETTINGS["tune_steps"] // 12),
            "eval_every": max(1, SETTINGS["tune_steps"] // 6),
        },
    }
)
tune_run = experiment.build_config(tune)
tuner = experiment.make_trainer(tune_run, folder / "state", report=print)
tuned = tuner.run()
adapter = tuner.task.adapter(tuned.params)
print(f"\nthe adapter: {adapter.kind}, {adapter.nbytes:,} bytes")

# %% [markdown]
# The adapter can be saved as `.safetensors` or as the official `.pth` (`finetune.save_adapter`),
# and the server offers every file of a folder as a model of its own, `base@adapter`.

# %%
import matplotlib.pyplot as plt

from core import metrics, plots

records = metrics.read_jsonl(folder / "state" / "metrics.jsonl")
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.plot(*plots.series(records, "loss"), label="tuned countries")
axes.plot(*plots.series(records, "eval/loss"), "o-", label="other countries")
axes.set(
    xlabel="step", ylabel="nats per byte of the answer", title="only the initial state is trained"
)
axes.legend()
plt.show()

# %% [markdown]
# ## 4. What was learned?
#
# Three ways to ask the countries that were *not* tuned on: as the model is, with the system message
# written by hand, and from the tuned state without a word about pirates. Two things are counted:
# is the answer in style ("Arr, ...!"), and does it name the right city? The style must come from
# the state, the city from the weights.

# %%
ways = {
    "as it is": answers([ask(country) for country in unseen]),
    "system message": answers([ask(country, PIRATE) for country in unseen]),
    "tuned state": answers(
        [ask(country) for country in unseen], state=adapter.initial_state(config, len(unseen))
    ),
}
in_style = [sum(t.startswith("Arr,") for t in texts) / len(unseen) for texts in ways.values()]
right = [
    sum(CAPITALS[c] in text for c, text in zip(unseen, texts, strict=True)) / len(unseen)
    for texts in ways.values()
]
figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
at = range(len(ways))
axes.bar([i - 0.2 for i in at], in_style, 0.4, label="in style")
axes.bar([i + 0.2 for i in at], right, 0.4, label="right city")
axes.set(xticks=at, xticklabels=list(ways), ylim=(0, 1.05), title="countries the state never saw")
figure.legend(loc="outside right upper")
plt.show()
for way, texts in ways.items():
    print(f"{way:15}", dict(zip(unseen[:4], texts[:4], strict=True)))

# %% [markdown]
# And this is all that was learned: the matrices below, one for each layer (its heads side by side).

# %%
matrices = adapter.initial_state(config, 1).wkv[:, 0]  # [layers, heads, N, N]
figure, axes = plt.subplots(
    len(matrices), 1, figsize=(7, 1.9 * len(matrices)), layout="constrained"
)
for layer, (axis, heads) in enumerate(zip(list(axes), matrices, strict=True)):
    wide = jax.numpy.concatenate(list(heads), axis=1)
    limit = float(jax.numpy.abs(wide).max()) or 1.0
    picture = axis.imshow(wide, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    axis.set(ylabel=f"layer {layer + 1}", xticks=[], yticks=[])
    figure.colorbar(picture, ax=axis)
figure.suptitle("the tuned state: rows keys, columns values, heads side by side")
plt.show()

# %% [markdown]
# ## What to change next
#
# * **A released model.** Download `RWKV-x060-World-1B6-v2.1` (or version 7) and give its path as
#   `FILE`; ask it real questions. The rest of the notebook runs unchanged, with a GPU or TPU at
#   hand.
# * **Compose styles.** Tune a second state for "Be polite." What do the sum and the mean of both
#   states do?
# * **Where does it sit?** Zero the tuned matrices of all layers but one. Which layer carries the
#   style?
# * **How long does it last?** Put a long question before the answer. A state that is not refreshed
#   decays: compare with the half-lives of *Train a Finch*.
# * **LoRA instead.** `"finetune": {"method": "lora", "rank": 4, "base": FILE}` changes the weights
#   by low-rank products; `adapter.apply(config, params)` gives the changed model. Compare file
#   sizes and the two bars on unseen countries.

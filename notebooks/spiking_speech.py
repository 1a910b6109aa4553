# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Speech recognition with spiking units
#
# A speech recogniser that works while you speak must decide, at every moment, whether to write down
# something or to listen on. The **RNN transducer** does exactly that, and its networks may be made
# of any recurrent cell: LSTMs, or neurons that spike and modulate each other. In this notebook you
#
# 1. turn sound into features, and see them;
# 2. understand the transducer's loss by looking at its lattice of paths;
# 3. meet units with a second kind of synapse, and count what they cost;
# 4. train a small recogniser, and read what it writes;
# 5. let it listen to a stream.
#
# 10 to 15 minutes of reading; about four minutes of computing on a CPU. Source: Bohnstingl et al.,
# "Towards efficient end-to-end speech recognition with biologically-inspired neural networks"
# (arXiv 2110.02743). More, with results on real corpora: docs/speech.md.

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
    source = f"rwkvjax[plots,speech] @ git+{REPOSITORY}" if REPOSITORY else "..[plots,speech]"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source, *more], check=True)

import jax

print(f"jax {jax.__version__} on {jax.device_count()} x {jax.devices()[0].device_kind}")
if jax.default_backend() == "cpu":
    print("No accelerator: everything here runs, more slowly.")

# %%
# "synthetic" words are made below; "fsdd" are spoken digits, if the data set is on this machine.
CORPUS = "synthetic"  # @param ["synthetic", "fsdd"]
CELL = "output_ssnu"  # @param ["output_ssnu", "threshold_ssnu", "ssnu", "lstm"]
SETTINGS = {"train": 400, "valid": 40, "units": 48, "steps": 200, "batch": 16, "layers": 2}
if os.environ.get("RWKVJAX_TINY") == "1":  # what the tests run
    SETTINGS |= {"train": 8, "valid": 4, "units": 8, "steps": 2, "batch": 4, "layers": 1}

# %% [markdown]
# ## 1. From sound to features
#
# The words of our **synthetic language** are two syllables each; a syllable is a pair of tones,
# like the formants of a vowel, over noise. Utterances are one to three words with pauses. (This is
# no speech, but it has what makes recognition hard: unknown lengths, unknown times, noise.) A
# corpus is a *manifest*: one JSON object a line with the sound file and what is said in it. Yours
# goes in the same way.

# %%
import pathlib
import tempfile

import matplotlib.pyplot as plt
import numpy as np

from snn.speech import corpora, features, manifest

RATE = 8000
SYLLABLES = {
    "ba": (700, 1200),
    "di": (300, 2300),
    "gu": (350, 800),
    "ne": (500, 1900),
    "so": (450, 1000),
}
WORDS = {"badi": ("ba", "di"), "guso": ("gu", "so"), "nedi": ("ne", "di"), "soba": ("so", "ba")}
folder = pathlib.Path(tempfile.mkdtemp())


def tone(rng, low, high, seconds=0.16):
    """A syllable: two tones that rise and fall, at a pitch of its own."""
    t = np.arange(int(seconds * RATE)) / RATE
    shift = rng.uniform(0.93, 1.07)
    envelope = np.sin(np.pi * t / seconds) ** 0.5
    return envelope * (
        np.sin(2 * np.pi * low * shift * t) + 0.6 * np.sin(2 * np.pi * high * shift * t)
    )


def utterance(rng):
    """(samples, words with their times) of one to three random words."""
    pieces, words, now = [np.zeros(int(0.1 * RATE))], [], 0.1
    for word in rng.choice(list(WORDS), rng.integers(1, 4)):
        spoken = np.concatenate([tone(rng, *SYLLABLES[s]) for s in WORDS[word]])
        pause = np.zeros(int(rng.uniform(0.05, 0.2) * RATE))
        words.append([str(word), round(now, 3), round(now + len(spoken) / RATE, 3)])
        pieces += [spoken, pause]
        now += (len(spoken) + len(pause)) / RATE
    sound = np.concatenate(pieces)
    return 4000 * (sound + 0.05 * rng.normal(size=len(sound))), words


def write_part(name, count, seed):
    """Writes sound files and their manifest; returns its path."""
    rng, rows = np.random.default_rng(seed), []
    (folder / name).mkdir()
    for number in range(count):
        samples, words = utterance(rng)
        file = f"{name}/{number:04d}.wav"
        corpora.write_wave(folder / file, samples, RATE)
        text = " ".join(word for word, _, _ in words)
        rows.append({"audio": file, "text": text, "duration": len(samples) / RATE, "words": words})
    manifest.write(folder / f"{name}.jsonl", rows)
    return str(folder / f"{name}.jsonl")


paths = {part: write_part(part, SETTINGS[part], i) for i, part in enumerate(("train", "valid"))}
print(pathlib.Path(paths["valid"]).read_text().split("\n")[0])

# %% [markdown]
# The front end is Kaldi's: windows of 25 ms every 10 ms, their power spectrum, 40 triangular bands
# on the mel scale, and the logarithm. Four frames side by side make one step of 40 ms, so that the
# network runs 25 times a second. Each frame is divided by what was heard *up to it* (a running
# normalisation): nothing looks into the future, so a stream gives the same numbers as the whole
# file.

# %%
import jax.numpy as jnp

front_end = features.FeatureConfig(
    rate=RATE, bands=40, prior_mean=14.0, prior_frames=10, stack=4, skip=4
)
samples, spoken = utterance(np.random.default_rng(7))
audio, length = jnp.asarray(samples, jnp.float32)[None], jnp.asarray([len(samples)])
bands, frames = features.base_features(front_end, audio, length)
x, steps = features.features(front_end, audio, length)

figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 4), layout="constrained", sharex=True)
top.plot(np.arange(len(samples)) / RATE, samples, linewidth=0.4)
for word, start, end in spoken:
    top.axvspan(start, end, color="tab:orange", alpha=0.2)
    top.text(start, 7000, word)
top.set(ylabel="sample", title="an utterance")
seconds = float(frames[0]) * 0.01
bottom.imshow(
    bands[0, : int(frames[0])].T, aspect="auto", origin="lower", extent=(0, seconds, 0, 40)
)
bottom.set(xlabel="seconds", ylabel="mel band")
plt.show()
print(f"{len(samples)} samples -> {int(frames[0])} frames -> {int(steps[0])} steps of {x.shape[2]}")

# %% [markdown]
# ## 2. The transducer
#
# Three networks work together. The *encoder* reads the sound ($e_t$), the *prediction network*
# reads what was written so far ($p_u$), and the *joint* turns a pair into probabilities of the
# next label, where one label is the **blank**: "nothing more at this frame, go on listening".
#
# A path through the lattice of (frame $t$, labels written $u$) goes right with a blank and up with
# a label. The probability of a text is the sum over **all** paths that write it,
#
# $$
# \alpha(t, u) = \alpha(t-1, u)\, P(\varnothing \mid t-1, u) + \alpha(t, u-1)\, P(y_u \mid t, u-1),
# \qquad \mathcal{L} = -\ln \alpha(T, U)\, P(\varnothing \mid T, U),
# $$
#
# so nobody has to say *when* a word was spoken. The derivative of $\ln P$ with respect to the log
# probability of an arc is the posterior probability that a path uses this arc. Let us draw it for
# a toy example: three labels, of which each is likely around a frame of its own (a path takes a
# label soon after it has become likely).

# %%
from snn.speech import transducer

toy_frames, toy_labels = 20, 3
t = jnp.arange(toy_frames)[:, None]
centre = jnp.array([4.0, 10.0, 15.0])
label = jax.nn.log_sigmoid(3 - jnp.square((t - centre) / 1.5))  # [T, U]
blank = jnp.log1p(-jnp.exp(label))
blank = jnp.concatenate([blank, jnp.full((toy_frames, 1), -0.01)], axis=1)  # [T, U + 1]


def log_prob(blank, label):
    """Log probability of writing all three labels."""
    count = jnp.array([toy_frames]), jnp.array([toy_labels])
    return transducer.lattice_log_prob(blank[None], label[None], *count)[0]


taken, emitted = jax.grad(log_prob, argnums=(0, 1))(blank, label)
figure, axes = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained")
for axis, posterior, name in zip(axes, (taken, emitted), ("blank", "label"), strict=True):
    picture = axis.imshow(posterior.T, origin="lower", aspect="auto", cmap="viridis", vmin=0)
    axis.set(xlabel="frame t", ylabel="labels written u", title=f"a path takes this {name}")
    figure.colorbar(picture, ax=axis)
plt.show()
print("each label comes out once:", np.round(emitted.sum(axis=0), 3))
print("each frame takes one blank:", np.round(taken.sum(axis=1), 3)[:5], "...")

# %% [markdown]
# `transducer_loss` computes this from logits by scanning anti-diagonals of the lattice; its
# backward pass is written out. `framewise_loss` never holds the logits of all frames at once: with
# thousands of labels they would fill the memory.
#
# ## 3. Units with two kinds of synapses
#
# The usual synapse changes a neuron's membrane. In the brain there are others: *axo-somatic*
# contacts move the threshold, *axo-axonic* ones gate what leaves the axon. Here is the second kind
# on top of a soft spiking unit,
#
# $$
# s_t = W x_t + H z_{t-1} + d\, s_{t-1} \odot (1 - y_{t-1}), \qquad y_t = \sigma(s_t + b), \qquad
# z_t = y_t \odot \sigma(W_a x_t + H_a z_{t-1} + b_a) ,
# $$
#
# where $z$ is sent on. An LSTM has four matrices for each unit; this cell has two, the plain sSNU
# one. `accounting` counts multiplications, and for spikes only those that are not with 0 or 1:

# %%
from snn import cells
from snn.speech import accounting

units = 128
kinds = {
    "LSTM": cells.Lstm(units, units, recurrent=True),
    "GRU": cells.Gru(units, units, recurrent=True),
    "sSNU, output modulation": cells.OutputModulated(units, units, fire="sigmoid", recurrent=True),
    "SNU, output modulation": cells.OutputModulated(units, units, fire="step", recurrent=True),
    "sSNU": cells.Snu(units, units, fire="sigmoid", recurrent=True),
    "SNU": cells.Snu(units, units, fire="step", recurrent=True),
}
dense = [accounting.step_cost(cell)[0] for cell in kinds.values()]
events = [accounting.step_cost(cell, "binary", 0.1, 0.1)[1] for cell in kinds.values()]
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
rows = np.arange(len(kinds))
axes.barh(rows - 0.2, dense, 0.4, label="dense")
axes.barh(rows + 0.2, events, 0.4, label="event-driven, inputs spike (10 % active)")
axes.set(yticks=rows, yticklabels=list(kinds), xlabel="multiplications a step, 128 units")
axes.invert_yaxis()
axes.legend()
plt.show()

# %% [markdown]
# ## 4. Train
#
# The configuration below is that of `python -m snn.train` for speech, written out. `ctc` adds a
# second, simpler loss to the encoder, which speeds up the start. `gain` makes the first matrices
# of the soft units larger: their output has a slope of at most 1/4, and the second layer would
# hear next to nothing.

# %%
from ml_collections import ConfigDict

from snn.tasks import transducer_run

spiking = CELL.endswith("snu")
unit = {"cell": (CELL,), "recurrent": True, "train_decay": spiking, "threshold": 0.5}
if spiking:
    unit["decay_range"] = (0.3, 0.95)
settings = ConfigDict(
    {
        "task": "transducer",
        "data": {"train": paths["train"], "valid": paths["valid"], "tokens": "words", "buckets": 2},
        "features": {
            name: getattr(front_end, name)
            for name in ("rate", "bands", "prior_mean", "prior_frames", "stack", "skip")
        },
        "model": {
            "encoder": {**unit, "hidden": (SETTINGS["units"],) * SETTINGS["layers"]},
            "prediction": {**unit, "hidden": (16,)},
            "joint": "additive",
            "joint_size": 32,
            "ctc": True,
            "gain": 3.0 if CELL.endswith("ssnu") else 1.0,
        },
        "loss": {"ctc": 0.5},
        "optimizer": {"learning_rate": 8e-3, "final_learning_rate": 1e-4, "warmup_steps": 2},
        "train": {
            "steps": SETTINGS["steps"],
            "batch_size": SETTINGS["batch"],
            "log_every": max(1, SETTINGS["steps"] // 20),
            "eval_every": max(1, SETTINGS["steps"] // 5),
        },
    }
)
if CORPUS == "fsdd":
    settings.data = {"corpus": "fsdd", "options": {"longest": 2, "train": 1000, "test": 20}}
    settings.data.update({"tokens": "words", "buckets": 2})
cfg = transducer_run.build_config(settings)
trainer, corpus = transducer_run.make_trainer(cfg, folder / "run", report=print)
trained = trainer.run()

# %%
from core import metrics, plots

records = metrics.read_jsonl(folder / "run" / "metrics.jsonl")
figure, left = plt.subplots(figsize=(7, 3), layout="constrained")
left.plot(*plots.series(records, "nll"), label="loss (nats a label)")
left.set(xlabel="step", ylabel="nats a label")
right = left.twinx()
right.plot(*plots.series(records, "eval/label_errors"), "o-", color="tab:orange")
right.set(ylabel="label errors, held-out utterances", ylim=(0, None))
left.set_title(CELL)
plt.show()

# %% [markdown]
# What does it write? The score is the word error rate: substitutions, deletions and insertions
# over the number of words. New utterances, never heard:

# %%
from snn.speech import scoring
from snn.speech.recogniser import Recogniser, Stream

recogniser = Recogniser(trainer.task.net, trained.params, cfg.features, corpus.tokens)
rng, wanted, found = np.random.default_rng(123), [], []
for _ in range(SETTINGS["valid"] // 2):
    samples, spoken = utterance(rng)
    wanted.append(" ".join(word for word, _, _ in spoken))
    found.append(recogniser.transcribe(samples).text)
for pair in list(zip(wanted, found, strict=True))[:5]:
    print("{:20} -> {}".format(*pair))
print(scoring.score(wanted, found).summary())

# %% [markdown]
# `pictures.utterance` shows one of them on its way: the spectrogram, the activity of each layer,
# and the words when they were said and when they came out.

# %%
from snn.speech import pictures

item = manifest.read(paths["valid"])[0][0]
heard = corpora.audio.read(item.path, RATE)
pictures.utterance(recogniser, heard, item, folder / "utterance.png")
figure, axes = plt.subplots(figsize=(8, 7), layout="constrained")
axes.imshow(plt.imread(folder / "utterance.png"))
axes.axis("off")
plt.show()

# %% [markdown]
# ## 5. Listen to a stream
#
# The encoder reads in one direction and the normalisation looks back only, so the recogniser can
# work while sound arrives, with a state of fixed size. Pieces of any length give the labels of the
# whole.

# %%
stream, said = Stream(recogniser), []
for start in range(0, len(heard), RATE // 10):
    text = stream.feed(heard[start : start + RATE // 10]).text
    if not said or text != said[-1]:
        said.append(text)
        print(f"after {min(start + RATE // 10, len(heard)) / RATE:.1f} s: {text!r}")
whole = recogniser.transcribe(heard)
assert stream.finish().labels == whole.labels
print("reference:", item.text)

# %% [markdown]
# ## What to change next
#
# * **The cell.** Set `CELL = "lstm"`, then `"ssnu"`. Who learns fastest in steps? Compare with the
#   multiplications above: is the second kind of synapse worth its matrix?
# * **Binary spikes.** `"output_snu"` sends spikes that are gated; `"snu"` sends plain ones. What
#   does `accounting.account` say about the event-driven cost of the trained network?
# * **Real words.** With the Free Spoken Digit Dataset at hand set `CORPUS = "fsdd"`; the full
#   recipe, with an unseen speaker, is `configs/snn/asr_fsdd.py`.
# * **Emit earlier.** `"loss": {"fast_emit": 0.01}` rewards labels over blanks. How does the delay
#   in the last picture change, and the word error rate?
# * **Exercise.** Show that the posterior of the lattice sums to one over each anti-diagonal
#   $t + u = c$.

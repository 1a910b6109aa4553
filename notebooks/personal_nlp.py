# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Models that know who judges: personalised NLP
#
# Is this joke funny? Is that comment offensive? People disagree, and not at random: each has ways
# of their own. A model of "the" answer can only learn the majority. In this notebook you
#
# 1. meet a population in which half of the people invert every answer, and see which models can
#    learn it, and why;
# 2. look at real (or synthetic) annotations one person at a time;
# 3. train personalised classifiers, and read their gains with the right measure;
# 4. compare what a model learned about a person with what can be counted.
#
# 10 to 15 minutes of reading; about a minute of computing on a CPU. Sources: Kocon et al.,
# "Learning Personal Human Biases and Representations" (2021); arXiv 2402.09269. More:
# docs/personalization.md.

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
    source = f"rwkvjax[plots,nlp] @ git+{REPOSITORY}" if REPOSITORY else "..[plots,nlp]"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source, *more], check=True)

import jax

print(f"jax {jax.__version__} on {jax.device_count()} x {jax.devices()[0].device_kind}")
if jax.default_backend() == "cpu":
    print("No accelerator: everything here runs, more slowly.")

# %%
SETTINGS = {"texts": 1000, "epochs": 20, "models": None, "rows": 0}
if os.environ.get("RWKVJAX_TINY") == "1":  # what the tests run
    SETTINGS |= {"texts": 60, "epochs": 1, "models": ("baseline", "hubi_medium"), "rows": 400}

# %% [markdown]
# ## 1. A population that we know
#
# Let $t$ be the vector of a text and $u$ a person. The simplest models are **additive**:
#
# $$
# \underbrace{W t + b}_{\text{baseline}}, \qquad
# \underbrace{W t + b + B_u}_{\text{onehot}}, \qquad
# \underbrace{W\,[t;\, f_u] + b}_{\text{features of } u}, \qquad
# \underbrace{W_2\, \mathrm{softplus}(W_1 t + b_1) + b_2 + B_u}_{\text{HuBi-Simple}} .
# $$
#
# Each can shift a person's threshold, and nothing else: if text A is more "yes" than text B for one
# person, it is so for all. **HuBi-Medium** multiplies instead,
#
# $$
# W_2 \big( \mathrm{softplus}(W_1 t + b_1) \odot \mathrm{softplus}(W_a E_u + b_a) \big) + b_2 ,
# $$
#
# so that a person may weigh a feature of the text more, less, or the other way round.
#
# `synthetic` makes populations whose truth is known. "Shifted" people have thresholds of their own;
# in "inverted" every second person answers the opposite. (Both are synthetic; there is no text at
# all, only vectors.)

# %%
import matplotlib.pyplot as plt
import numpy as np

from nlp.personalization import synthetic

figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharey=True)
for axis, kind in zip(axes, synthetic.KINDS, strict=True):
    how = synthetic.Population(kind, texts=SETTINGS["texts"], seed=0)
    data, vectors = synthetic.make(how)
    yes = np.full((len(data.texts), len(data.annotator_ids)), np.nan)
    yes[data.text, data.annotator] = data.labels[:, 0]
    # Sort texts along the direction in which the annotators with even numbers say yes.
    even = data.annotator % 2 == 0
    answers = data.labels[even, 0] - 0.5
    direction = np.linalg.lstsq(vectors[data.text[even]], answers, rcond=None)[0]
    order = np.argsort(vectors @ direction)
    axis.imshow(yes[order], aspect="auto", cmap="coolwarm", interpolation="nearest")
    axis.set(xlabel="annotator", title=kind)
axes[0].set_ylabel("text, sorted")
figure.suptitle("answers: blue no, red yes, white not asked")
plt.show()

# %% [markdown]
# A task of this package is a model, the text vectors and the classes; `fit` trains it by the one
# loop of the library and keeps the parameters that were best on the validation part. The split is
# by **texts**: test texts are new, the people are known.

# %%
from nlp.annotations import text_folds
from nlp.personalization import MODELS, Config, Fit, PersonalTask, examples, features, fit, predict

chosen = SETTINGS["models"] or [m for m in MODELS if m != "id_only"]
how_long = Fit(epochs=SETTINGS["epochs"], batch_size=512, learning_rate=0.01)


def accuracy(data, vectors, name):
    """Share of right answers of a model on test texts."""
    part = text_folds(data, folds=5)
    own = features.make(name, data, part.past, vectors)
    model = Config(
        name, vectors.shape[1], len(data.annotator_ids), 2, 0 if own is None else own.shape[1]
    )
    held_out = examples(data, part.validation)
    task = PersonalTask(model, data.classes, vectors, own, validation=held_out)
    params = fit(task, examples(data, part.train, seed=0), how_long)
    found = predict(task, params, examples(data, part.test))
    return float((found == data.labels[part.test]).mean())


table = {}
for kind in synthetic.KINDS:
    data, vectors = synthetic.make(synthetic.Population(kind, texts=SETTINGS["texts"]))
    table[kind] = [accuracy(data, vectors, name) for name in chosen]

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
rows = np.arange(len(chosen))
for shift, (kind, values) in zip((-0.2, 0.2), table.items(), strict=True):
    axes.barh(rows + shift, values, 0.4, label=kind)
axes.axvline(0.5, color="gray", linestyle=":")
axes.set(yticks=rows, yticklabels=chosen, xlabel="accuracy on new texts", xlim=(0, 1))
axes.invert_yaxis()
figure.legend(loc="outside right upper")
plt.show()

# %% [markdown]
# With inverted people the additive models stay at chance, as they must; the interaction learns.
# With shifted thresholds a bias for each person is enough.
#
# ## 2. People and their answers
#
# `annotations` keeps single annotators apart: texts, people, and a table of who answered what.
# ConvAbuse holds conversations with chat bots, judged by eight experts; if it is not on this
# machine, a **synthetic** set of short texts takes its place, in which people have thresholds of
# their own.

# %%
from nlp import annotations

NICE = "kind warm great lovely calm fine helpful sweet".split()
ROUGH = "stupid awful ugly silly hate boring loud nasty".split()


def synthetic_texts(texts=900, people=8, seed=0):
    """Texts of eight words; a person says "abusive" above so many rough words."""
    rng = np.random.default_rng(seed)
    sentences, rows = {}, []
    limits = rng.normal(4.5, 1.2, people)
    for number in range(texts):
        rough = rng.integers(0, 9)
        words = [*rng.choice(ROUGH, rough), *rng.choice(NICE, 8 - rough), f"n{number}"]
        sentences[str(number)] = " ".join(rng.permutation(words))
        for person in rng.choice(people, 3, replace=False):
            says = rough + rng.normal(0, 0.7) > limits[person]
            rows.append((str(number), f"person {person}", (int(says),)))
    task = annotations.Task("abusive")
    return annotations.build("synthetic texts", (task,), sentences, rows)


try:
    people = annotations.load("convabuse").with_tasks(("abusive",))
except FileNotFoundError:
    people = synthetic_texts()
if SETTINGS["rows"]:
    people = people.select(np.arange(min(SETTINGS["rows"], len(people))))
print(f"{people.name}: {len(people.texts)} texts, {len(people)} answers")
try:
    print(f"Krippendorff's alpha: {annotations.agreement(people)[0]:.3f} (1: all agree, 0: chance)")
except ImportError:
    print("alpha needs the package krippendorff")

# %% [markdown]
# Two numbers can be counted without any model. How often does a person say yes? And the *personal
# emotional bias* (PEB), which compares a person with the others who judged the same texts,
#
# $$
# \mathrm{PEB}_u = \operatorname*{mean}_{t \in \text{past of } u} \frac{y_{u,t} - \mu_t}{\sigma_t} .
# $$

# %%
bias = annotations.personal_bias(people)[:, 0]
count = np.bincount(people.annotator, minlength=len(people.annotator_ids))
share = np.bincount(people.annotator, people.labels[:, 0] > 0) / np.maximum(count, 1)
doubt = annotations.controversy(people)[:, 0]

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
ids = np.argsort(share)
left.bar(np.arange(len(ids)), share[ids], label="says yes")
left.plot(np.arange(len(ids)), bias[ids], "o", color="black", label="PEB")
left.axhline(0, color="gray", linewidth=0.6)
left.set(xlabel="annotator", title="people differ")
left.legend()
right.hist(doubt[~np.isnan(doubt)], bins=12)
right.set(xlabel="entropy of the answers to a text (nats)", ylabel="texts", title="and disagree")
plt.show()

# %% [markdown]
# ## 3. Train, and measure twice
#
# Texts become TF-IDF vectors (the encoder may only look at training texts). Each model is scored
# twice: **pooled**, the macro-F1 over all answers, and **per annotator**, the mean over people of
# their own macro-F1. The difference matters. `id_only` sees *no text at all* and knows only who
# answers: pooled scores reward it for base rates, the mean over people does not.

# %%
from nlp.personalization import Encoder, Personalize, score
from nlp.personalization.experiment import train_and_predict

names = ["id_only", *chosen]
setup = Personalize(
    data=people.name,
    models=tuple(names),
    fit=Fit(epochs=SETTINGS["epochs"], batch_size=1024, learning_rate=0.01),
)
kind = "tfidf" if importlib.util.find_spec("sklearn") else "hashing"
encoder = Encoder(kind, features=2000)

import pathlib
import tempfile

part = text_folds(people, folds=5)
scores = {}
for name in names:
    folder = pathlib.Path(tempfile.mkdtemp())
    found = train_and_predict(setup, name, encoder, people, part, 0, folder)
    scores[name] = score(people, part.test, found)

figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
rows = np.arange(len(names))
axes.barh(rows - 0.2, [100 * scores[n]["pooled"] for n in names], 0.4, label="pooled")
axes.barh(rows + 0.2, [100 * scores[n]["personal"] for n in names], 0.4, label="per annotator")
axes.set(yticks=rows, yticklabels=names, xlabel="macro-F1, %", title=people.name)
axes.invert_yaxis()
figure.legend(loc="outside right upper")
plt.show()
base = scores["baseline"]
for name in chosen:
    pooled, own = (100 * (scores[name][k] - base[k]) for k in ("pooled", "personal"))
    print(f"{name:16} gain pooled {pooled:+.1f}, per annotator {own:+.1f} points")

# %% [markdown]
# One seed and one fold: differences of a few points are noise (docs/personalization.md has five of
# each, with intervals). Where experts mostly agree, as in ConvAbuse, a bias is all there is to
# learn.
#
# ## 4. What was learned about a person?
#
# `onehot` has a row $B_u$ for each person. Its difference between "yes" and "no" is a learned
# threshold. Does it say the same as the PEB, which was only counted?

# %%
from nlp.personalization import encode

vectors = encode(people.texts, encoder, np.unique(people.text[part.train]))
model = Config("onehot", vectors.shape[1], len(people.annotator_ids), 2)
task = PersonalTask(model, people.classes, vectors, validation=examples(people, part.validation))
params = fit(task, examples(people, part.train, seed=0), setup.fit)
table = np.asarray(params["table"])[1:]  # row 0 is the stranger
learned = table[:, 1] - table[:, 0]
past = annotations.personal_bias(people, part.past)[:, 0]

figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
axes.scatter(past, learned)
for who, at in enumerate(zip(past, learned, strict=True)):
    axes.annotate(str(who), at, xytext=(4, 2), textcoords="offset points", fontsize=8)
axes.set(xlabel="PEB, counted", ylabel="learned bias towards yes", title="one point, one person")
plt.show()
if len(past) > 2 and past.std() > 0 and learned.std() > 0:
    print("correlation:", round(float(np.corrcoef(past, learned)[0, 1]), 2))

# %% [markdown]
# ## What to change next
#
# * **People with little past.** `annotations.user_folds` makes a test of people who are known by a
#   few old answers only. Which model keeps its gain?
# * **More disagreement.** `annotations.load("multipico")`: irony, 506 people, nine languages. Look
#   at both columns before you celebrate.
# * **A better reader.** `Encoder("sentence")` (a package with its weights) is worth eight points on
#   ConvAbuse, four times the gain of personalisation. Do the gains stay on top of it?
# * **A language model for each person.** One learned *initial state* of an RWKV for each
#   annotator, base weights untouched: `llm` in `Personalize`, and `configs/nlp/personalize_llm.py`.
# * **Ask less.** Most answers can be predicted: `nlp.acquire` asks people only the questions that
#   are likely to matter (docs/acquisition.md).
# * **Exercise.** In the inverted population let only every fifth person invert. Up to which share
#   does `onehot` look fine in the pooled score?

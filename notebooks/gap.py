# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Looking around: reasoning over glimpses (GAP)
#
# Are these two shapes the same? A convolutional network that sees the whole image at once finds
# this strangely hard, and needs many thousands of examples. **Glimpse-based active perception**
# (GAP, Kolner et al., arXiv 2409.20213) looks at a few salient places, keeps *what* was seen and
# *where* apart, and reasons about relations. In this notebook you
#
# 1. look at the problem: SVRT, drawings whose rule is "same or different";
# 2. follow the eye: saliency, fixations, and what a log-polar retina sees;
# 3. train a small relational network from 500 images;
# 4. take the eye away: random fixations;
# 5. see who attends to whom, and where the idea fails.
#
# 10 to 15 minutes of reading; about five minutes of computing on a CPU. Images and results are
# those of docs/visual_data.md and docs/gap.md.

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
    "train": 500,
    "test": 500,
    "steps": 160,
    "batch": 100,
    "depth": 2,
    "heads": 8,
    "looks": 15,
}
FAMILIES = ("regular", "irregular", "random_colour", "straight_lines", "rectangles")
if os.environ.get("RWKVJAX_TINY") == "1":  # what the tests run
    SETTINGS |= {"train": 8, "test": 8, "steps": 2, "batch": 4, "depth": 1, "heads": 2, "looks": 4}
    FAMILIES = FAMILIES[:1]

# %% [markdown]
# ## 1. Same or different
#
# SVRT (Fleuret et al. 2011) has 23 problems on random contours. In problem 1, label 1 means that
# both shapes are the same but for a shift. Images are drawn when they are needed: image $k$ is a
# function of (problem, split, seed, $k$), so nothing is downloaded and nobody's copy differs.

# %%
import matplotlib.pyplot as plt
import numpy as np

from perception.data import svrt

problem = svrt.Svrt(problem=1, split="train", size=SETTINGS["train"])
batch = problem.get(np.arange(6))
figure, axes = plt.subplots(1, 6, figsize=(9, 1.9), layout="constrained")
for axis, image, label in zip(axes, batch["image"], batch["label"], strict=True):
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[], title="same" if label else "different")
plt.show()

# %% [markdown]
# ## 2. The eye
#
# Nothing in the eye is trained. **Saliency** is high where a place differs from all its
# neighbours: with $P(x)$ the patch around pixel $x$,
#
# $$ S(x) = \min_{\delta \in \text{8 neighbours}} \lVert P(x) - P(x + \delta) \rVert^2 . $$
#
# Along a straight line some neighbour always looks alike, so $S$ is small there; at corners and
# ends it is large. The eye fixates the maximum, then a disc around it is **inhibited** (inhibition
# of return), and so on, $T$ times:
#
# $$ x_t = \operatorname*{argmax}_x S_t(x), \qquad S_{t+1}(x) = S_t(x) \cdot [\,\lVert x - x_t
# \rVert > m / 2\,] . $$
#
# At each fixation a **log-polar** sensor samples the image: rows are angles, columns are radii that
# grow geometrically, so the centre is sharp and the surroundings coarse, like a retina.

# %%
from perception import FrontEndConfig, look
from perception import images as images_lib
from perception.fixation import FixationConfig
from perception.saliency import saliency

eye = FrontEndConfig(sensor="logpolar", fixation=FixationConfig(count=SETTINGS["looks"], size=11))
pair = batch["image"][:2, :, :, None]
ready = images_lib.prepare(pair, eye.polarity)
seen = look(ready, eye)
maps = saliency(ready, eye.saliency)

figure, axes = plt.subplots(2, 3, figsize=(9, 6), layout="constrained")
for row, (left, middle, right) in enumerate(axes):
    left.imshow(maps[row], cmap="inferno")
    middle.imshow(pair[row, ..., 0], cmap="gray")
    path = np.asarray(seen.pixel[row])
    middle.plot(path[:, 1], path[:, 0], "-", color="tab:orange")
    for number, (y, x) in enumerate(path, start=1):
        middle.annotate(str(number), (x, y), color="tab:red", fontsize=9, weight="bold")
    glimpses = np.asarray(seen.content[row, :, 0])  # [T, g, g]
    side = glimpses.shape[-1]
    across = 5 if len(glimpses) % 5 == 0 else len(glimpses)
    tiles = np.pad(glimpses, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    tiles = tiles.reshape(-1, across, side + 2, side + 2).transpose(0, 2, 1, 3)
    right.imshow(tiles.reshape(-1, across * (side + 2)), cmap="gray_r")
    for axis in (left, middle, right):
        axis.set(xticks=[], yticks=[])
for axis, title in zip(
    axes[0], ("saliency", "fixations in order", "log-polar glimpses"), strict=True
):
    axis.set_title(title)
plt.show()
print("contents", seen.content.shape, "locations", seen.location.shape)

# %% [markdown]
# ## 3. A network that sees relations
#
# The **Abstractor** keeps the two streams apart. $g_t$ codes what was seen at fixation $t$, $s_t$
# starts as the code of its *place*; in every layer contents ask and places answer:
#
# $$
# s \leftarrow s + W_o \operatorname{concat}_h \mathrm{softmax}\!\Big(\tfrac{(W_q g)(W_k
# g)^\top}{8}\Big) W_v s .
# $$
#
# The attention says which glimpses look alike; what is passed on is *where* they are. What a shape
# looks like never reaches the answer, so a rule learned on one kind of shapes can hold for others.
#
# The configuration is that of `python -m perception.train`, small. Glimpses are taken once, before
# the first step, because nothing before them is trained.

# %%
import pathlib
import tempfile

from ml_collections import ConfigDict

from perception.tasks import reasoning_run

folder = pathlib.Path(tempfile.mkdtemp())


def configuration(policy):
    """A run on problem 1 whose fixations follow `policy`."""
    steps = SETTINGS["steps"]
    settings = {
        "task": "reasoning",
        "objective": "classes",
        "data": {
            "name": "svrt/1",
            "train": SETTINGS["train"],
            "validation": SETTINGS["test"],
            "test": SETTINGS["test"],
            "others": tuple(f"svrt_ood/{family}" for family in FAMILIES),
            "test_others": SETTINGS["test"],
            "grey": True,
            "eval_batch_size": min(100, SETTINGS["test"]),
            "folder": str(folder / "glimpses"),
        },
        "frontend": {"policy": policy, "fixation": {"count": SETTINGS["looks"], "size": 11}},
        "model": {
            "network": "abstractor",
            "stem": {"encoder": "mlp", "standardise": True},
            "options": {"depth": SETTINGS["depth"], "heads": SETTINGS["heads"]},
        },
        "optimizer": {
            "learning_rate": 1e-3,
            "schedule": "constant",
            "warmup_steps": 0,
            "beta2": 0.999,
            "clip_norm": 0.0,
        },
        "train": {
            "steps": steps,
            "batch_size": SETTINGS["batch"],
            "log_every": max(1, steps // 20),
            "eval_every": max(1, steps // 8),
        },
    }
    return reasoning_run.build_config(ConfigDict(settings))


cfg = configuration("salient")
trainer = reasoning_run.make_trainer(cfg, folder / "salient", report=print)
params = trainer.run().params

# %% [markdown]
# ## 4. Without the eye
#
# The same network, the same number of glimpses, but at random places:

# %%
random_cfg = configuration("random")
random_trainer = reasoning_run.make_trainer(random_cfg, folder / "random", report=print)
random_params = random_trainer.run().params

# %%
from core import metrics, plots

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for policy, colour in (("salient", "C0"), ("random", "C1")):
    records = metrics.read_jsonl(folder / policy / "metrics.jsonl")
    axes.plot(*plots.series(records, "accuracy"), color=colour, alpha=0.4)
    axes.plot(
        *plots.series(records, "eval/accuracy"), "o-", color=colour, label=f"{policy} fixations"
    )
axes.axhline(0.5, color="gray", linestyle=":")
axes.set(xlabel="step", ylabel="accuracy", ylim=(0.3, 1.02), title="new images; faint: in training")
axes.legend()
plt.show()

# %% [markdown]
# Random places cannot be compared: the same corner is hardly ever seen in both shapes. Where to
# look is half of the reasoning.
#
# ## 5. Other shapes, and who attends to whom
#
# SVRT#1-OOD draws the same rule in other styles. The network has never seen them.

# %%
found = reasoning_run.score(cfg, trainer, params, reasoning_run.test_sets(cfg))
names = [name.split("/")[1] for name in found]
names[0] = "problem 1 (trained)"
figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
axes.barh(names, [100 * values["accuracy"] for values in found.values()])
axes.axvline(50, color="gray", linestyle=":")
axes.set(xlabel="accuracy, %", xlim=(0, 100))
axes.invert_yaxis()
plt.show()

# %% [markdown]
# Closed contours of other styles are fine. Straight lines and rectangles fail: all their corners
# look alike, so contents call everything "the same". The paper names these families as its
# weakest, too.
#
# The attention of the trained network over an image of label "same": each fixation finds its copy.

# %%
from perception import pictures

same = problem.get(np.flatnonzero(batch["label"] == 1)[:1])["image"][:, :, :, None]
seen = look(images_lib.prepare(same, eye.polarity), eye)
inputs = {"content": seen.content, "location": seen.location}
weights = np.asarray(trainer.task.network.attention(params, inputs))[:, 0]  # [layers, heads, T, T]
pictures.attention(same[0], np.asarray(seen.pixel[0]), weights, folder / "attention.png")
figure, axes = plt.subplots(figsize=(8, 7.5), layout="constrained")
axes.imshow(plt.imread(folder / "attention.png"))
axes.axis("off")
plt.show()

# %% [markdown]
# ## What to change next
#
# * **One stream only.** `"stem": {"streams": "location"}` blanks contents, `"content"` blanks
#   places. Which of the two is at exactly 50 %, and why must it be?
# * **A network without an eye.** `"network": "cnn", "options": {"shrink": 2}` sees whole images.
#   How many training images does it need?
# * **Another sensor.** `"frontend": {"sensor": "multiscale"}` cuts square windows at several
#   scales.
# * **Another problem.** `"svrt/7"` (groups), `"svrt/14"` (aligned); relations of glyphs:
#   `"art/rmts/95"`.
# * **Exercise.** Problem 21 compares shapes that were scaled and turned. What do scaling and
#   turning become in log-polar coordinates? Which encoder of glimpses would not care?

# SPDX-License-Identifier: Apache-2.0
"""Abstract reasoning on glyphs: the relations, read back from the images."""

import numpy as np
import pytest

from perception.data import art, glyphs


def _signature(window):
    """Ink, spread and skew of a glyph: independent of where it lies."""
    weight = window / 255.0
    total = weight.sum()
    y, x = np.mgrid[: window.shape[0], : window.shape[1]]
    x, y = x - (weight * x).sum() / total, y - (weight * y).sum() / total
    moments = [(weight * m).sum() / total for m in (x * x, y * y, x * y, x**3 / 20, y**3 / 20)]
    return np.array([total / 10, *moments])


def _read(made, image, places):
    """Which glyph lies at each place."""
    known = np.array([_signature(s) for s in _templates(made)])
    found = []
    for row, col in places:
        top, left = (int(v * 0.8) - 18 for v in (row, col))
        seen = _signature(image[top : top + 36, left : left + 36].astype(float))
        found.append(int(np.argmin(((known - seen) ** 2).sum(1))))
    return found


def _templates(made):
    shrink = art._SHRINK[:32, :40]
    padded = np.pad(made.glyphs.astype(float), ((0, 0), (4, 4), (4, 4)))
    return [shrink @ g @ shrink.T for g in padded]


def _relation(pair):
    return pair[0] == pair[1]


def _pattern(row):
    return tuple(row.index(x) for x in row)


def _holds(task, seen):
    """Whether the glyphs read from one panel complete the relation."""
    if task == "rmts":
        return _relation(seen[:2]) == _relation(seen[2:])
    if task == "distribution_of_three":
        return sorted(seen[:3]) == sorted(seen[3:])
    return _pattern(seen[:3]) == _pattern(seen[3:])


@pytest.mark.parametrize("task", ["rmts", "distribution_of_three", "identity"])
def test_only_the_labelled_panel_completes_the_relation(task):
    made = art.Art(task, split="test", size=24, seed=1)
    batch = made.rows(np.arange(24))
    panels = 2 if task == "rmts" else 4
    assert batch["image"].shape == (24, panels, 128, 128) and batch["image"].dtype == np.uint8
    for k, problem in enumerate(made.problems(np.arange(24))):
        for p, names in enumerate(problem.panels):
            assert _holds(task, names) == (p == batch["label"][k])
            if k < 6:
                assert _read(made, batch["image"][k, p], problem.places) == names


def test_same_different():
    made = art.Art("same_different", split="test", size=20)
    batch = made.rows(np.arange(20))
    assert batch["image"].shape == (20, 128, 128)
    for image, label, problem in zip(
        batch["image"], batch["label"], made.problems(np.arange(20)), strict=True
    ):
        seen = _read(made, image, problem.places)
        assert (seen[0] != seen[1]) == label


@pytest.mark.parametrize("task", art.TASKS)
def test_test_glyphs_never_occur_in_training(task):
    used = {}
    for split in ("train", "test"):
        problems = art.Art(task, 95, split, size=300).problems(np.arange(300))
        used[split] = {g for p in problems for panel in p.panels for g in panel}
    assert len(used["train"]) == 5 and len(used["test"]) > 60
    assert not used["train"] & used["test"]


def test_labels_and_rules_are_balanced_and_training_problems_unique():
    for task, size in art.TRAIN_SIZES.items():
        made = art.Art(task)
        assert len(made) == size
        problems = made.problems(np.arange(size))
        labels = np.bincount([p.label for p in problems])
        assert labels.max() - labels.min() <= 0.25 * labels.mean()
        rules = np.unique([p.rule for p in problems], return_counts=True)[1]
        assert rules.max() - rules.min() <= 0.02 * size
        if task in ("rmts", "distribution_of_three"):
            assert len({str(p) for p in problems}) == size


def test_procedural_glyphs_resemble_the_published_ones():
    drawn = glyphs.procedural_glyphs()
    ink = drawn.mean((1, 2)) / 255
    assert drawn.shape == (100, 32, 32) and 0.07 <= ink.min() and ink.max() <= 0.67
    flat = drawn.reshape(100, -1) / 255.0
    gaps = ((flat[:, None] - flat[None]) ** 2).mean(-1) + np.eye(100)
    assert gaps.min() >= 0.0449


def test_published_glyphs():
    try:
        found = glyphs.unicode_glyphs()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert found.shape == (100, 32, 32) and found.dtype == np.uint8
    assert found.mean() < 127  # light on dark
    art.Art("rmts", split="test", size=2, glyphs=found).rows([0, 1])


def test_user_glyphs():
    own = np.random.default_rng(0).integers(0, 256, (8, 32, 32)).astype(np.uint8)
    made = art.Art("rmts", held_out=0, size=4, glyphs=own)
    assert made.rows([0])["image"].max() > 0
    with pytest.raises(ValueError, match=r"uint8 \[n, 32, 32\], got float64"):
        art.Art("rmts", glyphs=own / 255)
    with pytest.raises(ValueError, match="two of the glyphs are equal"):
        art.Art("rmts", glyphs=np.concatenate([own, own[:1]]))


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"task": "xor"}, "task must be one of same_different, .* got 'xor'"),
        ({"task": "rmts", "held_out": 100}, "held_out must be in 0 ... 99"),
        ({"task": "rmts", "held_out": 98}, "needs 5 glyphs, but 'train' has 2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        art.Art(**arguments)

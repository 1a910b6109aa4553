# SPDX-License-Identifier: Apache-2.0
"""The oddity riddles: rules, pixels, splits, leaks, difficulty, held-out families."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from perception.data import oddity
from perception.data.oddity_figures import RIDDLES
from tests.perception import oddity_rules

ALL = range(45)


@pytest.mark.parametrize("riddle", ALL)
def test_exactly_the_labelled_frame_breaks_the_concept(riddle):
    for scene in oddity.Oddity(riddle, split="test", size=12).scenes(np.arange(12)):
        assert scene.riddle == riddle
        assert oddity_rules.violation(scene) == ""


@pytest.mark.slow
@pytest.mark.parametrize("riddle", ALL)
def test_exactly_the_labelled_frame_breaks_the_concept_in_a_thousand(riddle):
    for scene in oddity.Oddity(riddle, split="test", size=1_000, seed=4).scenes(np.arange(1_000)):
        assert oddity_rules.violation(scene) == ""


def test_a_wrong_label_breaks_the_rule():
    for riddle in ALL:
        for scene in oddity.Oddity(riddle, split="test", size=3).scenes(np.arange(3)):
            wrong = dataclasses.replace(scene, label=(scene.label + 1) % 6)
            assert oddity_rules.violation(wrong) != "", riddle


def _ink(frame):
    return frame < 128


def _pieces(mask):
    return ndimage.label(mask, np.ones((3, 3)))[1]


def _enclosed(ink):
    """Number of white regions of at least 5 pixels that ink separates from the border."""
    labels, n = ndimage.label(~ink)
    border = set(np.unique(np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()])))
    return sum(1 for k in range(1, n + 1) if k not in border and (labels == k).sum() >= 5)


@pytest.mark.parametrize(
    "riddle,measure,concept",
    [
        (42, lambda f: _enclosed(_ink(f)), 1),
        (43, lambda f: _pieces(_ink(f)), 1),
        (44, lambda f: _enclosed(_ink(f)), 0),
        (0, lambda f: _enclosed(_ink(f)), 1),
    ],
)
def test_topology_on_pixels(riddle, measure, concept):
    batch = oddity.Oddity(riddle, split="test", size=20).rows(np.arange(20))
    for frames, label in zip(batch["image"], batch["label"], strict=True):
        values = [measure(f) == concept for f in frames]
        assert values == [k != label for k in range(6)]


def _darkness(frame):
    return (frame.max() - frame.astype(float)) / (int(frame.max()) - int(frame.min()))


def _empty_part_of_the_box(frame):
    dark = _darkness(frame)
    rows, cols = np.nonzero(dark > 0.02)
    return 1 - dark[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1].mean()


def _spread_difference(frame):
    """Between the widest and the narrowest direction, pixels: 0 for a disc."""
    points = np.argwhere(_darkness(frame) > -1)
    spread = np.cov(points.T, aweights=_darkness(frame).ravel())
    return float(np.ptp(np.sqrt(np.linalg.eigvalsh(spread))))


def _asymmetry(axis):
    """Part of the ink that its mirror image about the line through its centre misses."""

    def measure(frame):
        dark = _darkness(frame)
        centre = (dark * np.indices(dark.shape)[axis]).sum() / dark.sum()
        shift = np.zeros(2)
        shift[axis] = 2 * centre - (len(dark) - 1)
        return np.abs(ndimage.shift(np.flip(dark, axis), shift, order=1) - dark).sum() / dark.sum()

    return measure


@pytest.mark.parametrize(
    "riddle,measure",
    [
        (1, _empty_part_of_the_box), (17, _spread_difference), (19, _asymmetry(1)),
        (20, _asymmetry(0)), (36, _asymmetry(0)), (37, _asymmetry(1)),
    ],
)  # fmt: skip
def test_geometry_on_pixels(riddle, measure):
    """The frame that breaks the concept most, by the pixels alone, is the labelled one."""
    batch = oddity.Oddity(riddle, split="test", size=20, resolution=200).rows(np.arange(20))
    found = [int(np.argmax([measure(f) for f in frames])) for frames in batch["image"]]
    assert found == batch["label"].tolist()


def test_ink_follows_the_figures():
    # The area of a filled figure, from its corners, is the darkness of its pixels.
    made = oddity.Oddity(1, split="test", size=5)
    batch, scenes = made.rows(np.arange(5)), made.scenes(np.arange(5))
    for frames, scene in zip(batch["image"], scenes, strict=True):
        for frame, shapes, paper in zip(frames, scene.frames, scene.backgrounds, strict=True):
            w, h = np.sort(oddity_rules.lengths(shapes[0].points))[[0, -1]]
            dark = (paper - frame.astype(float)).sum() / (paper - scene.ink)
            assert dark == pytest.approx(w * h, rel=0.01)


@pytest.mark.parametrize("resolution", [32, 250])
def test_any_resolution_shows_the_same_riddle(resolution):
    rows = np.arange(3)
    small = oddity.Oddity("all", split="test", size=3).rows(rows)
    other = oddity.Oddity("all", split="test", size=3, resolution=resolution).rows(rows)
    assert other["image"].shape == (3, 6, resolution, resolution)
    assert (small["label"] == other["label"]).all()
    np.testing.assert_allclose(small["image"].mean((2, 3)), other["image"].mean((2, 3)), atol=1.5)


def test_edges_are_smooth():
    frame = oddity.Oddity(17, split="test", size=1).rows([0])["image"][0, 0]
    assert len(np.unique(frame)) > 20


def test_published_sizes_and_seeds():
    assert [len(oddity.Oddity(7, split=s)) for s in ("train", "validation", "test")] == [
        2_560,
        640,
        640,
    ]
    assert [len(oddity.Oddity("all", split=s)) for s in ("train", "validation", "test")] == [
        72_000,
        18_000,
        18_000,
    ]
    assert list(oddity.SEEDS) == list(range(10))
    images = [oddity.Oddity(2, size=1, seed=s).rows([0])["image"].tobytes() for s in oddity.SEEDS]
    assert len(set(images)) == 10


def test_the_combined_set_draws_riddles_and_positions_uniformly():
    scenes = oddity.Oddity("all", split="test", size=1_500).scenes(np.arange(1_500))
    counts = np.bincount([s.riddle for s in scenes], minlength=45)
    assert counts.min() > 10 and counts.max() < 60  # 33 expected
    labels = np.bincount([s.label for s in scenes], minlength=6)
    assert labels.min() > 190 and labels.max() < 310  # 250 expected


def test_families_can_be_held_out():
    train = oddity.Oddity("all", size=40, without="topology")
    assert set(train.rows(np.arange(40))["riddle"]) <= set(range(41))
    test = oddity.Oddity("topology", split="test", size=40)
    assert set(test.rows(np.arange(40))["riddle"]) == {41, 42, 43, 44}
    assert sorted(r for members in oddity.FAMILIES.values() for r in members) == list(ALL)
    assert oddity.family_of(30) == "metric_properties"
    assert len(oddity.NAMES) == len(RIDDLES) == 45


def test_marks_do_not_outshine_the_background_unless_asked():
    rows = np.arange(30)
    mended = oddity.Oddity(44, split="test", size=30)
    leaking = oddity.Oddity(44, split="test", size=30, leaks=True)
    for made, leak in ((mended, False), (leaking, True)):
        brighter = 0
        batch, scenes = made.rows(rows), made.scenes(rows)
        for frames, scene in zip(batch["image"], scenes, strict=True):
            brighter += frames[scene.label].max() > scene.backgrounds[scene.label]
        assert (brighter > 20) if leak else brighter == 0


def test_all_figures_of_a_riddle_have_its_ink_unless_asked():
    for riddle in (16, 40):
        for leaks in (False, True):
            made = oddity.Oddity(riddle, split="test", size=10, leaks=leaks)
            darkest = made.rows(np.arange(10))["image"].min((1, 2, 3))
            inks = np.array([s.ink for s in made.scenes(np.arange(10))])
            assert (darkest < inks).any() if leaks else (darkest >= inks).all()


def test_contrast_scales_the_deviation():
    def tilts(contrast):
        made = oddity.Oddity(1, split="test", size=40, contrast=contrast)
        return [oddity_rules.upright(s.frames[s.label]) for s in made.scenes(np.arange(40))]

    assert max(tilts(0.5)) < 23 < np.mean(tilts(1.0)) < np.mean(tilts(2.0))


@pytest.mark.parametrize("contrast", [0.5, 3.0])
@pytest.mark.parametrize("riddle", ALL)
def test_the_odd_frame_stays_odd_at_both_ends_of_the_contrast(riddle, contrast):
    for scene in oddity.Oddity(riddle, split="test", size=3, contrast=contrast).scenes([0, 1, 2]):
        assert oddity_rules.separated(scene)


def test_a_riddle_does_not_depend_on_its_batch():
    made = oddity.Oddity("all", split="train", size=8)
    whole = made.make(np.arange(8))["image"]
    assert (made.make(np.array([5]))["image"][0] == whole[5]).all()


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"riddle": 45}, "0 ... 44, got 45"),
        ({"riddle": "shapes"}, "families are all, .* got 'shapes'"),
        ({"riddle": "topology", "without": "topology"}, "no riddle is left"),
        ({"resolution": 8}, "at least 16 pixels, got 8"),
        ({"contrast": 9}, "contrast must be in 0.5 ... 3, got 9"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        oddity.Oddity(**arguments)

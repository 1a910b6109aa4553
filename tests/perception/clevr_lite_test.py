# SPDX-License-Identifier: Apache-2.0
"""clevr-art-lite: problems, pictures, and the loader of the original ones."""

import numpy as np
import pytest

from perception.data import clevr_lite, solids
from perception.tasks import image_sets


@pytest.fixture(scope="module")
def problems():
    made = clevr_lite.ClevrLite("identity", split="test", size=12)
    return made, made.rows(np.arange(12)), made.problems(np.arange(12))


def test_only_the_labelled_panel_repeats_the_rule(problems):
    made, batch, found = problems
    assert batch["image"].shape == (12, 4, 128, 128, 3) and batch["image"].dtype == np.uint8
    pattern = lambda row: tuple(row.index(x) for x in row)
    for label, problem in zip(batch["label"], found, strict=True):
        holds = [pattern(p[:3]) == pattern(p[3:]) for p in problem.panels]
        assert holds == [k == label for k in range(4)]


def test_panels_differ_only_at_the_last_object(problems):
    _, batch, _ = problems
    for panels in batch["image"]:
        changed = (panels != panels[:1]).any((0, 3))
        rows, cols = np.nonzero(changed)
        assert np.ptp(rows) < 50 and np.ptp(cols) < 50 and changed.any()


def test_colours_of_the_objects_are_seen(problems):
    made, batch, found = problems
    for panels, problem in zip(batch["image"], found, strict=True):
        for panel, names in zip(panels, problem.panels, strict=True):
            hues = {made.objects[n].colour for n in names}
            r, g, b = (panel[..., k].astype(int) for k in range(3))
            assert (((r > 60) & (r > 2.5 * g) & (r > 2.5 * b)).sum() > 20) == ("red" in hues)
            assert (((b > 60) & (b > 2.5 * r)).sum() > 20) == ("blue" in hues)
            assert (((r > 80) & (g > 2 * b)).sum() > 20) == ("yellow" in hues)


def test_no_feature_is_shared_between_training_and_testing():
    for shapes in clevr_lite.TEST_SHAPES:
        test = clevr_lite.test_objects(shapes)
        assert len(test) == len(clevr_lite.TRAIN_OBJECTS) == 8
        for k in range(4):
            assert not {o[k] for o in test} & {o[k] for o in clevr_lite.TRAIN_OBJECTS}


def test_distances_bound_the_solids_from_below():
    rng = np.random.default_rng(0)
    points = rng.uniform(-2, 2, (300, 3))
    for shape in solids.SHAPES:
        d = solids.distance(shape, 0.7, points)
        # Nowhere steeper than 1: a ray that marches by the distance never overshoots.
        steps = points[:, None] - points[None]
        apart = np.sqrt((steps**2).sum(-1))
        assert (np.abs(d[:, None] - d[None]) <= apart + 1e-9).all()
        assert solids.distance(shape, 0.7, np.array([[0.45, 0.0, 0.25]]))[0] < 0


def test_rmts_has_two_panels_and_other_shapes_only_for_testing():
    made = clevr_lite.ClevrLite("rmts", size=4)
    assert made.get(np.arange(4))["image"].shape == (4, 2, 128, 128, 3)
    with pytest.raises(ValueError, match="is a test set, got split 'train'"):
        clevr_lite.ClevrLite("rmts", shapes="torus_pyramid")
    with pytest.raises(ValueError, match="shapes must be one of .* got 'cones'"):
        clevr_lite.ClevrLite("rmts", split="test", shapes="cones")
    with pytest.raises(ValueError, match="task must be one of rmts, identity, got 'xor'"):
        clevr_lite.ClevrLite("xor")


@pytest.fixture
def original(tmp_path):
    """A folder as CLEVR-ART is laid out: problems 0 and 2 of one test set and of a variant."""
    image = pytest.importorskip("PIL.Image")
    root = tmp_path / "clevr_art" / "rmts_images"
    for folder in ("test_ood", "test_ood_torus"):
        for k in (0, 2):
            (root / folder / f"prob_{k}").mkdir(parents=True)
            for panel in range(2):
                picture = np.full((240, 320, 3), 40 * k + panel, np.uint8)
                image.fromarray(picture).save(root / folder / f"prob_{k}" / f"CLEVR_{panel}.png")
    np.savez(root / "RMTS_ood_test.npz", y=np.array([1, 0, 1]))
    return tmp_path / "clevr_art"


def test_original_pictures_are_read(original, monkeypatch):
    made = clevr_lite.ClevrArt(original, "rmts", "test")
    batch = made.rows([0, 1])
    assert batch["label"].tolist() == [1, 1]
    assert batch["image"].shape == (2, 2, 128, 128, 3)
    assert batch["image"][:, :, 0, 0, 0].tolist() == [[0, 1], [80, 81]]
    with pytest.raises(FileNotFoundError, match="train set: .* is missing"):
        clevr_lite.ClevrArt(original, "rmts", "train")
    with pytest.raises(ValueError, match="holds 2 problems, wanted 3"):
        clevr_lite.ClevrArt(original, "rmts", "test", size=3)
    monkeypatch.setenv("RWKVJAX_DATA", str(original.parent))
    named = image_sets.open_set("clevr_art/rmts", "test", 2)
    assert (named.rows([0, 1])["image"] == batch["image"]).all()


def test_other_original_pictures_have_another_name(original):
    """Stored glimpses are found by the name: those of a variant must not be taken for these."""
    names = {
        clevr_lite.ClevrArt(original, "rmts", "test", variant=variant).name
        for variant in ("", "_torus")
    }
    assert len(names) == 2


@pytest.mark.parametrize("answers", ([1, 0], [1, 0, 2], [[1, 0], [0, 1], [1, 0]]))
def test_answers_must_fit_the_pictures(original, answers):
    """Too few, out of range, or one-hot: the labels of other problems would be taken."""
    np.savez(original / "rmts_images" / "RMTS_ood_test.npz", y=np.array(answers))
    with pytest.raises(ValueError, match="must hold one answer in 0 ... 1 for each problem"):
        clevr_lite.ClevrArt(original, "rmts", "test")

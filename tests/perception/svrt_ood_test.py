# SPDX-License-Identifier: Apache-2.0
"""Same-different in other styles: two figures, equal exactly when the label says so."""

import numpy as np
import pytest
from scipy import ndimage

from perception.data import svrt_ood

# Mean ink pixels of the published generator (200 images).
INK = dict(
    irregular=160, regular=153, open=132, wider_line=520, scrambled=132, random_colour=167,
    filled=1066, lines=189, arrows=103, rectangles=274, straight_lines=67,
    connected_squares=247, connected_circles=248,
)  # fmt: skip


def _figures(image):
    """The two figures as cropped masks; the pieces of a scrambled one count together."""
    ink = (image != 255).any(-1)
    labels, n = ndimage.label(ink, np.ones((3, 3)))
    masks = [labels == k + 1 for k in range(n)]
    crops = []
    for m in masks:
        rows, cols = np.nonzero(m)
        crops.append(m[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1])
    return ink, crops


@pytest.mark.parametrize("family", ["original", *svrt_ood.FAMILIES])
def test_figures_are_equal_exactly_when_the_label_says_so(family):
    n = 60 if family != "original" else 10
    batch = svrt_ood.SvrtOod(family, size=n).rows(np.arange(n))
    assert batch["image"].shape == (n, 128, 128, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].tolist() == [k % 2 for k in range(n)]
    for image, label in zip(batch["image"], batch["label"], strict=True):
        ink, crops = _figures(image)
        assert not ink[[0, -1]].any() and not ink[:, [0, -1]].any()
        if family == "scrambled" and not label:
            assert len(crops) >= 2
            continue
        assert len(crops) == 2
        same = crops[0].shape == crops[1].shape and (crops[0] == crops[1]).all()
        assert same == bool(label)


@pytest.mark.parametrize("family", svrt_ood.FAMILIES)
def test_ink_is_near_that_of_the_published_images(family):
    batch = svrt_ood.SvrtOod(family, size=300).rows(np.arange(300))
    ink = (batch["image"] != 255).any(-1).sum((1, 2))
    assert abs(ink.mean() - INK[family]) < 0.18 * INK[family]


def test_colour_is_one_per_image():
    batch = svrt_ood.SvrtOod("random_colour", size=20).rows(np.arange(20))
    colours = []
    for image in batch["image"]:
        found = np.unique(image.reshape(-1, 3), axis=0)
        assert len(found) <= 2
        colours.append(tuple(found[0]))
    assert len(set(colours)) > 15


def test_only_nine_families_have_training_images():
    assert len(svrt_ood.TRAINABLE) == 10 and len(svrt_ood.FAMILIES) == 13
    assert len(svrt_ood.SvrtOod("lines", split="train")) == 28_000
    with pytest.raises(ValueError, match="'rectangles' is for testing only, got split 'train'"):
        svrt_ood.SvrtOod("rectangles", split="train")
    with pytest.raises(ValueError, match="family must be original, irregular.* got 'blobs'"):
        svrt_ood.SvrtOod("blobs")

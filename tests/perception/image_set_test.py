# SPDX-License-Identifier: Apache-2.0
"""Order, memory, disk cache and workers of the procedural sets."""

import numpy as np
import pytest

from core import data
from perception.data import image_set, svrt


def test_training_reshuffles_every_epoch_and_testing_keeps_the_order():
    train = svrt.Svrt(22, split="train", size=8)
    first, second = (train.get(np.arange(8) + 8 * e)["image"] for e in (0, 1))
    assert (first != second).any()
    assert sorted(x.tobytes() for x in first) == sorted(x.tobytes() for x in second)
    test = svrt.Svrt(22, split="test", size=8)
    assert (test.get(np.arange(8, 16))["image"] == test.rows(np.arange(8))["image"]).all()


@pytest.mark.parametrize("transport", ["threads", "grain"])
def test_sets_feed_the_loaders(transport):
    if transport == "grain":
        pytest.importorskip("grain")
    test = svrt.Svrt(22, split="test", size=8)
    batches = list(data.batches(test, 4, 0, 2, transport=transport))
    assert [b["label"].tolist() for b in batches] == [[0, 1, 0, 1]] * 2
    assert data.Once(test).get(np.array([7, 8]))["valid"].tolist() == [1, 0]


def test_cache_holds_the_images(tmp_path, monkeypatch):
    first = svrt.Svrt(22, size=20, seed=3, cache_dir=tmp_path / "images")
    expected = first.rows(np.arange(20))
    assert first.cache_file().is_file()
    again = svrt.Svrt(22, size=20, seed=3, cache_dir=tmp_path / "images")
    monkeypatch.setattr(again, "make", lambda rows: pytest.fail("drawn instead of read"))
    found = again.rows(np.arange(20))
    assert all((found[k] == expected[k]).all() for k in expected)
    other = svrt.Svrt(22, size=20, seed=4, cache_dir=tmp_path / "images")
    assert other.cache_file() != first.cache_file()


def test_a_damaged_cache_is_named(tmp_path):
    made = svrt.Svrt(22, size=20, cache_dir=tmp_path)
    made.prepare()
    made.cache_file().write_bytes(made.cache_file().read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged .* delete it"):
        svrt.Svrt(22, size=20, cache_dir=tmp_path).prepare()


def test_workers_draw_the_same_images():
    n = 2 * image_set._BLOCK + 1
    one, two = svrt.Svrt(14, size=n), svrt.Svrt(14, size=n, workers=2)
    two.prepare()
    assert (one.rows(np.arange(n))["image"] == two.rows(np.arange(n))["image"]).all()


def test_large_sets_are_drawn_each_time(monkeypatch, tmp_path):
    expected = svrt.Svrt(22, size=9).rows(np.arange(9))["image"]
    made = svrt.Svrt(22, size=9, cache_dir=tmp_path)
    monkeypatch.setattr(image_set, "MEMORY", 9 * 2048)  # the labels are too much
    made.prepare()
    assert not made.kept() and (made.rows(np.arange(9))["image"] == expected).all()
    assert not list(tmp_path.iterdir())


def test_small_sets_are_prefixes_of_large_ones():
    small, large = svrt.Svrt(22, size=3), svrt.Svrt(22, size=300)
    assert (small.rows([2])["image"] == large.rows([2])["image"]).all()


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"split": "dev"}, "split must be one of train, validation, test, got 'dev'"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"seed": -1}, "seed=-1"),
        ({"workers": -2}, "workers=-2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        svrt.Svrt(1, **arguments)


def test_rows_outside_of_the_set():
    with pytest.raises(IndexError, match="0 ... 4"):
        svrt.Svrt(1, size=5).rows([5])
    for split in ("train", "test"):  # not silently the last image
        with pytest.raises(ValueError, match="must not be negative, got -1"):
            svrt.Svrt(1, split=split, size=5).get([3, -1])


def test_default_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert image_set.default_cache_dir() == tmp_path / "rwkvjax" / "images"

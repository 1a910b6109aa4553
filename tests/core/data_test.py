# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from core import data, sharding
from tests.core.toy import regression_data


def _all(transport, start=0, stop=7, rows=slice(None)):
    return list(data.batches(regression_data(20), 6, start, stop, rows, transport=transport))


def _equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_grain_and_threads_give_the_same_batches():
    pytest.importorskip("grain")
    for a, b in zip(_all("grain"), _all("threads"), strict=True):
        _equal(a, b)


@pytest.mark.parametrize("transport", ["grain", "threads"])
def test_a_batch_depends_on_its_step_alone(transport):
    if transport == "grain":
        pytest.importorskip("grain")
    whole, tail = _all(transport), _all(transport, start=4)
    for a, b in zip(whole[4:], tail, strict=True):
        _equal(a, b)


def test_rows_of_processes_make_up_the_batch():
    whole = _all("threads")
    parts = [_all("threads", rows=slice(i, i + 3)) for i in (0, 3)]
    for step, batch in enumerate(whole):
        joined = {k: np.concatenate([p[step][k] for p in parts]) for k in batch}
        _equal(batch, joined)


def test_every_epoch_holds_each_example_once_in_a_new_order():
    source = data.ArraySource({"i": np.arange(20)}, seed=3)
    epochs = [source.get(np.arange(20) + 20 * e)["i"] for e in range(3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(20))
    assert not np.array_equal(epochs[0], epochs[1])


def test_once_marks_rows_past_the_end():
    once = data.Once(data.ArraySource({"i": np.arange(5)}, seed=None))
    batch = once.get(np.arange(3, 8))
    np.testing.assert_array_equal(batch["valid"], [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(batch["i"][:2], [3, 4])


def test_errors_in_a_source_reach_the_caller():
    class Broken:
        def __len__(self):
            return 4

        def get(self, indices):
            raise ValueError("file x.bin is damaged")

    with pytest.raises(Exception, match="file x.bin is damaged"):
        list(data.batches(Broken(), 2, 0, 2, transport="threads"))


def test_bad_arguments():
    source = regression_data(20)
    with pytest.raises(ValueError, match="batch_size"):
        data.batches(source, 0, 0, 1)
    with pytest.raises(ValueError, match="transport"):
        data.batches(source, 1, 0, 1, transport="carrier pigeon")
    with pytest.raises(ValueError, match="equally long"):
        data.ArraySource({"a": np.zeros(3), "b": np.zeros(4)})
    with pytest.raises(ValueError, match="no examples"):
        data.batches(data.ArraySource({"a": np.zeros(0)}), 1, 0, 1)


def test_local_rows_and_placement():
    mesh = sharding.make_mesh({"data": 4, "model": 2})
    rules = sharding.get_rules("dp")
    rows = data.local_rows(8, mesh, rules)
    assert (rows.start, rows.stop) == (0, 8)
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    placed = data.to_devices({"x": x}, 8, rows, mesh, rules)["x"]
    np.testing.assert_array_equal(placed, x)
    assert placed.addressable_shards[0].data.shape == (2, 3)

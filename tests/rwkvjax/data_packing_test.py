# SPDX-License-Identifier: Apache-2.0
"""Packing: every token once an epoch, resets exactly at starts, best fit as defined."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvjax.data import ArrayTokens, PackedDocuments
from rwkvjax.data.packing import best_fit_decreasing, cut_documents


def slow_best_fit(lengths, capacity):
    """The definition: longest first; fullest window with room, of these the one opened last."""
    windows = [0] * len(lengths)
    room: list[int] = []
    touched: list[int] = []
    for piece in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [w for w in range(len(room)) if room[w] >= lengths[piece]]
        if fitting:
            least = min(room[w] for w in fitting)
            window = max((w for w in fitting if room[w] == least), key=lambda w: touched[w])
        else:
            window = len(room)
            room.append(capacity)
            touched.append(0)
        room[window] -= lengths[piece]
        touched[window] = max(touched) + 1
        windows[piece] = window
    return windows, len(room)


@given(st.lists(st.integers(1, 20), max_size=60))
def test_best_fit_is_the_definition(lengths):
    windows, count = best_fit_decreasing(np.array(lengths, int), 20)
    assert (windows.tolist(), count) == slow_best_fit(lengths, 20)
    loads = np.bincount(windows, weights=lengths, minlength=count) if lengths else np.zeros(0)
    assert (loads <= 20).all() and (loads >= 1).all()


def test_best_fit_packs_real_lengths_densely():
    lengths = np.minimum(np.random.default_rng(0).geometric(1 / 300, 20_000), 1025)
    windows, count = best_fit_decreasing(lengths, 1025)
    assert lengths.sum() / (count * 1025) > 0.999
    assert np.bincount(windows, weights=lengths).max() <= 1025


def test_best_fit_refuses_what_cannot_fit():
    for wrong in ([21], [0]):
        with pytest.raises(ValueError, match="between 1 and 20"):
            best_fit_decreasing(np.array(wrong), 20)


def test_cut_documents_written_out():
    # Documents of 0, 1, 5, 6 and 11 tokens, windows of 5 + 1.
    bounds = np.array([0, 0, 1, 6, 12, 23])
    starts, lengths = cut_documents(bounds, 5)
    assert starts.tolist() == [1, 6, 12, 17]
    assert lengths.tolist() == [5, 6, 6, 6]


def documents_of(lengths):
    """Documents whose tokens tell their document and place: 100 (document + 1) + place."""
    return [100 * (i + 1) + np.arange(length) for i, length in enumerate(lengths)]


@settings(deadline=None, max_examples=80)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=25),
    ctx=st.integers(1, 12),
    packing=st.sampled_from(["concat", "best_fit"]),
    order=st.sampled_from(["shuffled", "sequential"]),
    seed=st.integers(0, 5),
)
def test_every_token_is_a_target_exactly_once_an_epoch(lengths, ctx, packing, order, seed):
    if max(lengths) < 2:
        return
    documents = documents_of(lengths)
    source = PackedDocuments(
        ArrayTokens(documents), ctx, packing=packing, order=order, seed=seed, pad=9
    )
    expected = sorted(t for document in documents for t in document[1:].tolist())
    for epoch in range(2):
        batch = source.get(epoch * len(source) + np.arange(len(source)))
        tokens, reset, mask = batch["tokens"], batch["reset"], batch["loss_mask"] > 0
        assert sorted(tokens[:, 1:][mask].tolist()) == expected
        assert source.num_targets == len(expected)
        # A target that counts follows its predecessor, and no reset stands between them.
        np.testing.assert_array_equal(tokens[:, :-1][mask], tokens[:, 1:][mask] - 1)
        assert not reset[:, 1:][mask].any()
        # Inside a window the state is cleared exactly where the document changes.
        real = tokens[:, 1:] != 9
        changes = tokens[:, 1:] != tokens[:, :-1] + 1
        np.testing.assert_array_equal(reset[:, 1:][real], changes[real])
        assert reset[:, 0].all()
        assert not mask[~real].any()


def test_concatenation_keeps_the_order_and_pads_only_the_end():
    source = PackedDocuments(
        ArrayTokens(documents_of([3, 4, 2])), 4, packing="concat", order="sequential"
    )
    batch = source.get(np.arange(2))
    assert len(source) == 2
    assert batch["tokens"].tolist() == [[100, 101, 102, 200, 201], [201, 202, 203, 300, 301]]
    assert batch["reset"].astype(int).tolist() == [[1, 0, 0, 1, 0], [1, 0, 0, 1, 0]]
    assert batch["loss_mask"].tolist() == [[1, 1, 0, 1], [1, 1, 0, 1]]
    cross = PackedDocuments(
        ArrayTokens(documents_of([3, 4, 2])), 4, packing="concat", cross_document_loss=True
    )
    assert cross.get(np.arange(2))["loss_mask"].all() and cross.num_targets == 8


def test_short_documents_stay_whole():
    lengths = np.random.default_rng(1).integers(2, 17, 200)
    source = PackedDocuments(ArrayTokens(documents_of(lengths)), 16, pad=9)
    tokens = source.get(np.arange(len(source)))["tokens"]
    for document in documents_of(lengths):
        rows = np.flatnonzero((tokens == document[0]).any(axis=1))
        assert len(rows) == 1
        place = int(np.flatnonzero(tokens[rows[0]] == document[0])[0])
        assert tokens[rows[0], place : place + len(document)].tolist() == document.tolist()


def test_epochs_differ_and_rows_do_not_depend_on_the_batch():
    source = PackedDocuments(ArrayTokens(documents_of([7] * 60)), 20, seed=3)
    first, second = (source.get(e * len(source) + np.arange(len(source))) for e in (0, 1))
    assert not np.array_equal(first["tokens"], second["tokens"])
    assert sorted(map(tuple, first["tokens"])) == sorted(map(tuple, second["tokens"]))
    some = source.get(np.array([5, len(source) + 2]))
    np.testing.assert_array_equal(some["tokens"][0], first["tokens"][5])
    np.testing.assert_array_equal(some["tokens"][1], second["tokens"][2])


def test_bad_arguments_are_explained():
    store = ArrayTokens(documents_of([3, 3]))
    for call, message in (
        (lambda: PackedDocuments(store, 4, packing="worst"), "packing must be one of"),
        (lambda: PackedDocuments(store, 4, order="magic_prime"), "order must be one of"),
        (lambda: PackedDocuments(store, 4, cross_document_loss=True), "belongs to the packing"),
        (lambda: PackedDocuments(ArrayTokens(documents_of([1, 1])), 4), "with at least 2 tokens"),
        (lambda: PackedDocuments(store, 0), "ctx must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()

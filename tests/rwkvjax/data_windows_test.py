# SPDX-License-Identifier: Apache-2.0
"""Windows of a token stream: orders, resets, masks, carried state, complete evaluation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvjax.data import ArrayTokens, BinidxWindows, sequential_windows
from rwkvjax.data.binidx import MmapTokens
from rwkvjax.data.binidx_builder import BinidxBuilder
from rwkvjax.data.magic_prime import magic_prime, window_start

DOCUMENTS = [np.arange(1, 6), np.array([], int), np.arange(6, 8), np.arange(8, 24)]


@pytest.fixture
def counting():
    """1000 tokens 0 ... 999 in documents of 1 ... 44 tokens; a token is its own position."""
    cuts = np.cumsum(np.arange(1, 45))
    return ArrayTokens(np.split(np.arange(1000), cuts[cuts < 1000]))


def test_array_and_file_stores_agree(tmp_path):
    with BinidxBuilder(tmp_path / "a") as builder:
        for document in DOCUMENTS:
            builder.add_document(document)
        builder.finish()
    memory, file = ArrayTokens(DOCUMENTS), MmapTokens(tmp_path / "a")
    assert memory.num_tokens == file.num_tokens == 23
    assert memory.document_bounds().tolist() == file.document_bounds().tolist()
    for start in range(24):
        for stop in range(start, 24):
            expected = memory.document_starts(start, stop)
            np.testing.assert_array_equal(file.document_starts(start, stop), expected)
            assert memory.window(start, stop - start).tolist() == list(range(start + 1, stop + 1))
    for source in (memory, tmp_path / "a", str(tmp_path / "a.bin")):
        batch = BinidxWindows(source, 4, "sequential", document_resets=True).get(np.arange(3))
        assert batch["tokens"].tolist() == [[1, 2, 3, 4, 5], [5, 6, 7, 8, 9], [9, 10, 11, 12, 13]]


def test_sequential_windows_written_out():
    source = BinidxWindows(ArrayTokens(DOCUMENTS), 4, "sequential", document_resets=True)
    batch = source.get(np.array([1, 0]))
    assert len(source) == 5
    assert batch["tokens"].dtype == np.int32 and batch["loss_mask"].dtype == np.float32
    assert batch["tokens"].tolist() == [[5, 6, 7, 8, 9], [1, 2, 3, 4, 5]]
    # Documents start at the tokens 1, 6 and 8; the first column starts a window.
    assert batch["reset"].astype(int).tolist() == [[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]]
    assert batch["loss_mask"].tolist() == [[0, 1, 0, 1], [1, 1, 1, 1]]
    unmasked = BinidxWindows(
        ArrayTokens(DOCUMENTS), 4, "sequential", document_resets=True, cross_document_loss=True
    ).get(np.array([1]))
    assert unmasked["loss_mask"].tolist() == [[1, 1, 1, 1]]
    assert unmasked["reset"].tolist() == batch["reset"][:1].tolist()
    official = BinidxWindows(ArrayTokens(DOCUMENTS), 4, "sequential").get(np.array([1]))
    assert official["reset"].astype(int).tolist() == [[1, 0, 0, 0, 0]]
    assert official["loss_mask"].tolist() == [[1, 1, 1, 1]]


def test_magic_prime_order_reads_what_the_reference_reads(counting):
    source = BinidxWindows(counting, 16)
    prime = magic_prime(1000, 16)
    assert len(source) == prime == 59
    batch = source.get(np.arange(3 * prime))
    starts = [window_start(1 + g, prime, 16) for g in range(3 * prime)]
    np.testing.assert_array_equal(batch["tokens"], np.array(starts)[:, None] + np.arange(17))
    assert batch["loss_mask"].all() and batch["reset"].sum() == 3 * prime
    for epoch in range(3):
        assert len(set(starts[epoch * prime : (epoch + 1) * prime])) == prime
    with pytest.raises(ValueError, match="between 0.9 and 1"):
        BinidxWindows(counting, 16, prime=47)
    assert len(BinidxWindows(counting, 16, prime=59)) == 59


def test_shuffled_order_reads_every_window_once_an_epoch(counting):
    source = BinidxWindows(counting, 16, "shuffled", seed=4)
    assert len(source) == 62
    first, second = (source.get(np.arange(62) + 62 * e)["tokens"][:, 0] for e in (0, 1))
    np.testing.assert_array_equal(np.sort(first), np.arange(62) * 16)
    np.testing.assert_array_equal(np.sort(second), np.arange(62) * 16)
    assert not np.array_equal(first, second)
    other = BinidxWindows(counting, 16, "shuffled", seed=5).get(np.arange(62))["tokens"][:, 0]
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("order", ["magic_prime", "shuffled", "sequential"])
def test_any_host_computes_any_row(counting, order):
    source = BinidxWindows(counting, 16, order, seed=1, document_resets=True)
    indices = np.array([130, 7, 7, 0, 10**12])
    together = source.get(indices)
    for row, index in enumerate(indices):
        alone = BinidxWindows(counting, 16, order, seed=1, document_resets=True)
        for name, value in alone.get(np.array([index])).items():
            np.testing.assert_array_equal(value[0], together[name][row])


@pytest.mark.parametrize("resets", [False, True])
def test_carried_state_continues_each_row(counting, resets):
    streams, ctx = 3, 16
    source = BinidxWindows(counting, ctx, "sequential", streams=streams, document_resets=resets)
    rounds = len(source) // streams
    assert len(source) == 60 and rounds == 20
    batches = [source.get(s * streams + np.arange(streams)) for s in range(rounds + 1)]
    starts = set(counting.document_bounds()[:-1].tolist())
    for s in range(1, rounds):
        before, now = batches[s - 1], batches[s]
        np.testing.assert_array_equal(before["tokens"][:, -1], now["tokens"][:, 0])
        expected = [resets and int(token) in starts for token in now["tokens"][:, 0]]
        assert now["reset"][:, 0].tolist() == expected
    assert batches[0]["reset"][:, 0].all() and batches[rounds]["reset"][:, 0].all()
    np.testing.assert_array_equal(batches[0]["tokens"], batches[rounds]["tokens"])
    inputs = np.concatenate([b["tokens"][:, :-1] for b in batches[:rounds]], axis=1)
    np.testing.assert_array_equal(inputs.reshape(-1), np.arange(960))  # rows: thirds of the file


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_evaluation_covers_every_token_once(lengths, ctx, bos, carry, resets, cross):
    total = sum(lengths)
    if total + bos < 2:
        return
    store = ArrayTokens(np.split(np.arange(1, total + 1), np.cumsum(lengths)[:-1]))
    source = sequential_windows(
        store,
        ctx,
        bos=0 if bos else None,
        carry=carry,
        document_resets=resets,
        cross_document_loss=cross,
    )
    batch = source.get(np.arange(len(source) + 2))  # two rows past the end
    mask = batch["loss_mask"] > 0
    targets = batch["tokens"][:, 1:][mask]
    starts = {int(b) + 1 for b in store.document_bounds()[:-1]} if resets and not cross else set()
    first = 1 if bos else 2
    assert targets.tolist() == [t for t in range(first, total + 1) if t not in starts]
    assert source.num_targets == len(targets)
    # Each target is predicted from the token before it in the stream.
    np.testing.assert_array_equal(batch["tokens"][:, :-1][mask], targets - 1)
    assert not mask[len(source) :].any()
    continued = np.arange(len(source)) > 0
    if carry and not resets:
        np.testing.assert_array_equal(batch["reset"][: len(source), 0], ~continued)
    if not carry:
        assert batch["reset"][:, 0].all()


def test_padding_is_cut_off_from_the_document_before_it():
    batch = sequential_windows(ArrayTokens([np.arange(1, 6)]), 4).get(np.array([1]))
    assert batch["tokens"].tolist() == [[4, 5, 0, 0, 0]]
    assert batch["loss_mask"].tolist() == [[1, 0, 0, 0]]
    assert batch["reset"].astype(int).tolist() == [[1, 0, 1, 0, 0]]


def test_bad_arguments_are_explained(counting):
    for call, message in (
        (lambda: BinidxWindows(counting, 16, "random"), "order must be one of"),
        (lambda: BinidxWindows(counting, 0, "shuffled"), "ctx must be at least 1, got 0"),
        (lambda: BinidxWindows(counting, 16, "shuffled", prime=59), "prime belongs to"),
        (lambda: BinidxWindows(counting, 16, streams=2), "streams, at least 1, belongs to"),
        (lambda: BinidxWindows(counting, 1000, "shuffled"), "needs at least 1001 tokens, found"),
        (lambda: BinidxWindows(counting, 400, "sequential", streams=3), "at least 1201 tokens"),
        (lambda: BinidxWindows(counting, 500), "magic prime for ctx 500 needs"),
        (lambda: BinidxWindows(counting, 16).get(np.array([-1])), "must not be negative, got -1"),
        (lambda: sequential_windows(ArrayTokens([]), 4), "at least 1 tokens, found 0"),
        (lambda: ArrayTokens([np.array([70000])]), "do not fit uint16"),
        (lambda: ArrayTokens([np.array([[1]])]), "integer array"),
        (
            lambda: BinidxWindows(counting, 16, "sequential", vocab_size=100).get(np.array([6])),
            r"token ids from 96 to 112 in \[96, 113\) of the data, expected 0 to 99",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="integer array"):
        BinidxWindows(counting, 16).get(np.array([0.5]))


def test_tokens_that_do_not_fit_an_example_are_refused():
    store = ArrayTokens([np.array([1, 2**31, 3])], np.int64)
    with pytest.raises(ValueError, match="expected 0 to 2147483647"):
        BinidxWindows(store, 2, "sequential").get(np.array([0]))

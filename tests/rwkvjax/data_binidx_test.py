# SPDX-License-Identifier: Apache-2.0
"""The binidx format: bytes, windows, damaged files, crashes while writing."""

import hashlib
import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import files
from rwkvjax.data.binidx import DTYPES, BinidxError, MmapTokens, dtype_code
from rwkvjax.data.binidx_builder import BinidxBuilder


def build(path, documents, dtype=np.uint16, **options):
    with BinidxBuilder(path, dtype, **options) as builder:
        for document in documents:
            builder.add_document(np.array(document, dtype))
        builder.finish()
    return path


def test_golden_bytes_written_by_hand(tmp_path):
    """Two documents, [1, 2, 0] and [515, 0], byte by byte from the format's table."""
    build(tmp_path / "a", [[1, 2, 0], [515, 0]])
    assert (tmp_path / "a.bin").read_bytes() == bytes.fromhex("0100 0200 0000 0302 0000")
    assert (tmp_path / "a.idx").read_bytes() == bytes.fromhex(
        "4D4D49444944580000"  # magic
        "0100000000000000"  # version 1
        "08"  # u16
        "0200000000000000"  # 2 items
        "0300000000000000"  # 3 document index entries
        "03000000 02000000"  # lengths
        "0000000000000000 0600000000000000"  # byte offsets
        "0000000000000000 0100000000000000 0200000000000000"  # document index
    )
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "a.idx"]


@pytest.mark.parametrize(
    ("dtype", "bin_digest", "idx_digest"),
    [
        (
            "u2",
            "4bc8d648e9b167caad1e5afd7cc0f1eeb82d9e768a83ad7f726d139a2c82d82e",
            "e9842cfe1cf12c881196dd8f0891a9d73fcb5352f437bb6ad971cafab56b87f4",
        ),
        (
            "i4",
            "f99e68bcbd8123463b5e372a761e28ccac1006f9e20f2fcadb0f39a749d78f0a",
            "5ff51e9b295b292aba3e732f655541896a13a98ad1347a6146d2a976ed73df40",
        ),
        (
            "f8",
            "3f91febd62724082ff25416ce3963aaea68c5bea529a5eb0b291b808130700b4",
            "005b28e44f88bed1b9d0cedfac496828ca19d7b8ff4ad8f536547423c55f4142",
        ),
    ],
)
def test_same_bytes_as_the_reference_writer(tmp_path, dtype, bin_digest, idx_digest):
    """SHA-256 of files that the reference writer made (RWKV-LM 524481d, RWKV-v5/src/binidx.py)."""
    documents = [
        [(i * i * 7919 + j * 104729 + 13) % 65535 + 1 for j in range(i * 37 % 101)] + [0]
        for i in range(300)
    ]
    build(tmp_path / "a", documents, dtype)
    assert hashlib.sha256((tmp_path / "a.bin").read_bytes()).hexdigest() == bin_digest
    assert hashlib.sha256((tmp_path / "a.idx").read_bytes()).hexdigest() == idx_digest
    tokens = MmapTokens(tmp_path / "a")
    # What the reference reader returns for get(idx=0, offset=1234, length=9) of the u16 file.
    expected = [46482, 20141, 59335, 32994, 6653, 45847, 19506, 58700, 32359]
    assert tokens.get(0, 1234, 9).tolist() == expected


def test_golden_file_read_by_hand(tmp_path):
    """A file that no code of ours wrote: i8 tokens, an empty item, two items in one document."""
    (tmp_path / "h.bin").write_bytes(bytes([1, 255, 3, 4]))
    (tmp_path / "h.idx").write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, 2, 4, 4)
        + struct.pack("<4i", 2, 1, 0, 1)
        + struct.pack("<4q", 0, 2, 3, 3)
        + struct.pack("<4q", 0, 2, 3, 4)
    )
    tokens = MmapTokens(tmp_path / "h.bin")
    assert tokens.dtype == np.int8 and len(tokens) == 4 and tokens.num_documents == 3
    assert [tokens[i].tolist() for i in range(4)] == [[1, -1], [3], [], [4]]
    assert tokens[-1].tolist() == [4]
    assert tokens.document_bounds().tolist() == [0, 3, 3, 4]
    assert tokens.document_starts(0, 4).tolist() == [0, 3]
    assert tokens.document_starts(1, 3).tolist() == []


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)
@given(data=st.data(), code=st.sampled_from(sorted(DTYPES)))
def test_round_trip(tmp_path, data, code):
    dtype = DTYPES[code]
    if dtype.kind == "f":
        values = st.floats(allow_nan=False)
    else:
        limits = np.iinfo(dtype)
        values = st.integers(int(limits.min), int(limits.max))
    documents = data.draw(st.lists(st.lists(st.lists(values, max_size=5), max_size=3), max_size=6))
    with BinidxBuilder(tmp_path / "r", dtype, overwrite=True) as builder:
        for document in documents:
            for item in document:
                builder.add_item(np.array(item, dtype))
            builder.end_document()
        builder.finish()
    tokens = MmapTokens(tmp_path / "r")
    items = [item for document in documents for item in document]
    assert tokens.dtype == dtype and len(tokens) == len(items)
    assert [tokens[i].tolist() for i in range(len(tokens))] == items
    flat = [value for item in items for value in item]
    assert tokens.window(0, tokens.num_tokens).tolist() == flat
    bounds = tokens.document_bounds()
    assert len(bounds) == len(documents) + 1
    for index, document in enumerate(documents):
        content = [value for item in document for value in item]
        assert flat[bounds[index] : bounds[index + 1]] == content
    start = data.draw(st.integers(0, len(flat)))
    stop = data.draw(st.integers(start, len(flat)))
    expected = sorted({int(b) for b in bounds[:-1] if start <= b < stop})
    assert tokens.document_starts(start, stop).tolist() == expected


def test_windows_cross_items_and_stay_in_the_file(tmp_path):
    tokens = MmapTokens(build(tmp_path / "w", [[1, 2, 0], [3, 0], [4, 5, 0]]))
    assert tokens.get(0, 1, 5).tolist() == [2, 0, 3, 0, 4]
    assert tokens.get(1, 1).tolist() == [0]
    assert tokens.get(1, 0, 5).tolist() == [3, 0, 4, 5, 0]
    for item, offset, length in ((0, 4, 5), (3, 0, 1), (-4, 0, 1), (0, -1, 2), (1, 3, None)):
        with pytest.raises(IndexError, match="w: "):
            tokens.get(item, offset, length)
    with pytest.raises(ValueError, match="read-only"):
        tokens.get(0)[0] = 7
    again = pickle.loads(pickle.dumps(tokens))
    assert again.get(0, 0, 8).tolist() == tokens.get(0, 0, 8).tolist()


def damaged(content, position, replacement):
    return content[:position] + replacement + content[position + len(replacement) :]


@pytest.mark.parametrize(
    ("position", "replacement", "message"),
    [
        (0, b"X", r"magic: expected b'MMIDIDX\\x00\\x00', found b'XMIDIDX"),
        (9, b"\2", "version: expected 1, found 2"),
        (17, b"\0", r"dtype code: expected one of \[1, 2, 3, 4, 5, 6, 7, 8\], found 0"),
        (17, b"\4", r"bin: file size: expected a multiple of 4 bytes"),
        (18, b"\7", "file size: expected 142 bytes for 7 items and 3 document.*, found 82"),
        (25, b"\xff", "file size: expected .* found 82"),
        (26, b"\0", "document index length: expected at least 1, found 0"),
        (34, b"\xff\xff\xff\xff", "length of item 0: expected at least 0, found -1"),
        (38, b"\3", r"end of item 1: expected at most 10 bytes .* found 12"),
        (50, b"\4", r"offset of item 1: expected at least 6 .*, found 4"),
        (50, b"\7", "offset of item 1: expected a multiple of 2, found 7"),
        (57, b"\xff", "offset of item 1: expected at least 0, found -"),
        (58, b"\1", "first document index entry: expected 0, found 1"),
        (66, b"\xfe" + b"\xff" * 7, "document index entry 1: expected at least 0, found -2"),
        (66, b"\3", "document index entry 2: expected at least 3, found 2"),
        (74, b"\3", "last document index entry: expected 2 items, found 3"),
    ],
)
def test_damaged_index_is_explained(tmp_path, position, replacement, message):
    build(tmp_path / "d", [[1, 2, 0], [515, 0]])
    index = tmp_path / "d.idx"
    index.write_bytes(damaged(index.read_bytes(), position, replacement))
    with pytest.raises(BinidxError, match=message) as caught:
        MmapTokens(tmp_path / "d")
    assert str(tmp_path / "d.") in str(caught.value)


def test_missing_and_cut_files(tmp_path):
    build(tmp_path / "d", [[1, 2, 0], [515, 0]])
    whole = (tmp_path / "d.idx").read_bytes()
    (tmp_path / "d.idx").write_bytes(whole[:20])
    with pytest.raises(BinidxError, match="file size: expected at least 34 bytes, found 20"):
        MmapTokens(tmp_path / "d")
    (tmp_path / "d.idx").write_bytes(whole)
    (tmp_path / "d.bin").write_bytes(b"\1\0\2\0")
    with pytest.raises(BinidxError, match="end of item 0: expected at most 4 bytes"):
        MmapTokens(tmp_path / "d")
    (tmp_path / "d.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*d\.bin"):
        MmapTokens(tmp_path / "d")


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300
)
@given(data=st.data())
def test_fuzzed_index_raises_nothing_but_the_clear_error(tmp_path, data):
    path = tmp_path / "f"
    if not (tmp_path / "f.good").exists():
        build(path, [[1, 2, 0], [515, 0], [], [7]])
        (tmp_path / "f.good").write_bytes((tmp_path / "f.idx").read_bytes())
    content = bytearray((tmp_path / "f.good").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.sampled_from([0, 1, 2, 127, 128, 255]))
    content = (
        content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )
    (tmp_path / "f.idx").write_bytes(content)
    try:
        tokens = MmapTokens(path)
    except BinidxError:
        return
    # What passed the checks can be read everywhere.
    for item in range(len(tokens)):
        assert len(tokens.get(item)) == tokens.lengths[item]
    assert tokens.document_starts(0, tokens.num_tokens).size <= tokens.num_documents


def test_gaps_between_items_are_fine_but_have_no_bounds(tmp_path):
    (tmp_path / "g.bin").write_bytes(bytes([1, 9, 2]))
    (tmp_path / "g.idx").write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, 1, 2, 3)
        + struct.pack("<2i2q3q", 1, 1, 0, 2, 0, 1, 2)
    )
    tokens = MmapTokens(tmp_path / "g")
    assert tokens[1].tolist() == [2] and tokens.document_starts(0, 3).tolist() == [0, 2]
    with pytest.raises(BinidxError, match="3 tokens without gaps"):
        tokens.document_bounds()


def test_a_data_set_without_documents(tmp_path):
    tokens = MmapTokens(build(tmp_path / "e", []))
    assert (len(tokens), tokens.num_documents, tokens.num_tokens) == (0, 0, 0)
    assert tokens.window(0, 0).tolist() == [] and tokens.document_bounds().tolist() == [0]
    with pytest.raises(IndexError):
        tokens.get(0)


def test_builder_refuses_bad_tokens(tmp_path):
    with BinidxBuilder(tmp_path / "b", np.uint16) as builder:
        for wrong, message in (
            ([65536], "from 65536 to 65536 do not fit dtype uint16"),
            ([-1], "from -1 to -1"),
            ([0.5], "expected integer tokens, got dtype float64"),
            ([[1]], r"shape \[k\]"),
        ):
            with pytest.raises(ValueError, match=message):
                builder.add_document(np.array(wrong))
        builder.add_item(np.array([65535]))
        with pytest.raises(ValueError, match="1 items after the last end_document"):
            builder.finish()
        builder.end_document()
        builder.finish()
        with pytest.raises(ValueError, match="after finish or close"):
            builder.add_document(np.array([1]))
    assert MmapTokens(tmp_path / "b")[0].tolist() == [65535]
    with pytest.raises(ValueError, match="binidx cannot store dtype float32"):
        dtype_code(np.float32)


def test_existing_data_is_kept_unless_asked(tmp_path):
    build(tmp_path / "x", [[1, 0]])
    with pytest.raises(FileExistsError, match=r"x\.bin and .*x\.idx exist; pass overwrite"):
        BinidxBuilder(tmp_path / "x")
    with BinidxBuilder(tmp_path / "x", overwrite=True) as builder:
        builder.add_document(np.array([2, 0]))  # not finished: the old data stays
    assert MmapTokens(tmp_path / "x")[0].tolist() == [1, 0]
    build(tmp_path / "x", [[3, 0]], overwrite=True)
    assert MmapTokens(tmp_path / "x")[0].tolist() == [3, 0]
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        BinidxBuilder(tmp_path / "nowhere" / "x")


def test_two_builders_of_one_file_are_refused(tmp_path):
    with (
        BinidxBuilder(tmp_path / "x"),
        pytest.raises(files.FileInUseError, match="another process"),
    ):
        BinidxBuilder(tmp_path / "x")


def test_resume_after_a_checkpoint(tmp_path):
    documents = [[i, i + 1, 0] for i in range(1, 50)]
    whole = build(tmp_path / "whole", documents)
    with BinidxBuilder(tmp_path / "cut") as builder:
        for document in documents[:20]:
            builder.add_document(np.array(document))
        builder.checkpoint({"next": 20})
        for document in documents[20:30]:
            builder.add_document(np.array(document))  # lost: no checkpoint follows
    with BinidxBuilder(tmp_path / "cut", resume=True) as builder:
        assert builder.note == {"next": 20} and builder.num_documents == 20
        for document in documents[builder.note["next"] :]:
            builder.add_document(np.array(document))
        builder.finish()
    for ending in (".bin", ".idx"):
        cut = (tmp_path / "cut").with_suffix(ending).read_bytes()
        assert cut == whole.with_suffix(ending).read_bytes()
    assert not (tmp_path / "cut.partial").exists()


@pytest.mark.parametrize("step", range(20))
def test_a_crash_at_any_step_of_finish_can_be_completed(tmp_path, monkeypatch, step):
    """Fails the step-th system call that counts; the old data or the new must always be there."""
    documents = [[5, 6, 0], [7, 0]]
    build(tmp_path / "old", [[1, 0]])
    golden = build(tmp_path / "golden", documents)
    for ending in (".bin", ".idx"):
        (tmp_path / "old").with_suffix(ending).rename((tmp_path / "x").with_suffix(ending))
    builder = BinidxBuilder(tmp_path / "x", overwrite=True)
    for document in documents:
        builder.add_document(np.array(document))
    builder.checkpoint({"all": True})
    calls = iter(range(100))

    def failing(function):
        def call(*arguments, **options):
            if next(calls) == step:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink", "fsync"):
            patch.setattr(os, name, failing(getattr(os, name)))
        try:
            builder.finish()
        except KeyboardInterrupt:
            pass
        builder.close()
    if (tmp_path / "x.idx").exists():  # whatever is published is one whole data set
        assert MmapTokens(tmp_path / "x")[0].tolist() in ([1, 0], [5, 6, 0])
    if (tmp_path / "x.partial" / "journal.json").exists():
        with BinidxBuilder(tmp_path / "x", overwrite=True, resume=True) as builder:
            assert builder.is_complete or builder.num_documents == 2
            builder.finish()
    for ending in (".bin", ".idx"):
        found = (tmp_path / "x").with_suffix(ending).read_bytes()
        assert found == golden.with_suffix(ending).read_bytes()


def test_full_disk_keeps_the_checkpoint(tmp_path, monkeypatch):
    with BinidxBuilder(tmp_path / "x") as builder:
        builder.add_document(np.array([1, 0]))
        builder.checkpoint({"next": 1})
        builder.add_document(np.array([2, 0]))

        def full(descriptor):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(files.DiskFullError, match=r"tokens\.bin: No space left"):
                builder.finish()
    assert not (tmp_path / "x.bin").exists()
    with BinidxBuilder(tmp_path / "x", resume=True) as builder:
        assert builder.note == {"next": 1}
        builder.add_document(np.array([2, 0]))
        builder.finish()
    assert MmapTokens(tmp_path / "x").window(0, 4).tolist() == [1, 0, 2, 0]


def test_damaged_partial_state_is_explained(tmp_path):
    with BinidxBuilder(tmp_path / "x") as builder:
        builder.add_document(np.array([1, 0]))
        builder.checkpoint()
    with pytest.raises(BinidxError, match="expected dtype <i4 to resume, found <u2"):
        BinidxBuilder(tmp_path / "x", np.int32, resume=True)
    os.truncate(tmp_path / "x.partial" / "tokens.bin", 2)
    with pytest.raises(BinidxError, match="tokens.bin: expected at least 4 bytes, found 2"):
        BinidxBuilder(tmp_path / "x", resume=True)
    (tmp_path / "x.partial" / "journal.json").write_text("{")
    with pytest.raises(BinidxError, match="expected a JSON journal"):
        BinidxBuilder(tmp_path / "x", resume=True)
    with BinidxBuilder(tmp_path / "x") as builder:  # a fresh start drops all of it
        builder.finish()
    assert MmapTokens(tmp_path / "x").num_tokens == 0

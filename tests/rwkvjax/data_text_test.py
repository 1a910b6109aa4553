# SPDX-License-Identifier: Apache-2.0
"""Finding and reading documents: order, formats, positions, damaged input."""

import bz2
import gzip
import json
import lzma
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rwkvjax.data.inputs import InputFile, is_heldout, list_inputs, list_stdlib
from rwkvjax.data.text import DocumentError, DocumentReader, Position, ReadOptions

OPENERS: dict[str, Any] = {"": open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def read(path, format="text", **options):
    return list(DocumentReader(InputFile(path, path.name, format), ReadOptions(**options)))


# --- which files -------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    for name in (
        "b.txt",
        "a.jsonl",
        "B.txt",
        "sub/c.md",
        "sub/é.txt",
        "sub/d.txt.gz",
        ".hidden.txt",
        ".git/e.txt",
        "data.bin",
        "sub/notes.csv",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    (tmp_path / "empty.txt").write_text("")
    return tmp_path


def names(files):
    return [file.name for file in files]


def test_folders_are_read_recursively_in_byte_order(tree):
    files = list_inputs([str(tree)])
    assert names(files) == ["B.txt", "a.jsonl", "b.txt", "sub/c.md", "sub/d.txt.gz", "sub/é.txt"]
    assert [f.format for f in files] == ["text", "jsonl", "text", "text", "text", "text"]
    assert names(list_inputs([str(tree)], "jsonl")) == ["a.jsonl"]
    assert "data.bin" in names(list_inputs([str(tree)], "text"))


def test_patterns_and_files_in_the_order_given(tree):
    files = list_inputs([str(tree / "sub" / "*.*t*"), str(tree / "b.txt")])
    assert [file.path.name for file in files] == ["d.txt.gz", "é.txt", "b.txt"]
    assert [f.path.name for f in list_inputs([str(tree / "**" / "c.*")])] == ["c.md"]
    (tree / "odd[1].txt").write_text("x")
    assert names(list_inputs([str(tree / "odd[1].txt")])) == ["odd[1].txt"]


def test_inputs_that_are_not_there(tree):
    for specification, error, message in (
        ("missing.txt", FileNotFoundError, "'missing.txt': no such file"),
        (str(tree / "*.nothing"), FileNotFoundError, "no non-empty file among 0 files"),
        (str(tree / "empty.txt"), ValueError, "empty.txt is empty"),
        (str(tree / "sub" / ".." / "*.parquet"), FileNotFoundError, "no non-empty file"),
        ("stdlib:test", ValueError, "the standard library has the parts"),
    ):
        with pytest.raises(error, match=message):
            list_inputs([specification])
    (tree / "x.jsonl.zst").write_bytes(b"x")
    with pytest.raises(ValueError, match="cannot read this kind of file"):
        list_inputs([str(tree / "x.jsonl.zst")])
    with pytest.raises(ValueError, match="is named twice"):
        list_inputs([str(tree / "b.txt"), str(tree)])
    with pytest.raises(ValueError, match="format must be one of"):
        list_inputs([str(tree)], "csv")
    with pytest.raises(ValueError, match="expected a list"):
        list_inputs([])
    (tree / "only").mkdir()
    (tree / "only" / "x.dat").write_text("x")
    with pytest.raises(FileNotFoundError, match="with a suffix of .* among 1 files"):
        list_inputs([str(tree / "only")])


def test_standard_library_split():
    everything, train, heldout = (list_stdlib(part) for part in ("", "train", "heldout"))
    assert sorted(names(train) + names(heldout)) == sorted(names(everything))
    assert names(everything) == sorted(names(everything), key=os.fsencode)
    assert 0.05 < len(heldout) / len(everything) < 0.15
    assert {"json/decoder.py", "abc.py"} <= set(names(everything))
    folders = {part for name in names(everything) for part in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "site-packages", "__pycache__"}
    assert sum(file.path.stat().st_size for file in everything) > 4_000_000
    # A file must never move to the other part.
    assert is_heldout("bisect.py", 0.1) and is_heldout("email/mime/text.py", 0.1)
    assert not is_heldout("abc.py", 0.1) and not is_heldout("json/tool.py", 0.1)


# --- text --------------------------------------------------------------------------------------


def test_a_text_file_is_one_document_kept_as_it_is(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffGrüße\r\n\x0b\x85\u2028 end".encode())
    assert read(path) == ["\ufeffGrüße\r\n\x0b\x85\u2028 end"]


def test_separator_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n<|end|>\n\n<|end|>\r\ntwo\nlines\n<|end|> \nthree <|end|>\n")
    documents = ["one\n", "two\nlines\n", "three <|end|>\n"]
    assert read(path, separator="<|end|>") == documents
    assert_resumes_everywhere(path, "text", ReadOptions(separator="<|end|>"), documents)


def assert_resumes_everywhere(path, format, options, documents):
    file = InputFile(path, path.name, format)
    reader, positions = DocumentReader(file, options), []
    for _ in reader:
        positions.append(reader.position)
    for index, position in enumerate(positions):
        again = DocumentReader(file, options, position)
        assert list(again) == documents[index + 1 :]
        assert again.position == reader.position
    assert reader.position.offset == len(_content(path))


def _content(path):
    with OPENERS.get(path.suffix, open)(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz"])
def test_compressed_lines_resume(tmp_path, suffix):
    texts = [f"text {i} é" * (i % 3 + 1) for i in range(20)]
    content = "\n\n".join(json.dumps({"text": text}) for text in texts).encode()
    path = tmp_path / f"a.jsonl{suffix}"
    with OPENERS[suffix](path, "wb") as file:
        file.write(content)
    assert_resumes_everywhere(path, "jsonl", ReadOptions(), texts)
    reader = DocumentReader(InputFile(path, path.name, "jsonl"))
    assert list(reader) == texts
    assert reader.read_bytes == path.stat().st_size
    assert reader.position == Position(len(content), 39, 20, 0)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_damaged_compression_is_explained(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    with OPENERS[suffix](path, "wb") as file:
        file.write(os.urandom(5000))
    whole = path.read_bytes()
    for content in (whole[:-20], b"plain text", whole[:100] + b"\0" * 50 + whole[150:]):
        path.write_bytes(content)
        with pytest.raises(DocumentError, match=r"a\.txt\.\w+: (damaged compression|not UTF-8)"):
            read(path)


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc\xff\xfe")
    with pytest.raises(DocumentError, match=r"a\.txt: not UTF-8 at byte 3 \(0xff, invalid start"):
        read(path)
    assert read(path, errors="replace") == ["abc\ufffd\ufffd"]
    path.write_bytes(b"one\n--\ntwo\xff\n")
    with pytest.raises(DocumentError, match="not UTF-8 at byte 10"):
        read(path, separator="--")


# --- JSONL -------------------------------------------------------------------------------------


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40
)
@given(texts=st.lists(st.text(), min_size=1, max_size=6), ascii=st.booleans())
def test_jsonl_round_trip(tmp_path, texts, ascii):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"id": i, "text": t}, ensure_ascii=ascii) for i, t in enumerate(texts)]
    path.write_text("\r\n".join(lines) + "\n", encoding="utf-8", newline="")
    assert read(path, "jsonl") == texts


def test_other_field_and_byte_order_mark(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"content": "x", "text": 1}\n')
    assert read(path, "jsonl", field="content") == ["x"]


BROKEN = {
    b"{": "line 3: not valid JSON",
    b"[" * 100_000: "line 3: not valid JSON",
    b"1" * 5000: "line 3: not valid JSON",
    b'"text"': "line 3: expected an object with 'text', found str",
    b'{"Text": "a"}': r"line 3: expected an object with 'text', found \['Text'\]",
    b'{"text": null}': "line 3: expected text in field 'text', found NoneType",
    b'{"text": "\xff"}': r"line 3: not UTF-8 at byte 29 \(0xff",
    b'{"text": "\\ud800x"}': r"line 3: lone surrogate U\+D800 in field 'text'",
}


@pytest.mark.parametrize("line", BROKEN, ids=lambda line: line[:20].decode("latin-1"))
def test_broken_lines_are_explained_or_counted(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n \n' + line + b'\n{"text": "better"}')
    with pytest.raises(DocumentError, match=BROKEN[line]) as caught:
        read(path, "jsonl")
    assert "a.jsonl, line 3" in str(caught.value)
    reader = DocumentReader(InputFile(path, "a", "jsonl"), ReadOptions(broken_lines="skip"))
    assert list(reader) == ["good", "better"]
    assert reader.position.skipped == 1 and reader.position.documents == 2


def test_replacing_inside_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a\xffb"}\n{"text": "c\\udc00d\\ud83d\\ude00"}\n')
    assert read(path, "jsonl", errors="replace") == ["a\ufffdb", "c\ufffdd\U0001f600"]


def test_files_without_documents(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n \n")
    with pytest.raises(DocumentError, match=r"a\.jsonl: no documents in this file$"):
        read(path, "jsonl")
    path.write_bytes(b"{\n")
    with pytest.raises(DocumentError, match=r"no documents .*1 broken lines were skipped"):
        read(path, "jsonl", broken_lines="skip")


def test_bad_options():
    for options in (
        {"errors": "ignore"},
        {"broken_lines": "fix"},
        {"separator": ""},
        {"separator": " x"},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            ReadOptions(**options)

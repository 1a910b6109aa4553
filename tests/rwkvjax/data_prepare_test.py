# SPDX-License-Identifier: Apache-2.0
"""Tokenising into token files: content, options, shuffling, kill and resume, errors."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from core.files import DiskFullError, FileInUseError
from core.permute import permute
from rwkvjax import prepare_data
from rwkvjax.data import MmapTokens, ReadOptions
from rwkvjax.data.binidx_builder import BinidxBuilder
from rwkvjax.data.encode import Encoder
from rwkvjax.data.prepare import PrepareOptions, load_statistics, prepare
from rwkvjax.data.progress import Progress, format_seconds
from rwkvjax.data.text import DocumentError
from rwkvjax.tokenizers import get_tokenizer

ROOT = Path(__file__).resolve().parents[2]
ENDINGS = (".bin", ".idx", ".stats.json")


def content(name):
    return [Path(f"{name}{ending}").read_bytes() for ending in ENDINGS]


def silent(line):
    del line


@pytest.fixture
def corpus(tmp_path):
    """Three inputs: a text file, a JSONL file with a broken line, a folder."""
    (tmp_path / "a.txt").write_text("Hello, wörld\n")
    lines = [json.dumps({"text": f"line {i} " + "x" * (i % 7)}) for i in range(200)]
    lines.insert(50, '{"text": 7}')
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    (tmp_path / "c").mkdir()
    for i in range(3):
        (tmp_path / "c" / f"{i}.md").write_text(f"# {i}")
    return PrepareOptions(
        inputs=(str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl"), str(tmp_path / "c")),
        output=str(tmp_path / "out"),
        tokenizer="byte",
        read=ReadOptions(broken_lines="skip"),
    )


def expected_texts():
    texts = ["Hello, wörld\n"] + [f"line {i} " + "x" * (i % 7) for i in range(200)]
    return texts + [f"# {i}" for i in range(3)]


def documents_of(name):
    """Texts of a token file, each of whose documents must end with the byte tokenizer's token."""
    tokenizer, tokens = get_tokenizer("byte"), MmapTokens(name)
    texts = []
    for item in range(len(tokens)):
        assert tokens[item][-1] == tokenizer.end_of_document
        texts.append(tokenizer.decode(tokens[item][:-1]))
    return texts


def test_content_and_statistics(corpus):
    statistics = prepare(corpus, silent)
    assert documents_of(corpus.output) == expected_texts()
    text_bytes = sum(len(text.encode()) for text in expected_texts())
    tokenizer = get_tokenizer("byte")
    assert dataclasses.asdict(statistics) == {
        "documents": 204,
        "tokens": text_bytes + 204,
        "text_bytes": text_bytes,
        "skipped_lines": 1,
        "files": 5,
        "tokenizer": tokenizer.name,
        "digest": tokenizer.digest,
        "vocab_size": tokenizer.vocab_size,
        "end_of_document": tokenizer.end_of_document,
    }
    assert statistics.bytes_per_token == 1
    assert load_statistics(corpus.output) == statistics
    left = sorted(path.name for path in Path(corpus.output).parent.iterdir())
    assert left == ["a.txt", "b.jsonl", "c", "out.bin", "out.idx", "out.stats.json"]


def test_the_size_of_chunks_does_not_change_a_byte(corpus, tmp_path):
    prepare(corpus, silent)
    for size in (1, 97):
        name = str(tmp_path / f"chunks{size}")
        prepare(dataclasses.replace(corpus, output=name, chunk_bytes=size), silent)
        assert content(name) == content(corpus.output)


def test_without_end_of_document(corpus):
    statistics = prepare(dataclasses.replace(corpus, end_of_document=False), silent)
    tokens = MmapTokens(corpus.output)
    text = "".join(expected_texts())
    assert get_tokenizer("byte").decode(tokens.window(0, tokens.num_tokens)) == text
    assert statistics.end_of_document is None and statistics.bytes_per_token == 1


def test_epochs_are_shuffled_copies(corpus, tmp_path):
    options = dataclasses.replace(corpus, epochs=3, seed=5, checkpoint_seconds=0)
    statistics = prepare(options, silent)
    texts, found = expected_texts(), documents_of(corpus.output)
    assert statistics.documents == 3 * 204
    assert statistics.text_bytes == 3 * sum(len(text.encode()) for text in texts)
    for epoch in range(3):
        order = permute(np.arange(204), 204, 5, epoch)
        assert found[epoch * 204 : (epoch + 1) * 204] == [texts[i] for i in order]
    assert not list(tmp_path.glob("*unshuffled*"))


def interrupt_after(monkeypatch, documents):
    """Makes a builder fail like a killed process after some documents."""
    add, count = BinidxBuilder.add_document, iter(range(10**9))

    def adding(self, tokens):
        if next(count) == documents:
            raise KeyboardInterrupt
        add(self, tokens)

    monkeypatch.setattr(BinidxBuilder, "add_document", adding)


@pytest.mark.parametrize(
    ("epochs", "documents"),
    [(0, 0), (0, 2), (0, 60), (0, 203), (2, 150), (2, 204), (2, 300), (2, 611)],
)
def test_interruption_anywhere_gives_the_same_bytes(
    corpus, tmp_path, monkeypatch, epochs, documents
):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nobody pulls the plug here
    monkeypatch.setattr("rwkvjax.data.prepare._SHUFFLE_BLOCK", 40)
    options = dataclasses.replace(corpus, epochs=epochs, checkpoint_seconds=0, chunk_bytes=64)
    prepare(dataclasses.replace(options, output=str(tmp_path / "whole")), silent)
    with monkeypatch.context() as patch:
        interrupt_after(patch, documents)
        with pytest.raises(KeyboardInterrupt):
            prepare(options, silent)
    assert not (tmp_path / "out.idx").exists()
    journals = tmp_path.glob("out*.partial/journal.json")
    saved = [json.loads(path.read_text())["documents"] for path in journals]
    # The first chunk has 3 documents; 204 is the moment between tokenising and shuffling.
    assert bool(saved) == (documents not in (0, 2, 204))
    lines: list[str] = []
    prepare(options, lines.append)
    found = [line for line in lines if "going on with" in line]
    assert len(found) == len(saved)
    assert all(
        f"after {count:,} documents" in line for count, line in zip(saved, found, strict=True)
    )
    assert content(tmp_path / "out") == content(tmp_path / "whole")


# The pipeline needs no JAX. A bare package in the place of `rwkvjax`, whose __init__ imports the
# models, shows that, and lets the many processes of these tests start in a fraction of the time.
DRIVER = """
import json, sys, types
sys.path.insert(0, sys.argv[1])
sys.modules["rwkvjax"] = types.ModuleType("rwkvjax")
sys.modules["rwkvjax"].__path__ = [sys.argv[1] + "/rwkvjax"]
from rwkvjax.data.prepare import PrepareOptions, prepare
from rwkvjax.data.text import ReadOptions

if __name__ == "__main__":
    fields = json.loads(sys.argv[2])
    fields["read"], fields["inputs"] = ReadOptions(**fields["read"]), tuple(fields["inputs"])
    prepare(PrepareOptions(**fields))
assert "jax" not in sys.modules
"""


@pytest.mark.parametrize(("workers", "kills"), [(1, 2), (2, 1)])
def test_killed_process_resumes_to_the_same_bytes(tmp_path, workers, kills):
    lines = (json.dumps({"text": f"{i} " * (i % 50 + 1)}) for i in range(6_000))
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    options = PrepareOptions(
        inputs=(str(tmp_path / "in.jsonl"),),
        output=str(tmp_path / "out"),
        tokenizer="byte",
        workers=workers,
        verify=True,
        chunk_bytes=8000,
        checkpoint_seconds=0,
    )
    whole = dataclasses.replace(
        options, output=str(tmp_path / "whole"), chunk_bytes=1 << 20, workers=1
    )
    prepare(whole, silent)
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    command = [sys.executable, str(driver), str(ROOT), json.dumps(dataclasses.asdict(options))]
    killed_at = []
    for kill in range(kills):
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            wait_for_documents(process, tmp_path, 100 + 1500 * kill)
            children = children_of(process.pid)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not (tmp_path / "out.idx").exists()
        killed_at.append(saved_documents(tmp_path))
        wait_for_exit(children)
    assert killed_at == sorted(set(killed_at)) and 100 <= killed_at[0] and killed_at[-1] < 6_000
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert f"after {killed_at[-1]:,} documents" in done.stderr, done.stderr
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def saved_documents(folder):
    journal = folder / "out.partial" / "journal.json"
    return json.loads(journal.read_text())["documents"] if journal.exists() else 0


def wait_for_documents(process, folder, documents):
    deadline = time.monotonic() + 60
    while saved_documents(folder) < documents:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def children_of(pid):
    """Processes started by `pid`; none where the system does not tell (not Linux)."""
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listing.read_text().split()] if listing.exists() else []


def wait_for_exit(processes):
    """The workers of a killed process must not stay behind."""
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in processes):
        assert time.monotonic() < deadline, processes
        time.sleep(0.02)


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_unfinished_work_with_other_options_is_kept_apart(corpus, tmp_path, monkeypatch):
    options = dataclasses.replace(corpus, checkpoint_seconds=0, chunk_bytes=64)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 100)
        with pytest.raises(KeyboardInterrupt):
            prepare(options, silent)
    other = dataclasses.replace(
        options, end_of_document=False, read=ReadOptions(broken_lines="skip", errors="replace")
    )
    with pytest.raises(ValueError, match="unfinished work with another choice of format, token"):
        prepare(other, silent)
    with (tmp_path / "a.txt").open("a") as file:
        file.write("more")
    with pytest.raises(ValueError, match="with another choice of inputs;"):
        prepare(options, silent)
    prepare(dataclasses.replace(other, restart=True), silent)
    assert MmapTokens(corpus.output).num_documents == 204


def test_existing_output_is_kept_unless_asked(corpus):
    prepare(corpus, silent)
    before = content(corpus.output)
    with pytest.raises(FileExistsError, match="pass overwrite"):
        prepare(dataclasses.replace(corpus, end_of_document=False), silent)
    assert content(corpus.output) == before
    prepare(dataclasses.replace(corpus, end_of_document=False, overwrite=True), silent)
    assert content(corpus.output) != before


def test_full_disk_can_be_continued(corpus, tmp_path, monkeypatch):
    options = dataclasses.replace(corpus, checkpoint_seconds=0, chunk_bytes=64)
    prepare(dataclasses.replace(options, output=str(tmp_path / "whole")), silent)
    flush, count = os.fsync, iter(range(10**9))

    def filling(descriptor):
        if next(count) > 40:
            raise OSError(28, "No space left on device")
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", filling)
        with pytest.raises(DiskFullError, match="out.partial"):
            prepare(options, silent)
    lines: list[str] = []
    prepare(options, lines.append)
    assert "going on with" in lines[0]
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_bad_input_is_explained(corpus, tmp_path):
    strict = dataclasses.replace(corpus, read=ReadOptions())
    with pytest.raises(DocumentError, match=r"b\.jsonl, line 51: expected text in field 'text'"):
        prepare(strict, silent)
    with pytest.raises(FileNotFoundError, match="no such file"):
        prepare(dataclasses.replace(corpus, inputs=("nowhere",)), silent)
    with pytest.raises(FileNotFoundError, match="'nonsense'"):
        prepare(dataclasses.replace(corpus, tokenizer="nonsense"), silent)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        dataclasses.replace(corpus, workers=0)
    with BinidxBuilder(corpus.output), pytest.raises(FileInUseError, match="another process"):
        prepare(corpus, silent)
    with pytest.raises(FileNotFoundError, match="not made by prepare_data"):
        load_statistics(tmp_path / "nowhere")
    (tmp_path / "x.stats.json").write_text('{"documents": 1, "colour": 2}')
    with pytest.raises(ValueError, match="expected statistics of a token file"):
        load_statistics(tmp_path / "x")


class Forgetful:
    """A tokenizer that loses upper case and has no end-of-document token."""

    name, digest, vocab_size, end_of_document = "forgetful", "0", 256, None

    def encode_bytes(self, data):
        return np.frombuffer(data.lower(), np.uint8).astype(np.uint16)

    def decode(self, ids, errors="replace"):
        return bytes(ids.astype(np.uint8)).decode(errors=errors)


def test_verification_and_tokenizers_without_an_end_token(corpus, monkeypatch):
    monkeypatch.setattr("rwkvjax.data.encode.get_tokenizer", lambda name: Forgetful())
    with pytest.raises(ValueError, match="no end-of-document token to append"):
        Encoder.make("forgetful", True, False)
    options = dataclasses.replace(corpus, end_of_document=False)
    with pytest.raises(ValueError, match="does not give back the document .* 'Hello, w"):
        prepare(dataclasses.replace(options, verify=True), silent)
    assert prepare(options, silent).documents == 204


def test_progress_lines():
    now = iter([0.0, 10.0, 11.0, 12.0, 20.0, 21.0, 31.0])
    lines: list[str] = []
    progress = Progress(lines.append, 200_000_000, 15.0, clock=lambda: next(now))
    progress.update(1, 10, 5_000_000, 20_000_000)  # 10 s: start-up, not counted as speed
    progress.update(2, 20, 5_000_000, 40_000_000)  # 11 s: too early
    assert not progress.checkpoint_due()  # 12 s
    progress.update(3000, 40, 40_000_000, 110_000_000)  # 20 s: 45 MB and 45 % in 10 s
    assert progress.checkpoint_due()  # 21 s
    assert not progress.checkpoint_due()  # 31 s
    assert lines == ["tokenised 3,000 documents, 40 tokens, 4.50 MB/s, 55.0%, 10 s left"]
    assert [format_seconds(s) for s in (7.6, 125, 12000)] == ["8 s", "2 min 05 s", "3 h 20 min"]


def test_flags_describe_the_options():
    values = flags.FlagValues()
    prepare_data.define_flags(values)
    values(["prepare_data", "--input=a", "--input=b*", "--output=o"])
    assert prepare_data.options_from(values) == PrepareOptions(("a", "b*"), "o")
    values(
        [
            "prepare_data",
            "--noeod",
            "--skip_broken",
            "--epochs=2",
            "--seed=3",
            "--workers=4",
            "--field=content",
            "--format=jsonl",
            "--errors=replace",
            "--tokenizer=byte",
            "--separator=--",
            "--verify",
            "--overwrite",
            "--restart",
            "--checkpoint_seconds=1",
        ]
    )
    assert prepare_data.options_from(values) == PrepareOptions(
        ("a", "b*"),
        "o",
        "byte",
        "jsonl",
        ReadOptions("content", "replace", "skip", "--"),
        False,
        2,
        3,
        4,
        True,
        True,
        True,
        checkpoint_seconds=1,
    )


def test_the_program(corpus, tmp_path):
    command = [
        sys.executable,
        "-m",
        "rwkvjax.prepare_data",
        f"--input={corpus.inputs[1]}",
        f"--output={tmp_path / 'cli'}",
        "--tokenizer=byte",
        "--skip_broken",
        "--ctx=64",
        "--ctx=9999",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    tokens = MmapTokens(tmp_path / "cli").num_tokens
    assert done.returncode == 0, done.stderr
    assert f"tokens       {tokens:,}\n" in done.stdout
    assert "skipped      1 broken lines" in done.stdout
    assert "magic prime  29 (ctx 64)" in done.stdout
    assert "magic prime  none: a magic prime for ctx 9999 needs at least 29997" in done.stdout
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "exist; pass overwrite" in done.stderr
    assert "Traceback" not in done.stderr

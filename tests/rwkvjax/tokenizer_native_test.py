# SPDX-License-Identifier: Apache-2.0
"""Compiling on demand: where the library goes, the switch, and what happens without a compiler."""

import logging
import os
import shutil
import stat

import pytest

from rwkvjax.tokenizers import (
    NativeUnavailableError,
    WorldTokenizer,
    native,
    vocabulary_from_tokens,
)

TOKENS = {b + 1: bytes([b]) for b in range(256)} | {300: b"ab", 301: b"abc"}
VOCABULARY = vocabulary_from_tokens(TOKENS)
IDS = [301, 300, 101]  # of "abcabd"

needs_compiler = pytest.mark.skipif(
    os.name != "posix" or shutil.which("cc") is None, reason="no C compiler on this machine"
)


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """Each test has its own cache folder and forgets what was loaded before."""
    monkeypatch.setenv("RWKVJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RWKVJAX_NATIVE", raising=False)
    monkeypatch.delenv("CC", raising=False)
    native._load.cache_clear()
    native._log_once.cache_clear()
    yield tmp_path / "cache"
    native._load.cache_clear()
    native._log_once.cache_clear()


def check(tokenizer: WorldTokenizer, is_native: bool) -> None:
    assert tokenizer.is_native == is_native
    assert tokenizer.encode("abcabd").tolist() == IDS
    assert tokenizer.decode(IDS) == "abcabd"


@needs_compiler
def test_compiles_once_into_the_cache(fresh, monkeypatch):
    check(WorldTokenizer(VOCABULARY), True)
    (library,) = fresh.iterdir()
    assert library.suffix == ".so"
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700
    native._load.cache_clear()
    monkeypatch.setattr(native.subprocess, "run", None)  # a second compilation would fail
    check(WorldTokenizer(VOCABULARY, native=True), True)


@needs_compiler
@pytest.mark.parametrize("content", [b"", b"not a library"])
def test_damaged_library_is_made_again(fresh, content):
    path = native._library_path(native._compiler())
    path.parent.mkdir(mode=0o700)
    path.write_bytes(content)
    check(WorldTokenizer(VOCABULARY, native=True), True)


@needs_compiler
def test_shared_cache_folder_is_refused(fresh):
    fresh.mkdir()
    fresh.chmod(0o777)
    with pytest.raises(NativeUnavailableError, match="others can write to the cache folder"):
        WorldTokenizer(VOCABULARY, native=True)
    assert list(fresh.iterdir()) == []


@needs_compiler
def test_library_others_could_have_written_is_not_loaded(fresh):
    check(WorldTokenizer(VOCABULARY, native=True), True)
    fresh.chmod(0o777)
    native._load.cache_clear()
    with pytest.raises(NativeUnavailableError, match="others can write"):
        WorldTokenizer(VOCABULARY, native=True)


@needs_compiler
def test_failing_compiler(monkeypatch, fresh):
    monkeypatch.setenv("CC", "cc -no-such-option-at-all")
    with pytest.raises(NativeUnavailableError, match="cc failed: .*no-such-option"):
        WorldTokenizer(VOCABULARY, native=True)
    assert list(fresh.iterdir()) == []  # nothing half-made stays


def test_without_compiler_falls_back_with_one_note(monkeypatch, caplog):
    monkeypatch.setenv("CC", "no-such-compiler")
    with caplog.at_level(logging.WARNING):
        check(WorldTokenizer(VOCABULARY), False)
        check(WorldTokenizer(VOCABULARY), False)
    assert len(caplog.records) == 1
    assert "there is no C compiler 'no-such-compiler'" in caplog.text


def test_switch(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("RWKVJAX_NATIVE", "1")
    with pytest.raises(NativeUnavailableError, match="no-such-compiler"):
        WorldTokenizer(VOCABULARY)
    check(WorldTokenizer(VOCABULARY, native=False), False)  # the argument beats the variable
    monkeypatch.setenv("RWKVJAX_NATIVE", "yes")
    with pytest.raises(ValueError, match="RWKVJAX_NATIVE must be 0, 1 or empty, got 'yes'"):
        WorldTokenizer(VOCABULARY)


def test_switched_off_compiles_nothing(monkeypatch, fresh, caplog):
    monkeypatch.setenv("RWKVJAX_NATIVE", "0")
    check(WorldTokenizer(VOCABULARY), False)
    assert not fresh.exists() and not caplog.records


def test_unwritable_cache_falls_back(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RWKVJAX_CACHE", str(tmp_path / "file" / "cache"))
    check(WorldTokenizer(VOCABULARY), False)
    assert "tokenizing with NumPy" in caplog.text


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("RWKVJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.cache_folder() == tmp_path / "rwkvjax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert native.cache_folder() == tmp_path / ".cache" / "rwkvjax"


def test_source_is_part_of_the_package():
    assert native._SOURCE.is_file()
    assert "rwkvjax_encode" in native._SOURCE.read_text()

# SPDX-License-Identifier: Apache-2.0
import json
import os
import pty
import select
import signal
import subprocess
import time

import numpy as np
import pytest

from rwkvjax import prompts
from rwkvjax.chat import Chat, _printable
from rwkvjax.chat_session import Session
from rwkvjax.serving import Engine, Limits
from rwkvjax.serving import slots as device
from rwkvjax.tokenizers import ByteTokenizer, get_tokenizer
from tests.rwkvjax.serving.shared import CFG, random_params, write_checkpoint


def _session():
    """0 q, 1 a, 2 q, 3 a; then another answer 4 to 2, and another first question 5."""
    session = Session("Be brief.")
    session.ask("one")
    session.answer("1")
    session.ask("two")
    session.answer("2")
    session.retry()
    session.answer("II")
    session.edit(0, "uno")
    return session


def test_world_format():
    messages = [("system", "S"), ("user", " a\r\n\r\nb\n\n\nc "), ("assistant", "x")]
    assert prompts.conversation(messages) == (
        "System: S\n\nUser: a\nb\nc\n\nAssistant: x\n\nAssistant:"
    )
    with pytest.raises(ValueError, match="roles"):
        prompts.turn("tool", "x")


def test_shared_beginning_ends_with_a_token():
    tokenizer = get_tokenizer("world")
    messages = [("system", "Be brief."), ("user", "Hi")]
    ids = np.asarray(tokenizer.encode(prompts.conversation(messages)))
    (count,) = prompts.shared_lengths(tokenizer, messages, ids)
    assert tokenizer.decode(ids[:count]) == "System: Be brief.\n\n"
    assert prompts.shared_lengths(tokenizer, messages[1:], ids) == []


def test_branches():
    session = _session()
    assert session.path() == [5]
    assert session.messages() == [("system", "Be brief."), ("user", "uno")]
    session.go(4)
    assert [text for _, text in session.messages()] == ["Be brief.", "one", "1", "two", "II"]
    session.undo()
    assert session.path() == [0, 1]
    assert session.ask("three") == 6
    lines = session.tree().splitlines()
    assert len(lines) == 7 and sum(line.startswith("*") for line in lines) == 3


def test_save_and_load(tmp_path):
    session = _session()
    session.save(tmp_path / "s.json")
    loaded = Session.load(tmp_path / "s.json")
    assert (loaded.nodes, loaded.head, loaded.system) == (
        session.nodes,
        session.head,
        session.system,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"head": 99},
        {"head": "1"},
        {"head": True},
        {"system": 5},
        {"nodes": [{"role": "user", "text": "a", "parent": 0}]},
        {"nodes": [{"role": "assistant", "text": "a", "parent": -1}]},
        {"nodes": [{"role": "tool", "text": "a", "parent": -1}]},
        {"nodes": [{"role": "user", "text": "\ud800", "parent": -1}]},
        {"nodes": [{"role": "user"}]},
        {"nodes": 3},
    ],
)
def test_damaged_sessions_are_refused(tmp_path, change):
    path = tmp_path / "s.json"
    _session().save(path)
    stored = json.loads(path.read_text()) | change
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="not a saved conversation"):
        Session.load(path)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "3", "null"])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(ValueError, match="not a saved conversation"):
        Session.load(tmp_path / "s.json")


def test_commands(tmp_path, monkeypatch):
    """A whole conversation; states of earlier messages are used again."""
    monkeypatch.chdir(tmp_path)
    shown = []
    engine = Engine(random_params(), CFG, ByteTokenizer(), Limits(1, 16, 1 << 20))
    chat = Chat(engine, Session(), shown.append, max_tokens=6)

    def say(line):
        shown.clear()
        assert chat.handle(line)
        return "".join(shown)

    assert "0 of 23 prompt tokens from memory" in say("Hello")
    again = say("/retry")
    assert "23 of 23 prompt tokens from memory" in again
    assert [node.parent for node in chat.session.nodes] == [-1, 0, 0]
    say("more")
    say("/edit 0 Good bye")
    assert chat.session.nodes[-2].text == "Good bye" and chat.session.nodes[-2].parent == -1
    assert "saved 7 messages" in say("/save 'a file.json'")
    say("/set temperature 0")
    first = say("/retry").split("\n")[0]
    assert first == say("/retry").split("\n")[0]
    say("/load 'a file.json'")
    assert len(chat.session.nodes) == 7
    assert "one file, got 2" in say("/save a b") and "one file, got 0" in say("/load")
    assert "unknown command" in say("/hello")
    assert "no message 99" in say("/go 99")
    assert "a number" in say("/set temperature x") and "temperature" in say("/set temperature -1")
    assert "cannot" in say("/save /nowhere/file") and say("") == ""
    assert "//" not in say("//slash") and chat.session.nodes[-2].text == "/slash"
    assert not chat.handle("/quit")


def test_an_interrupt_ends_the_answer_and_nothing_else(monkeypatch):
    """Ctrl-C in the middle of a step, when arrays have been handed over and not yet replaced."""
    engine = Engine(random_params(), CFG, ByteTokenizer(), Limits(1, 16, 1 << 20))
    shown = []
    chat = Chat(engine, Session(), shown.append, max_tokens=50)
    choose, calls = device.choose, []

    def interrupted(*args):
        found = choose(*args)
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return found

    monkeypatch.setattr(device, "choose", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert chat.handle("Hello") and "(stopped, 3 tokens" in "".join(shown)
    assert signal.getsignal(signal.SIGINT) is before
    shown.clear()
    assert chat.handle("/retry") and "(cut at --max_tokens, 50 tokens" in "".join(shown)


def test_what_a_model_draws_cannot_steer_the_terminal():
    assert _printable("a\x1b[2Jb\x07\r\n\tc\x9b") == "a\\x1b[2Jb\\x07\\x0d\n\tc\\x9b"
    assert _printable("\u202e") == "\ufffd"  # turns the direction of writing


def test_in_a_terminal(repo, python, tmp_path):
    """The program in a pseudo-terminal: a question, a retry, the end."""
    write_checkpoint(tmp_path / "model.safetensors")
    command = [python, "-m", "rwkvjax.chat", f"--checkpoint={tmp_path}/model.safetensors"]
    ours, theirs = pty.openpty()
    env = os.environ | {"XLA_FLAGS": "", "TERM": "xterm"}
    process = subprocess.Popen(
        [*command, "--max_tokens=5"], cwd=repo, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""

    def wait_for(text, seconds=120):
        nonlocal seen
        end = time.monotonic() + seconds
        while text not in seen:
            assert time.monotonic() < end, seen
            if select.select([ours], [], [], 0.2)[0]:
                seen += os.read(ours, 4096)
        seen = seen[seen.index(text) + len(text) :]

    try:
        wait_for(b"User: ")
        os.write(ours, b"Hello\n")
        wait_for(b"\x1b[1;32mAssistant:\x1b[0m ")
        wait_for(b"from memory)")
        wait_for(b"User: ")
        os.write(ours, b"/retry\n")
        wait_for(b"23 of 23 prompt tokens from memory)")
        wait_for(b"User: ")
        os.write(ours, b"/quit\n")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)

# SPDX-License-Identifier: Apache-2.0
"""Conversations: forms of JSONL, prompts, masks, windows, and what is refused."""

import gzip
import json

import numpy as np
import pytest

from rwkvjax.data.conversations import (
    ConversationError,
    ConversationWindows,
    clean,
    encode,
    read_conversations,
    render,
)
from rwkvjax.tokenizers import ByteTokenizer

TURNS = [
    ("System", "Be brief."),
    ("User", "hi\r\n\r\nyou "),
    ("Assistant", "Hello."),
    ("User", "x"),
]


def _write(path, *lines):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as file:
        file.writelines((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
    return path


def _targets(one):
    return bytes(one.tokens[one.target].astype(np.uint8)).decode()


def test_prompts_have_the_world_form():
    assert clean(" a\r\n\r\n\r\nb\n") == "a\nb"
    pieces = render(TURNS)
    assert "".join(text for text, _ in pieces) == (
        "System: Be brief.\n\nUser: hi\nyou\n\nAssistant: Hello.\n\nUser: x\n\n"
    )
    assert [text for text, target in pieces if target] == [" Hello.\n\n"]
    one = encode(TURNS, ByteTokenizer())
    assert len(one.tokens) == len(one.target) == sum(len(text) for text, _ in pieces)
    assert _targets(one) == " Hello.\n\n"


def test_forms_of_a_line(tmp_path):
    path = _write(
        tmp_path / "a.jsonl.gz",
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        "",
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"prompt": "q", "completion": "a"},
    )
    found = list(read_conversations([path], ByteTokenizer()))
    assert [place.rsplit(":", 1)[1] for place, _ in found] == ["1", "3", "4"]
    assert {bytes(one.tokens.astype(np.uint8)) for _, one in found} == {
        b"User: q\n\nAssistant: a\n\n"
    }


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "a.jsonl:2: not JSON"),
        ([1], "expected a JSON object, got list"),
        ({"prompt": "q"}, "the Assistant message is no text but None"),
        ({"prompt": " \n", "response": "a"}, "an empty User message"),
        ({"messages": "hi"}, "expected a list of messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "role must be one of"),
        ({"messages": [{"role": "user", "content": "a"}]}, "nothing to learn"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_lines_that_are_no_conversations(tmp_path, line, message):
    path = _write(tmp_path / "a.jsonl", {"prompt": "q", "response": "a"}, line)
    with pytest.raises(ConversationError, match=message):
        list(read_conversations([path], ByteTokenizer()))


@pytest.mark.parametrize("pack", [True, False])
def test_windows_predict_the_answers_once(pack):
    tokenizer = ByteTokenizer()
    answers = ["yes", "no", "perhaps so", "never"]
    items = [
        (str(i), encode([("User", "q" * i), ("Assistant", a)], tokenizer))
        for i, a in enumerate(answers, 1)
    ]
    source = ConversationWindows(iter(items), 80, pack=pack, seed=None)
    assert len(source) == (2 if pack else 4)
    batch = source.get(np.arange(len(source)))
    assert batch["tokens"].shape == (len(source), 81) == batch["reset"].shape
    picked = batch["tokens"][:, 1:][batch["loss_mask"] > 0]
    assert sorted(bytes(picked.astype(np.uint8))) == sorted(
        "".join(f" {a}\n\n" for a in answers).encode()
    )
    assert source.num_targets == batch["loss_mask"].sum() == len(picked)
    if not pack:
        assert not batch["reset"].any()
    for row in range(len(source)) if pack else ():
        starts = np.flatnonzero(batch["reset"][row])
        text = bytes(batch["tokens"][row].astype(np.uint8))
        assert all(text[s : s + 5] in (b"User:", b"\0" * len(text[s : s + 5])) for s in starts)
    shuffled = ConversationWindows(iter(items), 80, pack=pack, seed=1)
    order = [shuffled.get(np.arange(len(source)) + k * len(source))["tokens"] for k in range(2)]
    for epoch in order:
        np.testing.assert_array_equal(np.sort(epoch, axis=0), np.sort(batch["tokens"], axis=0))


def test_long_conversations_are_not_cut_silently():
    tokenizer = ByteTokenizer()
    long = [("x:1", encode([("User", "a"), ("Assistant", "b" * 60)], tokenizer))]
    late = [("x:2", encode([("User", "a" * 60), ("Assistant", "b")], tokenizer))]
    with pytest.raises(ValueError, match="x:1: 82 tokens do not fit a context of 40"):
        ConversationWindows(iter(long), 40)
    cut = ConversationWindows(iter(long + late), 40, too_long="cut")
    assert (len(cut), cut.cut, cut.skipped) == (1, 1, 1)
    with pytest.raises(ValueError, match="no conversation that fits"):
        ConversationWindows(iter(long), 40, too_long="skip")
    with pytest.raises(ValueError, match="in a vocabulary 50"):
        ConversationWindows(iter(long), 90, vocab_size=50)

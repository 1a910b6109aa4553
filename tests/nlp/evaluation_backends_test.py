# SPDX-License-Identifier: Apache-2.0
"""Stored answers, baselines, personal few-shot, and the in-process model."""

import collections
import dataclasses
import json

import jax
import numpy as np
import pytest

import rwkvjax
from core import datasets
from nlp import rwkv_models
from nlp.evaluation import fewshot, loaders, pipeline, scoring, tasks
from nlp.evaluation.backends import baselines, replay
from nlp.evaluation.config import Model
from nlp.evaluation.records import Item, Request
from rwkvjax.tokenizers import get_tokenizer

CATALOGUE = tasks.catalogue()


def _item(i, annotator="a", text=None, gold="abusive", task_text="some text"):
    text = text or f"t{i}"
    return Item(str(i), {"agent": "x", "text": f"{task_text} {i}"}, ((gold,),), annotator, text)


# --- personal few-shot ---------------------------------------------------------------------------


def test_examples_come_from_the_annotator_are_nested_and_stable():
    train = [_item(i, "ab"[i % 2]) for i in range(40)]
    pool = fewshot.Pool(train, ["abusive", "not abusive"], seed=3)
    item = _item(100, "a")
    three = pool.examples(item, 3)
    assert {e.annotator for e in three} == {"a"}
    assert pool.examples(item, 2) == three[:2] and pool.examples(item, 0) == []
    shuffled = fewshot.Pool(train[::-1], ["abusive", "not abusive"], seed=3)
    assert shuffled.examples(item, 3) == three, "the order of the data must not matter"
    other = fewshot.Pool(train, ["abusive", "not abusive"], seed=4)
    draws = {
        tuple(e.id for e in p.examples(_item(i), 3)) for p in (pool, other) for i in range(50, 60)
    }
    assert len(draws) > 10, "draws depend on item and seed"
    same_text = dataclasses.replace(item, text_id="t0")
    assert all(e.text_id != "t0" for e in pool.examples(same_text, 3))
    with pytest.raises(ValueError, match="has 20 training judgements, 21 asked"):
        pool.examples(item, 21)
    newcomer = _item(101, "nobody")
    assert fewshot.common_subset([item, newcomer], pool, [0, 3]) == [item]
    assert fewshot.common_subset([item, newcomer], pool, [0]) == [item, newcomer]


def test_controversial_examples_have_the_highest_disagreement():
    labels = ["abusive", "not abusive"]
    votes = {"t0": "aaaa", "t1": "aann", "t2": "aaan", "t3": "nnnn"}
    names = {"a": "abusive", "n": "not abusive"}
    train = [
        Item(f"{t}-{p}", {"agent": "", "text": t}, ((names[v],),), f"p{p}", t)
        for t, own in votes.items()
        for p, v in enumerate(own)
    ]
    spread = fewshot.controversy(train, labels)
    # Check: standard deviation of (1, 1, 0, 0) is .5, of (1, 1, 1, 0) it is sqrt(3) / 4.
    assert spread == pytest.approx({"t0": 0, "t1": 0.5, "t2": 3**0.5 / 4, "t3": 0})
    pool = fewshot.Pool(train, labels, "controversial")
    for item in (_item(7, "p1", "new"), _item(8, "p1", "other")):
        assert [e.text_id for e in pool.examples(item, 2)] == ["t1", "t2"]


def test_personal_prompts_show_the_examples_and_hide_the_gold():
    task = CATALOGUE["convabuse_per"]
    train = [_item(i, gold="not abusive") for i in range(3)]
    text = tasks.request(task, _item(9), train).messages[0][1]
    assert text.count('["not abusive"]') == 3 and '["abusive"]' not in text
    assert text.index("some text 0") < text.index("some text 9")
    with pytest.raises(ValueError, match="other texts of the annotator"):
        tasks.request(task, _item(9), [_item(1, "somebody else")])
    with pytest.raises(ValueError, match="other texts of the annotator"):
        tasks.request(task, _item(9), [_item(9)])


def test_real_personal_data_never_leak_texts():
    for name in ("convabuse_per", "irony_per", "reader_emotions_per"):
        task = CATALOGUE[name]
        try:
            corpus = loaders.load(task)
        except FileNotFoundError as error:
            pytest.skip(str(error))
        assert not {i.text_id for i in corpus.test} & {i.text_id for i in corpus.train}
        pool = fewshot.Pool(corpus.train, task.labels)
        items = fewshot.common_subset(corpus.test, pool, [3])
        assert len(items) > (300 if name != "reader_emotions_per" else 10)
        request = tasks.request(task, items[0], pool.examples(items[0], 3))
        assert "{" not in request.messages[0][1]


# --- baselines -----------------------------------------------------------------------------------


def test_baselines_answer_in_the_prompts_form():
    task = CATALOGUE["convabuse_per"]
    # Person a calls everything abusive, b goes by the word.
    train = [
        Item(
            f"{i}{who}",
            {"agent": "", "text": f"{word} filler{i % 3}"},
            (("abusive" if who == "a" or word == "bad" else "not abusive",),),
            who,
            f"t{i}",
        )
        for i in range(60)
        for who in "ab"
        for word in (["bad", "fine"][i % 2],)
    ]
    test = [
        dataclasses.replace(item, id="new" + item.id, text_id="x" + item.text_id) for item in train
    ]
    said = baselines.answers(task, train, test)
    assert set(said) == {
        "random", "majority", "annotator majority", "tf-idf", "tf-idf + annotator"
    }  # fmt: skip

    def accuracy(name):
        parsed = [
            scoring.Answer(item, tasks.parse(task, item, text))
            for item, text in zip(test, said[name], strict=True)
        ]
        result = scoring.score(task, parsed, resamples=0)
        assert result["coverage"] == 1
        return result["metrics"]["accuracy"]["value"]

    assert accuracy("majority") == 0.75 and accuracy("annotator majority") == 0.75
    assert 0.3 < accuracy("random") < 0.7
    assert accuracy("tf-idf + annotator") > accuracy("tf-idf") - 1e-9 >= 0.7
    assert said["random"] == baselines.answers(task, train, test)["random"]
    assert set(baselines.answers(task, [], test)) == {"random"}, "no majority from asked items"


def test_baselines_on_real_messages():
    task = CATALOGUE["spam"]
    try:
        corpus = loaders.load(task, limit=400)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    said = baselines.answers(task, corpus.train, corpus.test)
    parsed = lambda name: [
        scoring.Answer(i, tasks.parse(task, i, t))
        for i, t in zip(corpus.test, said[name], strict=True)
    ]
    score = lambda name: scoring.score(task, parsed(name), resamples=0)["metrics"]["macro_f1"][
        "value"
    ]
    assert score("tf-idf") > 0.93 > 0.6 > score("majority")


# --- stored answers ------------------------------------------------------------------------------


def _stored(tmp_path, rows, name="answers.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_replay_refuses_missing_double_and_foreign_answers(tmp_path):
    ask = lambda item, who="": Request("t", item, (("user", "q" + item),), who)
    good = ask("1")
    rows = [
        {"task": "t", "item": "1", "text": "one", "prompt_sha256": replay.prompt_sha256(good)},
        {"item": 2, "annotator": "a", "text": "two"},
    ]
    backend = replay.ReplayBackend(_stored(tmp_path, rows))
    texts = [backend._one(r).text for r in (good, ask("2", "a"))]
    assert texts == ["one", "two"]
    for request in (ask("3"), ask("2", "b")):
        with pytest.raises(replay.ReplayError, match="no answer"):
            backend._one(request)
    with pytest.raises(replay.ReplayError, match="another prompt"):
        backend._one(dataclasses.replace(good, messages=(("user", "changed"),)))
    with pytest.raises(replay.ReplayError, match="a second answer"):
        replay.ReplayBackend(_stored(tmp_path, [rows[1], rows[1]], "b.jsonl"))
    with pytest.raises(replay.ReplayError, match="columns item and text"):
        replay.ReplayBackend(_stored(tmp_path, [{"text": "x"}], "c.jsonl"))
    with pytest.raises(FileNotFoundError):
        replay.ReplayBackend(tmp_path / "absent.jsonl")


def test_the_studys_workbook_layout(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "1.Aggression"
    sheet.append(list(replay.WORKBOOK_COLUMNS))
    sheet.append([0, "p", "text 0", "['aggressive']", 1, '["aggressive"]', "It is aggressive.", ""])
    sheet.append([1, "p", "text 1", '["non-aggressive"]', 1, "[]", "I'm sorry.", "refused"])
    sheet.append([2, "p", "text 2", "aggressive", 0, "", "", "not taken"])
    path = tmp_path / "book.xlsx"
    book.save(path)
    task = CATALOGUE["aggression"]
    items, rows = replay.read_workbook(path, "1.Aggression")
    assert [i.labels for i in items] == [("aggressive",), ("non-aggressive",)]
    units = [tasks.parse(task, i, r["text"])[0] for i, r in zip(items, rows, strict=True)]
    assert [u.status for u in units] == ["repaired", "refusal"]
    _, final = replay.read_workbook(path, "1.Aggression", "chatgpt_final")
    assert final[0]["text"] == '["aggressive"]'
    with pytest.raises(replay.ReplayError, match="no sheet"):
        replay.read_workbook(path, "2.Other")
    with pytest.raises(replay.ReplayError, match="expected a list"):
        replay.stored_labels("[__import__('os')]x")
    backend = replay.ReplayBackend(f"{path}!1.Aggression")
    asked = [Request("aggression", i, (("user", "q"),), "") for i in ("0", "1", "2")]
    assert [backend._one(r).text for r in asked[:2]] == ["It is aggressive.", "I'm sorry."]
    assert backend.identity["sheet"] == "1.Aggression"
    with pytest.raises(replay.ReplayError, match="no answer"):
        backend._one(asked[2])
    for name in (path, f"{path}!"):
        with pytest.raises(replay.ReplayError, match=r"SHEET with one of \['1.Aggression'\]"):
            replay.ReplayBackend(name)
    (tmp_path / "broken.xlsx").write_bytes(b"no zip")
    with pytest.raises(replay.ReplayError, match="not a workbook"):
        replay.ReplayBackend(tmp_path / "broken.xlsx!1.Aggression")


# --- a model of ours -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(request):
    # Short pieces: each length is a compilation.
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(rwkv_models, "_CHUNK", 16)
    request.addfinalizer(monkeypatch.undo)
    cfg = rwkvjax.Config(version="6", vocab_size=256, dim=32, layers=2, head_size=16)
    params = rwkvjax.init(jax.random.key(0), cfg)
    # The official initialisation starts with blocks that put out nothing, so that the state would
    # not matter; a state that is lost or mixed up must be seen.
    leaves, tree = jax.tree.flatten(params)
    noise = [0.15 * jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate(leaves)]
    leaves = [x + n if x.ndim > 2 else x for x, n in zip(leaves, noise, strict=True)]
    params = jax.tree.unflatten(tree, leaves)
    params["emb"]["weight"] = jax.random.normal(jax.random.key(1), params["emb"]["weight"].shape)
    params["head"]["weight"] = params["head"]["weight"] * 4
    return cfg, params


def _backend(model, **options):
    return rwkv_models.RWKVBackend(*model, get_tokenizer("byte"), rwkv_models.Options(**options))


def _spam_requests(n=5):
    task = CATALOGUE["spam"]
    texts = ["win money now" * (i + 1) + "é" * i for i in range(n)]
    return [
        tasks.request(task, Item(str(i), {"text": t}, (("spam",),), "", f"t{i}"))
        for i, t in enumerate(texts)
    ]


_APPLY = jax.jit(rwkvjax.apply, static_argnums=1)


def _logits(model, tokens):
    """Logits after every token; padding behind a text changes nothing before it."""
    cfg, params = model
    padded = np.zeros((1, 320), np.int32)
    padded[0, : len(tokens)] = tokens
    return np.asarray(_APPLY(params, cfg, padded)[0], np.float64)[0, : len(tokens)]


def _oracle(model, request, options):
    """Log-probability of every label: the whole text at once, nothing shared or batched."""
    prompt = list(options.template.replace("{prompt}", request.messages[0][1]).encode())
    scores = []
    for code in request.codes:
        label = list((options.before + code.strip("[]").strip('"')).encode())
        logits = _logits(model, prompt + label)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        scores.append(sum(float(log_p[len(prompt) - 1 + i, t]) for i, t in enumerate(label)))
    return scores


def test_ranking_agrees_with_the_plain_sum_and_does_not_depend_on_the_batch(model):
    requests = _spam_requests()
    together = _backend(model, batch_size=4).answer_now(requests[:4])
    alone = [
        _backend(model, batch_size=1, share_prefix=False).answer_now([r])[0] for r in requests[:4]
    ]
    for request, a, b in zip(requests, together, alone, strict=False):
        oracle = _oracle(model, request, rwkv_models.Options())
        np.testing.assert_allclose([s for _, s in a.scores], oracle, atol=2e-5)
        np.testing.assert_allclose([s for _, s in a.scores], [s for _, s in b.scores], atol=1e-5)
        assert a.text == b.text == request.codes[int(np.argmax(oracle))]
        assert a.prompt_tokens == len(
            rwkv_models.Options().template.replace("{prompt}", request.messages[0][1]).encode()
        )
    scores = np.array([[s for _, s in a.scores] for a in together])
    assert np.ptp(scores) > 1, "the test model must prefer something"
    assert np.ptp(scores[:, 0]) > 0.01, "the prompt, seen through the state, must matter"


def test_normalised_ranking_and_several_labels(model):
    request = dataclasses.replace(_spam_requests(1)[0], wanted=2)
    plain = _backend(model, batch_size=1).answer_now([request])[0]
    normal = _backend(model, batch_size=1, normalised=True).answer_now([request])[0]
    lengths = [len(" not spam"), len(" spam")]
    np.testing.assert_allclose(
        [s for _, s in normal.scores],
        [s / n for (_, s), n in zip(plain.scores, lengths, strict=True)],
        atol=1e-5,
    )  # fmt: skip
    task = CATALOGUE["unhealthy"]
    unit = tasks.parse(task, Item("1", {}, (("healthy",),)), plain.text)[0]
    assert unit.status == "oov" and set(unit.unknown) == {"spam", "not spam"}


def test_generation_is_greedy_and_batched_equals_alone(model):
    requests = _spam_requests(3)
    options = {"mode": "generate", "max_tokens": 12, "stop": ()}
    together = _backend(model, batch_size=4, **options).answer_now(requests)
    for request, got in zip(requests, together, strict=True):
        text = rwkv_models.Options().template.replace("{prompt}", request.messages[0][1])
        tokens = list(text.encode())
        drawn = []
        for _ in range(12):
            drawn.append(int(_logits(model, tokens + drawn)[-1].argmax()))
        drawn = drawn[: drawn.index(0)] if 0 in drawn else drawn
        assert got.text == get_tokenizer("byte").decode(drawn).strip()
        assert got.completion_tokens == 12


def test_identity_follows_the_weights_and_not_the_batch(model):
    cfg, params = model
    same = _backend(model, batch_size=1).identity
    assert same == _backend(model, batch_size=7).identity
    other = jax.tree.map(lambda x: x, params)
    other["head"]["weight"] = params["head"]["weight"] * 1.0001
    assert _backend((cfg, other)).identity["weights"] != same["weights"]
    assert _backend(model, mode="generate").identity != same
    with pytest.raises(ValueError, match="mode"):
        rwkv_models.Options(mode="guess")


def test_labels_of_items_may_differ_in_number(model):
    request = _spam_requests(1)[0]
    more = dataclasses.replace(request, labels=("a", "b", "cc"), codes=("a", "b", "cc"))
    got = _backend(model, batch_size=4).answer_now([request, more])
    assert [len(g.scores) for g in got] == [2, 3]
    counts = collections.Counter(label for g in got for label, _ in g.scores)
    assert set(counts) == {"spam", "not spam", "a", "b", "cc"}


def test_a_configured_model_is_loaded_from_its_file(tmp_path):
    described = Model("m", backend="rwkv", path=str(tmp_path / "absent"), batch_size=3)
    with pytest.raises(FileNotFoundError):
        pipeline.make_backend(described)
    try:
        folder = datasets.find_dataset("rwkv_tiny")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    path = folder / "tiny-rwkv-4v0-660K-FP16.bin"
    backend = pipeline.make_backend(dataclasses.replace(described, path=str(path)))
    assert backend.batch_size == 3 and backend.identity["kind"] == "rwkv"
    assert backend.identity["ranks"] and len(backend.identity["weights"]) == 64
    with pytest.raises(ValueError, match="needs a path"):
        Model("m", backend="rwkv")

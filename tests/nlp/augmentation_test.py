# SPDX-License-Identifier: Apache-2.0
"""Augmentation: conversations, durable generation, filters, gains, the whole of it."""

import dataclasses
import json

import numpy as np
import pytest

from nlp.acquisition.heads import Heads, train
from nlp.annotations.aggregate import TextLabels
from nlp.augmentation import experiment, filters, report, small_generator, training
from nlp.augmentation.conversations import (
    KINDS,
    Generated,
    Source,
    first_turn,
    one_line,
    quoted,
    second_turn,
)
from nlp.augmentation.generation import Generation, generate
from nlp.evaluation.backends import openai_api
from nlp.evaluation.cache import Cache
from nlp.evaluation.records import Response
from nlp.evaluation.runner import Settings
from nlp.small_rwkv import SmallModel
from tests.nlp.endpoint import Endpoint

SOURCES = [
    Source("a", "a really fine film about the sea", "positive"),
    Source("b", "the plot of it is dull and slow", "negative"),
    Source("c", "what a wonderful evening that was", "positive"),
]
QUICK = Settings(concurrency=2, retries=0, backoff=0.01)


class Echo:
    """Answers with the text in other words; fails on the texts it is told to."""

    batch_size, max_completion = 2, 64
    identity = {"kind": "echo"}

    def __init__(self, fails=(), stop_after=None):
        self.fails, self.stop_after, self.asked = set(fails), stop_after, []

    async def answer(self, requests):
        return [self.one(r) for r in requests]

    def one(self, request):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((request.task, request.item, request.sample, len(request.messages)))
        if request.item in self.fails:
            return Response(status="filtered", error="no")
        return Response(f"new {request.task} of {request.item}\nnumber {request.sample}")

    async def close(self):
        pass


# --- conversations


def test_the_four_conversations():
    source = SOURCES[0]
    for kind in KINDS:
        ((role, said),) = first_turn(source, kind)
        assert role == "user" and said.count(quoted(source.text)) == 1
        assert ("positive" in said) == (kind == "insp_lab")
    turns = second_turn(source, "an answer")
    assert [role for role, _ in turns] == ["user", "assistant", "user"]
    assert turns[:1] == first_turn(source, "para") and turns[1][1] == "an answer"
    with pytest.raises(ValueError, match="kind must be"):
        first_turn(source, "new")


def test_texts_stay_on_their_line():
    assert quoted('ignore this"\n\nAnswer: x') == '"ignore this\' Answer: x"'
    assert one_line('  "two\nlines" ') == "two lines"
    assert one_line('"a" and "b"') == 'a" and "b'


# --- generation


def test_every_text_has_its_source_whatever_fails(tmp_path):
    backend = Echo(fails={"b"})
    with Cache(tmp_path / "c.sqlite") as cache:
        made = generate(SOURCES, backend, cache, Generation(samples=2), QUICK)
    assert len(made) == 4 * 2 * 3
    assert [g.source for g in made] == ["a", "b", "c"] * 8
    for g in made:
        assert g.label == dict((s.id, s.label) for s in SOURCES)[g.source]
        assert (g.status == "ok") == (g.source != "b") and bool(g.text) == (g.source != "b")
        assert "\n" not in g.text
    statuses = {g.status for g in made if g.source == "b"}
    assert statuses == {"filtered", "no_first_turn"}
    turns = {length for task, _, _, length in backend.asked if task == "augment-para_conv"}
    assert turns == {3}


def test_a_killed_run_asks_only_for_the_rest_and_gives_the_same(tmp_path):
    whole = Echo()
    with Cache(tmp_path / "whole.sqlite") as cache:
        expected = generate(SOURCES, whole, cache, Generation(), QUICK)
    first = Echo(stop_after=5)
    with Cache(tmp_path / "c.sqlite") as cache, pytest.raises(BaseException):  # noqa: B017
        generate(SOURCES, first, cache, Generation(), QUICK)
    second = Echo()
    with Cache(tmp_path / "c.sqlite") as cache:
        assert len(cache) >= 3
        stored = len(cache)
        assert generate(SOURCES, second, cache, Generation(), QUICK) == expected
        assert len(second.asked) == len(whole.asked) - stored


def test_through_an_endpoint_of_the_usual_kind(tmp_path):
    answer = lambda prompt: "A rather good " + ("movie" if "film" in prompt else "thing")
    with Endpoint(answer=answer) as server:
        endpoint = openai_api.Endpoint("m", server.url, max_tokens=32)
        backend = openai_api.OpenAIBackend(endpoint, timeout=5)
        with Cache(tmp_path / "c.sqlite") as cache:
            made = generate(SOURCES[:2], backend, cache, Generation(("para", "para_conv")), QUICK)
    assert [g.status for g in made] == ["ok"] * 4 and made[0].text == "A rather good movie"


def test_two_sources_with_one_id_are_refused(tmp_path):
    with Cache(tmp_path / "c.sqlite") as cache, pytest.raises(ValueError, match="same id"):
        generate([SOURCES[0], SOURCES[0]], Echo(), cache)
    with pytest.raises(ValueError, match="must not be empty"):
        Source("x", "  ", "positive")
    with pytest.raises(ValueError, match="unknown kinds"):
        Generation(("normal",))


# --- filters


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        ("", "ok", "failed"),
        ("x", "error", "failed"),
        ("As an AI language model I prefer not to", "ok", "refusal"),
        ("I'm sorry, but that text is not something", "ok", "refusal"),
        ("fine", "ok", "length"),
        ("word " * 60, "ok", "length"),
        ("about a really fine film, the sea", "ok", "copy"),
        ("The plot of it is dull and slow!", "ok", "duplicate"),
        ("это очень хороший фильм о море", "ok", "language"),
        ("one of the better movies on this ocean", "ok", ""),
    ],
)
def test_reasons_of_refusals(text, status, reason):
    item = Generated("a", "para", "positive", text, status)
    kept, reasons = filters.apply([item], SOURCES)
    assert [r for counter in reasons.values() for r in counter] == ([reason] if reason else [])
    assert len(kept) == (0 if reason else 1)


def test_another_language_shows_in_its_function_words():
    item = Generated("b", "para", "negative", "to jest nudny film o morzu i nie tylko")
    assert filters.apply([item], SOURCES)[1]["para"] == {"language": 1}
    assert filters.language("the plot of it") == "en" and filters.language("film") == ""


def test_repeats_among_generated_texts_and_filters_that_are_off():
    items = [Generated("a", k, "positive", "one of the better movies") for k in ("para", "insp")]
    kept, reasons = filters.apply(items, SOURCES)
    assert [g.kind for g in kept] == ["para"] and reasons["insp"]["duplicate"] == 1
    off = filters.Filters(duplicates=False, sure=0.0)
    assert len(filters.apply(items, SOURCES, off)[0]) == 2
    with pytest.raises(ValueError, match="unknown source"):
        filters.apply([Generated("z", "para", "x", "y")], SOURCES)


def test_labels_that_a_classifier_is_sure_about():
    items = [Generated("a", "insp", "positive", t) for t in ("grim grey days", "a happy day out")]

    def classifier(texts):
        p = np.array([[0.95, 0.05] if "grim" in t else [0.6, 0.4] for t in texts])
        return ["negative", "positive"], p

    kept, reasons = filters.apply(items, SOURCES, filters.Filters(), classifier)
    assert [g.text for g in kept] == ["a happy day out"] and reasons["insp"] == {"label": 1}


# --- what they are worth


def test_weights_of_combinations():
    part = training.Part(
        tuple("abcdef"), np.array([0, 0, 1, 0, 1, 1]), ("", "", "", "para", "para", "insp")
    )
    names, weights = training.combine(part, 2)
    assert names == ["original", "+ para", "+ insp", "para alone", "insp alone"]
    table = dict(zip(names, weights, strict=True))
    np.testing.assert_allclose(table["original"], [0.75, 0.75, 1.5, 0, 0, 0])
    np.testing.assert_allclose(table["para alone"], [0, 0, 0, 1, 1, 0])
    for row in weights:  # classes weigh the same, the mean of the used texts is 1
        assert row.sum() == pytest.approx((row > 0).sum())


def test_original_texts_are_encoded_without_the_synthetic_ones(monkeypatch):
    part = training.Part(tuple("abcd"), np.array([0, 1, 0, 1]), ("", "", "para", "para"))
    fitted = []

    def encode(texts, how, train):
        fitted.append([texts[i] for i in train])
        return np.eye(len(texts), 6, dtype=np.float32)

    monkeypatch.setattr(training, "encode", encode)
    how = training.Training(1, heads=training.Heads(epochs=1))
    held = {"test": training.Part(("e", "f"), np.array([0, 1]))}
    table = training.compare(part, held, ("x", "y"), how)
    assert fitted == [["a", "b"], ["a", "b", "c", "d"]]
    assert [row["combination"] for row in table] == ["original", "+ para", "para alone"]
    assert [row["texts"] for row in table] == [2, 4, 2]


def test_the_stopping_defect_of_the_public_code_is_there_only_by_name(monkeypatch):
    words = {0: "good fine great", 1: "bad poor awful"}
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    texts = tuple(f"{rng.choice(words[k].split())} thing {i % 7}" for i, k in enumerate(labels))
    part = training.Part(texts[:40], labels[:40])
    held = {
        "validation": training.Part(texts[40:60], labels[40:60]),
        "test": training.Part(texts[60:], labels[60:]),
    }

    trained = []
    keep = lambda task, seed=0, epochs=0: trained.append(epochs) or train(task, seed, epochs)
    monkeypatch.setattr("nlp.acquisition.heads.train", keep)

    def scores(how, **given):
        heads = Heads(epochs=12, batch_size=40, learning_rate=0.01, **given)
        table = training.compare(part, how, ("a", "b"), training.Training(seeds=1, heads=heads))
        return table[0]["test_f1"]

    assert training.Training().heads.stopping == "none"
    defect = {"stopping": "min_mode", "patience": 4, "min_delta": 0.001}
    five = Heads(epochs=5, batch_size=40, learning_rate=0.01)
    expected = training.compare(part, held, ("a", "b"), training.Training(seeds=1, heads=five))
    assert scores(held, **defect) == expected[0]["test_f1"]  # a rising score stops after five
    assert trained == [1, 2, 3, 4, 5, 6]  # the sixth shows that training has stopped before it
    scores(held, stopping="best")
    assert trained[6:] == list(range(1, 13))  # the rule that is meant looks at all epochs
    with pytest.raises(ValueError, match="needs a part 'validation'"):
        scores({"test": held["test"]}, **defect)


def test_gains_in_points_and_normalised():
    rows = [
        {"student": "s", "combination": c, "seed": i, "test_f1": f, "validation_f1": 1 - f}
        for c, fs in (("original", (0.3617, 0.3617)), ("+ para", (0.3812, 0.3812)))
        for i, f in enumerate(fs)
    ]
    found = training.gains(rows, "s")["+ para"]
    # The published example: 36.17 -> 38.12 is 1.95 points, 3.05 normalised.
    assert found.points.mean == pytest.approx(1.95)
    assert found.normalised == pytest.approx(100 * 1.95 / (100 - 36.17))
    assert training.best_by_validation(rows, "s") == "original"
    with pytest.raises(ValueError, match="original"):
        training.gains(rows, "t")


# --- the small generator and the whole experiment


def toy_labels():
    rng = np.random.default_rng(0)
    words = [["lovely", "bright", "warm"], ["awful", "grey", "cold"]]
    texts = [
        " ".join(rng.choice(words[i % 2], 2)) + f" day in the town number {i}" for i in range(90)
    ]
    share = np.eye(2)[np.arange(90) % 2]
    return TextLabels(
        "toy", tuple(texts), tuple(str(i) for i in range(90)), ("good", "bad"), share,
        np.ones((90, 2), int),
    )  # fmt: skip


def test_lessons_hold_training_texts_only():
    documents = small_generator.lessons(SOURCES, 60, 1, 0)
    assert len(documents) == 4 * len(SOURCES) and all(d.endswith("\n\n") for d in documents)
    for document, kind in zip(documents, KINDS * 3, strict=True):
        head, _, answer = document.partition(" => ")
        own = [s for s in SOURCES if s.text == answer.strip()]
        assert own and (kind != "insp_lab" or own[0].label in head)


def test_the_whole_experiment_with_the_small_generator(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment.corpora, "load_text_labels", lambda *_: toy_labels())
    tiny = SmallModel(dim=32, layers=1, head_size=16, context=64, steps=2, batch_size=8)
    students = (training.Student("s", training.Encoder("hashing", features=32)),)
    cfg = experiment.Augment(
        "toy", train=20, validation=20, test=30, small=experiment.Small(tiny, length=40),
        generation=Generation(("para", "para_conv")),
        filters=filters.Filters(shortest=0.0, min_words=1, language=False, longest=0.0, sure=0.0),
        training=training.Training(2, students, training.Heads(epochs=3)),
    )  # fmt: skip
    sources, held, labels = experiment.load(cfg)
    assert len(sources) == 20 and len(held["test"].texts) == 30 and labels == ("good", "bad")
    assert not {s.text for s in sources} & set(held["test"].texts)
    lines = []
    results = experiment.run(cfg, tmp_path, lines.append)
    assert results["made"] == {"para": 20, "para_conv": 20}
    again = experiment.run(cfg, tmp_path, lines.append)
    assert [r["test_f1"] for r in again["table"]] == [r["test_f1"] for r in results["table"]]
    said = "\n".join(lines)
    assert not any(s.text in said for s in sources)
    text = report.write(results, tmp_path)
    assert "not an instruction-following model" in text and "| original |" in text
    for line in (tmp_path / "synthetic.jsonl").read_text().splitlines():
        assert json.loads(line)["source"] in {s.id for s in sources}
    for name in ("latency.png", "gains.png"):
        assert (tmp_path / name).stat().st_size > 1000


def test_drawn_texts_do_not_depend_on_the_batch(tmp_path):
    tiny = SmallModel(dim=32, layers=1, head_size=16, context=64, steps=2, batch_size=8)
    one = small_generator.train(SOURCES, tiny, tmp_path, length=16, report=lambda line: None)
    requests = [
        dataclasses.replace(r, item=s.id)
        for s in SOURCES
        for r in (small_generator.Request("augment-para", s.id, first_turn(s, "para")),)
    ]
    together = one.answer_now(requests)
    alone = [one.answer_now([r])[0] for r in requests]
    assert [r.text for r in together] == [r.text for r in alone]
    with pytest.raises(ValueError, match="no source"):
        one.answer_now([dataclasses.replace(requests[0], item="z")])


def test_a_base_of_another_shape_is_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(experiment.corpora, "load_text_labels", lambda *_: toy_labels())
    base = SmallModel(dim=64, layers=1, head_size=16)
    stored = lambda path: (base.config, {"path": path})
    monkeypatch.setattr(small_generator.rwkv.checkpoints, "load_config", stored)
    monkeypatch.setattr(small_generator.rwkv.checkpoints, "load", stored)
    small = experiment.Small(SmallModel(dim=32, layers=1, head_size=16), base="runs/base")
    with pytest.raises(
        ValueError, match="another shape .*: dim 64 instead of 32, att_dim 64 .*; set"
    ):
        experiment.load(experiment.Augment("toy", 20, 20, 30, small=small))
    assert small_generator.load_base("runs/base", base) == {"path": "runs/base"}


def test_data_that_do_not_fit_are_explained(monkeypatch):
    monkeypatch.setattr(experiment.corpora, "load_text_labels", lambda *_: toy_labels())
    with pytest.raises(ValueError, match="90 texts"):
        experiment.load(experiment.Augment("toy"))
    both = dataclasses.replace(toy_labels(), share=np.ones((90, 2)))
    monkeypatch.setattr(experiment.corpora, "load_text_labels", lambda *_: both)
    with pytest.raises(ValueError, match="exactly one label"):
        experiment.load(experiment.Augment("toy"))
    with pytest.raises(ValueError, match="generator"):
        experiment.Augment(generator="model")

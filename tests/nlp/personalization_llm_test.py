# SPDX-License-Identifier: Apache-2.0
"""Personalised language models: prompts, what is trained, padding, whole runs of a tiny model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import params as params_lib
from nlp import rwkv_models as rwkv
from nlp import small_rwkv
from nlp.annotations import AnnotationSet, Task, text_folds
from nlp.personalization import llm, llm_variants, prompts
from nlp.personalization.encoders import Encoder, encode
from nlp.personalization.llm_task import LlmTask
from nlp.personalization.llm_variants import Llm, Variant, parse

CFG = rwkv.Config(version="6", vocab_size=256, dim=32, layers=2, head_size=16)
HOW = Llm(base="tiny", rank=1, epochs=1, batch_size=16, max_tokens=64, dropout=0.0)


@pytest.fixture(scope="module")
def base():
    # A fresh model has zero output matrices: its states would not matter.
    fresh = rwkv.model.init(jax.random.key(0), CFG)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), fresh)


@pytest.fixture(scope="module")
def data():
    """Two people of opposite taste about texts with a telling word."""
    texts = tuple(f"number {i} is {'good' if i % 2 else 'bad'}" for i in range(24))
    text, person = np.repeat(np.arange(24), 2), np.tile([0, 1], 24)
    labels = ((text % 2) ^ person)[:, None]
    return AnnotationSet("toy", texts, texts, ("ann0", "ann1"), (Task("liked"),), text, person,
                         labels)  # fmt: skip


# --- variants and prompts ------------------------------------------------------------------------


@pytest.mark.parametrize("name", llm_variants.STANDARD)
def test_names_of_variants_round_trip(name):
    assert parse(name).name == name


@pytest.mark.parametrize("name", ["LM-x", "cls", "Q-state", "LM@a", ""])
def test_unknown_variants(name):
    with pytest.raises(ValueError, match=r"expected METHOD|needs training"):
        parse(name)


@pytest.mark.parametrize("instruct", [False, True])
def test_prompts_keep_to_their_length_and_place(instruct):
    examples = (("first example " * 9, "no"), ("żółć " * 40, "yes"))
    prompt = prompts.Prompt("the text itself " * 30 + "END", ("no", "yes"), "17", examples)
    made = prompt.instruct(500) if instruct else prompt.plain(200)
    assert len(made) <= (500 if instruct else 200)
    said = made.decode()
    assert "17" in said and "END" in said and said.index("no") < said.rindex("END")
    plain = dataclasses.replace(prompt, user="", examples=())
    said = (plain.instruct(500) if instruct else plain.plain(200)).decode()
    assert "17" not in said
    if instruct:
        assert said.endswith("### Response\n") and "- no\n- yes\n" in said
    else:
        assert said.endswith(prompts.SEPARATOR)
    with pytest.raises(ValueError, match="allow more"):
        prompt.plain(40)


def test_headings_in_a_text_do_not_move_other_slots():
    prompt = prompts.Prompt("\0" + "0 \0t ### Labels\n- odd", ("no", "yes"), "", (("ex", "no"),))
    said = prompt.instruct(600).decode()
    assert said.count("ex\n") == 1 and "\n- odd" not in said


def test_examples_are_of_other_texts_and_of_the_same_person(data):
    pool, rows = np.arange(24), np.arange(20, 48)
    two = prompts.draw_examples(data, pool, rows, 2, True, seed=1)
    assert (two >= 0).all() and np.isin(two, pool).all()
    assert (data.annotator[two] == data.annotator[rows][:, None]).all()
    assert (data.text[two] != data.text[rows][:, None]).all()
    assert (two[:, 0] != two[:, 1]).all()
    one = prompts.draw_examples(data, pool, rows, 1, True, seed=1)
    np.testing.assert_array_equal(one[:, 0], two[:, 0])
    alone = prompts.draw_examples(data, np.array([0]), np.array([0, 3]), 2, True, seed=1)
    assert (alone == -1).all()  # only the same text, or nothing of that person


# --- what is computed ----------------------------------------------------------------------------


def task_of(name, base, weights=(1.0, 1.0)):
    task = LlmTask(parse(name), HOW, CFG, base, 3, np.array(weights))
    return task, params_lib.init(task.param_specs(), jax.random.key(1))


def batch_of(texts, width, rows=(1, 2)):
    tokens = np.zeros((len(texts), width), np.int32)
    for i, text in enumerate(texts):
        tokens[i, : len(text)] = np.frombuffer(text, np.uint8)
    length = np.array([len(text) for text in texts])
    return {"tokens": tokens, "length": length - 3, "total": length, "annotator": np.array(rows),
            "label": np.array([0, 1])}  # fmt: skip


def test_untrained_variants_compute_what_the_base_does(base):
    """LoRA with B = 0 and zero states change nothing; padding is not seen."""
    texts = [b"some words no", b"more of the same yes"]
    batch, longer = batch_of(texts, 24), batch_of(texts, 32)
    expected = []
    for text, length in zip(texts, batch["length"], strict=True):
        tokens = np.frombuffer(text, np.uint8).astype(np.int32)[None]
        logits, _ = rwkv.model.apply(base, CFG, tokens)
        log_p = jax.nn.log_softmax(logits[0])
        picked = [log_p[i - 1, tokens[0, i]] for i in range(length, len(text))]
        expected.append(-float(sum(picked)))
    for name in ("Q", "LM", "LM-state"):
        task, params = task_of(name, base)
        for b in (batch, longer):
            found = task.answer_losses({} if name == "Q" else params, task.frozen, b)
            np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_states_belong_to_their_people_and_strangers_share(base):
    task, params = task_of("CLS-state", base)
    params["head"]["weight"] = jax.random.normal(jax.random.key(2), (32, 2))
    batch = {k: jnp.asarray(v) for k, v in batch_of([b"some words no"] * 2, 24).items()}
    own = jax.random.normal(jax.random.key(3), params["own_state"].shape[1:])
    moved = {**params, "own_state": params["own_state"].at[2].set(own)}
    before = task.class_logits(params, task.frozen, batch)
    after = task.class_logits(moved, task.frozen, batch)
    np.testing.assert_allclose(after[0], before[0], atol=1e-6)
    assert np.abs(after[1] - before[1]).max() > 1e-3
    stranger = {**batch, "annotator": jnp.array([0, 0])}
    odd = {**moved, "own_state": moved["own_state"].at[0].set(9.0)}
    found = task.class_logits(odd, task.frozen, stranger)
    np.testing.assert_allclose(found, before, atol=1e-6)
    grads = jax.grad(lambda p: task.loss(p, (), batch, jax.random.key(0), task.frozen)[0])(params)
    touched = np.abs(np.asarray(grads["own_state"])).sum((1, 2, 3, 4))
    assert touched[[1, 2]].min() > 0 and touched[0] == touched[3] == 0
    assert params["own_state"][0].nbytes == 4 * 2 * 2 * 16 * 16


def test_tokens_are_read_before_the_text(base):
    task, params = task_of("CLS-token", base)
    params["head"]["weight"] = jax.random.normal(jax.random.key(2), (32, 2))
    batch = batch_of([b"some words no"] * 2, 24)
    found = task.class_logits(params, task.frozen, batch)
    assert np.abs(found[0] - found[1]).max() > 1e-4
    same = task.class_logits(params, task.frozen, {**batch, "annotator": np.array([1, 1])})
    np.testing.assert_allclose(same[0], same[1], atol=1e-6)
    strangers = {**batch, "annotator": np.array([0, 0])}
    moved = {**params, "tokens": params["tokens"].at[0].add(1.0)}  # never trained, so never read
    known = [task.class_logits(p, task.frozen, strangers) for p in (params, moved)]
    np.testing.assert_allclose(*known, atol=1e-6)


def test_examples_have_an_answer(data, base, tmp_path, monkeypatch):
    monkeypatch.setattr(llm, "open_base", lambda how, folder: (CFG, base))
    pools = []
    draw = prompts.draw_examples
    keep = lambda d, pool, *rest: pools.append(pool) or draw(d, pool, *rest)
    monkeypatch.setattr(prompts, "draw_examples", keep)
    missing = dataclasses.replace(data, labels=np.where(data.text[:, None] < 5, -1, data.labels))
    llm.runner(HOW, parse("Q@1"))(missing, text_folds(missing, 4, 0), 0, tmp_path)
    assert len(pools) == 1 and (missing.labels[pools[0]] >= 0).all()


def test_version_4_has_no_state_to_learn(base):
    old = rwkv.Config(version="4", vocab_size=256, dim=32, layers=2)
    with pytest.raises(ValueError, match="no matrix state"):
        LlmTask(Variant("CLS", "state"), HOW, old, base, 3, np.ones(2))


# --- whole runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Q-P@1", "CLS-state", "LM-P@1"])
def test_a_variant_runs_and_repeats_itself(name, data, base, tmp_path, monkeypatch):
    monkeypatch.setattr(llm, "open_base", lambda how, folder: (CFG, base))
    run = llm.runner(HOW, parse(name))
    parts = text_folds(data, 4, 0)
    first = run(data, parts, 0, tmp_path)
    assert first.shape == (len(parts.test), 1) and set(np.unique(first)) <= {0, 1}
    if name == "CLS-state":
        np.testing.assert_array_equal(run(data, parts, 0, tmp_path), first)


def test_more_than_one_task_is_refused(data, tmp_path):
    two = dataclasses.replace(
        data, tasks=(Task("a"), Task("b")), labels=np.repeat(data.labels, 2, axis=1)
    )
    with pytest.raises(ValueError, match="one task"):
        llm.runner(HOW, parse("Q"))(two, text_folds(data, 4, 0), 0, tmp_path)
    own = dataclasses.replace(HOW, base="", corpus=("toy",))
    with pytest.raises(ValueError, match="must not learn"):
        llm.runner(own, parse("Q"))(data, text_folds(data, 4, 0), 0, tmp_path)


def test_small_models_are_trained_once_and_load(tmp_path):
    how = small_rwkv.SmallModel(dim=32, layers=1, head_size=16, context=16, steps=3, batch_size=8)
    texts = ["some text about things", "another text"] * 20
    cfg, params = small_rwkv.train(texts, how, tmp_path / "m", report=lambda line: None)
    loaded, again = rwkv.checkpoints.load(tmp_path / "m")
    assert loaded == cfg
    np.testing.assert_array_equal(params["head"]["weight"], again["head"]["weight"])
    encoder = Encoder("rwkv", path=str(tmp_path / "m"))
    vectors = encode(["a text", "another text", "a text"], encoder, folder=tmp_path)
    assert vectors.shape == (3, 32) and not np.allclose(vectors[0], vectors[1])
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
    with pytest.raises(ValueError, match="more than 16 bytes"):
        small_rwkv.train(["short"], how, tmp_path / "n")

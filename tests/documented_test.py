# SPDX-License-Identifier: Apache-2.0
"""Every command that the documentation prints is understood by its program; many are run, shrunk.

`EXECUTED` is the story of a small project: the printed commands in an order in which they work,
with what makes them small. All other commands are read by their real programs, flags and
configuration, without being run.
"""

import gzip
import json
import os
import shlex

import pytest

from tests import documented, forked
from tests.forked import ONE_DEVICE

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="programs run in forks")

TINY = (
    *("--config.model.dim=32", "--config.model.layers=1", "--config.data.context=8"),
    *(
        "--config.model.wkv=scan",
        "--config.train.steps=1",
        "--config.train.batch_size=2",
        "--config.train.eval_every=0",
    ),
    *("--config.train.save_every=1", "--config.sample.tokens=2", "--config.data.heldout_tokens=0"),
)
TEXT = ("--config.data.train=lines.txt", "--config.data.heldout=")
TUNED = (
    *("--config.data.train=lines.txt", "--config.data.context=8", "--config.train.steps=1"),
    *("--config.train.batch_size=2", "--config.train.eval_every=0", "--config.sample.tokens=2"),
    *("--config.data.heldout_tokens=8", "--config.train.save_every=1"),
)

# (printed command, what makes it small, what it reads).
EXECUTED = (
    (
        "rwkvjax.train --config=configs/rwkvjax/quickstart.py --workdir=runs/quickstart",
        (*TINY, *TEXT, "--config.sample.prompts=()"),
        "",
    ),
    ("rwkvjax.generate --checkpoint=runs/quickstart --prompt='def '", ("--tokens=2",), ""),
    ("rwkvjax.quantize --src=runs/quickstart --dst=quickstart-int8.safetensors", (), ""),
    ("SET UP rwkvjax.convert --src=runs/quickstart --dst=model.pth --format=pth", (), ""),
    ("rwkvjax.inspect model.pth --mesh data=2,model=4", (), ""),
    ("rwkvjax.inspect model.pth", (), ""),
    (
        "rwkvjax.convert --src=model.pth --dst=model.safetensors --format=safetensors",
        (),
        "",
    ),
    (
        "rwkvjax.convert --src model.safetensors --dst folder --format hf --dtype bfloat16",
        (),
        "",
    ),
    (
        "rwkvjax.inspect folder --mesh data=2,model=4 --sharding fsdp_tp --param_dtype bfloat16",
        (),
        "",
    ),
    ("rwkvjax.quantize --src=model.pth --dst=small.safetensors --bits=4", (), ""),
    (
        "rwkvjax.embed --checkpoint=model.pth --input=lines.txt --output=vectors.npy",
        (),
        "",
    ),
    (
        "rwkvjax.prepare_data --input=texts/ --output=data/texts --tokenizer=world",
        ("--tokenizer=byte",),
        "",
    ),
    ("nlp.acquire --project=p.sqlite --texts=texts.csv --tasks=offensive,funny,sad", (), ""),
    ("nlp.acquire --project=p.sqlite --ask=100 --out=questions.csv", ("--ask=4",), ""),
    ("nlp.acquire --project=p.sqlite --status", (), ""),
    ("nlp.acquire --project=p.sqlite --export=labels.csv", (), ""),
    ("perception.contact_sheet --set=svrt --problem=1 --out=sheet.png", (), ""),
    ("perception.contact_sheet --set=oddity --problem=topology --out=sheet.png", (), ""),
    ("perception.contact_sheet --set=svrt_ood --problem=arrows --out=sheet.png", (), ""),
    ("benchmarks.report --check", (), ""),
    ("core.doctor --json", (), ""),
)


# The same, for what takes longer; in the folder that the story leaves.
EXECUTED_SLOWLY = (
    ("rwkvjax.chat --checkpoint=model.pth", ("--max_tokens=2",), "hello\n/quit\n"),
    (
        "rwkvjax.train --config=configs/rwkvjax/lora.py --workdir=runs/lora"
        " --config.finetune.base=model.pth",
        TUNED,
        "",
    ),
    (
        "rwkvjax.merge --base=runs/wikitext2 --adapter=runs/lora/adapter.safetensors"
        " --dst=merged.safetensors",
        ("--base=model.pth",),
        "",
    ),
)


@pytest.fixture(scope="module")
def printed(repo):
    found = documented.commands(repo)
    assert len(found) > 200
    return found


@pytest.fixture(scope="module")
def programs(repo, tmp_path_factory):
    with forked.Programs(repo, tmp_path_factory.mktemp("programs")) as running:
        yield running


@pytest.fixture(scope="module")
def project(repo, tmp_path_factory):
    """A folder with the checkout's configurations and small files of the printed names."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "configs").symlink_to(repo / "configs")
    lines = "".join(f"some words, line {i}, again and again.\n" for i in range(60))
    (folder / "lines.txt").write_text(lines)
    (folder / "texts").mkdir()
    (folder / "data").mkdir()
    (folder / "texts" / "a.txt.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "texts.csv").write_text("text\n" + "".join(f"text number {i}\n" for i in range(20)))
    return folder


def without(arguments, overrides):
    """Arguments less those that are given again: a flag may stand once only in some programs."""
    again = {o.split("=")[0] for o in overrides}
    return [*(a for a in arguments if a.split("=")[0] not in again), *overrides]


def run_story(story, printed, programs, project):
    known = {(c.module, *c.arguments): c for c in printed}
    for line, overrides, stdin in story:
        if line.startswith("SET UP "):
            arguments = line.removeprefix("SET UP ").split()
        else:
            words = tuple(shlex.split(line))
            assert words in known, f"{line!r} is not printed any more"
            command = known[words]
            arguments = [command.module, *without(command.arguments, overrides)]
        done = programs.run(arguments, project, ONE_DEVICE, stdin)
        assert done.status == 0, f"{line}: {done.out[-500:]}{done.err[-2000:]}"
        assert "Traceback" not in done.err, f"{line}: {done.err}"


def test_the_story_runs(printed, programs, project):
    run_story(EXECUTED, printed, programs, project)
    for name in ("runs/quickstart/loss.png", "vectors.npy", "sheet.png", "small.safetensors"):
        assert (project / name).stat().st_size > 0, name
    assert json.loads((project / "data" / "texts.stats.json").read_text())["documents"] == 1


@pytest.mark.slow
def test_the_story_goes_on(printed, programs, project):
    if not (project / "model.pth").exists():
        run_story(EXECUTED, printed, programs, project)
    run_story(EXECUTED_SLOWLY, printed, programs, project)
    assert (project / "merged.safetensors").stat().st_size > 0


def is_mention(command):
    """A program's name in a sentence, or a pattern with placeholders."""
    text = command.text
    bare = not command.arguments and not command.module.startswith(("benchmarks.", "core."))
    return bare or "<" in text or "FILE.py" in text


def test_every_printed_command_is_understood(printed, programs, repo):
    failures = []
    for command in printed:
        if is_mention(command):
            continue
        if command.module.startswith("core."):
            continue  # the story runs them
        arguments = [command.module, *command.arguments]
        done = programs.run(arguments, repo, ONE_DEVICE, parse_only=True)
        helped = "--help" in command.arguments
        if done.status != 0 or not (helped or "parsed" in done.out):
            failures.append(f"{command.where}: {command.text}: {done.out[-100:]}{done.err[-300:]}")
    assert not failures, "\n".join(failures)

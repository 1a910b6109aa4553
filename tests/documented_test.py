# SPDX-License-Identifier: Apache-2.0
"""Every command that the documentation prints is run, most of them shrunk.

`EXECUTED` is the story of a small project: the printed commands in an order in which they work,
with what makes them small. The table in documented_ways.py says how each of the others is checked;
those that it makes small are run by chapter with `-m slow`. Always, every command is read by its
real program, flags and configuration.
"""

import collections
import csv
import gzip
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest

from tests import documented, documented_ways, forked, shrunk
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
    ("ANSWER questions.csv answers.csv", (), ""),
    ("nlp.acquire --project=p.sqlite --answers=answers.csv", (), ""),
    ("nlp.acquire --project=p.sqlite --ask=200 --out=questions.csv", ("--ask=4",), ""),
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
    kept, words = [], iter(arguments)
    for word in words:
        if word.split("=")[0] not in again:
            kept.append(word)
        elif "=" not in word:
            next(words, "")  # "--flag value"
    return [*kept, *overrides]


def run_story(story, printed, programs, project):
    known = {(c.module, *c.arguments): c for c in printed}
    for line, overrides, stdin in story:
        if line.startswith("ANSWER "):
            answer(*(project / name for name in line.split()[1:]))
            continue
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


def answer(questions, answers):
    """Somebody says yes to every second question."""
    with open(questions, newline="") as asked, open(answers, "w", newline="") as said:
        out = csv.writer(said)
        out.writerow(["text_id", "task", "annotator", "value"])
        for i, row in enumerate(csv.DictReader(asked)):
            out.writerow([row["text_id"], row["task"], "ann", i % 2])


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


# --- all other commands --------------------------------------------------------------------------

STORY = {line for line, _, _ in (*EXECUTED, *EXECUTED_SLOWLY)}
CHAPTERS = ("core", "rwkvjax", "snn", "perception", "nlp", "benchmarks")
_BASE = f"rwkvjax.train --config=configs/rwkvjax/quickstart.py {shrunk.LM} --workdir=runs/"
# What a chapter takes for granted, besides the files of shrunk.py.
BEFORE = {
    "core": (),
    "rwkvjax": (
        f"{_BASE}base",
        f"{_BASE}eagle --config.model.version=5.2",
        "rwkvjax.convert --src=runs/base --dst=model.pth",
        "rwkvjax.convert --src=runs/eagle --dst=eagle.pth",
    ),
    "snn": (
        f"snn.train --config=configs/snn/asr_fsdd.py:ssnu,16 --workdir=runs/asr_fsdd"
        f" {shrunk.DIGITS}",
        f"snn.train --config=configs/snn/ttfs_digits.py --workdir=runs/ttfs_digits {shrunk.IMAGES}",
    ),
    "perception": (
        f"perception.train --config=configs/perception/gap_svrt.py:problem=1 --workdir=runs/svrt1"
        f" {shrunk.GLIMPSES}",
        f"perception.train --config=configs/perception/oddity_snu.py:riddle=topology,resolution=32"
        f" --workdir=runs/oddity_snu_0 {shrunk.LOOK}",
    ),
    "nlp": (
        f"{_BASE}base",
        f"{_BASE}quickstart",
        *(
            f"nlp.evaluate --config=configs/nlp/replay.py:answers.jsonl --workdir=runs/{name}"
            " --config.limit=2 --config.resamples=10"
            for name in "ef"
        ),
        "nlp.acquire --project=p.sqlite --texts=texts.csv --tasks=offensive,funny,sad",
    ),
    "benchmarks": (
        f"{_BASE}quickstart",
        "rwkvjax.convert --src=runs/quickstart --dst=model.pth",
        f"snn.train --config=configs/snn/asr_fsdd.py:ssnu,16 --workdir=runs/asr_fsdd"
        f" {shrunk.DIGITS}",
    ),
}


def is_mention(command):
    """A program's name in a sentence, or a pattern with placeholders."""
    text = command.text
    bare = not command.arguments and not command.module.startswith(("benchmarks.", "core."))
    return bare or "<" in text or "FILE.py" in text


def plain(command):
    """The command without its workdir, which decides nothing."""
    words = [w for w in command.arguments if not w.startswith("--workdir")]
    return shlex.join([command.module, *words])


def others(printed):
    """Commands outside the story, each once."""
    told = {plain(documented.Command("", *split(line))) for line in STORY}
    found = {plain(c): c for c in printed if not is_mention(c)}
    return [command for text, command in found.items() if text not in told]


def split(line):
    """(module, arguments) of a line of the story."""
    module, *words = shlex.split(line.removeprefix("SET UP "))
    return module, tuple(words)


def test_every_printed_command_has_its_way(printed):
    """No command without a check; few are only read, each with its reason."""
    counts, lost = collections.Counter(), []
    for command in others(printed):
        way = documented_ways.way(command)
        if way is None:
            lost.append(f"{command.where}: {command.text}: no rule in documented_ways.py")
        elif way.way == "read" and not way.why:
            lost.append(f"{command.text}: only read, and no reason given")
        else:
            counts[way.way] += 1
    assert not lost, "\n".join(lost)
    counts["story"] = len(STORY)
    print(dict(counts))
    assert counts["shrunk"] > 120 and counts["read"] < 15, counts


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


@pytest.fixture
def chapter_folder(repo, tmp_path):
    shrunk.fill(tmp_path, repo)
    for name in ("benchmarks", "tests"):
        (tmp_path / name).symlink_to(repo / name)
    (tmp_path / "adapters").mkdir()
    for name in ("train", "dev", "test"):
        shutil.copy(tmp_path / "said.jsonl", tmp_path / f"{name}.jsonl")
    shutil.copy(tmp_path / "a.wav", tmp_path / "recording.wav")
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.flac")  # read by content
    (tmp_path / "texts.csv").write_text("text\n" + "".join(f"text number {i}\n" for i in range(20)))
    np.save(tmp_path / "train.npy", np.random.default_rng(0).uniform(0, 255, (20, 6, 4, 2)))
    return tmp_path


def shrunk_command(command):
    """The command with the flags that make it small."""
    words = without(command.arguments, documented_ways.way(command).flags.split())
    return documented.Command(command.where, command.module, tuple(words))


def fitting(command, used):
    """Arguments of a command that is made small, in a workdir of its own."""
    words = [*shrunk_command(command).arguments]
    for i, word in enumerate(words):
        if word.startswith("--workdir="):
            name = word.removeprefix("--workdir=")
            if name in used or not name.startswith("runs/"):
                name = f"runs/{len(used)}"
            used.add(name)
            words[i] = f"--workdir={name}"
    return [command.module, *words]


def lacking(command):
    """What this machine lacks for a command's configuration."""
    config = re.search(r"--config=configs/([\w/]+)\.py", command.text)
    return shrunk.lacks(config[1]) if config and config[1] in shrunk.SHRUNK else ""


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_printed_commands_run_shrunk(printed, programs, chapter_folder, chapter):
    from tests.nlp.endpoint import Endpoint

    commands = [c for c in others(printed) if c.module.split(".")[0] == chapter]
    commands = [c for c in commands if documented_ways.way(c).way in ("shrunk", "served")]
    # Some differ only in what is made small.
    commands = [*{plain(shrunk_command(c)): c for c in commands}.values()]
    commands.sort(key=lambda c: not c.module.endswith(".train"))  # they make what others read
    failures, used = [], {*re.findall(r"runs/\w+", " ".join(BEFORE[chapter]))}
    if chapter == "snn":
        from tests.snn.ttfs_nets import onnx_model

        onnx_model(chapter_folder / "net.onnx", np.random.default_rng(0))
    if chapter == "perception":
        from core import plots

        plots.pyplot().imsave(chapter_folder / "drawing.png", np.eye(64), cmap="gray")
    with Endpoint() as server:
        env = {
            **ONE_DEVICE,
            "XDG_CACHE_HOME": str(chapter_folder),
            "OPENAI_API_KEY": "no-key-is-needed",
        }
        for line in BEFORE[chapter]:
            done = programs.run(line.split(), chapter_folder, env, timeout=280)
            assert done.status == 0, f"{line}: {done.err[-1000:]}"
        for command in commands:
            if reason := lacking(command):
                print(f"not run: {command.text}: {reason}")
                continue
            words = [w.replace("{url}", server.url) for w in fitting(command, used)]
            if documented_ways.way(command).way == "served":
                problem, cpu = serve(words, chapter_folder, env), 0.0
            else:
                done = programs.run(words, chapter_folder, env, "\0" * 3200, timeout=280)
                problem, cpu = f"{done.out[-300:]}{done.err[-1500:]}", done.cpu
                problem = problem if done.status or "Traceback" in done.err else ""
                if done.status == 2 and "pip install" in done.err:
                    print(f"not run: {command.text}: {done.err.strip()}")
                    continue
            print(f"{cpu:6.1f} s {'FAILED' if problem else ''} {shlex.join(words)}", flush=True)
            if problem:
                failures.append(f"{command.where}: {shlex.join(words)}: {problem}")
    assert not failures, "\n\n".join(failures)


def serve(words, folder, env):
    """What is wrong with a server: it has to answer at the address it prints, and to end."""
    root = pathlib.Path(__file__).resolve().parents[1]
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**os.environ, **env, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # In the background of a shell interrupts are ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    said = ""
    patience = threading.Timer(180, process.kill)
    patience.start()
    try:
        for line in process.stdout:
            said += line
            if address := re.search(r"http://(127\.0\.0\.1|localhost)\S*", line):
                try:
                    urllib.request.urlopen(f"{address[0].rstrip('/')}/models", timeout=20).read()
                except urllib.error.HTTPError as error:
                    if error.code >= 500:
                        return f"status {error.code}"
                except OSError as error:
                    return str(error)
                break
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=60)[0]
        return "" if process.returncode == 0 and "http://" in said else said[-1500:]
    finally:
        patience.cancel()
        process.kill()
        process.wait()

# SPDX-License-Identifier: Apache-2.0
"""The commonest mistakes on real command lines: one line says what came, what was expected, what to
do; status 2, no traceback. And --help of every program."""

import gzip
import os
import re
import socket

import pytest

from tests import forked
from tests.forked import ONE_DEVICE

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="programs run in forks")

QUICK = "rwkvjax.train --config={configs}/rwkvjax/quickstart.py"

# Name -> (command, parts of the message). {configs}, {run}, {port}, {wav} are filled in.
MISTAKES = {
    "configuration from outside the checkout": (
        "rwkvjax.train --config=configs/rwkvjax/quickstart.py --workdir=w",
        ("no configuration file configs/rwkvjax/quickstart.py", "start from the checkout's root"),
    ),
    "misspelt configuration file": (
        "rwkvjax.train --config={configs}/rwkvjax/quickstrat.py --workdir=w",
        ("quickstrat.py", "Did you mean", "quickstart.py?"),
    ),
    "a configuration that is no Python file": (
        "rwkvjax.train --config={configs}/../README.md --workdir=w",
        ("README.md is no configuration", "a Python file with get_config()"),
    ),
    "no configuration": (
        "rwkvjax.train --workdir=w",
        ("--config must be given, for instance --config=configs/",),
    ),
    "no workdir": (QUICK, ("--workdir must be given, for instance",)),
    "configuration without --config": (
        "rwkvjax.train {configs}/rwkvjax/quickstart.py",
        ("--config and --workdir must be given",),
    ),
    "misspelt flag": (
        QUICK + " --workdri=w",
        ("Unknown command line flag 'workdri'. Did you mean: workdir",),
    ),
    "misspelt key": (
        QUICK + " --workdir=w --config.model.dimm=64",
        ("no such key in the configuration: 'dimm'", 'Did you mean "dim"'),
    ),
    "value of the wrong type": (
        QUICK + " --workdir=w --config.model.dim=abc",
        ("flag --config.model.dim=abc: expected an integer, got 'abc'",),
    ),
    "value that does not fit": (
        QUICK + " --workdir=w --config.model.dim=100",
        ("100 is not a multiple of self.head_size=32",),
    ),
    "argument of a configuration": (
        "perception.train --config={configs}/perception/gap_svrt.py:netwrok=vit --workdir=w",
        ("gap_svrt.py, line ", "unknown argument 'netwrok'; known: blank, epochs, network"),
    ),
    "configuration of another program": (
        "snn.train --config={configs}/rwkvjax/quickstart.py --workdir=w",
        ("config.task must be one of ['chorales'", "is this configuration for another program"),
    ),
    "missing text": (
        QUICK + " --workdir=w --config.data.train=nothing.txt",
        ("input 'nothing.txt': no such file", "RWKVJAX_DATA", "stdlib:"),
    ),
    "missing data set": (
        "snn.train --config={configs}/snn/ostl_jsb.py:ostl --workdir=w",
        ("data set 'jsb_chorales' not found; looked in", "Set RWKVJAX_DATA to a folder"),
    ),
    "missing base": (
        "rwkvjax.train --config={configs}/rwkvjax/chat.py --workdir=w",
        ("no checkpoint found at runs/wikitext2", "expected a run's workdir"),
    ),
    "no checkpoint there": (
        "rwkvjax.generate --checkpoint={configs}",
        ("configs: expected one of model.safetensors", "found none"),
    ),
    "no such checkpoint": (
        "rwkvjax.chat --checkpoint=nothing",
        ("no checkpoint found at nothing: expected a workdir with checkpoints/",),
    ),
    "no --checkpoint": (
        "rwkvjax.generate",
        ("--checkpoint is required: a run's workdir or a weights file",),
    ),
    "a file that holds no weights": (
        "rwkvjax.generate --checkpoint={configs}/../README.md",
        ("unknown kind of file; expected PyTorch, safetensors or rwkv.cpp", "# rwkvjax"),
    ),
    "unknown tokenizer": (
        "rwkvjax.prepare_data --input=stdlib:heldout --output=x --tokenizer=wrold",
        ("expected 'byte', 'world' or the path of a vocabulary file, got 'wrold'",),
    ),
    "tokenizer with other ids": (
        "rwkvjax.generate --checkpoint={run} --tokenizer=world",
        ("the tokenizer 'world' has ", " ids, the model only 256; leave --tokenizer out"),
    ),
    "empty prompt": ("rwkvjax.generate --checkpoint={run} --prompt=", ("the prompt is empty",)),
    "workdir of another configuration": (
        QUICK + " --workdir={run} --config.model.dim=64",
        ("model.dim: 32 -> 64", "Use another --workdir, or the configuration of that run"),
    ),
    "workdir that cannot be made": (QUICK + " --workdir={wav}/x", ("/x: not a directory",)),
    "mesh that does not fit": (
        QUICK + " --workdir=w --config.train.mesh.model=3",
        ("mesh {{'data': -1, 'model': 3}} does not fit 1 devices",),
    ),
    "unknown sharding": (
        QUICK + " --workdir=w --config.train.sharding=fdsp",
        ("unknown sharding preset 'fdsp', expected one of ['dp', 'fsdp', 'tp', 'fsdp_tp']",),
    ),
    "port in use": (
        "perception.oddity_play --port={port}",
        ("address already in use: another program listens there; choose another --port",),
    ),
    "port of the server in use": (
        "rwkvjax.serve --checkpoint={run} --port={port}",
        ("address already in use: another program listens there; choose another --port",),
    ),
    "not a sound file": (
        "snn.transcribe --checkpoint=nothing {wav}",
        ("no checkpoint found at nothing",),
    ),
    "no such choice": (
        "rwkvjax.quantize --src=m.pth --dst=x.safetensors --bits=5",
        ("flag --bits=5: value should be one of <8|4>",),
    ),
    "unknown format": (
        "rwkvjax.convert --src=m.pth --dst=x --format=pht",
        ("flag --format=pht: value should be one of <pth|safetensors|hf|fla|checkpoint>",),
    ),
    "required flag left out": ("rwkvjax.inspect", ("--path must be given",)),
    "missing table": (
        "nlp.acquire --project=p.sqlite --texts=nothing.csv --tasks=a,b",
        ("nothing.csv: no such file or directory",),
    ),
    "no key of the endpoint": (
        "nlp.evaluate --config={configs}/nlp/endpoint.py --workdir=w",
        ("the environment variable OPENAI_API_KEY with the API key is not set",),
    ),
    "runs that do not exist": (
        "perception.evaluate --runs=nothing*",
        ("no run (a folder with config.json) matches 'nothing*'",),
    ),
}

# Program and package that is missing -> what the message names.
MISSING = (
    (QUICK + " --workdir=w", "matplotlib", "pip install 'rwkvjax[plots]'"),
    ("rwkvjax.serve --checkpoint={run}", "uvicorn", "pip install 'rwkvjax[serve]'"),
    ("perception.contact_sheet --set=svrt --out=a.png", "PIL", "pip install pillow"),
    ("snn.convert --model={wav} --data=x --output=y", "onnx", "pip install 'rwkvjax[onnx]'"),
)


@pytest.fixture(scope="module")
def programs(repo, tmp_path_factory):
    with forked.Programs(repo, tmp_path_factory.mktemp("programs")) as running:
        yield running


@pytest.fixture(scope="module")
def filled(repo, programs, tmp_path_factory):
    """What the commands name: a tiny run, a busy port, a file that is no sound."""
    folder = tmp_path_factory.mktemp("given")
    text = folder / "text.txt.gz"
    text.write_bytes(gzip.compress(b"some words, again and again. " * 200))
    arguments = (
        f"rwkvjax.train --config={repo}/configs/rwkvjax/quickstart.py --workdir={folder}/run"
        f" --config.data.train={text} --config.data.heldout= --config.data.heldout_tokens=0"
        " --config.model.dim=32 --config.model.layers=1 --config.model.wkv=scan"
        " --config.data.context=8"
        " --config.train.steps=1 --config.train.batch_size=2 --config.train.eval_every=0"
        " --config.sample.prompts=() --config.train.save_every=1"
    )
    done = programs.run(arguments.split(), folder, ONE_DEVICE)
    assert done.status == 0, done.err
    wav = folder / "a.wav"
    wav.write_bytes(b"no sound")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        yield {
            "configs": str(repo / "configs"),
            "run": str(folder / "run"),
            "wav": str(wav),
            "port": busy.getsockname()[1],
        }


def words(command, filled):
    return command.format(**filled).split(" ")


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(programs, filled, tmp_path, name):
    command, expected = MISTAKES[name]
    empty = {"RWKVJAX_DATA": str(tmp_path), "OPENAI_API_KEY": ""} | ONE_DEVICE
    done = programs.run(words(command, filled), tmp_path, empty)
    assert done.status == 2, done.err
    assert "Traceback" not in done.err
    (message,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    for part in expected:
        assert part.format() in message
    assert len(message) < 700


@pytest.mark.parametrize(("command", "package", "advice"), MISSING)
def test_missing_packages_are_named(programs, filled, tmp_path, command, package, advice):
    done = programs.run(words(command, filled), tmp_path, ONE_DEVICE, missing=(package,))
    assert done.status == 2 and "Traceback" not in done.err, done.err
    assert done.err.startswith("error: ") and advice in done.err


def binaries(repo):
    """Modules of the packages that run as programs."""
    packages = ("core", "rwkvjax", "snn", "perception", "nlp")
    return sorted(
        path.relative_to(repo).with_suffix("").as_posix().replace("/", ".")
        for package in packages
        for path in (repo / package).rglob("*.py")
        if re.search(r'^if __name__ == "__main__":', path.read_text(encoding="utf-8"), re.M)
    )


def benchmark_programs(repo):
    return sorted(
        f"benchmarks.{path.stem}"
        for path in (repo / "benchmarks").glob("*.py")
        if path.stem != "inference"  # the process that other benchmarks start
        and re.search(r'^if __name__ == "__main__":', path.read_text(encoding="utf-8"), re.M)
    )


def test_every_program_shows_an_example(repo, programs, tmp_path):
    names = binaries(repo)
    assert len(names) >= 25
    for name in names:
        done = programs.run([name, "--help"], tmp_path)
        assert done.status == 0, f"{name}: {done.err}"
        assert f"python -m {name}" in done.out, f"{name} --help shows no example"
        assert re.search(r"--\w", done.out) and len(done.out.splitlines()) > 8, name
        assert not done.err, f"{name}: {done.err}"


def test_every_benchmark_shows_an_example(repo, programs, tmp_path):
    for name in benchmark_programs(repo):
        done = programs.run([name, "--help"], tmp_path)
        assert "Traceback" not in done.err, f"{name}: {done.err}"
        assert f"python -m {name}" in done.out, f"{name} --help shows no example"

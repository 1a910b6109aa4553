# SPDX-License-Identifier: Apache-2.0
"""Programs with their own flags: arguments, and what a user sees of a mistake."""

import sys
import types

import jax
import pytest
from absl import flags

from core import cli
from core import config as config_lib


@pytest.fixture
def values():
    own = flags.FlagValues()
    flags.DEFINE_integer("size", 1, "A size.", flag_values=own)
    return own


def call(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["program", *args])
    monkeypatch.setattr(cli, "_end_quietly_with_the_pipe", lambda: None)


def test_arguments_go_to_programs_that_take_them(monkeypatch, values):
    call(monkeypatch, "a.wav", "--size=3", "b.wav")
    got = []
    cli.program(lambda v, files: got.append((v.size, files)), values, "", arguments=True)
    assert got == [(3, ["a.wav", "b.wav"])]


def test_arguments_are_a_mistake_elsewhere(monkeypatch, values, capsys):
    call(monkeypatch, "a.wav")
    with pytest.raises(SystemExit) as stop:
        cli.program(lambda v: None, values, "")
    assert stop.value.code == 2 and "unexpected arguments ['a.wav']" in capsys.readouterr().err


def test_the_configuration_names_the_task(monkeypatch):
    got = []
    module = types.ModuleType("stand_in")
    module.main = lambda config, workdir: got.append((config["size"], workdir))
    monkeypatch.setitem(sys.modules, "stand_in", module)
    main = cli.by_task({"sum": "stand_in", "product": "module.that.is.not.imported"})
    main({"task": "sum", "size": 3}, "runs/a")
    assert got == [(3, "runs/a")]
    for wrong in ({"task": "mean"}, {}):
        with pytest.raises(config_lib.ConfigError, match=r"one of \['product', 'sum'\], got"):
            main(wrong, "runs/a")


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes."),
        MemoryError("Unable to allocate 2.00 GiB"),
    ],
)
def test_too_little_memory_is_explained(monkeypatch, values, capsys, error):
    def main(_):
        raise error

    call(monkeypatch)
    with pytest.raises(SystemExit) as stop:
        cli.program(main, values, "")
    told = capsys.readouterr().err
    assert stop.value.code == 2 and str(error).split(":")[0] in told
    assert "out of memory" in told and "--config.train.batch_size" in told


def test_defects_keep_their_traceback(monkeypatch, values):
    for defect in (RuntimeError("INTERNAL: a bug"), ValueError("wrong"), ImportError("no name")):

        def main(_, defect=defect):
            raise defect

        call(monkeypatch)
        with pytest.raises(type(defect)):
            cli.program(main, values, "")

# SPDX-License-Identifier: Apache-2.0
"""Every name of ours in docs/migration.md exists: keys of configurations and flags of programs."""

import dataclasses
import importlib
import re
import typing

import pytest
from absl import flags

# Heading -> (module and type of the configuration, programs whose flags may be named).
SECTIONS = {
    "RWKV-LM, train.py (versions 4 to 6)": ("rwkvjax.experiment.RunConfig", ("core.cli",)),
    "RWKV infinite-context trainer": ("rwkvjax.experiment.RunConfig", ("core.cli",)),
    "RWKV-LM, make_data.py": ("", ("rwkvjax.prepare_data",)),
    "The `rwkv` package: PIPELINE and its arguments": ("", ("rwkvjax.generate",)),
    "Time-to-first-spike networks: IBM's two repositories": (
        "snn.tasks.ttfs.RunConfig",
        ("core.cli",),
    ),
    "Spiking units (SNU) and OSTL": ("snn.tasks.sequence_run.RunConfig", ("core.cli",)),
}


def rows(repo):
    """(heading, their cell, our cell) of every row."""
    heading = ""
    for line in (repo / "docs" / "migration.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line[3:]
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and cells[0] != "there":
            assert len(cells) >= 2, line
            yield heading, cells[0], cells[1]


def find(path):
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def has_key(cls, key):
    """Whether a dotted key exists in nested dataclasses; "size" names a published size."""
    for part in key.split("."):
        if part == "size" and cls.__name__ == "Config":
            return True
        fields = {f.name for f in dataclasses.fields(cls)}
        if part not in fields:
            return False
        hint = typing.get_type_hints(cls)[part]
        options = [hint, *typing.get_args(hint)]
        cls = next((h for h in options if dataclasses.is_dataclass(h)), type(None))
    return True


def flags_of(module):
    values = flags.FlagValues()
    if module == "core.cli":
        importlib.import_module("core.cli")
        return set(flags.FLAGS)
    if module == "rwkvjax.prepare_data":
        importlib.import_module(module).define_flags(values)
        return set(values)
    return set(importlib.import_module(module)._FLAGS)


def test_every_section_is_checked(repo):
    assert {heading for heading, _, _ in rows(repo)} == set(SECTIONS)
    assert len(list(rows(repo))) > 80


@pytest.mark.parametrize("section", SECTIONS)
def test_our_names_exist(repo, section):
    config, programs = SECTIONS[section]
    known = set().union(*(flags_of(p) for p in programs))
    names = 0
    for heading, theirs, ours in rows(repo):
        if heading != section or ours.startswith("–"):
            continue
        for name in re.findall(r"`([^`]+)`", ours):
            names += 1
            if name.startswith("--"):
                assert name[2:] in known, f"{section}: {theirs} -> {name}"
            else:
                assert has_key(find(config), name), f"{section}: {theirs} -> {name}"
    assert names > 3

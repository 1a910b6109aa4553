# SPDX-License-Identifier: Apache-2.0
"""Configurations of the three programs build, and misspelt ones are explained."""

import importlib.util

import pytest

from core import config as config_lib
from nlp.acquisition.experiment import Acquire
from nlp.augmentation.experiment import Augment
from nlp.personalization.experiment import Personalize, systems

KINDS = {"personalize": Personalize, "acquire": Acquire, "augment": Augment}
NAMES = (
    "personalize_convabuse", "personalize_multipico", "personalize_llm", "acquire_convabuse",
    "acquire_unhealthy", "acquire_goemotions", "augment_tweeteval", "augment_endpoint",
)  # fmt: skip


def load(repo, name):
    path = repo / "configs" / "nlp" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize("name", NAMES)
def test_configurations_build(repo, name):
    built = config_lib.build(KINDS[name.split("_")[0]], load(repo, name))
    assert built == config_lib.build(type(built), config_lib.to_dict(built))


def test_every_configuration_is_listed(repo):
    found = {p.stem for p in (repo / "configs" / "nlp").glob("*.py")}
    assert {n for n in found if n.split("_")[0] in KINDS} == set(NAMES)


def test_rows_of_the_table_of_language_models(repo):
    cfg = config_lib.build(Personalize, load(repo, "personalize_llm"))
    names = [system.name for system in systems(cfg)]
    assert names[:2] == ["id_only", "baseline"] and {"Q", "CLS-P", "LM-P@2", "LM-state"} <= {*names}


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Personalize, {"data": "x", "split": "people"}, "split must be one of"),
        (Personalize, {"data": "x", "models": ["hubi"]}, "unknown models"),
        (Personalize, {"data": "x", "encoders": [{"kind": "bert"}]}, "encoder must be one of"),
        (Personalize, {"data": "x", "llm": {"variants": ["LMM"]}}, "METHOD"),
        (Acquire, {"data": "x", "reproduce": ["everything"]}, "unknown reproduction"),
        (Acquire, {"data": "x", "heads": {"stopping": "min"}}, "stopping must be one of"),
        (Augment, {"generation": {"kinds": ["normal"]}}, "unknown kinds"),
        (Augment, {"trian": 5}, "Did you mean 'train'"),
    ],
)
def test_mistakes_are_explained(kind, values, message):
    with pytest.raises(config_lib.ConfigError, match=message):
        config_lib.build(kind, values)

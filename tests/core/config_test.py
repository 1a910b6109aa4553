# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json

import ml_collections
import pytest

from core import config


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outer:
    steps: int
    inner: Inner = Inner()
    mesh: tuple[tuple[str, int], ...] = ()
    note: str | None = None
    flag: bool = False

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


def test_builds_nested_hashable_dataclasses():
    values = ml_collections.ConfigDict(
        {"steps": 3, "inner": {"rate": 1, "names": ["a", "b"]}, "mesh": {"data": -1}}
    )
    built = config.build(Outer, values)
    assert built == Outer(3, Inner(1.0, ("a", "b")), (("data", -1),))
    assert isinstance(built.inner.rate, float)
    hash(built)
    again = config.build(Outer, json.loads(json.dumps(config.to_dict(built))))
    assert again == built


@pytest.mark.parametrize(
    "values, message",
    [
        ({"stepz": 3}, "unknown key 'config.stepz'. Did you mean 'steps'"),
        ({"steps": 3, "inner": {"rat": 1.0}}, "config.inner.rat.*Did you mean 'rate'"),
        ({}, "lacks the required keys"),
        ({"steps": "3"}, "config.steps expects int, got '3'"),
        ({"steps": True}, "expects an int"),
        ({"steps": 3, "flag": 1}, "config.flag expects bool"),
        ({"steps": 3, "inner": 5}, "expects a block of keys"),
        ({"steps": 3, "inner": {"names": "ab"}}, "expects a list"),
        ({"steps": 3, "inner": {"names": [1]}}, r"names\[0\] expects str"),
        ({"steps": 3, "mesh": [["data"]]}, "expects 2 values"),
        ({"steps": 0}, "config: steps must be at least 1"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(config.ConfigError, match=message):
        config.build(Outer, values)


def test_differences_name_the_fields():
    old, new = Outer(3), Outer(4, Inner(0.2))
    assert config.differences(old, new) == ["inner.rate: 0.1 -> 0.2", "steps: 3 -> 4"]
    assert config.differences(old, old) == []


def test_keys_that_the_older_configuration_lacks_are_left_out():
    old = {"inner": {"rate": 1}, "gone": 2}
    new = {"inner": {"rate": 3, "gain": 4}, "more": 5}
    assert config.known_to(old, new) == {"inner": {"rate": 3}}
    assert config.known_to(None, new) == new

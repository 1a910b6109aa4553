# SPDX-License-Identifier: Apache-2.0
"""From a configuration file (`ml_collections.ConfigDict`) to frozen dataclasses, strictly.

Unknown keys are rejected with the nearest known name; values must have the declared type. The
result is hashable (lists become tuples), so it can be a static argument of `jax.jit`.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


def build(cls: type[T], values: Mapping[str, Any] | None, where: str = "config") -> T:
    """Builds a frozen dataclass from a mapping.

    Args:
      cls: dataclass type; nested dataclass fields are built recursively.
      values: mapping of field names to values (a `ConfigDict` or plain dict).
      where: path of this block, used in messages ("config.model").

    Raises:
      ConfigError: an unknown key, a missing field, a value of the wrong type, or a value that the
        dataclass itself rejects.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    kwargs: dict[str, Any] = {}
    for name, value in _plain(values or {}).items():
        if name not in fields:
            raise ConfigError(_unknown(f"{where}.{name}", name, fields))
        kwargs[name] = _convert(value, hints[name], f"{where}.{name}")
    required = [
        f.name
        for f in fields.values()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in kwargs]
    if missing:
        raise ConfigError(f"{where} lacks the required keys {missing}")
    try:
        return cls(**kwargs)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _plain(values: Any) -> Any:
    """A ConfigDict (which is no `Mapping`) as a plain dict; anything else unchanged."""
    return values.to_dict() if hasattr(values, "to_dict") else values


def _unknown(path: str, name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown key {path!r}.{hint} Known keys: {', '.join(sorted(known))}"


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Checks `value` against a type hint; turns lists into tuples and mappings into dataclasses."""
    if hint is Any:
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, args, where)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast(type, hint)):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} expects a block of keys, got {value!r}")
        return build(typing.cast(type, hint), value, where)
    if origin is tuple:
        return _convert_tuple(value, args, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    kind = origin or hint
    if kind is int and isinstance(value, bool):
        raise ConfigError(f"{where} expects an int, got {value!r}")
    if not isinstance(value, kind):
        raise ConfigError(
            f"{where} expects {kind.__name__}, got {value!r} of type {type(value).__name__}"
        )
    return value


def _convert_union(value: Any, args: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in args:
        return None
    errors = []
    for arg in args:
        if arg is type(None):
            continue
        try:
            return _convert(value, arg, where)
        except ConfigError as error:
            errors.append(str(error))
    raise ConfigError("; ".join(errors))


def _convert_tuple(value: Any, args: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if isinstance(value, Mapping):  # {"data": 4} for tuple[tuple[str, int], ...]
        value = tuple((k, v) for k, v in value.items())
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} expects a list, got {value!r}")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(v, args[0], f"{where}[{i}]") for i, v in enumerate(value))
    if len(value) != len(args):
        raise ConfigError(f"{where} expects {len(args)} values, got {value!r}")
    return tuple(
        _convert(v, a, f"{where}[{i}]") for i, (v, a) in enumerate(zip(value, args, strict=True))
    )


def to_dict(value: Any) -> Any:
    """Plain dicts, lists and scalars of a dataclass or ConfigDict: what JSON can hold."""
    value = _plain(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_dict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(v) for v in value]
    return value


def known_to(old: Any, new: Any) -> Any:
    """The configuration `new` without the keys that `old` lacks, at every depth."""
    old, new = to_dict(old), to_dict(new)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return {key: known_to(old[key], value) for key, value in new.items() if key in old}
    return new


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Lines "key: old -> new" for every field in which two configurations differ."""
    old, new = to_dict(old), to_dict(new)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines: list[str] = []
        for key in sorted({*old, *new}):
            path = f"{prefix}.{key}" if prefix else str(key)
            lines += differences(old.get(key), new.get(key), path)
        return lines
    return [] if old == new else [f"{prefix}: {old!r} -> {new!r}"]

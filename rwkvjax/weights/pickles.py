# SPDX-License-Identifier: Apache-2.0
"""The small part of the pickle language that files of tensors use, without unpickling.

A pickle is a program for a stack machine, and Python's own machine will import and call whatever
the program names. This one knows a dozen names, calls none of them, and turns each into a plain
record: a `StoredTensor` says which bytes of which storage make a tensor. Anything else, however
harmless, raises `WeightsError`.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Iterator
from typing import Any

import numpy as np

from rwkvjax.weights.source import BFLOAT16, WeightsError

STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": BFLOAT16,
    "DoubleStorage": np.dtype(np.float64),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of `count` elements in the file, known by `key`."""

    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A strided view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Name:
    """A global that the pickle mentions."""

    name: str


_MARK = object()
_CALLABLE = {
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_parameter",
    "collections.OrderedDict",
}
_KNOWN = _CALLABLE | {f"torch.{name}" for name in STORAGES}
# Opcodes that push the argument which the parser has already decoded.
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINFLOAT", "FLOAT"),
    *("BINSTRING", "SHORT_BINSTRING", "STRING"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class _Machine:
    """Runs one pickle. All values are Python literals, lists, dicts and the records above."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: Iterator[tuple[Any, Any, int | None]]) -> Any:
        for opcode, argument, _ in program:
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _LITERALS:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            else:
                method = getattr(self, f"op_{name}", None)
                if method is None:
                    raise WeightsError(f"the pickle uses {name}, which files of tensors never do")
                method(argument)
        raise WeightsError("the pickle has no end")

    def to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    # Bookkeeping.
    def op_PROTO(self, argument: Any) -> None:
        pass

    op_FRAME = op_PROTO

    def op_MARK(self, argument: Any) -> None:
        self.stack.append(_MARK)

    def op_BINPUT(self, argument: Any) -> None:
        self.memo[argument] = self.stack[-1]

    op_LONG_BINPUT = op_PUT = op_BINPUT

    def op_MEMOIZE(self, argument: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_BINGET(self, argument: Any) -> None:
        self.stack.append(self.memo[argument])

    op_LONG_BINGET = op_GET = op_BINGET

    # Containers.
    def op_EMPTY_DICT(self, argument: Any) -> None:
        self.stack.append({})

    def op_EMPTY_LIST(self, argument: Any) -> None:
        self.stack.append([])

    def op_TUPLE(self, argument: Any) -> None:
        self.stack.append(tuple(self.to_mark()))

    def op_TUPLE1(self, argument: Any, count: int = 1) -> None:
        if len(self.stack) < count:
            raise WeightsError("the pickle takes more from its stack than there is")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    def op_TUPLE2(self, argument: Any) -> None:
        self.op_TUPLE1(argument, 2)

    def op_TUPLE3(self, argument: Any) -> None:
        self.op_TUPLE1(argument, 3)

    def op_APPEND(self, argument: Any) -> None:
        item = self.stack.pop()
        _of_type(self.stack[-1], list).append(item)

    def op_APPENDS(self, argument: Any) -> None:
        items = self.to_mark()
        _of_type(self.stack[-1], list).extend(items)

    def op_SETITEM(self, argument: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def op_SETITEMS(self, argument: Any) -> None:
        self.set_items(self.to_mark())

    def set_items(self, items: list[Any]) -> None:
        target = _of_type(self.stack[-1], dict)
        if len(items) % 2:
            raise WeightsError("the pickle has a dict with a key but no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_of_type(key, str, int)] = value

    # Names and what they stand for.
    def op_GLOBAL(self, argument: str) -> None:
        self.push_name(argument.replace(" ", "."))

    def op_STACK_GLOBAL(self, argument: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push_name(f"{module}.{name}")

    def push_name(self, name: str) -> None:
        if name not in _KNOWN:
            raise WeightsError(
                f"the pickle refers to {name[:200]!r}; a file of tensors has no use for it, and "
                "nothing of it was run"
            )
        self.stack.append(_Name(name))

    def op_BINPERSID(self, argument: Any) -> None:
        identity = _of_type(self.stack.pop(), tuple)
        if len(identity) not in (5, 6) or identity[0] != "storage":
            raise WeightsError(f"unknown kind of persistent object: {identity!r:.200}")
        if len(identity) == 6 and identity[5] is not None:
            raise WeightsError("views of storages (torch before 0.4) are not supported")
        kind = _of_type(identity[1], _Name).name.removeprefix("torch.")
        if kind not in STORAGES:
            raise WeightsError(f"unknown storage type {kind!r}")
        key, count = _of_type(identity[2], str), _of_type(identity[4], int)
        self.stack.append(Storage(key, STORAGES[kind], count))

    def op_REDUCE(self, argument: Any) -> None:
        arguments = _of_type(self.stack.pop(), tuple)
        name = _of_type(self.stack.pop(), _Name).name
        if name == "collections.OrderedDict":
            self.stack.append(_ordered_dict(arguments))
        elif name == "torch._utils._rebuild_parameter":
            self.stack.append(_of_type(arguments[0], StoredTensor))
        elif name in _CALLABLE:
            self.stack.append(_tensor(arguments))
        else:
            raise WeightsError(f"the pickle calls {name}")

    def op_BUILD(self, argument: Any) -> None:
        # state_dict() hangs its "_metadata" on the dict; nothing there is needed.
        _of_type(self.stack.pop(), dict)
        _of_type(self.stack[-1], dict)


def _of_type(value: Any, *types: type) -> Any:
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        expected = " or ".join(t.__name__ for t in types)
        raise WeightsError(f"damaged pickle: expected {expected}, got {value!r:.100}")
    return value


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    pairs = _of_type(arguments[0], list) if arguments else []
    for pair in pairs:
        if len(_of_type(pair, list, tuple)) != 2:
            raise WeightsError("damaged pickle: an OrderedDict item is not a pair")
    return {_of_type(key, str): value for key, value in pairs}


def _tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    if len(arguments) < 4:
        raise WeightsError("damaged pickle: a tensor needs storage, offset, shape and strides")
    storage = _of_type(arguments[0], Storage)
    offset = _of_type(arguments[1], int)
    shape = tuple(_of_type(n, int) for n in _of_type(arguments[2], tuple))
    strides = tuple(_of_type(n, int) for n in _of_type(arguments[3], tuple))
    if len(shape) != len(strides):
        raise WeightsError(f"damaged pickle: {shape=} and {strides=} differ in length")
    return StoredTensor(storage, offset, shape, strides)


def parse(data: Any) -> Any:
    """Runs one pickle from bytes or a binary file; returns the value that it describes.

    Raises:
      WeightsError: it is damaged, or contains anything but dicts of tensors and plain values.
    """
    try:
        return _Machine().run(pickletools.genops(data))
    except WeightsError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError) as error:
        # What the parser raises for damaged input is not documented; all of it means the same.
        raise WeightsError(f"damaged pickle: {type(error).__name__}: {error!s:.200}") from error

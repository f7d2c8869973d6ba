"""What a pickle would build, read off its opcodes: nothing is built, imported or run.

Kept beside torch's weights-only reader, because it refuses hostile files that the reader takes.  That one calls no
foreign code, but it believes the numbers in a pickle: it allocates what a storage says it holds and what a tensor says
it reaches, and compares tuples however often they contain each other.  `scan` says beforehand what is in there.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from io import BytesIO

MOST_OPCODES = 2_000_000
MOST_NODES = 10_000             # of a tuple, everything in it counted as often as it is in it
LARGEST_NUMBER = 1 << 40        # a size, stride or offset

# What `torch.save` of a state dict of dense tensors refers to.
STORAGE_BYTES = {f"torch {name}Storage": size for name, size in (
    ("Float", 4), ("Half", 2), ("BFloat16", 2), ("Double", 8), ("Long", 8), ("Int", 4), ("Short", 2), ("Char", 1),
    ("Byte", 1), ("Bool", 1))}
REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
TENSOR_NAMES = {"collections OrderedDict", REBUILD_TENSOR, "torch._utils _rebuild_parameter",
                *STORAGE_BYTES}


@dataclass(frozen=True)
class _Memory:
    """A storage on the pickle's stack: how many elements it has."""

    elements: int


@dataclass
class Scanned:
    """What one pickle holds.

    names     "module name" of every class and function it looks up; "?" for one that is looked up by computed names
    storages  that it asks its reader for: (key, bytes) of a tensor's memory
    end       position after it
    """

    names: set[str] = field(default_factory=set)
    storages: list[tuple[str, int]] = field(default_factory=list)
    end: int = 0


@dataclass(frozen=True)
class _Item:
    """Something on the pickle's stack: a value that is known, and how many nodes it has."""

    value: object = None
    nodes: int = 1


_MARK = object()
_UNKNOWN = _Item()
_CONSTANTS = {"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "UNICODE", "BINUNICODE",
              "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"}
_OTHERS = {"BINFLOAT", "FLOAT", "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_DICT", "EMPTY_LIST", "BINBYTES",
           "SHORT_BINBYTES"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None}      # None: as far as the mark
# opcode -> how much it takes off the stack before it puts one thing there
_COMBINED = {"REDUCE": 2, "NEWOBJ": 2, "BUILD": 2, "SETITEM": 3, "APPEND": 2}
_TO_MARK = {"LIST": 0, "DICT": 0, "SETITEMS": 1, "APPENDS": 1}      # and so many more below the mark
_SKIPPED = {"PROTO", "FRAME"}


def scan(content: bytes, start: int = 0) -> Scanned:
    """Reads one pickle from a position on.  ValueError when it is cut off, or is more than any weight file needs."""
    found, stack, memo = Scanned(), [], {}
    stream = BytesIO(content)
    stream.seek(start)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count > MOST_OPCODES:
            raise ValueError(f"more than {MOST_OPCODES} instructions")
        name = opcode.name
        if name == "STOP":
            break
        try:
            _step(name, argument, stack, memo, found)
        except (IndexError, KeyError) as error:
            raise ValueError(f"{name} finds nothing to work on") from error
    found.end = stream.tell()
    return found


def _step(name: str, argument, stack: list, memo: dict, found: Scanned) -> None:
    if name in _CONSTANTS:
        if isinstance(argument, int) and abs(argument) > LARGEST_NUMBER:
            raise ValueError(f"the number {str(argument)[:30]}...")
        stack.append(_Item(argument))
    elif name in _OTHERS:
        stack.append(_UNKNOWN)
    elif name in _TUPLES:
        items = _to_mark(stack) if name == "TUPLE" else _taken(stack, _TUPLES[name])
        nodes = 1 + sum(item.nodes for item in items)
        if nodes > MOST_NODES:
            raise ValueError(f"a tuple of more than {MOST_NODES} things")
        stack.append(_Item(tuple(item.value for item in items), nodes))
    elif name in _COMBINED:
        taken = _taken(stack, _COMBINED[name])
        if name == "REDUCE" and taken[0].value == REBUILD_TENSOR:
            _require_within(taken[1].value)
        stack.append(_UNKNOWN)
    elif name in _TO_MARK:
        _to_mark(stack)
        _taken(stack, _TO_MARK[name])
        stack.append(_UNKNOWN)
    elif name == "MARK":
        stack.append(_MARK)
    elif name == "GLOBAL":
        found.names.add(argument)
        stack.append(_Item(argument))
    elif name in ("STACK_GLOBAL", "INST"):
        found.names.add(argument if name == "INST" else "?")
        _to_mark(stack) if name == "INST" else _taken(stack, 2)
        stack.append(_UNKNOWN)
    elif name == "BINPERSID":
        named = _taken(stack, 1)[0].value
        found.storages.append(_storage(named))
        stack.append(_Item(_Memory(named[4])))
    elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
        memo[argument] = _top(stack)
    elif name == "MEMOIZE":
        memo[len(memo)] = _top(stack)
    elif name in ("BINGET", "LONG_BINGET", "GET"):
        stack.append(memo[argument])
    elif name == "POP":
        stack.pop()
    elif name == "POP_MARK":
        _to_mark(stack)
    elif name not in _SKIPPED:
        raise ValueError(f"the instruction {name}")


def _top(stack: list) -> _Item:
    if stack[-1] is _MARK:
        raise IndexError("a mark")
    return stack[-1]


def _taken(stack: list, count: int) -> list[_Item]:
    taken = [stack.pop() for _ in range(count)][::-1]
    if _MARK in taken:
        raise IndexError("a mark")
    return taken


def _to_mark(stack: list) -> list[_Item]:
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _storage(value) -> tuple[str, int]:
    """("storage", class, key, device, number of elements, ...), as torch writes it."""
    if (not isinstance(value, tuple) or len(value) not in (5, 6) or value[0] != "storage"
            or not isinstance(value[2], str) or type(value[4]) is not int or value[4] < 0):
        raise ValueError(f"memory that is named {str(value)[:80]}")
    return value[2], value[4] * STORAGE_BYTES.get(value[1], 16)


def _require_within(arguments) -> None:
    """(storage, offset, size, stride, ...) of a tensor: torch makes a storage larger that it reaches beyond."""
    match arguments:
        case (_Memory() as memory, int(offset), tuple(size), tuple(stride), *_) if len(size) == len(stride):
            numbers = (offset, *size, *stride)
            if all(type(each) is int and each >= 0 for each in numbers):
                last = sum((length - 1) * step for length, step in zip(size, stride))
                reach = offset + (1 + last if all(size) else 0)
                if reach <= memory.elements:
                    return
                raise ValueError(f"a tensor that reaches to element {reach} of {memory.elements}")
    raise ValueError(f"a tensor of {str(arguments)[:80]}")

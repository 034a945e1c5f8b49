"""Tasks with large arguments and results, and a type whose content leaves the pickle, as NumPy's does."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path
from typing import Any


class Block:
    """Memory that may be written to."""

    def __init__(self, content: Any) -> None:
        self.content = memoryview(content)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Block, (pickle.PickleBuffer(self.content),)

    def __bytes__(self) -> bytes:
        return bytes(self.content)

    def __len__(self) -> int:
        return len(self.content)


_kept: list[Any] = []


def block_of(byte: int, size: int) -> Block:
    return Block(bytearray([byte]) * size)


def give_back(value: Any) -> Any:
    return value


def kind_and_size(value: Any, *, also: Any = None) -> tuple[Any, ...]:
    return type(value).__name__, len(value), type(also).__name__


def is_read_only(block: Block) -> bool:
    return block.content.readonly


def overwrite(block: Block, byte: int) -> Block:
    assert not block.content.readonly
    block.content[:] = bytes([byte]) * len(block)
    return block


def overwrite_and_die_at_first(block: Block, path: str) -> bytes:
    seen = bytes(block.content[:4])
    block.content[:4] = b"\xff" * 4
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return seen


def keep(block: Block) -> int:
    _kept.append(block)
    return len(block)


def kept() -> list[bytes]:
    return [bytes(block.content[:4]) for block in _kept]


def first_and_length(block: Any) -> tuple[int, int]:
    return memoryview(block.content)[0], len(block)


def die_with(block: Block) -> None:
    os.kill(os.getpid(), signal.SIGKILL)

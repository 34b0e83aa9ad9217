"""A walk through a file key store, also as a program that dies on the way: `dying_walk.py DIRECTORY MOMENT`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

V1, V3 = KeyVersion(1), KeyVersion(3)
KEY_3 = KeyMaterial(bytes([3]) * 32)


# The calls into the file system that a change of the store makes.
EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "fcntl.flock"})


def walk(store: FileKeyStore) -> None:
    """Every change, each decided from what is there then."""
    store.add(V3, KEY_3, store.read().revision)
    store.set_primary(V3, store.read().revision)
    store.archive(V1, store.read().revision)
    store.restore(V1, store.read().revision)
    store.archive(V1, store.read().revision)


def die_at(moment: int) -> None:
    """End the process before its `moment`-th call into the file system, as `kill -9` would."""
    calls = iter(range(1, moment))

    def count(event: str, _arguments: object) -> None:
        if event in EVENTS and next(calls, None) is None:
            os._exit(9)

    sys.addaudithook(count)


_armed: list[tuple[Iterator[int], BaseException]] = []


@contextmanager
def raising_at(moment: int, death: BaseException) -> Iterator[None]:
    """Inside, `death` is raised instead of the `moment`-th call of this thread into the file system."""
    if _watch not in _installed:
        sys.addaudithook(_watch)  # which cannot be taken away again
        _installed.append(_watch)
    _armed.append((iter(range(1, moment)), death))
    try:
        yield
    finally:
        _armed.clear()


_installed: list[object] = []


def _watch(event: str, _arguments: object) -> None:
    if _armed and event in EVENTS:
        calls, death = _armed[-1]
        if next(calls, None) is None:
            raise death


if __name__ == "__main__":
    opened = FileKeyStore(Path(sys.argv[1]))
    die_at(int(sys.argv[2]))
    walk(opened)
    os._exit(0)

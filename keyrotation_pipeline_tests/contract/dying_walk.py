"""A walk through a file key store, also as a program that dies on the way: `dying_walk.py DIRECTORY MOMENT`."""

import os
import sys
from pathlib import Path

from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

V1, V3 = KeyVersion(1), KeyVersion(3)
KEY_3 = KeyMaterial(bytes([3]) * 32)


def walk(store: FileKeyStore) -> None:
    store.add(V3, KEY_3)
    store.set_primary(V3)
    store.archive(V1)
    store.restore(V1)
    store.archive(V1)


def die_at(moment: int) -> None:
    """End the process before its `moment`-th call into the file system, as `kill -9` would."""
    calls = iter(range(1, moment))

    def count(event: str, _arguments: object) -> None:
        if event in {"open", "os.mkdir", "os.rename", "os.remove", "fcntl.flock"} and next(calls, None) is None:
            os._exit(9)

    sys.addaudithook(count)


if __name__ == "__main__":
    opened = FileKeyStore(Path(sys.argv[1]))
    die_at(int(sys.argv[2]))
    walk(opened)
    os._exit(0)

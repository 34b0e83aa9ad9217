"""One of several writers: takes a pickled (store, version, revision), and on the next line adds a key at once.

One with an even version names itself as the owner instead.
"""

import pickle
import sys

from keyrotation_pipeline.errors import KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.keys import StoreOwner
from keyrotation_pipeline.ports.keys import KeyStore

KEY = KeyMaterial(bytes([9]) * 32)


def owner_of(version: KeyVersion) -> StoreOwner:
    """The owner that the writer of this version names."""
    head = AuditHead(version.number, f"{version.number:064x}")
    return StoreOwner(f"{version.number:032x}", ("clinic, system identifier 7",), "5a" * 32, head)


def outcome(store: KeyStore, version: KeyVersion, revision: str) -> str:
    """``stored``, or the name of the refusal."""
    try:
        if version.number % 2:
            store.add(version, KEY, revision)
        else:
            store.name_owner(owner_of(version), revision)
    except KeyStoreError as refusal:
        return type(refusal).__name__
    return "stored"


if __name__ == "__main__":
    task = pickle.load(sys.stdin.buffer)  # noqa: S301
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.buffer.readline()
    sys.stdout.write(outcome(*task))

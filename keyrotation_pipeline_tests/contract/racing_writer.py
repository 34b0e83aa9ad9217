"""One of several writers: takes a pickled (store, version, revision), and on the next line adds a key at once.

One with an even version pins a roster of its own instead.
"""

import pickle
import sys

from keyrotation_pipeline.errors import KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.ports.keys import KeyStore

KEY = KeyMaterial(bytes([9]) * 32)


def digest(version: KeyVersion) -> str:
    """Of the roster that the writer of this version pins."""
    return f"{version.number:064x}"


def outcome(store: KeyStore, version: KeyVersion, revision: str) -> str:
    """``stored``, or the name of the refusal."""
    try:
        if version.number % 2:
            store.add(version, KEY, revision)
        else:
            store.pin_roster(digest(version), revision)
    except KeyStoreError as refusal:
        return type(refusal).__name__
    return "stored"


if __name__ == "__main__":
    task = pickle.load(sys.stdin.buffer)  # noqa: S301
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.buffer.readline()
    sys.stdout.write(outcome(*task))

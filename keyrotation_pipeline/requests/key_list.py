"""Records that the application's own list of keys is written again, where the key store delivers one.

Every change of a live key writes it, so also one that has nothing to do with the present rollout. If somebody had
changed the list, what officers confirmed until then may be of the changed one: `confirming` counts from the event on.
"""

from collections.abc import Sequence

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.ledger import Ledger


def has_key_list(tables: Sequence[EncryptedTable]) -> bool:
    """Whether applications read a list; else they read the keys as they are stored."""
    return not all(table.format.names_versions for table in tables)


def note_delivery(ledger: Ledger, primary: KeyVersion, request: str | None = None) -> None:
    """Records that the list is about to be written; without a request it is for whichever walk waits."""
    ledger.append(Note(EventKind.KEY_LIST_DELIVERY_INTENDED, {"primary": str(primary)}), request)


def note_if_changed(ledger: Ledger, stored: StoredKeys) -> None:
    """Records that a change of the key store is about to write a list that somebody had changed.

    Args:
        stored: as it is before the change.
    """
    if stored.undelivered is not None and stored.primary is not None:
        note_delivery(ledger, stored.primary)

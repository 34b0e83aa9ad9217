"""One class per way of telling a key: how old values are counted, refused and proved absent in a table."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys
from keyrotation_pipeline.adapters.postgres.evidence.decrypt import ByDecrypting
from keyrotation_pipeline.adapters.postgres.evidence.evidence import Evidence, FencedVersions
from keyrotation_pipeline.adapters.postgres.evidence.mac import ByMac
from keyrotation_pipeline.adapters.postgres.evidence.marker import ByMarker
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy
from keyrotation_pipeline.model.tables import EncryptedTable

_WAYS: Mapping[IdentifiedBy, type[Evidence]] = MappingProxyType(
    {IdentifiedBy.MARKER: ByMarker, IdentifiedBy.MAC: ByMac, IdentifiedBy.DECRYPT: ByDecrypting}
)


def evidence_of(connection: Connection, table: EncryptedTable, keys: CurrentKeys | None = None) -> Evidence:
    """Returns what counts and refuses the old values of a table, by how their keys are told."""
    return _WAYS[table.format.identified_by](connection, table, keys)


def all_fences(connection: Connection, tables: Sequence[EncryptedTable]) -> dict[EncryptedTable, FencedVersions]:
    """Returns the versions that each table refuses, or an error, by as many statements as for one table of a format."""
    fenced: dict[EncryptedTable, FencedVersions] = {}
    for _, each in groupby(tables, key=lambda table: table.format):
        same = tuple(each)
        fenced.update(evidence_of(connection, same[0]).refusal.all_fences(connection, same))
    return fenced

"""Finds the fence that a table's value format needs: how a key is identified decides what can refuse it."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Protocol

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.retirement import fence, login_fence, mac_fence
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.identified_by import IdentifiedBy
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import EncryptedTable

FencedVersions = tuple[KeyVersion, ...] | PreflightError


class Fence(Protocol):
    """Makes tables refuse retired key versions; the modules `fence`, `mac_fence` and `login_fence` do it.

    Attributes:
        MADE: a query on relations by oid: oid, and the transactions by which the parts of its fence were made.
        IDENTITY: a subquery that identifies the fence of the relation `c`, and changes with it.
    """

    @property
    def MADE(self) -> sql.SQL: ...  # noqa: D102, N802
    @property
    def IDENTITY(self) -> sql.SQL: ...  # noqa: D102, N802

    def what(self, connection: Connection) -> str:
        """Returns what it is in the catalog, in words."""

    def fence(
        self, connection: Connection, table: EncryptedTable, versions: Sequence[KeyVersion], *, wait: bool = True
    ) -> bool:
        """Makes the table and all of its tree refuse exactly `versions`; returns whether they are refused now."""

    def unfence(self, connection: Connection, table: EncryptedTable, version: KeyVersion) -> None:
        """Lets the table accept values under `version` again."""

    def fences(self, connection: Connection, table: EncryptedTable) -> tuple[KeyVersion, ...]:
        """Returns the versions that the table refuses; none unless that is intact on its whole tree."""

    def all_fences(
        self, connection: Connection, tables: Sequence[EncryptedTable]
    ) -> Mapping[EncryptedTable, FencedVersions]:
        """Returns the same for many tables; for each its versions or an error."""


_FENCES: Mapping[IdentifiedBy, Fence] = MappingProxyType(
    {IdentifiedBy.MARKER: fence, IdentifiedBy.MAC: mac_fence, IdentifiedBy.DECRYPT: login_fence}
)


def fence_of(declared: ValueFormat) -> Fence:
    """Returns the fence of a declared format."""
    return _FENCES[declared.identified_by]


def all_fences(connection: Connection, tables: Sequence[EncryptedTable]) -> dict[EncryptedTable, FencedVersions]:
    """Returns the versions that each table refuses, or an error."""
    fenced: dict[EncryptedTable, FencedVersions] = {}
    for value_format, each in groupby(tables, key=lambda table: table.format):
        fenced.update(fence_of(value_format).all_fences(connection, tuple(each)))
    return fenced

"""The text by which another library's values name each key, by version, so that SQL can tell them apart.

A marker stands in every value and opens nothing. It is derived from the key, so the key store decides what is right:
whoever holds the keys puts right what differs here.
"""

from collections.abc import Mapping
from typing import cast

from keyrotation_pipeline.adapters.own_schema import create_unless_there, own
from keyrotation_pipeline.adapters.postgres.inventory.registered_versions import registered
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.codecs.format import marked_format_of
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing

_CREATE = own("""
CREATE TABLE IF NOT EXISTS keyrotation.key_markers (
    version integer PRIMARY KEY CHECK (version > 0),
    marker text COLLATE "C" NOT NULL UNIQUE CHECK (marker ~ '^[A-Za-z0-9+/=._-]+$')
)
""")
_THERE = own("SELECT to_regclass('keyrotation.key_markers') IS NOT NULL")
_READ = own("SELECT version, marker FROM keyrotation.key_markers")
_REMOVE = own("DELETE FROM keyrotation.key_markers WHERE version = ANY (%s) OR marker = ANY (%s)")
_ADD = own("INSERT INTO keyrotation.key_markers VALUES (%s, %s) ON CONFLICT DO NOTHING")


def create_for(connection: Connection, value_format: ValueFormat) -> None:
    """Creates the table unless it exists, where SQL about a format's values reads it."""
    if value_format.spec.markers:
        create_unless_there(connection, _THERE, _CREATE)


def publish(connection: Connection, value_format: ValueFormat, ring: KeyRing) -> None:
    """Stores the marker of every key of a ring; repeating it changes nothing.

    Raises:
        InvalidKeyError: two keys of the ring have the same marker.
    """
    if (code := marked_format_of(value_format)) is None:
        return
    create_for(connection, value_format)
    wanted, known = code.markers(ring), stored(connection)
    if new := {version: marker for version, marker in wanted.items() if known.get(version) != marker}:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(_REMOVE, ([version.number for version in new], list(new.values())))
            cursor.executemany(_ADD, [(version.number, marker) for version, marker in new.items()])


def missing(connection: Connection, value_format: ValueFormat) -> bool:
    """Returns whether a registered version has no marker here; creates the table unless it exists."""
    if not value_format.spec.markers:
        return False
    create_for(connection, value_format)
    return not stored(connection).keys() >= set(registered(connection))


def stored(connection: Connection) -> Mapping[KeyVersion, str]:
    """Returns the markers by version."""
    rows = cast("list[tuple[int, str]]", connection.execute(_READ).fetchall())
    return {KeyVersion(number): marker for number, marker in rows}

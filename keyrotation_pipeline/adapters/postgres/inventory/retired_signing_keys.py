"""The signing keys of retired keys, in a private table, so that SQL can tell tokens under these keys.

A signing key decrypts nothing, but whoever reads it can forge tokens. So one is stored only once its key encrypts
nowhere any more, and is removed before its key may encrypt again. It never stands in the text of a constraint, trigger
or function, which everybody can read.
"""

from collections.abc import Sequence
from typing import cast

from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import create_unless_there, own, schema_of
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import ConfigurationError, ProofError
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import derived_ring
from keyrotation_pipeline.fieldcrypto.codecs.format import codec_of
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.probe import rederived_rings

_CREATE = own("""
CREATE TABLE IF NOT EXISTS keyrotation.retired_signing_halves (
    version integer PRIMARY KEY CHECK (version > 0),
    inner_block bytea NOT NULL CHECK (octet_length(inner_block) = 64),
    outer_block bytea NOT NULL CHECK (octet_length(outer_block) = 64)
)
""")
# Default privileges may have given rights on it to others; rights on its columns take a GRANT.
_OTHERS = own("""
SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
FROM pg_class c, LATERAL (
    SELECT c.relacl UNION ALL SELECT attacl FROM pg_attribute WHERE attrelid = c.oid
) AS given (acl), LATERAL aclexplode(given.acl) AS a
WHERE c.oid = 'keyrotation.retired_signing_halves'::regclass AND a.grantee <> c.relowner
""")
_REVOKE = own("REVOKE ALL ON keyrotation.retired_signing_halves FROM {}")
_THERE = own("SELECT to_regclass('keyrotation.retired_signing_halves') IS NOT NULL")
_ADD = own("INSERT INTO keyrotation.retired_signing_halves VALUES (%b, %b, %b) ON CONFLICT (version) DO NOTHING")
_READ = own("SELECT version, inner_block, outer_block FROM keyrotation.retired_signing_halves")
_IDENTITY = own("SELECT concat_ws(' ', version, xmin) FROM keyrotation.retired_signing_halves ORDER BY version")
_DROP = own("DROP TABLE IF EXISTS keyrotation.retired_signing_halves")
_REMOVE = own("DELETE FROM keyrotation.retired_signing_halves WHERE version = %s")


def publish(connection: Connection, value_format: ValueFormat, ring: KeyRing, target: KeyVersion) -> None:
    """Stores the signing key of every key of the ring but `target`.

    Args:
        target: what values are re-encrypted to; no other key of the ring may encrypt anywhere.

    Raises:
        ProofError: another one is stored for one of these versions.
    """
    with connection.transaction():
        withdraw(connection, target)
        store(connection, value_format, ring, [version for version in ring.versions if version != target])


def store(connection: Connection, value_format: ValueFormat, ring: KeyRing, versions: Sequence[KeyVersion]) -> None:
    """Stores the signing keys of keys that encrypt nowhere; repeating it changes nothing.

    Raises:
        ConfigurationError, ProofError: another one is stored for one of these versions.
        UnknownKeyVersionError: the ring does not hold one of them.
    """
    with connection.transaction():
        create(connection)
        keys = derived_ring(value_format.derivation, ring)
        code = codec_of(value_format)
        wanted = {version: code.mac_blocks(keys.material(version)) for version in versions}
        for version, blocks in wanted.items():
            connection.execute(_ADD, (version.number, *blocks))
        stored = _stored(connection)
        for version, blocks in wanted.items():
            if stored[version] != blocks:
                _require_derivation(connection, value_format, ring, version, stored[version])
                raise ProofError(
                    f"{schema_of(connection)}.retired_signing_halves holds another signing key of {version} than the "
                    "key store; find out who changed it, delete that row, then run this step again"
                )


def withdraw(connection: Connection, version: KeyVersion) -> None:
    """Removes the signing key of a key that may encrypt again; repeating it changes nothing."""
    if connection.execute(_THERE).fetchone() == (True,):
        connection.execute(_REMOVE, (version.number,))


def withdraw_wrong(connection: Connection, value_format: ValueFormat, ring: KeyRing) -> None:
    """Removes what is not the signing key of its key: a fence refuses nothing by it, and counts only with one.

    Raises:
        ConfigurationError: it is that by another derivation than the declared one.
    """
    keys = derived_ring(value_format.derivation, ring)
    for version in set(held(connection) or ()).intersection(ring.versions):
        found = _stored(connection)[version]
        if found != codec_of(value_format).mac_blocks(keys.material(version)):
            _require_derivation(connection, value_format, ring, version, found)
            withdraw(connection, version)


def _require_derivation(
    connection: Connection, value_format: ValueFormat, ring: KeyRing, version: KeyVersion, found: tuple[bytes, bytes]
) -> None:
    """Keeps one by which a fence does refuse what was written: then the declaration is what has changed."""
    for derivation, keys in rederived_rings(value_format, ring, None):
        if codec_of(value_format).mac_blocks(keys.material(version)) == found:
            said = "none" if derivation is None else f'"{derivation}"'
            raise ConfigurationError(
                f"{schema_of(connection)}.retired_signing_halves holds what {version} signs with by the derivation "
                f"{said}, and [format] has another one; correct derivation, then run the same again"
            )


def missing(connection: Connection, versions: Sequence[KeyVersion]) -> tuple[KeyVersion, ...]:
    """Returns those of some versions whose signing key is not stored."""
    if connection.execute(_THERE).fetchone() != (True,):
        return tuple(versions)
    stored = _stored(connection)
    return tuple(version for version in versions if version not in stored)


def identity(connection: Connection) -> str:
    """Returns what changes with any of them; empty: there is no table for them, or none in it."""
    if connection.execute(_THERE).fetchone() != (True,):
        return ""
    return ", ".join(str(row) for (row,) in connection.execute(_IDENTITY).fetchall())


def held(connection: Connection) -> tuple[KeyVersion, ...] | None:
    """Returns the versions whose signing keys are stored; None: there is no table for them."""
    return tuple(_stored(connection)) if connection.execute(_THERE).fetchone() == (True,) else None


def keep_only(connection: Connection, versions: Sequence[KeyVersion] | None) -> None:
    """Removes the signing keys of all other versions; None: the table, too."""
    if versions is None:
        connection.execute(_DROP)
        return
    for version in held(connection) or ():
        if version not in versions:
            withdraw(connection, version)


def others_may_use(connection: Connection) -> bool:
    """Returns whether any role but the owner has a right on the table."""
    return connection.execute(_OTHERS).fetchone() is not None


def create_for(connection: Connection, value_format: ValueFormat) -> None:
    """Creates the table unless it exists, where SQL about a format's values reads it."""
    if value_format.identified_by is IdentifiedBy.MAC:
        create(connection)


def create(connection: Connection) -> None:
    """Creates the table unless it exists, for nobody but its owner."""
    create_unless_there(connection, _THERE, _CREATE)
    for (name,) in connection.execute(_OTHERS).fetchall():
        connection.execute(_REVOKE.format(sql.SQL(str(name))))


def _stored(connection: Connection) -> dict[KeyVersion, tuple[bytes, bytes]]:
    rows = cast("list[tuple[int, bytes, bytes]]", connection.execute(_READ).fetchall())
    return {KeyVersion(number): (inner, outer) for number, inner, outer in rows}

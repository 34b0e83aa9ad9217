"""The public interface for applications: an encrypting SQLAlchemy column type, its key ring, and the usage report.

    keys = EnvironmentKeyRing()  # or MountedKeyRing("/run/secrets/pazpaz"), or SecretsManagerKeyRing(client, "name")
    attest(engine, keys)

    class Client(Base):
        first_name: Mapped[str | None] = mapped_column(EncryptedType(keys))
        email: Mapped[str | None] = mapped_column(EncryptedType(keys, length=ciphertext_length(320)))

Where rows are to be found by an encrypted text, two more columns hold a search index of it:

        email_odd: Mapped[str | None] = mapped_column(SearchIndex(keys, of="email", odd=True), unique=True)
        email_even: Mapped[str | None] = mapped_column(SearchIndex(keys, of="email", odd=False), unique=True)

    session.scalars(select(Client).where(matches(Client.email, "ana@example.org")))

After the environment has changed, `keys.reload()` makes the running application read new keys and write with the new
primary. Errors of this module hold no content of a row, and SQLAlchemy passes them through unchanged. SQLAlchemy itself
prints the parameters of a statement, before encryption, when *another* column's value cannot be converted: create the
engine with ``hide_parameters=True``.

The database computes SQL expressions, and it sees only ciphertext: an expression that reads or fills an encrypted
column is refused before the statement is sent, on every engine of the process. Hand-written SQL (``text()``) cannot be
checked.
"""

from keyrotation_pipeline.encrypted_type.attestation import Attestation, attest
from keyrotation_pipeline.encrypted_type.column import EncryptedType
from keyrotation_pipeline.encrypted_type.environment import EnvironmentKeyRing, MountedKeyRing, SecretsManagerKeyRing
from keyrotation_pipeline.encrypted_type.search_index import SearchIndex, matches
from keyrotation_pipeline.encrypted_type.statements import check as _check_every_statement  # noqa: F401
from keyrotation_pipeline.fieldcrypto.grammar import ciphertext_length
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.source_keys import LegacyKey

__all__ = [
    "Attestation",
    "EncryptedType",
    "EnvironmentKeyRing",
    "KeyRing",
    "LegacyKey",
    "MountedKeyRing",
    "SearchIndex",
    "SecretsManagerKeyRing",
    "attest",
    "ciphertext_length",
    "matches",
]

"""Tokens for the tests of a Fernet table, written and read by the library alone."""

import base64
from dataclasses import replace

from cryptography.fernet import Fernet, MultiFernet

from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline_tests.integration.encrypted_rows import table_of

V1, V2, V3 = KeyVersion(1), KeyVersion(2), KeyVersion(3)


def library(key: KeyMaterial) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(raw_of(key)))


def application(ring: KeyRing) -> MultiFernet:
    """As an application builds it: the primary first, then every other key."""
    others = [version for version in ring.versions if version != ring.primary]
    return MultiFernet([library(ring.material(version)) for version in (ring.primary, *others)])


def token(ring: KeyRing, version: KeyVersion, text: str | bytes) -> str:
    return library(ring.material(version)).encrypt(text.encode() if isinstance(text, str) else text).decode()


def fernet_table(name: str, *columns: str) -> EncryptedTable:
    return replace(table_of(name, *columns), format=FERNET)

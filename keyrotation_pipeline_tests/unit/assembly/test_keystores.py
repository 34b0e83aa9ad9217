"""Which keys `init` takes from a store that applications use already."""

from pathlib import Path

import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.assembly.keystores import keys_in_store, listed_keys
from keyrotation_pipeline.errors import KeyStoreError
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import as_list
from keyrotation_pipeline_tests.contract.key_store import V1, V2, add, key, set_primary


@pytest.fixture
def declared(tmp_path: Path) -> settings.Settings:
    path = tmp_path / "keyrotation.toml"
    path.write_text('[keys.file]\ndirectory = "keys"\n[[tables]]\nname = "clients"\ncolumns = ["email"]\n')
    return settings.load(path)


def test_a_key_that_stands_alone_is_the_primary_and_of_several_one_must_be_named(declared: settings.Settings) -> None:
    assert keys_in_store(declared, {}) is None
    store = FileKeyStore.create(declared.keys_directory)
    assert keys_in_store(declared, {}) is None
    add(store, V1, key(1))
    alone = keys_in_store(declared, {})
    assert alone is not None
    assert (alone.ring.versions, alone.ring.primary) == ((V1,), V1)
    add(store, V2, key(2))
    with pytest.raises(KeyStoreError, match="holds v1, v2, and not which one applications write under"):
        keys_in_store(declared, {})
    named = keys_in_store(declared, {"ENCRYPTION_PRIMARY_VERSION": "v2"})
    assert named is not None
    assert (named.ring.versions, named.ring.primary) == ((V1, V2), V2)
    set_primary(store, V1)
    both = keys_in_store(declared, {})
    assert both is not None
    assert (both.ring.versions, both.ring.primary) == ((V1, V2), V1)


def test_a_list_that_was_imported_in_part_is_imported_from_its_beginning(declared: settings.Settings) -> None:
    """As where `init` died between two keys: which one encrypts is not known from the store yet."""
    path = declared.path
    path.write_text(path.read_text() + '[format]\nname = "fernet"\nkeys = { env = "FERNET_KEYS" }\n')
    fernet, listed = settings.load(path), {"FERNET_KEYS": as_list([key(2), key(1)])}
    store = FileKeyStore.create(fernet.keys_directory, "FERNET_KEYS")
    add(store, V1, key(1))
    given = listed_keys(fernet, listed)
    assert given is not None
    assert (given.ring.versions, given.ring.primary) == ((V1, V2), V2)
    assert given.place_of(V1) == "key 2 of FERNET_KEYS"
    assert listed_keys(fernet, {}) is None
    add(store, V2, key(2))
    set_primary(store, V2)
    for environment in (listed, {}):
        again = listed_keys(fernet, environment)
        assert again is not None
        assert (again.ring.versions, again.ring.primary) == ((V1, V2), V2)
    with pytest.raises(KeyStoreError, match="entry 1 of FERNET_KEYS is no imported key"):
        listed_keys(fernet, {"FERNET_KEYS": as_list([key(3)])})

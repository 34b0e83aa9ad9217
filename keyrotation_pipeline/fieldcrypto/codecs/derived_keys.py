"""Keys that an application's package derives: what is stored and rotated is what they are derived from."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module

from keyrotation_pipeline.errors import InvalidBindingError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.batch import Labels
from keyrotation_pipeline.fieldcrypto.format_spec import Derivation
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, Passphrase

PAIR_SEPARATOR = b":"


@lru_cache(maxsize=64)
def _function(derivation: Derivation) -> Callable[..., bytes]:
    module, _, name = derivation.function.partition(":")
    function: Callable[..., bytes] = getattr(import_module(module), name)
    return function


@lru_cache(maxsize=64)
def _derived(derivation: Derivation, material: KeyMaterial) -> KeyMaterial:
    return KeyMaterial(_function(derivation)(raw_of(material)))


def derived_ring(derivation: Derivation | None, ring: KeyRing) -> KeyRing:
    """Returns the keys that the application encrypts with, by the versions of what it derives them from.

    Args:
        derivation: None: the keys of the ring are these. None that makes keys for each column: see `column_rings`.

    Raises:
        InvalidKeyError: the ring holds passphrases, and nothing says how keys are derived from them.
    """
    if derivation is None:
        if any(isinstance(ring.material(version), Passphrase) for version in ring.versions):
            raise InvalidKeyError(
                "the key store holds what keys are derived from, and [format] does not say how; write the derivation "
                "with which the keys were imported"
            )
        return ring
    return KeyRing({each: _derived(derivation, ring.material(each)) for each in ring.versions}, ring.primary)


def column_rings(derivation: Derivation | None, ring: KeyRing, labels: Labels) -> Sequence[KeyRing]:
    """Returns the keys of each column of a batch, where columns have keys of their own; (): they do not.

    Args:
        labels: of the columns.

    Raises:
        InvalidBindingError: a column has no label, so that nothing says which keys it has.
    """
    if derivation is None or not derivation.for_each_column:
        return ()
    if not labels:
        raise InvalidBindingError("values whose keys are derived for each column are of an unknown column")
    return [
        KeyRing(
            {each: _of_column(derivation, ring.material(each), label or "") for each in ring.versions}, ring.primary
        )
        for label in labels
    ]


def require_column(label: str | None) -> tuple[str, str]:
    """Returns the table and the attribute that a label names for a derivation of keys for each column.

    Raises:
        InvalidBindingError: it names none.
    """
    table, _, attribute = (label or "").rpartition(".")
    if not table or not attribute:
        raise InvalidBindingError(
            "keys are derived for each column from the names of its table and of the column, which a dot divides "
            "here, as in users.email_ciphertext"
        )
    return table, attribute


@lru_cache(maxsize=1024)
def _of_column(derivation: Derivation, material: KeyMaterial, label: str) -> KeyMaterial:
    return KeyMaterial(_function(derivation)(raw_of(material), *require_column(label)))


def place_ring(derivation: Derivation | None, ring: KeyRing, label: str | None) -> KeyRing:
    """Returns the keys of the values of one place.

    Raises:
        InvalidBindingError, InvalidKeyError: see `column_rings` and `derived_ring`.
    """
    own = column_rings(derivation, ring, [label])
    return own[0] if own else derived_ring(derivation, ring)


def new_passphrase(derivation: Derivation, before: KeyMaterial | None) -> Passphrase:
    """Generates what a new key is derived from.

    Args:
        before: the primary, of whose pair the SECRET_KEY stays, which signs sessions too; None: nothing of it may stay.
    """
    generated = Passphrase.generate()
    if not derivation.pairs:
        return generated
    secret = raw_of(before or Passphrase.generate()).partition(PAIR_SEPARATOR)[0]
    return Passphrase(secret + PAIR_SEPARATOR + raw_of(generated))

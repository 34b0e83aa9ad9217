"""Finds the layout of values, or the derivation of their keys, by opening them: a tag that is right is no accident."""

from collections.abc import Iterator, Sequence
from itertools import product

from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import place_ring, rederived_rings
from keyrotation_pipeline.fieldcrypto.codecs.fernet import FernetRewriter
from keyrotation_pipeline.fieldcrypto.codecs.laravel_crypt import CIPHERS
from keyrotation_pipeline.fieldcrypto.codecs.layouts import layout_of
from keyrotation_pipeline.fieldcrypto.codecs.unmarked import UnmarkedRewriter
from keyrotation_pipeline.fieldcrypto.codecs.value_format import LARAVEL, ValueFormat
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import Defect


def _known() -> Iterator[str]:
    """Yields layouts, those that are met most often first."""
    orders = ("{n} ct tag16", "{n} tag16 ct", "ct tag16 {n}", "tag16 ct {n}", "tag16 {n} ct", "ct {n} tag16")
    for encoding, nonce, order in product(("b64", "hex", "b64url", "raw"), ("nonce12", "nonce16"), orders):
        yield f"{encoding}({order.format(n=nonce)})"
    parts = (
        ("{n}", "tag16", "ct"),
        ("{n}", "ct", "tag16"),
        ("{n}", "ct tag16"),
        ("{n}", "tag16 ct"),
        ("ct", "{n}", "tag16"),
    )
    for encoding, between, nonce, each in product(
        ("hex", "b64", "b64url"), (":", ".", "--", "$", "|"), ("nonce12", "nonce16"), parts
    ):
        if encoding != "b64url" or between != "--":
            yield between.join(f"{encoding}({part.format(n=nonce)})" for part in each)


def _known_pairs() -> Iterator[str]:
    """Yields the same where the nonce is in a column of its own; bytes of either column are read in hex."""
    encodings = ("b64", "b64lines", "hex", "b64url")
    sides = sorted(product(encodings, encodings), key=lambda each: each[0] != each[1])
    for (value, own), nonce, order in product(sides, ("nonce12", "nonce16"), ("ct tag16", "tag16 ct")):
        yield f"{value}({order}); {own}({nonce})"


KNOWN, KNOWN_PAIRS = tuple(_known()), tuple(_known_pairs())


def fitting_derivation(
    declared: ValueFormat, ring: KeyRing, values: Sequence[bytes], label: str | None = None
) -> str | None:
    """Returns how `[format]` is to say that keys are derived, by which one of these values opens; None: there is none.

    Where it has a layout, the known ones are tried with every derivation.

    Args:
        label: of the values' place.
    """
    for derivation, keys in rederived_rings(declared, ring, label):
        said = "no derivation" if derivation is None else f'derivation = "{derivation}"'
        if declared.layout:
            if layout := _layout(declared, keys, values):
                return f'{said} and layout = "{layout}"'
        elif any(not isinstance(FernetRewriter(keys, keys.primary).plaintext(value), Defect) for value in values):
            return said
    return None


def fitting(declared: ValueFormat, ring: KeyRing, values: Sequence[bytes], label: str | None = None) -> str | None:
    """Returns the first known layout in which a key opens one of these values; None: there is none.

    Args:
        declared: how keys are derived, whether values are bound, and whether each has its nonce in a second column.
        label: of the values' place.
    """
    return _layout(declared, place_ring(declared.derivation, ring, label), values) if declared.layout else None


def _layout(declared: ValueFormat, keys: KeyRing, values: Sequence[bytes]) -> str | None:
    known = KNOWN_PAIRS if declared.is_pair else KNOWN
    if declared.name == LARAVEL.name:  # others take no key of this length
        size = len(raw_of(keys.material(keys.primary)))
        known = tuple(cipher for cipher, key_bytes in CIPHERS.items() if key_bytes == size)
    for text in known:
        rewriter = UnmarkedRewriter(keys, keys.primary, layout_of(text), bound=declared.is_read_with_data)
        if any(not isinstance(rewriter.opened(value), Defect) for value in values):
            return text
    return None

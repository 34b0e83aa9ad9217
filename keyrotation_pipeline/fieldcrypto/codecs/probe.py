"""Finds formats, layouts and derivations by opening values: a tag that is right is no accident.

`fitting` and `fitting_derivation` look for what a declared format says wrongly; `fits` for every format in which keys
open values, where nothing is known of either.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product

from keyrotation_pipeline.errors import InvalidBindingError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import DERIVATIONS, place_ring
from keyrotation_pipeline.fieldcrypto.codecs.fernet import FernetRewriter
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of, layout_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import (
    KeyEncoding,
    KeyNotation,
    as_list,
    by_commas,
    key_in,
    notation_of,
)
from keyrotation_pipeline.fieldcrypto.codecs.laravel_crypt import CIPHERS
from keyrotation_pipeline.fieldcrypto.codecs.unmarked import UnmarkedRewriter
from keyrotation_pipeline.fieldcrypto.codecs.value_format import (
    AES_GCM,
    CLOAK_47NG,
    CLOAK_ECTO,
    FERNET,
    KEYED_WRAPPER,
    LARAVEL,
    LOCKBOX,
    NATIVE,
    TINK,
    Derivation,
    ValueFormat,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, Passphrase
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


def rederived_rings(
    declared: ValueFormat, ring: KeyRing, label: str | None
) -> Iterator[tuple[Derivation | None, KeyRing]]:
    """Yields the keys of a place by every other derivation from what the application lists; None: as they are."""
    encodings = KeyEncoding if declared.name == AES_GCM.name else (KeyEncoding.B64URL,)
    others = (other for other in (None, *DERIVATIONS.get(declared.name, ())) if other is not declared.derivation)
    for other, encoding in product(others, encodings):
        with suppress(InvalidKeyError, InvalidBindingError):
            passphrases = other is not None and other.is_of_passphrases
            yield other, place_ring(other, _relisted(ring, encoding, passphrases=passphrases), label)


def _relisted(ring: KeyRing, encoding: KeyEncoding, *, passphrases: bool) -> KeyRing:
    """Returns the same entries of the application's list, taken for passphrases or for keys."""
    texts = {each: _listed(ring.material(each), encoding) for each in ring.versions}
    keys = {
        each: Passphrase(text.encode()) if passphrases else key_in(text, "", encoding) for each, text in texts.items()
    }
    return KeyRing(keys, ring.primary)


def _listed(material: KeyMaterial, encoding: KeyEncoding) -> str:
    return raw_of(material).decode() if isinstance(material, Passphrase) else as_list([material], encoding)


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


_NAMED = (
    FERNET,
    CLOAK_47NG,
    CLOAK_ECTO,
    replace(CLOAK_ECTO, layout=CLOAK_ECTO.layout.replace("12", "16")),
    TINK,
    KEYED_WRAPPER,
    *(replace(LARAVEL, layout=cipher) for cipher in CIPHERS),
)


@dataclass(frozen=True, slots=True)
class Fit:
    """A format in which keys open some values.

    Args:
        layout: of AES-GCM, and of what follows a marker of bytes, or Laravel's cipher; empty: the format has none.
        key_encoding: in which the keys were read, where the format leaves that open; else empty.
        derivation: by which keys are made of what was given; empty: they are the keys.
    """

    format: str
    layout: str
    key_encoding: str
    opened: int
    derivation: str = ""


def fits(listed: str, place: str, values: Sequence[bytes], label: str | None = None) -> list[Fit]:
    """Returns every known format in which the keys open any of these values, that which opens most first.

    Args:
        listed: keys in the notation of any library.
        place: of the keys, for messages.
        label: of the values' place, where it has one; see `EncryptedTable.label`.

    Raises:
        InvalidKeyError: no notation reads them; names the place, never a key.
    """
    found, is_list = [], False
    for declared, encoding, ring in _read(listed, place):
        is_list, code = is_list or declared.derivation is None, format_of(declared)
        if declared.derivation is Derivation.LOCKBOX and label is None:
            continue
        tried = (code.opened_by(ring, value, label) for value in values)
        if opened := sum(each is not None and each[1] is not None for each in tried):
            found.append(Fit(declared.name, declared.layout, encoding, opened, declared.derivation or ""))
    if not found and not is_list:  # nearly any text can be a passphrase
        raise InvalidKeyError(
            f"{place} holds no keys that are known here; give them as the application has them: hexadecimal digits or "
            "base64 of 16, 24 or 32 bytes, with commas between them, or in the notation of its library"
        )
    return sorted(found, key=lambda each: -each.opened)


def _read(listed: str, place: str) -> Iterator[tuple[ValueFormat, str, KeyRing]]:
    for notation, encoding, formats in _notations():
        try:
            keys = notation.keys_in(listed.strip(), place)
        except InvalidKeyError:
            continue
        ring = KeyRing({KeyVersion(number): key for number, key in enumerate(keys, 1)}, KeyVersion(1))
        yield from ((declared, encoding, ring) for declared in formats)


def _notations() -> Iterator[tuple[KeyNotation, str, Sequence[ValueFormat]]]:
    """Yields how keys may be written, their encoding where it is to be declared, and the formats of such keys."""
    for declared in _NAMED:
        yield notation_of(declared), "", [declared]
    for encoding in KeyEncoding:
        yield by_commas(encoding), encoding.value, [replace(AES_GCM, layout=layout) for layout in KNOWN]
    for declared in (replace(each, derivation=how) for each in (FERNET, AES_GCM) for how in DERIVATIONS[each.name]):
        layouts: Sequence[str] = KNOWN if declared.name == AES_GCM.name else (declared.layout,)
        if declared.derivation is Derivation.LOCKBOX:
            layouts = (LOCKBOX.layout, LOCKBOX.layout.replace("b64", "raw"))
        yield notation_of(declared), "", [replace(declared, layout=layout) for layout in layouts]
    yield by_commas(KeyEncoding.B64, of_aes=False), "", [NATIVE]

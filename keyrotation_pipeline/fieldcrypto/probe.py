"""Finds formats, layouts and derivations by opening values: a tag that is right is no accident.

`fitting` and `fitting_derivation` look for what a declared format says wrongly; `fits` for every format in which keys
open values, where nothing is known of either.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product

from keyrotation_pipeline.errors import InvalidBindingError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import place_ring
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of, layout_of, notation_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding, KeyNotation, as_list, by_commas, key_in
from keyrotation_pipeline.fieldcrypto.codecs.unmarked import UnmarkedReencryptor
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_spec import Derivation, FormatSpec
from keyrotation_pipeline.fieldcrypto.formats.registry import SPECS
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
    code = format_of(replace(declared, derivation=None))
    for derivation, keys in rederived_rings(declared, ring, label):
        said = "no derivation" if derivation is None else f'derivation = "{derivation}"'
        if declared.layout:
            if layout := _layout(declared, keys, values):
                return f'{said} and layout = "{layout}"'
        elif any(not isinstance(code.plaintext(keys, value), Defect) for value in values):
            return said
    return None


def rederived_rings(
    declared: ValueFormat, ring: KeyRing, label: str | None
) -> Iterator[tuple[Derivation | None, KeyRing]]:
    """Yields the keys of a place by every other derivation from what the application lists; None: as they are."""
    encodings = KeyEncoding if declared.spec.takes("key_encoding") else (KeyEncoding.B64URL,)
    others = (other for other in (None, *declared.spec.other_derivations) if other != declared.derivation)
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
    size = len(raw_of(keys.material(keys.primary)))
    for text in declared.spec.layouts or (KNOWN_PAIRS if declared.is_pair else KNOWN):
        layout = layout_of(replace(declared, layout=text))
        if layout.key_bytes not in {0, size}:
            continue
        reencryptor = UnmarkedReencryptor(keys, keys.primary, layout, bound=declared.is_read_with_data)
        if any(not isinstance(reencryptor.opened(value), Defect) for value in values):
            return text
    return None


@dataclass(frozen=True, slots=True)
class Fit:
    """A format in which keys open some values.

    Args:
        layout: how values are put together; empty: the format has no layout.
        key_encoding: in which the keys were read, where the format leaves that open; else empty.
        derivation: by which keys are made of what was given; empty: they are the keys.
        name: by which it is declared: that of the format, or of a form of it.
    """

    format: str
    layout: str
    key_encoding: str
    opened: int
    derivation: str = ""
    name: str = field(default="", compare=False)


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
    for spec, declared, encoding, ring in _read(listed, place):
        is_list, code = is_list or declared.derivation is None, format_of(declared)
        if label is None and declared.derivation is not None and declared.derivation.for_each_column:
            continue
        tried = (code.opened_by(ring, value, label) for value in values)
        if opened := sum(each is not None and each[1] is not None for each in tried):
            found.append(
                Fit(declared.name, declared.layout, encoding, opened, str(declared.derivation or ""), spec.name)
            )
    if not found and not is_list:  # nearly any text can be a passphrase
        raise InvalidKeyError(
            f"{place} holds no known keys; give hexadecimal digits or base64 of 16, 24 or 32 bytes, with commas "
            "between, or the library's notation"
        )
    return sorted(found, key=lambda each: -each.opened)


def _read(listed: str, place: str) -> Iterator[tuple[FormatSpec, ValueFormat, str, KeyRing]]:
    for spec, notation, encoding, formats in _notations():
        try:
            keys = notation.keys_in(listed.strip(), place)
        except InvalidKeyError:
            continue
        ring = KeyRing({KeyVersion(number): key for number, key in enumerate(keys, 1)}, KeyVersion(1))
        yield from ((spec, declared, encoding, ring) for declared in formats)


def _notations() -> Iterator[tuple[FormatSpec, KeyNotation, str, Sequence[ValueFormat]]]:
    """Yields each form, how keys may be written, their encoding where that is declared, and what may be declared."""
    for spec in SPECS.values():
        declared = ValueFormat.of(spec)
        if spec.takes("key_encoding"):
            for encoding in KeyEncoding:
                yield spec, by_commas(encoding), encoding.value, _in_layouts(spec, declared)
        elif spec.layouts:
            for each in _in_layouts(spec, declared):
                yield spec, notation_of(each), "", [each]
        for derivation in spec.other_derivations:
            if not derivation.for_each_column:
                derived = replace(declared, derivation=derivation)
                yield spec, notation_of(derived), "", _in_layouts(spec, derived)


def _in_layouts(spec: FormatSpec, declared: ValueFormat) -> list[ValueFormat]:
    return [replace(declared, layout=layout) for layout in spec.layouts or KNOWN]

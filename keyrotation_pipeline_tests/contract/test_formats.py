"""What every format does with the values that its own libraries have stored."""

import pytest

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of, notation_of
from keyrotation_pipeline.fieldcrypto.formats.recognition import recognise_bytes, recognise_text
from keyrotation_pipeline.fieldcrypto.formats.registry import SPECS
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.probe import KNOWN, fits
from keyrotation_pipeline.fieldcrypto.reads import Defect
from keyrotation_pipeline_tests.vectors.format_vectors import VECTORS, FormatVector

EVERY = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector.name}: {vector.made_by}")


def test_every_format_has_values() -> None:
    held_by_server = {name for name, spec in SPECS.items() if spec.held_by_server}
    assert {each.name for each in VECTORS} == set(SPECS) - held_by_server


@EVERY
def test_values_are_opened_and_sealed_again_under_another_key(vector: FormatVector) -> None:
    ring, target = vector.ring()
    texts = [vector.plaintext(ring, stored) for stored in vector.stored]
    assert all(told in text for (_, told), text in zip(vector.values, texts, strict=True) if isinstance(text, bytes))
    assert not [text for text in texts if isinstance(text, Defect)]
    code = format_of(vector.declared)
    rewritten = code.reencryptor(ring, target, (vector.label,)).reencrypt([[*vector.stored, None, b""]])
    ((*new, null, empty),) = rewritten.columns
    assert (rewritten.failures, null, empty) == ([], None, None)
    alone = KeyRing({target: ring.material(target)}, target)
    for value, text in zip(new, texts, strict=True):
        assert value is not None
        assert vector.plaintext(alone, value) == text
        assert code.opened_by(ring, value, vector.label) == (target, target)
    longer = [len(value or b"") - len(stored) for value, stored in zip(new, vector.stored, strict=True)]
    # A marker may come to a value that named no key; nothing else changes its form.
    assert set(longer) <= {0} if vector.declared.identified_by is IdentifiedBy.DECRYPT else min(longer) >= 0
    (held,), failures = code.reencryptor(ring, target, (vector.label,)).check([[*vector.stored, *new, None, b""]])
    assert (failures, held[None], held[target], held.total()) == ([], 1, len(new), 2 * len(new) + 1)


@pytest.mark.parametrize("vector", [each for each in VECTORS if each.label], ids=lambda vector: vector.made_by)
def test_values_that_are_bound_to_their_column_open_in_no_other(vector: FormatVector) -> None:
    ring, _ = vector.ring()
    for stored in vector.stored:
        assert isinstance(format_of(vector.declared).plaintext(ring, stored, "clients.phone"), Defect)


@EVERY
def test_a_list_is_written_as_it_was_read(vector: FormatVector) -> None:
    if vector.name == "native":
        pytest.skip("applications have no list")
    notation = notation_of(vector.declared, vector.encoding)
    keys = notation.keys_in(vector.listed, "KEYS")
    assert notation.keys_in(notation.text_of(keys), "KEYS") == keys


@pytest.mark.parametrize(
    "vector",
    [each for each in VECTORS if SPECS[each.name].advice],
    ids=lambda vector: f"{vector.name}: {vector.made_by}",
)
def test_scan_recognises_them(vector: FormatVector) -> None:
    binary = vector.declared.is_binary
    found = [recognise_bytes(each) if binary else recognise_text(each.decode()) for each in vector.stored]
    assert {each.format for each in found if each is not None} == {vector.name}
    assert None not in found


def _is_probed(vector: FormatVector) -> bool:
    known = SPECS[vector.name].layouts or vector.declared.layout in KNOWN
    return bool(known) and not vector.declared.aad


@pytest.mark.parametrize(
    "vector", [each for each in VECTORS if _is_probed(each)], ids=lambda vector: f"{vector.name}: {vector.made_by}"
)
def test_probe_finds_format_layout_and_derivation(vector: FormatVector) -> None:
    best, *others = fits(vector.listed, "KEYS", [*vector.stored, b"something else"], vector.label)
    declared = vector.declared
    assert (best.name, best.opened) == (vector.name, len(vector.values))
    assert best.key_encoding == (vector.encoding if SPECS[vector.name].takes("key_encoding") else "")
    assert (best.layout, best.derivation) == (declared.layout, str(declared.derivation or ""))
    # Without + and / two encodings are right.
    assert {each.layout.replace("b64url", "b64") for each in others} <= {best.layout}


def test_keys_that_open_nothing_and_what_is_no_key() -> None:
    values = next(each for each in VECTORS if each.name == "cloak-47ng").stored
    assert fits("00" * 32, "KEYS", values) == []
    with pytest.raises(InvalidKeyError, match="KEYS holds no known keys") as raised:
        fits("correct horse", "KEYS", values)
    assert "horse" not in str(raised.value)

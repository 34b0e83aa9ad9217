"""Search indexes: what they are made of, and which column takes which version."""

import base64
import hashlib
import hmac

import pytest

from keyrotation_pipeline.errors import UnknownKeyVersionError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion, version_named
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.search_index import (
    FULL_BYTES,
    SHORTEST_BYTES,
    Indexer,
    IndexForm,
    Normalisation,
    newest,
)

V1, V2X, V3 = KeyVersion(1), KeyVersion(2, 2), KeyVersion(3)
RAW = bytes(range(32))
RING = KeyRing({V1: KeyMaterial(RAW), V2X: KeyMaterial(RAW[::-1])}, V1)


def computed(raw: bytes, label: str, text: str) -> bytes:
    """RFC 5869 with no salt and one block, then HMAC: by the standard library alone."""
    extracted = hmac.digest(bytes(32), raw, "sha256")
    key = hmac.digest(extracted, b"keyrotation-search-index-v1\0" + label.encode() + b"\1", "sha256")
    return hmac.digest(key, text.encode(), hashlib.sha256)


@pytest.mark.parametrize("text", ["", "ana@example.org", "Жанна"])
def test_an_index_is_what_the_documentation_says(text: str) -> None:
    indexer = Indexer(IndexForm("clients.email"), RING)
    first, second = computed(RAW, "clients.email", text), computed(RAW[::-1], "clients.email", text)
    assert indexer.under(V1, text.encode()) == f"v1:{base64.b64encode(first).decode()}"
    assert indexer.under(V2X, text.encode()) == f"v2x:{base64.b64encode(second).decode()}"


def test_an_index_of_this_version_stays_what_it_is() -> None:
    index = Indexer(IndexForm("patients.email"), RING).under(V1, b"ana@example.org")
    assert index == "v1:erC5cNviFA683RF2QZS+wzU45tQwhOlaLF0Wwf57hT0="


def test_columns_and_versions_have_different_indexes_of_one_text() -> None:
    here, there = (Indexer(IndexForm(label), RING) for label in ("clients.email", "clients.phone"))
    found = {each.under(version, b"1").partition(":")[2] for each in (here, there) for version in (V1, V2X)}
    assert len(found) == 4


@pytest.mark.parametrize(
    ("steps", "text", "same"),
    [
        pytest.param(("strip", "lower"), " Ana@Example.ORG\n", "ana@example.org", id="strip and lower"),
        pytest.param(("lower",), " A", " a", id="lower alone"),
        pytest.param(("nfc",), "e\u0301", "\u00e9", id="one letter in two parts"),
        pytest.param((), "A", "A", id="nothing"),
    ],
)
def test_a_normalised_text_is_found_by_its_spellings(steps: tuple[str, ...], text: str, same: str) -> None:
    indexer = Indexer(IndexForm("a.b", tuple(map(Normalisation, steps))), RING)
    assert indexer.under(V1, text.encode()) == Indexer(IndexForm("a.b"), RING).under(V1, same.encode())


def test_bytes_that_are_no_text_are_indexed_as_they_are() -> None:
    indexer = Indexer(IndexForm("a.b", (Normalisation.LOWER,)), RING)
    assert indexer.under(V1, b"\xffA") == Indexer(IndexForm("a.b"), RING).under(V1, b"\xffA")


def test_a_short_index_is_the_beginning_of_the_whole_one() -> None:
    form = IndexForm("a.b", size_bytes=6)
    short, whole = Indexer(form, RING).under(V1, b"x"), Indexer(IndexForm("a.b"), RING).under(V1, b"x")
    assert (short, len(short)) == (whole[: len(short)], len("v1:") + 8)
    assert form.longest_chars == len("v999999x:") + 8


def test_a_version_that_the_ring_lacks_is_refused_and_no_key_is_printed() -> None:
    indexer = Indexer(IndexForm("a.b"), RING)
    indexer.under(V1, b"x")
    with pytest.raises(UnknownKeyVersionError):
        indexer.under(V3, b"x")
    assert "derived" not in repr(indexer)


def test_each_column_is_written_under_the_newest_version_of_its_own() -> None:
    versions = (V1, V2X, V3, KeyVersion(4, 2))
    assert (newest(versions, odd=True), newest(versions, odd=False)) == (V3, KeyVersion(4, 2))
    assert newest((V1, V3), odd=False) is None


def test_an_index_names_its_version() -> None:
    assert [version_named(text) for text in ("v1:AAAA", "v2x:AAAA", "AAAA", "v01:AAAA", "")] == [
        V1,
        V2X,
        None,
        None,
        None,
    ]


@pytest.mark.parametrize("size_bytes", range(SHORTEST_BYTES, FULL_BYTES + 1))
def test_every_index_has_the_form_of_one(size_bytes: int) -> None:
    indexer = Indexer(IndexForm("a.b", size_bytes=size_bytes), RING)
    assert indexer.form.is_index(indexer.under(V1, b"x"))
    assert indexer.form.is_index(indexer.under(V2X, b"y"))


@pytest.mark.parametrize(
    "text", ["", "a note", "v1: a note", "v1:a note", "v01:AAAA", "v1:AA", "v1:" + "A" * 60, "v1:A:AA"]
)
def test_other_text_has_not(text: str) -> None:
    assert not IndexForm("a.b").is_index(text)

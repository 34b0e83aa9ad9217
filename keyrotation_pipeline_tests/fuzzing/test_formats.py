"""The values of this folder are those that the formats' own texts and packages have."""

import base64

import pytest
from cryptography.fernet import Fernet
from fernet_fields.hkdf import derive_fernet_key  # type: ignore[import-untyped]

from keyrotation_pipeline_tests.fuzzing import formats, native_values
from keyrotation_pipeline_tests.fuzzing.formats import Format
from keyrotation_pipeline_tests.fuzzing.native_values import NotReadableError, Where

# The examples of docs/guides/second-generation.md and search-indexes.md.
KEY = bytes(range(32))
BOUND = (
    "v3x:AAECAwQFBgcICQoLDA0ODxAREhMUFRYX:"
    "wK7meusisXrh1B0gMNvPEMfvywmx0ikUHKT5PN2QJulUkpKvlUgotfcCT6ZFVCNNRItKnV1gsjhcYp0="
)
PLACE = Where("clients", "ssn", "2b53382d-dff0-4884-9e4d-e1c45d844d8f")


def test_our_own_format_is_that_of_its_guides() -> None:
    assert native_values.opened({"v3x": KEY}, BOUND, PLACE, 3) == "078-05-1120"
    index = native_values.index("v1", KEY, "ana@example.org", "patients.email")
    assert index == "v1:erC5cNviFA683RF2QZS+wzU45tQwhOlaLF0Wwf57hT0="


@pytest.mark.parametrize("place", [Where("clients", "phone", PLACE.row), Where("clients", "ssn", "another")])
def test_a_bound_value_opens_in_no_other_place(place: Where) -> None:
    with pytest.raises(NotReadableError):
        native_values.opened({"v3x": KEY}, BOUND, place, 3)


@pytest.mark.parametrize("form", formats.ALL, ids=lambda form: form.name)
def test_a_value_opens_under_its_key_alone(form: Format) -> None:
    (_, keys), (_, others) = form.first(), form.first()
    where = Where("clients", form.columns[0].name, "7")
    stored = keys.seal("naïve", where)
    assert keys.open(stored, where) == "naïve"
    with pytest.raises(NotReadableError):
        others.open(stored, where)


def test_a_derived_key_is_that_of_its_package() -> None:
    (form,) = (each for each in formats.ALL if each.name == "django-fernet-fields")
    keys = form.values(["a secret of some length"])
    token = keys.seal("text", PLACE)
    assert isinstance(token, str)
    key = derive_fernet_key("a secret of some length")
    assert len(base64.urlsafe_b64decode(key)) == len(KEY)
    assert Fernet(key).decrypt(token) == b"text"

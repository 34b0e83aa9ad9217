"""Every marked format is named in all the places and wrappings in which applications store it."""

import base64
from collections.abc import Callable, Sequence

import pytest

from keyrotation_pipeline.fieldcrypto.formats.recogniser import from_hex
from keyrotation_pipeline.scan.classification import classify_table
from keyrotation_pipeline.scan.report import Finding, Place
from keyrotation_pipeline_tests.vectors.foreign_values import FOREIGN, MARKED, ForeignValues

Values = Sequence[str | bytes]
PLAINTEXT = (
    "Ana Pérez",
    "Berlin",
    "1984-07-12",
    "ana@example.com",
    "a note about the visit on monday, no findings",
    "x" * 40,
)
COLUMN = Place("public.clients", "data", None, elements=False, type="text")


def text(value: str | bytes) -> str:
    """As text columns hold it: bytes in base64."""
    return value if isinstance(value, str) else base64.b64encode(value).decode()


def raw(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


STORED: dict[str, Callable[[Values], Values]] = {
    "as it is": lambda values: values,
    "text": lambda values: [text(value) for value in values],
    "text, spaces around it": lambda values: [f" {text(value)}\n" for value in values],
    "bytea": lambda values: [raw(value) for value in values],
    "hex": lambda values: [raw(value).hex() for value in values],
    "bytea in hex, as text": lambda values: ["\\x" + raw(value).hex() for value in values],
    "base64 in bytea": lambda values: [text(value).encode() for value in values],
    "prefix": lambda values: ["enc:" + text(value) for value in values],
    "two prefixes": lambda values: ["app:v1:" + text(value) for value in values],
    "prefix in braces": lambda values: ["{cipher}" + text(value) for value in values],
    "prefix of a URL": lambda values: [f"secret://{text(value)}" for value in values],
    "prefix in exclamation marks": lambda values: [f"!enc!{text(value)}" for value in values],
    "prefix and suffix": lambda values: [f"ENC({text(value)})" for value in values],
    "prefix in bytea": lambda values: [b"enc:" + raw(value) for value in values],
    "a tenth of the rows": lambda values: [*map(text, values), *PLAINTEXT * 5],
    "a tenth of the rows, bytea": lambda values: [*map(raw, values), *[plain.encode() for plain in PLAINTEXT * 5]],
}


def scan(values: Values, place: Place = COLUMN) -> tuple[Finding, ...]:
    return classify_table({place: values})


def ids(entry: ForeignValues) -> str:
    return f"{entry.format}: {entry.made_by}"


@pytest.mark.parametrize("entry", MARKED, ids=ids)
def test_a_marked_format_is_named_with_its_keys(entry: ForeignValues) -> None:
    for stored, values in STORED.items():
        (found,) = scan(values(entry.values))
        assert (found.format, found.tier) == (entry.format, "certain"), stored
        assert sorted(found.key_ids) == sorted(entry.key_ids), stored


# Of a text that begins with more than a letter; what is only base64 on the outside needs a prefix that ends as above.
BEGINNINGS = ("gAAAA", "eyJ", "U2FsdGVkX1", "vault:v", "Fe26.", "v1", "brng:", "nacl:", "fips:", "enc:", "-----", "{")
WITH_BEGINNING = [entry for entry in MARKED if str(entry.values[0]).startswith(BEGINNINGS)]


@pytest.mark.parametrize("entry", WITH_BEGINNING, ids=ids)
def test_a_marker_is_found_behind_any_prefix_that_ends_with_a_separator(entry: ForeignValues) -> None:
    for prefix in ("enc=", "__enc__", "secret/app/", "key=abc;", "enc-", "aes~"):
        (found,) = scan([f"{prefix}{value!s}" for value in entry.values])
        assert (found.format, found.tier, set(found.key_ids)) == (entry.format, "certain", set(entry.key_ids)), prefix


@pytest.mark.parametrize("entry", MARKED, ids=ids)
@pytest.mark.parametrize(
    "place",
    [Place("public.clients", "doc", ("secrets", "[]", "token"), elements=False, type="jsonb"),
     Place("public.clients", "tags", None, elements=True, type="text[]")],
    ids=["leaf", "elements"],
)  # fmt: skip
def test_a_marked_format_is_named_in_json_and_arrays(entry: ForeignValues, place: Place) -> None:
    (found,) = scan([text(value) for value in entry.values], place)
    assert (found.place, found.format, found.tier) == (place, entry.format, "certain")


@pytest.mark.parametrize("entry", [entry for entry in FOREIGN if not entry.marked], ids=ids)
def test_a_format_without_marker_is_never_certain(entry: ForeignValues) -> None:
    """Even of three values; but for those of one length (a digest's, an IV's) they are found."""
    found = scan(entry.values)
    one_length = len({len(value) for value in entry.values}) == 1
    bare = isinstance(entry.values[0], bytes) or from_hex(entry.values[0]) is not None
    tier = "possible" if bare else "likely"
    assert [(finding.tier, finding.identified_by) for finding in found] == [(tier, "decrypt")] * (not one_length)

"""What is said to do about each format: one sentence, and true today."""

import re
from dataclasses import replace

import pytest

from keyrotation_pipeline.cli.commands import COMMANDS
from keyrotation_pipeline.fieldcrypto.formats.recogniser import RECOGNISERS
from keyrotation_pipeline.scan.advice import UNKNOWN, advice_for
from keyrotation_pipeline.scan.report import Place
from keyrotation_pipeline_tests.vectors.foreign_values import MARKED

TEXT = Place("public.t", "data", None, elements=False, type="character varying(500)")
LEAF = Place("public.t", "data", ("a", "0"), elements=False, type="jsonb")
# Of every format that is recognised, where it is not rotated in place.
ELSEWHERE = [advice_for(name, TEXT, wrapped=True, names_keys=False) for name in sorted(set(RECOGNISERS) - {"native"})]
SENTENCES = [
    *ELSEWHERE,
    UNKNOWN,
    advice_for("native", TEXT, wrapped=False, names_keys=True),
    advice_for("native", TEXT, wrapped=True, names_keys=True),
    advice_for("native", LEAF, wrapped=False, names_keys=True),
    advice_for("fernet", LEAF, wrapped=False, names_keys=True),
    advice_for("attr_encrypted", TEXT, wrapped=False, names_keys=False),
]


def test_every_marked_format_has_an_advice() -> None:
    assert {entry.format for entry in MARKED} <= set(RECOGNISERS)
    assert UNKNOWN not in ELSEWHERE


@pytest.mark.parametrize("advice", SENTENCES, ids=lambda advice: advice.next[:60])
def test_an_advice_is_one_sentence_about_downtime_and_promises_no_command(advice: object) -> None:
    text: str = advice.next  # type: ignore[attr-defined]
    assert text.endswith(".")
    assert re.findall(r"\.\s", text) == []
    assert re.search(r"downtime|maintenance window|nothing around it", text)
    assert set(re.findall(r"`keyrotation ([a-z-]+)", text)) <= set(COMMANDS)


@pytest.mark.parametrize("advice", ELSEWHERE, ids=lambda advice: advice.next[:60])
def test_only_a_library_that_reads_two_keys_is_said_to_need_no_downtime(advice: object) -> None:
    assert ("no downtime is needed" in advice.next) is advice.reads_two_keys  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("place", "wrapped", "in_place"),
    [
        pytest.param(TEXT, False, True, id="varchar"),
        pytest.param(Place("public.t", "data", None, elements=False, type="text"), False, True, id="text"),
        pytest.param(replace(TEXT, type='"my ext".citext'), False, True, id="citext"),
        pytest.param(replace(TEXT, type="public.citext[]", elements=True), False, False, id="array of citext"),
        pytest.param(TEXT, True, False, id="behind a prefix"),
        pytest.param(Place("public.t", "data", ("a",), elements=False, type="text"), False, False, id="JSON in text"),
        pytest.param(LEAF, False, True, id="a path in jsonb"),
        pytest.param(replace(LEAF, path=("a", "*")), False, False, id="keys that vary"),
        pytest.param(replace(LEAF, path=("a", "[]")), False, False, id="an array in a document"),
        pytest.param(replace(LEAF, type="json"), False, False, id="json"),
        pytest.param(Place("public.t", "data", None, elements=True, type="text[]"), False, True, id="array"),
        pytest.param(Place("public.t", "data", None, elements=True, type="bytea[]"), False, False, id="array of bytea"),
        pytest.param(Place("public.t", "data", None, elements=False, type="bytea"), False, True, id="bytea"),
        pytest.param(replace(TEXT, type="public.secret", domain_of="text"), False, True, id="domain over text"),
        pytest.param(replace(TEXT, type="public.secret", domain_of="json"), False, False, id="domain over json"),
        pytest.param(
            replace(LEAF, type="public.doc", domain_of="jsonb"), False, True, id="path in a domain over jsonb"
        ),
    ],
)
def test_the_native_format_is_rotated_where_the_engine_reads_it(place: Place, wrapped: bool, in_place: bool) -> None:
    advice = advice_for("native", place, wrapped=wrapped, names_keys=True)
    assert ("rotates it in place" in advice.next) is in_place


def test_a_value_that_names_its_key_is_told_by_the_marker() -> None:
    named = advice_for("rails-ar-encryption", TEXT, wrapped=False, names_keys=True)
    unnamed = advice_for("rails-ar-encryption", TEXT, wrapped=False, names_keys=False)
    assert (named.identified_by, unnamed.identified_by) == ("marker", "decrypt")


BYTES = replace(TEXT, type="bytea")
ARRAY = replace(TEXT, type="text[]", elements=True)


@pytest.mark.parametrize(("name", "guide"), [("cloak-ecto", "elixir"), ("tink", "tink")])
def test_bytes_that_name_their_key_are_rotated_in_bytea_and_their_guide_is_there(name: str, guide: str) -> None:
    here = advice_for(name, BYTES, wrapped=False, names_keys=True)
    assert f'`[format] name = "{name}"`' in here.next
    assert f"`keyrotation docs {guide}`" in here.next
    for place, wrapped in ((BYTES, True), (TEXT, False), (LEAF, False), (ARRAY, False)):
        there = advice_for(name, place, wrapped=wrapped, names_keys=True)
        assert "Not rotated by keyrotation yet" in there.next


@pytest.mark.parametrize(
    ("name", "guide"),
    [
        ("rails-ar-encryption", "rails"),
        ("cloak-47ng", "prisma"),
        ("fernet-keyed-wrapper", "sentry"),
        ("n8n-keyid", "n8n"),
        ("vault-transit", "vault"),
    ],
)
def test_formats_that_name_their_key_are_rotated_outside_arrays_and_their_guide_is_there(name: str, guide: str) -> None:
    for place in (TEXT, BYTES, LEAF):
        here = advice_for(name, place, wrapped=False, names_keys=True)
        assert f'`[format] name = "{name}"`' in here.next
        assert f"`keyrotation docs {guide}`" in here.next
    for place, wrapped in ((TEXT, True), (ARRAY, False)):
        assert "Not rotated by keyrotation yet" in advice_for(name, place, wrapped=wrapped, names_keys=True).next

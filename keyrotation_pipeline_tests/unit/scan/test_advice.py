"""What is said to do about each format: one sentence, and true today."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from keyrotation_pipeline.cli.commands import COMMANDS
from keyrotation_pipeline.fieldcrypto.formats.recogniser import ADVICE, RECOGNISERS
from keyrotation_pipeline.scan.advice import UNKNOWN, advice_for
from keyrotation_pipeline.scan.classification import classify_table
from keyrotation_pipeline.scan.report import Place
from keyrotation_pipeline_tests.unit.scan.ciphertexts import b64, email, gcm, iv_and_blocks
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
    assert ("no downtime is needed" in advice.next) is (advice.reads_two_keys is True)  # type: ignore[attr-defined]


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


@pytest.mark.parametrize(("place", "migrates"), [(TEXT, True), (LEAF, False), (BYTES, False)])
def test_a_library_that_is_known_by_its_values_is_named_where_these_can_be_migrated(
    place: Place, migrates: bool
) -> None:
    following = advice_for("cryptojs-openssl", place, wrapped=False, names_keys=False).next
    assert (
        'a rotation migrates it into our own format: `from = { format = "cryptojs-openssl"' in following
    ) is migrates
    assert ("Not rotated" in following) is not migrates


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


def test_what_is_said_of_a_format_has_a_source() -> None:
    assert [name for name, advice in ADVICE.items() if not advice.source] == []


def attr_encrypted(
    seal: Callable[[random.Random], tuple[bytes, bytes]], **further: Sequence[str]
) -> dict[Place, Sequence[str]]:
    """Values and IVs of 40 rows, as attr_encrypted encodes them, and further columns."""
    rng = random.Random(1)
    rows = [seal(rng) for _ in range(40)]
    columns = {"encrypted_value": 0, "encrypted_value_iv": 1}
    found = {name: [b64(row[at]) + "\n" for row in rows] for name, at in columns.items()}
    return {replace(TEXT, column=name): values for name, values in (found | further).items()}


def of_gcm(rng: random.Random) -> tuple[bytes, bytes]:
    nonce, ciphertext, tag = gcm(rng, email(rng))
    return ciphertext + tag, nonce


def of_cbc(rng: random.Random) -> tuple[bytes, bytes]:
    iv, ciphertext = iv_and_blocks(rng, email(rng))
    return ciphertext, iv


def street(at: int) -> tuple[bytes, bytes, bytes]:
    return gcm(random.Random(at), "Main Street" + "x" * (at % 9))


SALTS = [f"_{at:032x}" for at in range(40)]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        pytest.param(attr_encrypted(of_gcm), '`layout = "b64lines(ct tag16); b64lines(nonce12)"`', id="attr_encrypted"),
        pytest.param(
            attr_encrypted(of_cbc, encrypted_value_salt=SALTS),
            "with a salt for each value or in CBC mode",
            id="GitLab: ci_variables",
        ),
        pytest.param(attr_encrypted(of_gcm, encrypted_value_salt=SALTS), "with a salt for each value", id="a salt"),
        pytest.param(
            {
                replace(TEXT, column=name): [b64(street(at)[part]) for at in range(40)]
                for part, name in enumerate(("street_iv", "street", "street_tag"))
            },
            'own format without downtime: `from = { format = "aes-256-gcm", … }`',
            id="a tag in a third column",
        ),
        pytest.param(
            {TEXT: [f"v2:{random.Random(at).randbytes(16 + 4 * (1 + at % 9)).hex()}" for at in range(40)]},
            "find out in the application which library writes this",
            id="Gitea: too short for nonce and tag",
        ),
        pytest.param(
            {TEXT: [f"v{1 + at % 2}:{b64(b''.join(gcm(random.Random(at), 'x' * (at % 9))))}" for at in range(40)]},
            "find out in the application which library writes this",
            id="two prefixes",
        ),
        pytest.param(
            {LEAF: [b64(b"".join(gcm(random.Random(at), "x" * (at % 9)))) for at in range(40)],
             replace(LEAF, path=("a", "iv")): [b64(random.Random(-at).randbytes(12)) for at in range(40)]},
            "find out in the application which library writes this",
            id="a nonce in another key of a document",
        ),
        pytest.param(
            {TEXT: ["--".join(map(b64, (body, nonce, tag))) for nonce, body, tag in
                    (gcm(random.Random(at), f"{at} Main Street") for at in range(40))]},
            '`layout = "b64(ct)--b64(nonce12)--b64(tag16)"`',
            id="ActiveSupport::MessageEncryptor",
        ),
    ],
)  # fmt: skip
def test_what_is_said_fits_what_was_seen(columns: dict[Place, Sequence[str]], said: str) -> None:
    found = [
        finding for finding in classify_table(columns) if finding.place.column in {"encrypted_value", "street", "data"}
    ]
    assert said in found[0].next, found[0]
    assert ("rotates it in place" in found[0].next) is said.startswith("`layout")

"""Two values a row in every format and place: how an application stores and reads them, without the engine's code."""

import base64
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, LiteralString

from cryptography.exceptions import InvalidTag
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.codecs.format import layout_of, new_key, notation_of
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.aes_gcm import AES_GCM
from keyrotation_pipeline.fieldcrypto.formats.cloak_ecto import CLOAK_ECTO as CLOAK_ECTO_FORMAT
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.formats.laravel_crypt import LARAVEL
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.formats.tink import TINK as TINK_FORMAT
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline_tests import laravel
from keyrotation_pipeline_tests.integration.encrypted_rows import opened, sealed
from keyrotation_pipeline_tests.integration.fernet_rows import library, token
from keyrotation_pipeline_tests.marked_libraries import CLOAK_ECTO, TINK, CannotReadError, Library

SLOTS = ("a", "b")
BOUND = "ID :'é;"


@dataclass(frozen=True)
class Stored:
    """A table ``(id, …, n)`` with two values a row.

    Args:
        columns: their definition.
        places: where the values are.
        put: the assignments that store each value; its parameter is the value, or NULL.
        get: the expressions that read each value.
        neighbour: an assignment of the application that changes what is around the values.
        neighbours: what it has changed, as a number.
    """

    columns: LiteralString
    places: tuple[Place, Place]
    put: tuple[LiteralString, LiteralString]
    get: tuple[LiteralString, LiteralString]
    neighbour: LiteralString = "n = n + 1"
    neighbours: LiteralString = "n"

    def table(self, name: str, values: ValueFormat = NATIVE) -> EncryptedTable:
        return EncryptedTable.of(TableName("public", name), self.places, values)


STORED: Mapping[str, Stored] = MappingProxyType(
    {
        "text": Stored("a text, b varchar(900)", (Place("a"), Place("b")), ("a = %s", "b = %s"), ("a", "b")),
        "bytea": Stored(
            "a bytea, b bytea",
            (Place("a"), Place("b")),
            ("a = convert_to(%s, 'UTF8')", "b = convert_to(%s, 'UTF8')"),
            ("convert_from(a, 'UTF8')", "convert_from(b, 'UTF8')"),
        ),
        "jsonb": Stored(
            """doc jsonb NOT NULL DEFAULT '{"secrets": {"a": null}, "b, c": [{"x": null}], "n": 0}'""",
            (Place("doc", ("secrets", "a")), Place("doc", ("b, c", "0", "x"))),
            (
                "doc = jsonb_set(doc, '{secrets,a}', coalesce(to_jsonb(%s::text), 'null'))",
                """doc = jsonb_set(doc, '{"b, c",0,x}', coalesce(to_jsonb(%s::text), 'null'))""",
            ),
            ("doc #>> '{secrets,a}'", """doc #>> '{"b, c",0,x}'"""),
            "doc = jsonb_set(doc, '{n}', to_jsonb((doc->>'n')::int + 1))",
            "(doc->>'n')::int",
        ),
        "array": Stored(
            "a text[] DEFAULT '{NULL,NULL,\"\"}', b varchar(900)[] DEFAULT '[0:1][1:2]={{NULL,NULL},{\"\",NULL}}'",
            (Place("a", elements=True), Place("b", elements=True)),
            ("a[2] = %s", "b[1][2] = %s"),
            ("a[2]", "b[1][2]"),
        ),
    }
)
FORMATS = {"native": NATIVE, "fernet": FERNET}
IN_BYTES = Stored("a bytea, b bytea", (Place("a"), Place("b")), ("a = %s", "b = %s"), ("a", "b"))

# A value with its nonce in a second column, or bound to another column of its row: columns with awkward names, and what
# an application reads as one text: "<value>;<nonce>", each in its encoding.
PAIR = """({0}, {0}_iv) = (SELECT split_part(p, ';', 1), split_part(p, ';', 2) FROM (VALUES (%s::text)) AS v (p))"""
BYTES = "({0}, {0}_iv) = (SELECT {1}, {2} FROM (VALUES (%s::text)) AS v (p))".format(
    "{0}", *(f"decode(split_part(p, ';', {part}), 'hex')" for part in (1, 2))
)
PAIRED = (Place("a", iv="a_iv"), Place("b", iv="b_iv"))
COMPANIONS: Mapping[str, tuple[ValueFormat, Stored]] = MappingProxyType(
    {
        "pair": (
            replace(AES_GCM, layout="b64lines(ct tag16); b64lines(nonce12)"),
            Stored(
                "a text, a_iv text, b varchar(900), b_iv varchar(17)",
                PAIRED,
                (PAIR.format("a"), PAIR.format("b")),
                ("a || ';' || a_iv", "b || ';' || b_iv"),
            ),
        ),
        "pair of bytes": (
            replace(AES_GCM, layout="raw(ct tag16); raw(nonce16)"),
            Stored(
                "a bytea, a_iv bytea, b bytea, b_iv bytea",
                PAIRED,
                (BYTES.format("a"), BYTES.format("b")),
                tuple(f"encode({each}, 'hex') || ';' || encode({each}_iv, 'hex')" for each in SLOTS),  # type: ignore[arg-type]
            ),
        ),
        # Whatever a row says of a token: it is a value.
        "condition": (
            FERNET,
            Stored(
                'a text, b bytea, "is a" boolean, is_b boolean',
                (Place("a", when="is a"), Place("b", when="is_b")),
                ("a = %s", "b = convert_to(%s, 'UTF8'), is_b = (random() < 0.5)"),
                ("a", "convert_from(b, 'UTF8')"),
                'n = n + 1, "is a" = NOT coalesce("is a", false)',
            ),
        ),
        "bound": (
            replace(AES_GCM, layout="hex(nonce12):hex(tag16):hex(ct)", aad=f"{{table}}|{{100% {BOUND[:2]}}}"),
            Stored(
                f'a text, b varchar(900), "100% {BOUND[:2]}" text DEFAULT $${BOUND}$$',
                (Place("a"), Place("b")),
                ("a = %s", "b = %s"),
                ("a", "b"),
            ),
        ),
        "laravel": (
            LARAVEL,
            Stored(
                """doc jsonb NOT NULL DEFAULT '{"secrets": {"a": null}, "n": 0}',
                b varchar(900)[] DEFAULT '{"",NULL}'""",
                (Place("doc", ("secrets", "a")), Place("b", elements=True)),
                ("doc = jsonb_set(doc, '{secrets,a}', coalesce(to_jsonb(%s::text), 'null'))", "b[2] = %s"),
                ("doc #>> '{secrets,a}'", "b[2]"),
                "doc = jsonb_set(doc, '{n}', to_jsonb((doc->>'n')::int + 1))",
                "(doc->>'n')::int",
            ),
        ),
        "bound bytes": (
            replace(AES_GCM, layout="raw(0x01 nonce12 ct tag16)", aad=f"{{table}}|{{100% {BOUND[:2]}}}"),
            Stored(
                f'a bytea, b bytea, "100% {BOUND[:2]}" text DEFAULT $${BOUND}$$',
                (Place("a"), Place("b")),
                ("a = decode(%s, 'hex')", "b = decode(%s, 'hex')"),
                ("encode(a, 'hex')", "encode(b, 'hex')"),
            ),
        ),
    }
)
EVERY_STORED = {**STORED, **{name: stored for name, (_, stored) in COMPANIONS.items()}}
EVERY_FORMAT = {**FORMATS, **{name: values for name, (values, _) in COMPANIONS.items()}}
# Names of formats, each with the name of a kind of place.
MATRIX = [(values, stored) for values in FORMATS for stored in STORED] + [(name, name) for name in COMPANIONS]


@dataclass(frozen=True)
class ByteFormat:
    """A format of bytes, as an application reads and writes it without code of ours.

    Args:
        seal: encrypts a text with a key.
        read: decrypts with a key; None: it does not open the value.
    """

    declared: ValueFormat
    seal: Callable[[KeyMaterial, str], bytes]
    read: Callable[[KeyMaterial, bytes], str | None]

    def ring(self) -> KeyRing:
        """Two keys; the second is the primary."""
        first = new_key(self.declared)
        return KeyRing({KeyVersion(1): first, KeyVersion(2): new_key(self.declared, held=[first])}, KeyVersion(2))

    def opened(self, ring: KeyRing, value: bytes) -> tuple[str, str]:
        """Version and plaintext of a stored value."""
        read = ((str(version), self.read(ring.material(version), value)) for version in ring.versions)
        return next((version, text) for version, text in read if text is not None)


def _raw_sealed(key: KeyMaterial, text: str) -> bytes:
    nonce = secrets.token_bytes(12)
    body = AESGCM(raw_of(key)).encrypt(nonce, text.encode(), None)
    return b"\x01\x25" + nonce + body[-16:] + body[:-16]


def _raw_read(key: KeyMaterial, value: bytes) -> str | None:
    assert value[:2] == b"\x01\x25"
    try:
        return AESGCM(raw_of(key)).decrypt(value[2:14], value[30:] + value[14:30], None).decode()
    except InvalidTag:
        return None


def _of_library(declared: ValueFormat, library: Library) -> ByteFormat:
    def alone(key: KeyMaterial) -> Any:  # noqa: ANN401  one of the libraries
        return library.keys(library.read(notation_of(declared).text_of([key])))

    def read(key: KeyMaterial, value: bytes) -> str | None:
        try:
            text: str = alone(key).decrypt(value).decode()
        except CannotReadError:
            return None
        return text

    return ByteFormat(declared, lambda key, text: alone(key).encrypt(text.encode()), read)


BYTE_FORMATS = {
    "cloak-ecto": _of_library(CLOAK_ECTO_FORMAT, CLOAK_ECTO),
    "tink": _of_library(TINK_FORMAT, TINK),
    "raw": ByteFormat(replace(AES_GCM, layout="raw(0x0125 nonce12 tag16 ct)"), _raw_sealed, _raw_read),
}


def fill(connection: Connection, stored: Stored, rows: Mapping[int, Sequence[str | bytes | None]]) -> None:
    """Insert rows by their ids, each with the values of all slots."""
    put = "UPDATE public.cases SET {} WHERE id = %s"
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany("INSERT INTO public.cases (id) VALUES (%s)", [(key,) for key in rows])
        for slot, assignment in enumerate(stored.put):
            cursor.executemany(put.format(assignment).encode(), [(values[slot], key) for key, values in rows.items()])


def seal(values: ValueFormat, ring: KeyRing, version: int, text: str) -> str:
    if values == LARAVEL:
        return laravel.encrypt(_app_key(ring, KeyVersion(version)), text)
    if values.name == AES_GCM.name:
        nonce = os.urandom(layout_of(values).nonce_bytes)
        body = AESGCM(raw_of(ring.material(KeyVersion(version)))).encrypt(nonce, text.encode(), _bound(values))
        value = layout_of(values).join(nonce, body)
        return value.hex() if values.is_binary else value.decode()
    return sealed(ring, version, text) if values == NATIVE else token(ring, KeyVersion(version), text)


def _bound(values: ValueFormat) -> bytes | None:
    return f"cases|{BOUND}".encode() if values.aad else None


def open_value(values: ValueFormat, ring: KeyRing, stored: str | None) -> tuple[str, str] | None:
    """Version and plaintext of a stored value; NULL and '' as they are."""
    if not stored or values == NATIVE:
        return opened(ring, stored)
    if values.name == AES_GCM.name:
        return _opened(values, ring, stored)
    for version in ring.versions:
        try:
            if values == LARAVEL:
                return str(version), laravel.decrypt([_app_key(ring, version)], stored)
            return str(version), library(ring.material(version)).decrypt(stored).decode()
        except (InvalidTag, InvalidToken):
            continue
    raise AssertionError("no key opens a value")


def _app_key(ring: KeyRing, version: KeyVersion) -> str:
    return f"base64:{base64.b64encode(raw_of(ring.material(version))).decode()}"


def _opened(values: ValueFormat, ring: KeyRing, stored: str) -> tuple[str, str]:
    parts = layout_of(values).split(bytes.fromhex(stored) if values.is_binary else stored.encode())
    assert parts is not None
    for version in ring.versions:
        try:
            text = AESGCM(raw_of(ring.material(version))).decrypt(parts.nonce, parts.body, _bound(values))
        except InvalidTag:
            continue
        return str(version), text.decode()
    raise AssertionError("no key opens a value")

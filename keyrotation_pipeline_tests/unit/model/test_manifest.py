"""Manifests: what is written is what is read, and whatever else lies there is refused in one sentence."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from keyrotation_pipeline.audit.verify import read_anchor
from keyrotation_pipeline.errors import AuditError, ManifestError, ManifestSchemaError, MissingFormatError
from keyrotation_pipeline.fieldcrypto.formats.aes_gcm import AES_GCM
from keyrotation_pipeline.fieldcrypto.formats.derivations import SHA256
from keyrotation_pipeline.fieldcrypto.formats.fernet import DJANGO_FERNET_ENCRYPTED_FIELDS, FERNET
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.backups import (
    BackupSet,
    DatabaseContent,
    DatabaseCopy,
    KeyCopy,
    MadeFrom,
    RelationContent,
    RelationKind,
    StoredFile,
    TableContent,
    dump_name,
    free_stamps,
    key_file_name,
    member_in,
    stamp_in,
)
from keyrotation_pipeline.model.manifest import parse, render, signer_of
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline.model.undumped import DatabaseRole, Membership, RoleAttribute, Roles, Undumped
from keyrotation_pipeline_tests.fakes import PIPELINE, START, V1, V2, FakeSigner
from keyrotation_pipeline_tests.fakes.backups import DEFINITION

STAMP, SIGNER = f"20260105-090000-{PIPELINE}", FakeSigner().public
PLANTED = "planted-text"


def a_file(name: str) -> StoredFile:
    return StoredFile(name, "ab" * 32, 123, ("F" * 40, "0" * 64))


def a_set(stamp: str = STAMP) -> BackupSet:
    keys = tuple(KeyCopy(version, "cd" * 32, a_file(key_file_name(version, stamp))) for version in (V1, V2))
    table = EncryptedTable(TableName("bil\nling", 'In"voices'), ("no te",))
    content = DatabaseContent(
        (
            RelationContent(TableName("bil\nling", 'In"voices'), RelationKind.TABLE, 7),
            RelationContent(TableName("public", "é"), RelationKind.UNPOPULATED_VIEW),
        ),
        large_objects=2,
    )
    tables = (TableContent(table, 7, {"no te": {V1: 3, V2: 4}}),)
    dump = DatabaseCopy(a_file(dump_name(stamp)), tables, 18, content, DEFINITION)
    return BackupSet(stamp, "clinic@host (7)", keys, dump, AuditHead(41, "5" * 64), "7" * 64)


@pytest.mark.parametrize("stamp", [STAMP, f"{STAMP}-2", f"{STAMP}-10"])
def test_what_is_written_is_what_is_read(stamp: str) -> None:
    made = a_set(stamp)
    assert parse(made.name, render(made, SIGNER)) == made
    assert made.made_at == START


def test_what_it_takes_to_read_values_is_written_and_read() -> None:
    made, derivation = a_set(), DJANGO_FERNET_ENCRYPTED_FIELDS
    assert made.dump is not None
    places = [Place("password", when="is\nencrypted"), Place("doc", ("x",)), Place("plain")]
    table = EncryptedTable.of(TableName("s", "t"), places, replace(FERNET, derivation=derivation))
    content = TableContent(table, 1, {name: {V1: 1} for name in table.columns})
    made = replace(made, dump=replace(made.dump, tables=(content,)))
    assert parse(made.name, render(made, SIGNER)) == made
    derived = replace(AES_GCM, layout="b64(ct tag16); b64(nonce12)", aad="{t}", derivation=SHA256)
    bound = EncryptedTable.of(TableName("s", "u"), [Place("a", iv="b")], derived)
    tables = (content, TableContent(bound, 1, {"a+b": {V1: 1}}))
    assert made.dump is not None
    of_two = replace(made, dump=replace(made.dump, tables=tables))
    assert parse(made.name, render(of_two, SIGNER)) == of_two
    assert '"aad":""' not in render(made, SIGNER).decode().replace(" ", "")
    assert '"when":""' not in render(made, SIGNER).decode().replace(" ", "")


@pytest.mark.parametrize("named", ["toy", "toy b64", {"name": "toy", "aad": "{table}"}])
def test_the_package_of_a_format_that_is_not_here_is_named(named: object) -> None:
    made = a_set()
    content = json.loads(render(made, SIGNER))
    content["dump"]["tables"][0]["format"] = named
    unrecorded = json.dumps(content).encode()
    content["formats"] = [{"name": "toy", "package": "keyrotation-toy", "version": "1.0", "sha256": "ab" * 32}]
    with pytest.raises(MissingFormatError, match=r"the format toy, which the package keyrotation-toy 1\.0 brings"):
        parse(made.name, json.dumps(content).encode())
    with pytest.raises(ManifestError, match="its field dump is wrong"):
        parse(made.name, unrecorded)


def test_what_values_are_bound_to_their_row_by_is_written_and_read() -> None:
    made = a_set()
    assert made.dump is not None
    assert '"row"' not in render(made, SIGNER).decode()
    table = EncryptedTable(TableName("s", "t"), ("mail",), replace(NATIVE, row='I"d', row_from=3))
    made = replace(made, dump=replace(made.dump, tables=(TableContent(table, 1, {"mail": {V1: 1}}),)))
    assert parse(made.name, render(made, SIGNER)) == made


def test_roles_and_what_no_dump_holds_are_written_and_read_and_an_earlier_version_has_not_recorded_them() -> None:
    made = a_set()
    assert made.dump is not None
    assert '"undumped"' not in render(made, SIGNER).decode()
    assert json.loads(render(with_undumped(), SIGNER))["dump"]["undumped"]["roles"]["roles"][0] == {
        "name": 'o"dd\n', "attributes": ["SUPERUSER", "LOGIN"], "connection_limit": 3,
        "valid_until": "2027-01-01T00:00:00+00:00",
    }  # fmt: skip
    assert parse(made.name, render(with_undumped(), SIGNER)) == with_undumped()


def with_undumped() -> BackupSet:
    made = a_set()
    assert made.dump is not None
    role = DatabaseRole('o"dd\n', (RoleAttribute.SUPERUSER, RoleAttribute.LOGIN), 3, "2027-01-01T00:00:00+00:00")
    roles = Roles((role,), (Membership("group", 'o"dd\n', admin=True, inherits=False),))
    undumped = Undumped(roles, ("SUBSCRIPTION far",), ("comment on role x",), {"citext": "owner"})
    return replace(made, dump=replace(made.dump, undumped=undumped))


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        pytest.param('"SUPERUSER"', '"SUPERUSER PASSWORD"', id="no attribute"),
        pytest.param('"connection_limit": 3', '"connection_limit": "3"', id="a text for a number"),
        pytest.param("2027-01-01T00:00:00+00:00", "2027-01-01'; DROP", id="no moment"),
        pytest.param('"admin": true', '"admin": 1', id="a number for a truth"),
        pytest.param('"role": "group"', '"role": "group", "password": "x"', id="one field more"),
        pytest.param('"role": "group"', '"role": "x\\u0000"', id="a zero byte"),
    ],
)
def test_roles_in_another_form_are_refused(written: str, instead: str) -> None:
    text = render(with_undumped(), SIGNER).decode()
    assert written in text
    assert_refused(a_set().name, text.replace(written, instead).encode())


def a_fleet() -> BackupSet:
    """A set whose member has the same tables."""
    made = a_set()
    assert made.dump is not None
    (content,) = made.dump.tables
    members = tuple(
        replace(
            made.dump,
            file=a_file(dump_name(STAMP, name)),
            tables=(replace(content, table=replace(content.table, name=replace(content.table.name, database=name))),),
            member=name,
            place=f"{name}, system identifier 7",
            anchor=AuditHead(40, "6" * 64),
        )
        for name in ("north", "south_2")
    )
    return replace(made, members=members)


def test_the_dumps_of_members_are_written_and_read_and_an_earlier_set_has_none() -> None:
    made = a_fleet()
    assert parse(made.name, render(made, SIGNER)) == made
    assert [each.name for each in made.files][2:] == [dump_name(STAMP, each) for each in ("", "north", "south_2")]
    assert [member_in(each.file.name) for each in made.dumps] == ["", "north", "south_2"]
    assert all(stamp_in(each.file.name) == STAMP for each in made.dumps)
    assert [made.rows_seq(each) for each in made.dumps] == [41, 40, 40]
    assert b"members" not in render(a_set(), SIGNER)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("member", "south_2", id="a database twice"),
        pytest.param("member", "north/../x", id="a path"),
        pytest.param("member", "", id="the home's own among the members"),
        pytest.param("place", "", id="of no place"),
        pytest.param("audit", None, id="without an anchor"),
        pytest.param("dump", None, id="without a dump"),
        pytest.param(PLANTED, 1, id="one field more"),
    ],
)
def test_a_member_in_another_form_is_refused(field: str, value: object) -> None:
    made = a_fleet()
    content = json.loads(render(made, SIGNER))
    content["members"][0][field] = value
    with pytest.raises(ManifestError) as refused:
        parse(made.name, json.dumps(content, indent=2).encode())
    assert PLANTED not in str(refused.value)


def test_the_dump_of_one_member_cannot_stand_for_another_ones() -> None:
    made = a_fleet()
    content = json.loads(render(made, SIGNER))
    first, second = content["members"]
    first["dump"], second["dump"] = second["dump"], first["dump"]
    with pytest.raises(ManifestError, match="the dump's file does not have the name"):
        parse(made.name, json.dumps(content, indent=2).encode())


def test_a_set_without_a_dump_is_one() -> None:
    made = BackupSet(STAMP, "clinic", a_set().keys, None, AuditHead(0, "0" * 64))
    assert parse(made.name, render(made, SIGNER)) == made


def rekeyed() -> BackupSet:
    return replace(a_set(f"{STAMP}-2"), made_from=MadeFrom(f"backup-{STAMP}.json", "ef" * 32, 40))


def test_what_a_set_was_made_from_is_read_back() -> None:
    made = rekeyed()
    assert parse(made.name, render(made, SIGNER)) == made


@pytest.mark.parametrize("schema", [0, 2, "1", None, PLANTED])
def test_a_manifest_of_another_schema_is_refused_by_that(schema: object) -> None:
    content = json.loads(render(a_set(), SIGNER)) | {"schema": schema, "dump": PLANTED}
    assert_refused(a_set().name, json.dumps(content).encode())
    with pytest.raises(ManifestSchemaError, match="does not read; use the version that wrote it"):
        parse(a_set().name, json.dumps(content).encode())


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"manifest": "backup-20250101-000000-efa1f375.json"}, id="of another moment"),
        pytest.param({"manifest": f"../backup-{STAMP}.json"}, id="of a set elsewhere"),
        pytest.param({"sha256": PLANTED}, id="of no hash"),
    ],
)
def test_a_set_that_was_made_from_what_cannot_be_is_refused(change: dict[str, Any]) -> None:
    content = json.loads(render(rekeyed(), SIGNER))
    content["made_from"] |= change
    assert_refused(rekeyed().name, json.dumps(content).encode())


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.pop(name)


def with_(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.update({name: value})


def in_key(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["keys"][0].update({name: value})


def in_dump(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["dump"].update({name: value})


def in_table(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["dump"]["tables"][0].update({name: value})


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(in_key("file", "/root/.ssh/authorized_keys"), id="an absolute path"),
        pytest.param(in_key("file", "../../keys/v1.key"), id="a path upwards"),
        pytest.param(in_key("file", key_file_name(V1, STAMP) + "\n"), id="a newline behind the name"),
        pytest.param(in_key("file", key_file_name(V2, STAMP)), id="the file of another version"),
        pytest.param(in_key("file", key_file_name(V1, "20250101-000000-efa1f375")), id="the file of another set"),
        pytest.param(in_key("version", "v2"), id="a version twice"),
        pytest.param(in_dump("content", None), id="no list of what the dump holds"),
        pytest.param(in_dump("content", {"relations": []}), id="no number of large objects"),
        pytest.param(in_key("version", "v01"), id="no version"),
        pytest.param(in_key("sha256", "AB" * 32), id="a hash in capitals"),
        pytest.param(in_key("sha256", "ab"), id="a short hash"),
        pytest.param(in_key("size_bytes", -1), id="a negative size"),
        pytest.param(in_key("size_bytes", True), id="a truth for a size"),
        pytest.param(in_key("size_bytes", "123"), id="a text for a size"),
        pytest.param(in_key("size_bytes", 10**30), id="a size beyond all disks"),
        pytest.param(in_key("size_bytes", 1.5), id="half a byte"),
        pytest.param(in_key("recipients", []), id="no recipient"),
        pytest.param(in_key("recipients", [PLANTED]), id="no fingerprint"),
        pytest.param(in_key(PLANTED, 1), id="one field more in a key"),
        pytest.param(in_dump("file", "/etc/cron.d/x"), id="a dump elsewhere"),
        pytest.param(in_dump("versions", ["v1"]), id="fewer versions than its tables have"),
        pytest.param(in_table("table", ""), id="a table without a name"),
        pytest.param(in_table("table", "x\0y"), id="a table with a zero byte"),
        pytest.param(in_table("values", {"note": {PLANTED: 1}}), id="values under no version"),
        pytest.param(in_table("rows", None), id="no number of rows"),
        pytest.param(with_("made_at", "2025-01-01T00:00:00+00:00"), id="dated back"),
        pytest.param(with_("made_at", PLANTED), id="no date"),
        pytest.param(with_("schema", 2), id="another form"),
        pytest.param(with_("database", 7), id="a number for a database"),
        pytest.param(with_("keys", {}), id="an object for a list"),
        pytest.param(with_("audit", {"seq": 1, "head": PLANTED}), id="no head"),
        pytest.param(with_(PLANTED, 1), id="one field more"),
        *(pytest.param(without(name), id=f"no {name}") for name in json.loads(render(a_set(), SIGNER))),
    ],
)
def test_a_manifest_that_is_not_as_we_write_it_is_refused_in_one_sentence_without_its_content(
    change: Callable[[dict[str, Any]], object],
) -> None:
    made = a_set()
    content = json.loads(render(made, SIGNER))
    change(content)
    assert_refused(made.name, json.dumps(content).encode())


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="cut off"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[" * 200_000, id="as deep as can be"),
        pytest.param(b'{"schema":' * 100_000, id="objects as deep"),
        pytest.param(b'{"schema": ' + b"9" * 100_000 + b"}", id="a number of 100,000 digits"),
        pytest.param(b'{"schema": NaN}', id="NaN"),
        pytest.param(b'{"schema": 1, "database": "\xff"}', id="no UTF-8"),
        pytest.param(b'{"schema": 1, "database": "\\ud800"}', id="half a surrogate"),
        pytest.param(PLANTED.encode() * (8 << 20), id="100 MB"),
        pytest.param(b"\x00" * 1000, id="zeros"),
    ],
)
def test_what_is_no_manifest_at_all_is_refused_in_one_sentence(text: bytes) -> None:
    assert_refused(a_set().name, text)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("backup-20260105-090001-efa1f375.json", id="a second later"),
        pytest.param("backup-20261399-990000-efa1f375.json", id="no such day"),
        pytest.param("backup-20260105-090000-efa1f375-1.json", id="a number that is never given"),
        pytest.param("backup-20260105-090000-efa1f375.json\n", id="a newline behind"),
        pytest.param("../backup-20260105-090000-efa1f375.json", id="elsewhere"),
        pytest.param("backup-２０２６0105-090000.json", id="digits of another script"),
        pytest.param("database-20260105-090000-efa1f375.dump.gpg", id="the dump's"),
    ],
)
def test_a_manifest_under_another_name_is_refused(name: str) -> None:
    assert_refused(name, render(a_set(), SIGNER))


def assert_refused(name: str, text: bytes) -> None:
    with pytest.raises(ManifestError) as refused:
        parse(name, text)
    assert PLANTED not in str(refused.value)
    assert len(str(refused.value).removeprefix(f"the manifest {name} ")) < 150


def test_sets_of_one_second_get_stamps_of_their_own() -> None:
    names = [f"backup-{STAMP}.json", f"encryption-key-v1-{STAMP}-2.bin.gpg", f"notes-{STAMP}-3"]
    assert next(free_stamps(START, PIPELINE, names)) == f"{STAMP}-3"
    assert next(free_stamps(START, PIPELINE, [])) == STAMP
    assert next(free_stamps(START.replace(second=1), PIPELINE, names)) == f"20260105-090001-{PIPELINE}"
    assert next(free_stamps(START, "3fa9c1d2", names)) == "20260105-090000-3fa9c1d2"


def test_a_manifest_under_the_name_of_another_pipeline_is_refused() -> None:
    made = a_set("20260105-090000-3fa9c1d2")
    assert_refused(made.name, render(made, SIGNER))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[" * 200_000, id="as deep as can be"),
        pytest.param(json.dumps(json.loads(render(a_set(), SIGNER))).encode(), id="on one line"),
        pytest.param(b" " + render(a_set(), SIGNER), id="a space before"),
        pytest.param(render(a_set(), SIGNER).replace(b'"signed_by"', b'"signed_by_whom"'), id="no signer"),
        pytest.param(render(a_set(), SIGNER).replace(SIGNER.encode(), b"A" * 300), id="a long key"),
    ],
)
def test_a_manifest_that_is_not_in_our_form_names_no_signer(text: bytes) -> None:
    assert signer_of(render(a_set(), SIGNER)) == SIGNER
    assert signer_of(text) is None


HOSTILE = {
    "nothing": b"",
    "not UTF-8": b"\xff\xfe",
    "a list": b"[]",
    "lists in lists": b"[" * 200_000,
    "objects in objects": b'{"audit":' * 100_000,
    "a number without end": b'{"schema": 1' + b"0" * 5_000 + b"}",
    "no number": b'{"schema": NaN}',
    "half a character": b'{"database": "\\ud800"}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_manifest_is_one_sentence_and_anchors_nothing(text: bytes) -> None:
    with pytest.raises(ManifestError) as refused:
        parse(a_set().name, text)
    assert len(str(refused.value)) < 200
    with pytest.raises((AuditError, UnicodeDecodeError)):  # as whoever looks through the directory calls it
        read_anchor(text.decode())

"""What `scan` recommends is taken by `init` as it stands, and where it says "rotates", a rotation carries it out."""

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from psycopg import sql

from keyrotation_pipeline.assembly.scan import scan_database
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.format_spec import BYTEA, ELEMENTS, PATH, TEXT
from keyrotation_pipeline.fieldcrypto.formats.recognition import recognise_text
from keyrotation_pipeline.fieldcrypto.formats.registry import SPECS
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy
from keyrotation_pipeline.scan.report import Finding
from keyrotation_pipeline_tests.acceptance.test_fernet import CONFIRM, Commands
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.vectors.format_vectors import VECTORS, FormatVector

ROWS = 200
COLUMNS = {TEXT: "text", BYTEA: "bytea", PATH: "jsonb", ELEMENTS: "text[]"}
DECLARED = {
    TEXT: '"secret"', BYTEA: '"secret"', PATH: '{ column = "secret", path = ["otp", "key"] }',
    ELEMENTS: '{ column = "secret", elements = true }',
}  # fmt: skip


class Case(NamedTuple):
    """Values of one library in one kind of place."""

    vector: FormatVector
    kind: str

    def __str__(self) -> str:
        return f"{self.vector.made_by}, {self.kind}"


def _is_stored_whole(vector: FormatVector) -> bool:
    """A key of each column, data of the row, a second column and our own keys have tests of their own."""
    declared = vector.declared
    if vector.name in {"native", "lockbox"} or declared.aad or ";" in declared.layout or vector.label:
        return False
    # Of which a library has a format of its own that is recommended instead.
    hit = None if declared.is_binary else recognise_text(vector.stored[0].decode())
    return hit is None or hit.format not in SPECS or hit.format == vector.name


def _cases() -> Iterator[Case]:
    for vector in VECTORS:
        if _is_stored_whole(vector):
            spec = SPECS[vector.name]
            kinds = [BYTEA] if vector.declared.is_binary else [TEXT, BYTEA, PATH, ELEMENTS]
            yield from (Case(vector, kind) for kind in kinds if kind in spec.places)


def _once(cases: Iterator[Case]) -> list[Case]:
    """Returns each format in each kind of place, and each layout in one of them."""
    found: list[Case] = []
    for case in cases:
        places = {(each.vector.name, each.kind) for each in found}
        layouts = {(each.vector.name, each.vector.declared.layout) for each in found}
        named = case.vector.name, case.vector.declared.layout
        if (case.vector.name, case.kind) not in places or named not in layouts:
            found.append(case)
    return found


CASES = _once(_cases())


def _of(name: str, kind: str) -> Case:
    return next(case for case in CASES if (case.vector.name, case.kind) == (name, kind))


SHORT = [_of("fernet", ELEMENTS), _of("rails-ar-encryption", PATH), _of("aes-gcm", TEXT)]


def _cell(kind: str, stored: bytes) -> object:
    if kind == BYTEA:
        return stored
    text = stored.decode()
    return {TEXT: text, PATH: json.dumps({"otp": {"key": text}}), ELEMENTS: [text]}[kind]


def _section(vector: FormatVector, logins: Sequence[str]) -> Iterator[str]:
    """What the page that is recommended says of a format, for these values."""
    spec, declared = SPECS[vector.name], vector.declared
    yield 'keys = { env = "FIELD_KEYS" }'
    if logins:
        yield "logins = { " + ", ".join(f'v{number} = "{name}"' for number, name in enumerate(logins, 1)) + " }"
    if declared.derivation is not None and declared.derivation != spec.derivation:
        yield f'derivation = "{declared.derivation}"'
    for option in spec.options:
        if option.layout and declared.layout != spec.layout and (line := option.said_by(declared.layout)):
            yield line
        elif option.name == "key_encoding":
            yield f'key_encoding = "{vector.encoding}"'
        elif option.name in {"salt", "deterministic"} and (value := getattr(declared, option.name, None)):
            yield f"{option.name} = {json.dumps(value)}"


@pytest.fixture
def logins(database_url: str) -> Iterator[tuple[str, ...]]:
    names = tuple(f"app_{secrets.token_hex(4)}_g{number}" for number in (1, 2, 3))
    with psycopg.connect(database_url, autocommit=True) as connection:
        for name in map(sql.Identifier, names):
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
        yield names
        for name in map(sql.Identifier, names):
            connection.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))


def _stored(url: str, case: Case, logins: Sequence[str], rows: int) -> Finding:
    """Fills a table, and returns what a scan finds in it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE users (id int PRIMARY KEY, secret {COLUMNS[case.kind]})".encode())
        stored = case.vector.stored
        with connection.cursor() as cursor:
            cells = [(number, _cell(case.kind, stored[number % len(stored)])) for number in range(rows)]
            cursor.executemany("INSERT INTO users VALUES (%s, %s)", cells)
        for name in map(sql.Identifier, logins):
            connection.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE ON users TO {}").format(name))
    (found,) = scan_database(url, "--url", lambda _: None, ["public"]).findings
    return found


def _home(
    folder: Path, url: str, case: Case, officers: Sequence[DemoOfficer], logins: Sequence[str], name: str
) -> Commands:
    named = roster_in_toml(officers)
    needed = logins if SPECS[name].identified_by is IdentifiedBy.DECRYPT else ()
    lines = "\n".join((f'[format]\nname = "{name}"', *_section(case.vector, needed)))
    file = folder / "keyrotation.toml"
    file.write_text(
        f'database.url = "{url}"\n{CONFIRM}[approvals]\nrequired = 2\n{named}[reencryption]\nshards = 1\n{lines}\n'
        f'[[tables]]\nname = "users"\ncolumns = [{DECLARED[case.kind]}]\n'
    )
    return Commands(file, tuple(officers))


def _recommended(found: Finding, case: Case) -> str:
    """Returns the format that the sentence names, and sees that its layout, if it has one, is the right one."""
    name = re.search(r'`\[format\] name = "([a-z0-9-]+)"`', found.next)
    assert name is not None, found.next
    assert "rotates it in place" in found.next
    layout = re.search(r'`layout = "([^"]+)"`', found.next)
    assert layout is None or layout[1] == case.vector.declared.layout
    return name[1]


@pytest.mark.parametrize("case", SHORT, ids=str)
def test_init_takes_what_is_recommended(
    case: Case, tmp_path: Path, database_url: str, security_officer: DemoOfficer, privacy_officer: DemoOfficer,
    already_migrated: str, logins: tuple[str, ...], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    found = _stored(database_url, case, logins, 12)
    officers = (security_officer, privacy_officer)
    home = _home(tmp_path, database_url, case, officers, logins, _recommended(found, case))
    monkeypatch.setenv("FIELD_KEYS", case.vector.listed)
    home.typed("init")
    home.typed("request", "--reason", "yearly")


@pytest.mark.extended
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_said_to_be_rotated_is(
    case: Case, tmp_path: Path, database_url: str, security_officer: DemoOfficer, privacy_officer: DemoOfficer,
    already_migrated: str, logins: tuple[str, ...], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    found = _stored(database_url, case, logins, ROWS)
    officers = (security_officer, privacy_officer)
    home = _home(tmp_path, database_url, case, officers, logins, _recommended(found, case))
    monkeypatch.setenv("FIELD_KEYS", case.vector.listed)
    home.typed("init")
    monkeypatch.delenv("FIELD_KEYS")
    request = home.typed("request", "--reason", "yearly").splitlines()[-1]
    home.sign(request)
    home.carry_out(request, lambda: None)
    (table,) = home.shown("status")["tables"]
    new = max(table["values_by_version"], key=lambda version: int(version[1:]))
    assert table["values_by_version"] == {**dict.fromkeys(table["values_by_version"], 0), new: ROWS}

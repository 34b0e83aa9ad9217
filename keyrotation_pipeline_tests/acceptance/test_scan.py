"""`keyrotation scan` as a DBA types it: a role with SELECT alone, a database of any application, no home and no key."""

import base64
import hashlib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from packaging.requirements import Requirement
from psycopg import sql
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.postgres.scan.database import scan
from keyrotation_pipeline.fieldcrypto.formats.recogniser import from_hex
from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, Folder, environment
from keyrotation_pipeline_tests.acceptance.documents import documented, refusal
from keyrotation_pipeline_tests.acceptance.terminal import picture, plain, shown
from keyrotation_pipeline_tests.pages import block
from keyrotation_pipeline_tests.servers import Server, copy_of
from keyrotation_pipeline_tests.vectors.foreign_values import FOREIGN, MARKED, ForeignValues

SHAPES = ("plain", "in_bytes", "in_json", "in_array", "prefixed", "tenth")
# Three values of a block or two, or three IVs: too few bytes to tell from an identifier.
OF_ONE_BLOCK = {"sqlalchemy-utils-aes", "typeorm-encrypted-cbc", "pgcrypto-raw", "attr_encrypted-iv"}
FIELDS = {
    "table", "column", "path", "elements", "type", "format", "tier", "share", "values", "key_ids", "identified_by",
    "reads_two_keys", "next",
}  # fmt: skip


def table_of(entry: ForeignValues) -> str:
    return f"t{FOREIGN.index(entry):02d}"


def make(connection: psycopg.Connection, entry: ForeignValues) -> None:
    """A table with the entry's values in each shape that they can have."""
    binary = isinstance(entry.values[0], bytes)
    type_ = sql.SQL("bytea" if binary else "text")
    table = sql.Identifier(table_of(entry))
    connection.execute(
        sql.SQL("CREATE TABLE {0} (plain {1}, in_bytes bytea, in_json jsonb, in_array {1}[], prefixed {1}, tenth {1})")
        .format(table, type_)
    )  # fmt: skip
    insert = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s, %s, %s, %s)").format(table)
    for value in entry.values:
        if isinstance(value, bytes):
            row: tuple[Any, ...] = (value, None, None, [value], None, value)
        else:
            document = json.dumps({"profile": {"ssn": value}})
            row = (value, value.encode(), document, [value], f"enc:{value}", value)
        connection.execute(insert, row)
    words = "convert_to('a note of day ' || i, 'UTF8')" if binary else "'a note of day ' || i"
    notes = sql.SQL("INSERT INTO {} (tenth) SELECT {} FROM generate_series(1, {}) AS i")
    connection.execute(notes.format(table, sql.SQL(words), sql.Literal(9 * len(entry.values))))


@dataclass(frozen=True)
class Scanned:
    """A database with every foreign value, and what the command printed about it."""

    url: str
    folder: Folder
    printed: dict[str, Any]

    def places(self, entry: ForeignValues) -> dict[str, dict[str, Any]]:
        table = f"public.{table_of(entry)}"
        return {place["column"]: place for place in self.printed["places"] if place["table"] == table}


@pytest.fixture(scope="module")
def scanned(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scanned]:
    role = f"reader_{os.getpid()}"
    with copy_of(server, "template1") as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN".encode())
        with connection.transaction():
            for entry in FOREIGN:
                make(connection, entry)
        connection.execute("CREATE SCHEMA empty")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}".encode())
        folder = Folder(tmp_path_factory.mktemp("scan"), [])
        reader = make_conninfo(url, user=role)
        printed = documented("scan", folder.run("scan", "--url", reader, "--json"))
        yield Scanned(reader, folder, printed)
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def shapes_of(entry: ForeignValues) -> set[str]:
    return set(SHAPES) - ({"in_bytes", "in_json", "prefixed"} if isinstance(entry.values[0], bytes) else set())


@pytest.mark.parametrize("entry", MARKED, ids=lambda entry: entry.made_by)
def test_a_marked_format_is_named_in_every_shape(scanned: Scanned, entry: ForeignValues) -> None:
    places = scanned.places(entry)
    assert {name: (place["format"], place["tier"]) for name, place in places.items()} == dict.fromkeys(
        shapes_of(entry), (entry.format, "certain")
    )
    assert {frozenset(place["key_ids"]) for place in places.values()} == {frozenset(entry.key_ids)}
    assert [place["share"] for name, place in places.items() if name == "tenth"] == [0.1]
    assert places["in_array"]["elements"]
    if "in_json" in places:
        assert places["in_json"]["path"] == ["profile", "ssn"]


LONG_ENOUGH = [entry for entry in FOREIGN if not entry.marked and entry.format not in OF_ONE_BLOCK]


@pytest.mark.parametrize("entry", LONG_ENOUGH, ids=lambda entry: entry.made_by)
def test_values_without_a_marker_are_found_in_every_shape(scanned: Scanned, entry: ForeignValues) -> None:
    """Bytes and hex as possible, since nothing but a name tells them from other random data."""
    places = scanned.places(entry)
    bare = isinstance(entry.values[0], bytes) or from_hex(entry.values[0].strip()) is not None
    tiers = {name: "possible" if bare and name != "prefixed" else "likely" for name in shapes_of(entry)}
    assert {name: place["tier"] for name, place in places.items()} == tiers


def test_the_document_is_the_contract(scanned: Scanned) -> None:
    assert scanned.printed.keys() == {"schema", "database", "places", "not_looked_at"}
    assert {frozenset(place) for place in scanned.printed["places"]} == {frozenset(FIELDS)}
    assert all(isinstance(each, str) for each in scanned.printed["not_looked_at"])


def test_text_says_the_same_and_shows_no_value(scanned: Scanned) -> None:
    shown = scanned.folder.run("scan", "--url", scanned.url, COLUMNS="80")
    assert "examined: " in shown
    assert "columns of " in shown
    assert "not looked at (each needs a scan of its own): other databases of the server" in shown
    values = [value for entry in FOREIGN for value in entry.values if isinstance(value, str)]
    everything = "".join(scanned.folder.printed)
    assert [value for value in values if value.strip() in everything] == []
    assert list(scanned.folder.path.iterdir()) == [], "nothing is written, no home is made"


def test_a_missing_role_is_answered_by_the_sql_that_makes_it(server: Server, tmp_path: Path) -> None:
    folder, role = Folder(tmp_path, []), f"scanner_{os.getpid()}"
    with copy_of(server, "template1") as url, psycopg.connect(url, autocommit=True) as connection:
        reader = make_conninfo(url, user=role)
        folder.run("scan", "--url", reader, expect=1)
        assert (
            f'the server has no role "{role}"; create it (deploy/sql/scan-role.sql), or correct' in folder.printed[-1]
        )
        text = (Path(__file__).parents[2] / "deploy/sql/scan-role.sql").read_text()
        made = re.sub(r"\bscanner\b", role, text).replace("DATABASE clinic", f'DATABASE "{connection.info.dbname}"')
        connection.execute("CREATE TABLE patients (history text)")
        connection.execute(made.encode())
        found = json.loads(folder.run("scan", "--url", reader, "--json"))
        assert not [each for each in found["not_looked_at"] if "patients" in each]
        with psycopg.connect(reader) as scanner, pytest.raises(psycopg.errors.InsufficientPrivilege):
            scanner.execute("INSERT INTO patients VALUES ('x')")
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_the_database_is_named_as_the_url_names_it(server: Server) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        assert scan(connection, ["public"], name="shop@db.example:5432").database == "shop@db.example:5432"


def test_a_page_and_what_is_new_since_an_earlier_scan(scanned: Scanned, tmp_path: Path) -> None:
    folder = Folder(tmp_path, [])
    typed = ("scan", "--url", scanned.url, "--schema", "public")
    earlier = dict(scanned.printed, places=scanned.printed["places"][1:])
    (tmp_path / "earlier.json").write_text(json.dumps(earlier))
    compare = (*typed, "--compare", "earlier.json")
    found = documented("scan --compare", folder.run(*compare, "--json", "--fail-on", "new", expect=3))
    assert (found["new"], found["gone"]) == (scanned.printed["places"][:1], [])
    (tmp_path / "earlier.json").write_text(json.dumps(scanned.printed))
    shown = folder.run(*compare, "--fail-on", "new", "--output", "report.html")
    assert f"compared with the scan of {scanned.printed['database']}: 0 new, 0 gone" in shown
    page = (tmp_path / "report.html").read_text()
    values = [value for entry in FOREIGN for value in entry.values if isinstance(value, str)]
    assert [value for value in values if value.strip() in page] == []
    assert page.count("<h3>public.t") == len({place["table"] for place in scanned.printed["places"]})
    folder.run(*typed, "--output", "report.html", expect=1)
    assert "report.html already exists; name another one with --output" in folder.printed[-1]
    folder.run(*typed, "--fail-on", "new", expect=2)
    (tmp_path / "earlier.json").write_text("{}")
    folder.run(*compare, expect=1)
    assert "earlier.json is no output of `keyrotation scan --json`: its schema is not 1" in folder.printed[-1]


def test_the_url_comes_from_the_option_the_variable_or_the_file(scanned: Scanned, tmp_path: Path) -> None:
    folder = Folder(tmp_path, [])
    (tmp_path / "here.toml").write_text(
        f'database.url = "{scanned.url}"\n[[tables]]\nname = "t00"\ncolumns = ["plain"]\n'
    )
    nowhere = "postgresql://app:hunter2@127.0.0.1:9/nowhere"
    typed = ("scan", "--schema", "empty")
    by_variable = json.loads(folder.run(*typed, "--json", KEYROTATION_DATABASE_URL=scanned.url))
    assert by_variable["database"] == scanned.printed["database"]
    folder.run(*typed, "--url", scanned.url, KEYROTATION_DATABASE_URL=nowhere)
    folder.run(*typed, "--config", "here.toml", KEYROTATION_DATABASE_URL=nowhere)
    folder.run(*typed, "--json", expect=1, KEYROTATION_DATABASE_URL=nowhere)
    assert refusal(folder.printed[-1]) == (
        "cannot connect to nowhere@127.0.0.1:9: no server answers there; start it, or correct host and port in "
        "KEYROTATION_DATABASE_URL"
    )
    folder.run("scan", expect=1)
    assert "no database is named; give --url, or set KEYROTATION_DATABASE_URL (there is no" in folder.printed[-1]
    assert "hunter2" not in "".join(folder.printed)


def test_init_writes_what_scan_found_as_comments(server: Server, tmp_path: Path) -> None:
    folder = Folder(tmp_path, [])
    fernet = next(entry for entry in FOREIGN if entry.format == "fernet" and isinstance(entry.values[0], str))
    native = next(entry for entry in FOREIGN if entry.format == "native")
    with copy_of(server, "template1") as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (name text, token text)")
        for pair in zip(native.values, fernet.values, strict=True):
            connection.execute("INSERT INTO clients VALUES (%s, %s)", pair)
        folder.run("init", "--scan", KEYROTATION_DATABASE_URL=url)
        written = (tmp_path / "keyrotation.toml").read_text()
        folder.run("init", "--scan", expect=1, KEYROTATION_DATABASE_URL=url)
    assert '[[tables]]\nname = "clients"\ncolumns = ["name"]\n' in written
    assert '# "public.clients.token": fernet, all 3 values\n#     ' in written
    assert "keyrotation.toml is there already; run `keyrotation scan`" in folder.printed[-1]


@pytest.mark.parametrize("options", [["--scan"], []], ids=["with --scan", "alone"])
def test_init_writes_a_configuration_of_fernet_columns_that_it_then_takes(
    server: Server, tmp_path: Path, options: list[str]
) -> None:
    folder = Folder(tmp_path, [])
    fernet = next(entry for entry in FOREIGN if entry.format == "fernet" and isinstance(entry.values[0], str))
    with copy_of(server, "template1") as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute('CREATE TABLE users ("e mail" text, log text, doc jsonb, marked text)')
        connection.execute("CREATE TABLE parts (number int, token varchar(400), raw bytea) PARTITION BY RANGE (number)")
        connection.execute("CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (10)")
        for number, value in enumerate(fernet.values):
            note = value if number == 0 else f"a note of day {number}"
            row = (value, note, json.dumps({"token": value}), "enc:" + str(value))
            connection.execute("INSERT INTO users VALUES (%s, %s, %s, %s)", row)
            connection.execute("INSERT INTO parts VALUES (%s, %s, %s)", (number, value, str(value).encode()))
        folder.run("init", *options, KEYROTATION_DATABASE_URL=url, FERNET_KEYS="of the application")
        written = (tmp_path / "keyrotation.toml").read_text()
        folder.run("init", expect=1, KEYROTATION_DATABASE_URL=url)
    assert '[format]\nname = "fernet"\nkeys = { env = "FERNET_KEYS" }' in written
    tables = (
        '[[tables]]\nname = "parts"\ncolumns = ["token", "raw"]\n\n[[tables]]\nname = "users"\ncolumns = ["e mail"]\n'
    )
    assert tables in written
    assert '\nmode = "confirm"\n' in written
    assert '# "public.users.log": fernet, 33 % of 3 values\n' in written
    assert '# "public.users.doc -> token": fernet, all 3 values\n' in written
    assert '# "public.users.marked": fernet, all 3 values\n' in written
    assert "names no officers yet" in folder.printed[-1]


# Forbids importing what the extra `scan` does not install, as if it were not there.
WITHOUT_THE_REST = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if not top.startswith("_") and top not in sys.stdlib_module_names and top not in {allowed!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""


def installed_with(extra: str) -> set[str]:
    """The modules that pip installs with an extra, and with the base."""
    found: dict[str, set[str]] = {}
    wanted = {("keyrotation-pipeline", extra)}
    while wanted:
        name, with_extra = wanted.pop()
        installed = distribution(name)
        found[name] = {file.parts[0].partition(".")[0] for file in installed.files or ()}
        for line in installed.requires or ():
            needed = Requirement(line)
            if needed.name not in found and (not needed.marker or needed.marker.evaluate({"extra": with_extra})):
                wanted.add((needed.name, next(iter(needed.extras), "")))
    return {"keyrotation_pipeline", "sitecustomize"}.union(*found.values())


def test_the_extra_scan_is_enough_and_other_commands_name_theirs(scanned: Scanned, tmp_path: Path) -> None:
    allowed = installed_with("scan")
    assert {"psycopg", "psycopg_binary", "rich", "typer", "sqlalchemy"} <= allowed
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_THE_REST.format(allowed=allowed))

    def typed(*words: str) -> subprocess.CompletedProcess[str]:
        variables = environment(PYTHONPATH=str(tmp_path))
        return subprocess.run([KEYROTATION, *words], env=variables, capture_output=True, text=True, check=False)

    done = typed("scan", "--url", scanned.url, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["places"]) == len(scanned.printed["places"])
    nothing = typed("scan")
    assert (nothing.returncode, nothing.stderr.count("\n")) == (1, 1)
    assert nothing.stderr.startswith("no database is named; give --url, or set KEYROTATION_DATABASE_URL")
    other = typed("status")
    assert (other.returncode, other.stderr.count("\n")) == (1, 1)
    assert "run `pip install 'keyrotation-pipeline[pipeline]'`" in other.stderr


SHOP = """
CREATE TABLE users (id int, name text, email text, phone_ciphertext text, phone_bidx text, profile jsonb);
CREATE TABLE patients (id int, history text);
CREATE TABLE payments (id int, card text);
CREATE TABLE credentials (id int, secret bytea, tags text[]);
CREATE VIEW everybody AS SELECT * FROM users;
"""


def made_by(library: str) -> tuple[str | bytes, ...]:
    return next(entry.values for entry in FOREIGN if entry.made_by.startswith(library))


@pytest.fixture
def shop(server: Server) -> Iterator[str]:
    """A database as an application of several years has it."""
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE shop")
    with psycopg.connect(server.url("shop"), autocommit=True) as connection:
        connection.execute(SHOP)
        for number in range(90):
            turn = number % 3
            email = made_by("cryptography.fernet.Fernet")[turn] if number % 10 else f"user{number}@example.org"
            profile = json.dumps({"otp": {"secret": made_by("ActiveRecord::Encryption, store")[turn]}, "age": 40})
            index, nonce = (hashlib.sha256(f"{what} {number}".encode()) for what in ("index", "nonce"))
            nonce_bytes = nonce.digest()[:12]
            sealed = AESGCM(b"k" * 32).encrypt(nonce_bytes, f"+1 555 01{number:02}{'0' * turn}".encode(), None)
            phone = base64.b64encode(nonce_bytes + sealed).decode()
            row = (number, f"Name {number}", email, phone, index.hexdigest(), profile)
            connection.execute("INSERT INTO users VALUES (%s, %s, %s, %s, %s, %s)", row)
            for table, value in (
                ("patients", made_by("this project")[turn]), ("payments", made_by("Illuminate")[turn]),
                ("credentials", made_by("Cloak Cloak.Ciphers.AES.GCM AES.GCM.V2")[turn]),
            ):  # fmt: skip
                insert = sql.SQL("INSERT INTO {} VALUES (%s, %s)").format(sql.Identifier(table))
                connection.execute(insert, (number, value))
    yield server.url("shop")
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute("DROP DATABASE shop WITH (FORCE)")


def test_on_a_terminal_a_table_says_what_is_where_and_what_to_do(shop: str, tmp_path: Path) -> None:
    line = block("scan").splitlines()[0]
    words = shlex.split(line.replace("postgresql://reader@db/shop", shop), comments=True)
    assert words[:3] == ["uv", "run", "keyrotation"]
    wide = shown(*words[3:], cwd=tmp_path, columns=116)
    lines = plain(wide).splitlines()
    row = re.compile(r"public\.users\.email +fernet +90 % of 90 +- +its MAC +yes *")
    assert any(map(row.fullmatch, lines))
    assert any(each.startswith("  public.users.email: 9 of 90 values look like plaintext") for each in lines)
    assert any(re.fullmatch(r"public\.users\.phone_ciphertext +\S+ \(likely\) .*", each) for each in lines)
    assert "not looked at (a view: reading it would run what it is defined by): public.everybody" in plain(wide)
    narrow = plain(shown(*words[3:], cwd=tmp_path, columns=80))
    assert max(map(len, narrow.splitlines())) <= 80
    picture(wide, "scan", 116)


def test_the_variants_of_the_guide(scanned: Scanned, tmp_path: Path) -> None:
    folder, lines = Folder(tmp_path, []), block("scan-variants").splitlines()
    assert lines[0] == "export KEYROTATION_DATABASE_URL=postgresql://reader@db/shop"
    for line in lines[1:]:
        folder.run(*shlex.split(line, comments=True)[1:], KEYROTATION_DATABASE_URL=scanned.url)
    assert len(json.loads(folder.printed[-2])["places"]) == len(scanned.printed["places"])

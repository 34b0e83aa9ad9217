"""Applications whose values name their key, rotated by the commands beside their own library alone."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, cast
from uuid import uuid4

import psycopg
import pytest
from cryptography.fernet import MultiFernet

from keyrotation_pipeline.fieldcrypto.formats.cloak_47ng.codec import CloakKey
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline_tests.acceptance.test_fernet import ROWS, Application, Home, configuration, finished
from keyrotation_pipeline_tests.marked_libraries import (
    BOUND_TINK,
    CLOAK,
    CLOAK_ECTO,
    KEYED_WRAPPER,
    N8N,
    RAILS,
    RAILS_ENVELOPES,
    TINK,
    Library,
    Rails,
)

VARIABLE = "FIELD_KEYS"
MakeHome = Callable[..., "MarkedHome"]


@dataclass
class MarkedApplication(Application):
    """An application of one of these libraries; `keys` is the library with the keys that were delivered last."""

    library: Library = RAILS

    def listed(self) -> list[str]:
        return self.library.read(self.delivered())

    def reload(self) -> None:
        self.keys = cast("MultiFernet", self.library.keys(self.listed()))

    def read_with(self, key: str) -> dict[int, str]:
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("SELECT id, email FROM users").fetchall()
        return {row: self.library.alone(key).decrypt(email).decode() for row, email in rows}

    def write(self, row: int, value: bytes | str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            new = value if isinstance(value, str) else self.stored(value)
            connection.execute("UPDATE users SET email = %s WHERE id = %s", (new, row))

    def stored(self, value: bytes) -> str | bytes:
        found: str | bytes = self.library.stored(value)
        return found

    def refusal(self, value: bytes | str) -> str:
        """How the database refuses a value."""
        try:
            self.write(1, value)
        except psycopg.errors.InvalidTextRepresentation as error:
            said = " ".join(str(getattr(error.diag, each)) for each in dir(error.diag) if each.startswith("message"))
            assert "public" not in said, "the row's plain column"
            return said
        return ""


@dataclass
class MarkedHome(Home):
    """A home of such an application."""

    application: MarkedApplication


@pytest.fixture
def make_home(
    tmp_path: Path,
    database_url: str,
    security_officer: Any,  # noqa: ANN401
    privacy_officer: Any,  # noqa: ANN401
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> MakeHome:
    def make(library: Library, first: Callable[[Sequence[str]], Any] | None = None) -> MarkedHome:
        """A home with two keys, imported; a third of the values are under the older one.

        Args:
            first: what wrote the values, if not the library as it is.
        """
        old, older = library.generate(), library.generate()
        monkeypatch.setenv(VARIABLE, library.write(library.in_order([old, older])))
        officers = (security_officer, privacy_officer)
        file = tmp_path / "keyrotation.toml"
        file.write_text(configuration(database_url, officers, library.format))

        def delivered() -> str:
            line = (tmp_path / ".keyrotation" / "keys" / "application.env").read_text().strip()
            assert line.startswith(f"{VARIABLE}=")
            return line.removeprefix(f"{VARIABLE}=")

        keys: Any = library.keys(library.in_order([old, older]))
        application = MarkedApplication(database_url, delivered, keys, library=library)
        with psycopg.connect(database_url, autocommit=True) as connection:
            kind: LiteralString = "bytea" if library.in_bytes else "text"
            connection.execute(f"CREATE TABLE users (id int PRIMARY KEY, email {kind}, plain text DEFAULT 'public')")
            for row in range(ROWS):
                application.expected[row] = f"user{row}@example.com"
                value = (first or library.keys)([older if row % 3 == 0 else old])
                stored = library.stored(value.encrypt(application.expected[row].encode()))
                connection.execute("INSERT INTO users VALUES (%s, %s)", (row, stored))
        home = MarkedHome(file, officers, application, [old, older])
        home.typed("init")
        monkeypatch.delenv(VARIABLE)
        return home

    return make


@pytest.mark.parametrize(
    "library",
    [
        pytest.param(RAILS, id="rails"),
        pytest.param(RAILS_ENVELOPES, id="rails, envelopes"),
        pytest.param(CLOAK, id="47ng"),
        pytest.param(CLOAK_ECTO, id="Cloak for Elixir"),
        pytest.param(TINK, id="Tink", marks=pytest.mark.extended),
        pytest.param(BOUND_TINK, id="Tink with associated data", marks=pytest.mark.extended),
        pytest.param(KEYED_WRAPPER, id="Sentry", marks=pytest.mark.extended),
        pytest.param(N8N, id="n8n", marks=pytest.mark.extended),
    ],
)
def test_a_rotation_by_the_commands_beside_the_application(make_home: MakeHome, library: Library) -> None:
    home = make_home(library)
    application, lists = home.application, []
    old, older = home.keys
    assert application.listed() == library.in_order([old, older])
    with application.at_work():
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        text = home.typed("approve", request, "--text")
        assert "identified by the marker in each value" in text
        home.sign(request)
        home.walk(request, lambda: lists.append(application.listed()))
    assert (application.wrong, application.writes > 10) == ([], True)
    (new,) = lists[-1]
    assert lists == [library.in_order([old, new, older]), library.in_order([new, old, older]), [new]]
    assert application.read_with(new) == application.expected
    (table,) = home.shown("status")["tables"]
    assert table["identified_by"] == "marker"
    assert (table["values_by_version"], table["fenced_against"]) == ({"v1": 0, "v2": 0, "v3": ROWS}, ["v1", "v2"])
    assert "key version v2 is retired" in application.refusal(library.alone(old).encrypt(b"late"))
    assert "key version v1 is retired" in application.refusal(library.alone(older).encrypt(b"late"))
    assert application.refusal(library.alone(library.generate()).encrypt(b"late")) == ""


def test_values_of_rails_from_before_references_are_rotated_and_refused_afterwards(make_home: MakeHome) -> None:
    home = make_home(RAILS, lambda keys: Rails(keys, references=False))
    application = home.application
    _, older = home.keys
    request = home.typed("request", "--reason", "yearly").splitlines()[-1]
    home.sign(request)
    with application.at_work():
        home.walk(request)
    (new,) = application.listed()
    assert (application.wrong, application.read_with(new)) == ([], application.expected)
    assert "a value must name its key" in application.refusal(Rails([older], references=False).encrypt(b"late"))
    assert "a value must name its key" in application.refusal(Rails([new], references=False).encrypt(b"late"))


@pytest.mark.extended
@pytest.mark.parametrize(
    ("library", "first"),
    [
        pytest.param(RAILS, None, id="rails"),
        pytest.param(RAILS, lambda keys: Rails(keys, references=False), id="rails without references"),
        pytest.param(
            RAILS_ENVELOPES,
            lambda keys: Rails(keys, references=False, envelope=True),
            id="rails, envelopes without references",
        ),
        pytest.param(CLOAK, None, id="47ng"),
        pytest.param(CLOAK_ECTO, None, id="Cloak for Elixir"),
        pytest.param(TINK, None, id="Tink"),
        pytest.param(BOUND_TINK, None, id="Tink with associated data"),
        pytest.param(KEYED_WRAPPER, None, id="Sentry"),
        pytest.param(N8N, None, id="n8n"),
    ],
)
def test_a_rollback_and_what_backups_are_good_for(
    make_home: MakeHome, library: Library, first: Callable[[Sequence[str]], Any] | None, tmp_path: Path
) -> None:
    home = make_home(library, first)
    application, secret = home.application, tmp_path / "officer.sec.asc"
    old, older = home.keys
    secret.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    home.typed("backup")
    with application.at_work():
        request = finished(home, "request", "--reason", "yearly")
        (new,) = application.listed()
        assert "key version v1 is retired" in application.refusal(library.alone(older).encrypt(b"late"))
        finished(home, "rollback", request)
    assert (application.wrong, application.listed()) == ([], [old])
    assert application.read_with(old) == application.expected
    assert "key version v3 is retired" in application.refusal(library.alone(new).encrypt(b"late"))
    assert application.refusal(library.alone(old).encrypt(application.expected[1].encode())) == ""
    home.typed("backup")
    assert home.shown("recovery-test", "--key", str(secret))["passed"] is True
    assert "v1 is needed to read database-" in home.typed("destroy", "v1", "--reason", "old", exits=1)
    home.typed("verify")
    pack = tmp_path / "pack"
    home.typed("report", "--format", "pack", "--output", str(pack))
    done = subprocess.run([sys.executable, "-I", str(pack / "verify.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for each in (pack / "certificates").iterdir():
        statement = json.loads(base64.b64decode(json.loads(each.read_text())["payload"]))
        rows_told = statement["predicate"]["rows"]
        assert (rows_told["identified_by"], rows_told["old_values"]) == ("marker", 0)
        assert f'name = "{rows_told["format"]}"' in library.format
        assert "every value names its key version" in rows_told["rests_on"]


@pytest.mark.extended
@pytest.mark.parametrize(
    ("library", "first"),
    [
        pytest.param(RAILS, lambda keys: Rails(keys, references=False), id="rails without references"),
        pytest.param(CLOAK, None, id="47ng"),
        pytest.param(CLOAK_ECTO, None, id="Cloak for Elixir"),
    ],
)
def test_a_leaked_key_is_replaced_in_rows_and_backups(
    make_home: MakeHome, library: Library, first: Callable[[Sequence[str]], Any] | None, tmp_path: Path
) -> None:
    home = make_home(library, first)
    application, secret = home.application, tmp_path / "officer.sec.asc"
    secret.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    home.typed("backup")
    opened = home.typed("incident", "open", "--type", "key_exposed", "--description", "d", "--discovered-at", "now")
    _, request = opened.split()
    with application.at_work():
        home.sign(request)
        home.walk(request)
    (new,) = application.listed()
    assert (application.wrong, application.read_with(new)) == ([], application.expected)
    made = home.shown("backup", "--rekey", "--key", str(secret))
    assert made["values"] == {"users": ROWS}
    (rekeyed,) = (name for name in made["files"] if name.startswith("database-"))
    copy = f"copy_{uuid4().hex}"  # its server is that of other tests, too
    home.typed("restore-database", "--into", copy, "--from", rekeyed, "--key", str(secret))
    with psycopg.connect(application.url, dbname=copy, autocommit=True) as connection:
        rows = connection.execute("SELECT id, email FROM users").fetchall()
    read = {row: library.alone(new).decrypt(email).decode() for row, email in rows}
    assert read == {row: f"user{row}@example.com" for row in range(ROWS)}


def test_a_key_that_was_imported_wrongly_is_replaced_by_the_variable_of_the_list(
    make_home: MakeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(CLOAK)
    library, right = CLOAK, CLOAK.generate()
    with psycopg.connect(home.application.url, autocommit=True) as connection:  # as where the table was empty before
        for row in range(ROWS):
            value = library.alone(right).encrypt(home.application.expected[row].encode()).decode()
            connection.execute("UPDATE users SET email = %s WHERE id = %s", (value, row))
    monkeypatch.setenv(VARIABLE, right)
    request = home.typed("replace-key", "v2", "--reason", "wrong").splitlines()[-1]
    home.sign(request)
    home.typed("replace-key", "v2")
    monkeypatch.delenv(VARIABLE)
    home.application.reload()
    (table,) = home.shown("status", "--count")["tables"]
    assert table["values_by_version"] == {"v1": 0, "v2": ROWS}


def test_two_keys_that_values_name_alike_are_not_imported(make_home: MakeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    make = CloakKey.__init__

    def alike(self: CloakKey, material: KeyMaterial) -> None:
        make(self, material)
        self.marker = b"00000000"

    monkeypatch.setattr(CloakKey, "__init__", alike)
    with pytest.raises(AssertionError, match="values name the keys v1 and v2 by the same text"):
        make_home(CLOAK)

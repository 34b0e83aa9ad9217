"""Fernet applications with the real packages, rotated by what guides/fernet.md prints, while they write and restart."""

import base64
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from typer.testing import CliRunner

from keyrotation_pipeline.cli.commands import app
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.acceptance.fernet_applications import (
    AIRFLOW_TABLES,
    AIRFLOW_UNENCRYPTED,
    Project,
    airflow,
    django,
    real_airflow,
    sha256,
    sqlalchemy,
)
from keyrotation_pipeline_tests.acceptance.test_fernet import Commands
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.pages import block, fenced

CLIENT_TABLE = '[[tables]]\nname = "clinic_client"\ncolumns = ["name", "note"]\n'
AIRFLOW_PLACES = next(each.text for each in fenced() if each.name == "fernet-airflow").partition("\n\n")[
    2
]  # its tables


@dataclass
class Clinic(Commands):
    """A home and the application whose keys it rotates."""

    application: Project

    def walk(self, request: str, stops_at: str | None = None) -> str:
        """Types `rotate`, restarts the instances that are waited for, and confirms where none reports; till the end.

        Args:
            stops_at: until `rotate` is refused by a sentence with these words, which is returned.
        """
        waited: list[str] = []
        for _ in range(6):
            result = CliRunner().invoke(app, ["rotate", request, "--config", str(self.file)])
            if result.exit_code == 0:
                return ""
            waited.append(f"{result.output} {result.exception}")
            if stops_at is not None and stops_at in waited[-1]:
                return waited[-1]
            self.application.restart()
            if not self.application.reports:
                self.confirm(request)
        pytest.fail(f"not over: {waited}")

    def finished(self, *arguments: str) -> str:
        request = self.typed(*arguments).splitlines()[-1]
        self.sign(request)
        self.walk(request)
        return request

    def require_all_as_written(self) -> None:
        """The one delivered key reads every row as its writer has it, and the proof is recorded."""
        application = self.application
        assert (application.wrong, application.writes > 20) == ([], True)
        (key,) = application.listed()
        application.expected |= application.unencrypted
        application.require_read([key])
        for table in self.shown("status")["tables"]:
            counted = table["values_by_version"]
            [left] = [version for version, values in counted.items() if values]
            assert (counted[left] % len(application.expected) == 0) or application.unencrypted
            assert (table["unencrypted"], table["unreadable"]) == (0, 0)
            assert (table["identified_by"], left in table["fenced_against"]) == ("mac", False)


@pytest.fixture
def officers(
    security_officer: DemoOfficer, privacy_officer: DemoOfficer, already_migrated: str
) -> tuple[DemoOfficer, ...]:
    return (security_officer, privacy_officer)


def clinic(application: Project, officers: tuple[DemoOfficer, ...], tables: str, keys: list[str]) -> Clinic:
    """A home for an application that has written its rows already."""
    file = application.folder / "keyrotation.toml"
    named = roster_in_toml(officers)
    mode = "attest" if application.reports else "confirm"
    file.write_text(
        f'database.url = "{application.url}"\nrollout = {{ mode = "{mode}", timeout_seconds = 1 }}\n'
        f"[approvals]\nrequired = 2\n{named}"
        "[reencryption]\nshards = 1\nduty_cycle = 1.0\n"
        f'[format]\nname = "fernet"\nkeys = {{ env = "{application.variable}" }}\n'
        + (f'derivation = "{application.derivation}"\n' if application.derivation else "")
        + tables
    )
    home = Clinic(file, officers, application)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(application.variable, ",".join(keys))
        home.typed("init")
    return home


def manage(application: Project, keys: list[str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments], cwd=application.folder, env=application.environment(keys),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def model_fields(url: str, folder: Path, keys: list[str]) -> tuple[Project, str]:
    application = django(url, folder, "encrypted_model_fields")
    manage(application, keys, "migrate", "--run-syncdb")
    application.seed(keys)
    return application, CLIENT_TABLE


OWN_SECRET = "django-insecure-)6(#%&$@x=+^*!_"  # of characters that Django takes


def encrypted_fields(url: str, folder: Path, keys: list[str]) -> tuple[Project, str]:
    """Begins with the package's own settings, of which the guide's line prints the pairs."""
    own = f'SECRET_KEY = "{OWN_SECRET}"\nSALT_KEY = ["the new salt", "the old salt"]\n'
    application = django(url, folder, "encrypted_fields", own)
    manage(application, keys, "migrate", "--run-syncdb")
    application.seed(keys)
    typed = block("fernet-pairs").replace("python ", f"{sys.executable} ", 1)
    printed = subprocess.run(
        ["sh", "-c", typed], cwd=folder, env=application.environment([]), capture_output=True, text=True, check=True
    ).stdout
    keys[:] = printed.strip().split(",")
    assert keys == [f"{OWN_SECRET}:the {age} salt" for age in ("new", "old")]
    places = CLIENT_TABLE.replace('"note"]\n', '"note", { column = "details", path = ["phones", "0"] }]\n')
    return replace(django(url, folder, "encrypted_fields"), expected=application.expected), places


def fernet_fields(url: str, folder: Path, keys: list[str]) -> tuple[Project, str]:
    application = django(url, folder, "fernet_fields")
    manage(application, keys, "migrate", "--run-syncdb")
    keys[:] = ["the newer (secret)", OWN_SECRET]
    application.seed(keys)
    return application, CLIENT_TABLE


def sha256_models(url: str, folder: Path, keys: list[str]) -> tuple[Project, str]:
    application = sha256(url, folder)
    keys[:] = ["the newer secret", "the older secret"]
    application.seed(keys)
    return application, CLIENT_TABLE.replace("clinic_client", "clients")


def sqlalchemy_models(url: str, folder: Path, keys: list[str]) -> tuple[Project, str]:
    application = sqlalchemy(url, folder)
    application.seed(keys)
    return application, CLIENT_TABLE.replace("clinic_client", "clients")


def airflow_models(url: str, folder: Path, keys: list[str]) -> tuple[Project, str]:
    application = airflow(url, folder)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(AIRFLOW_TABLES)
    return seeded_airflow(application, keys)


AIRFLOW_PYTHON = os.environ.get("KEYROTATION_TEST_AIRFLOW", "")


def airflow_itself(url: str, folder: Path, keys: list[str]) -> tuple[Project, str]:
    application = real_airflow(url, folder, AIRFLOW_PYTHON)
    subprocess.run(
        [AIRFLOW_PYTHON, "-m", "airflow", "db", "migrate"], env=application.environment(keys), check=True,
        capture_output=True,
    )  # fmt: skip
    return seeded_airflow(application, keys)


def seeded_airflow(application: Project, keys: list[str]) -> tuple[Project, str]:
    """With rows that are not encrypted, of which the writers encrypt some."""
    application.seed(keys)
    with psycopg.connect(application.url, autocommit=True) as connection:
        connection.execute(AIRFLOW_UNENCRYPTED)
    application.expected.update({row: f"row {row}" for row in range(46, 51)})
    return application, AIRFLOW_PLACES


def package_fernet(derivation: str | None, key: str) -> Fernet:
    """As the package makes it of an entry of its list."""
    match derivation:
        case "django-fernet-encrypted-fields":
            secret, salt = key.encode().split(b":")
            return Fernet(base64.urlsafe_b64encode(hashlib.pbkdf2_hmac("sha256", secret, salt, 100_000, 32)))
        case "django-fernet-fields":
            raw = HKDF(SHA256(), 32, b"django-fernet-fields-hkdf-salt", b"django-fernet-fields").derive(key.encode())
            return Fernet(base64.urlsafe_b64encode(raw))
        case "sha256":
            return Fernet(base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()))
        case _:
            return Fernet(key)


def refusal(application: Project, key: str, table: str, column: str) -> str:
    """How the database refuses a token of a key."""
    with psycopg.connect(application.url, autocommit=True) as connection:
        late = package_fernet(application.derivation, key).encrypt(b"late").decode()
        try:
            connection.execute(f"UPDATE {table} SET {column} = %s WHERE id = 1", (late,))
        except psycopg.errors.InvalidTextRepresentation as error:
            said = " ".join(str(getattr(error.diag, each)) for each in dir(error.diag) if each.startswith("message"))
            assert late not in said
            assert "gAAAAA" not in said
            return said
    return ""


Made = Callable[[str, Path, list[str]], tuple[Project, str]]


def started(made: Made, url: str, folder: Path, officers: tuple[DemoOfficer, ...]) -> tuple[Clinic, list[str]]:
    """A home with the application's two keys, which it has imported."""
    keys = [Fernet.generate_key().decode() for _ in range(2)]
    application, tables = made(url, folder, keys)
    home = clinic(application, officers, tables, keys)
    assert application.listed() == keys
    return home, keys


def test_an_application_is_rotated_while_it_writes(
    tmp_path: Path, database_url: str, officers: tuple[DemoOfficer, ...]
) -> None:
    home, keys = started(encrypted_fields, database_url, tmp_path, officers)
    with home.application.at_work(instances=1):
        request = home.finished("request", "--reason", "yearly")
        proven = home.shown("history")[0]
    assert proven["id"] == request
    home.require_all_as_written()
    for number, key in enumerate(reversed(keys), 1):
        assert f"key version v{number} is retired" in refusal(home.application, key, "clinic_client", "name")


@pytest.mark.extended
@pytest.mark.parametrize(
    ("made", "place"),
    [
        pytest.param(model_fields, ("clinic_client", "note"), id="django-encrypted-model-fields"),
        pytest.param(encrypted_fields, ("clinic_client", "note"), id="django-fernet-encrypted-fields"),
        pytest.param(fernet_fields, ("clinic_client", "note"), id="django-fernet-fields"),
        pytest.param(sha256_models, ("clients", "note"), id="SHA-256"),
        pytest.param(sqlalchemy_models, ("clients", "note"), id="SQLAlchemy"),
        pytest.param(airflow_models, ("connection", "extra"), id="Airflow's schema"),
        pytest.param(
            airflow_itself,
            ("connection", "extra"),
            id="Airflow",
            marks=pytest.mark.skipif(
                not AIRFLOW_PYTHON, reason="KEYROTATION_TEST_AIRFLOW names no Python with Airflow and psycopg2"
            ),
        ),
    ],
)
def test_an_application_is_rotated_and_rolled_back_while_it_writes(
    made: Made, place: tuple[str, str], tmp_path: Path, database_url: str, officers: tuple[DemoOfficer, ...]
) -> None:
    home, (old, older) = started(made, database_url, tmp_path, officers)
    with home.application.at_work():
        request = home.finished("request", "--reason", "yearly")
        (new,) = home.application.listed()
        assert "key version v2 is retired" in refusal(home.application, old, *place)
        assert "key version v1 is retired" in refusal(home.application, older, *place)
        home.finished("rollback", request)
    home.require_all_as_written()
    assert home.application.listed() == [old]
    assert "key version v3 is retired" in refusal(home.application, new, *place)


@pytest.mark.extended
def test_what_a_package_encrypted_twice_stops_the_rotation_until_it_is_fixed(
    tmp_path: Path, database_url: str, officers: tuple[DemoOfficer, ...]
) -> None:
    home, (_, old) = started(model_fields, database_url, tmp_path, officers)
    saved = "from clinic.models import Client; Client.objects.get(id=7).save(update_fields=['note'])"
    manage(home.application, [old], "shell", "-v", "0", "-c", saved)  # it lacks the key that the row is under
    untouched = home.application.expected.pop(7)
    request = home.typed("request", "--reason", "yearly").splitlines()[-1]
    home.sign(request)
    with home.application.at_work():
        refused = home.walk(request, stops_at="encrypted twice")
        assert "table clinic_client, column note: 1 value (encrypted twice" in refused
        assert "gAAAAA" not in refused
        typed = block("fernet-encrypted-twice").replace("python ", f"{sys.executable} ", 1)
        environment = home.application.environment(home.application.listed())
        subprocess.run(["sh", "-c", typed], cwd=tmp_path, env=environment, check=True)
        home.walk(request)
    home.application.expected[7] = untouched
    home.require_all_as_written()


@pytest.mark.extended
@pytest.mark.parametrize(
    "made", [pytest.param(encrypted_fields, id="derived keys"), pytest.param(airflow_models, id="rows that say so")]
)
def test_a_leaked_key_is_replaced_in_rows_and_backups(
    made: Made, tmp_path: Path, database_url: str, officers: tuple[DemoOfficer, ...]
) -> None:
    home, keys = started(made, database_url, tmp_path, officers)
    opens = tmp_path / "officer.sec.asc"
    opens.write_bytes(officers[0].gpg("--armor", "--export-secret-keys"))
    home.typed("backup")
    time.sleep(1)  # a discovery is in whole seconds, and the backup must be from before it
    with home.application.at_work():
        opened = home.typed("incident", "open", "--type", "key_exposed", "--description", "d", "--discovered-at", "now")
        incident, request = opened.split()
        home.sign(request)
        home.walk(request)
    (new,) = home.application.listed()
    assert not set(new.split(":")) & {part for key in keys for part in key.split(":")}
    home.require_all_as_written()
    compared = home.shown("incident", "compare", incident, "--key", str(opens))
    assert compared["not_compared"] == []
    rekeyed = home.shown("backup", "--rekey", "--key", str(opens))
    assert set(rekeyed["values"]) == {table["table"] for table in home.shown("status")["tables"]}
    assert home.shown("recovery-test", "--key", str(opens))["passed"] is True
    home.typed("backup")
    assert home.shown("recovery-test", "--key", str(opens))["passed"] is True
    home.typed("verify")
    home.typed("audit", "verify")

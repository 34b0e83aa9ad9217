"""A home that took a key which opens nothing: every light and gate says so, and two officers replace it."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.backups.rehearsal import rehearse
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import KeyRotationError, WrongKeyError
from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.key_events import KeyReplaced
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import approvals
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.replace_key import pending_replacement, replace_key
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, Folder, environment
from keyrotation_pipeline_tests.acceptance.documents import documented
from keyrotation_pipeline_tests.acceptance.test_clusters_page import one_gnupg_home
from keyrotation_pipeline_tests.fakes import ProcessKilled
from keyrotation_pipeline_tests.forging import Forger, owner_of
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.pages import block

V1, V2 = KeyVersion(1), KeyVersion(2)
ROWS = 30


class Home:
    """A home whose v1 is `wrong`; it was made while the table was empty, so that there was nothing to try it on."""

    def __init__(self, path: Path, url: str, officers: tuple[DemoOfficer, ...], *, imported: bool = True) -> None:
        self.folder, self.url, self.officers = Folder(path, []), url, officers
        self.right, self.wrong = KeyMaterial.generate(), KeyMaterial.generate()
        self.file = path / "keyrotation.toml"
        roster = roster_in_toml(officers)
        self.file.write_text(
            f'database.url = "{url}"\nrollout.mode = "none"\n[[tables]]\nname = "clients"\ncolumns = ["name", "note"]\n'
            f"{roster}"
        )
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE clients (id serial PRIMARY KEY, name text, note text)")
        if imported:
            self.folder.run("init", ENCRYPTION_MASTER_KEY=base64_of(self.wrong))

    def fill(self, key: KeyMaterial) -> None:
        ring = KeyRing({V1: key}, V1)
        with psycopg.connect(self.url, autocommit=True) as connection:
            for row in range(ROWS):
                values = encrypt(ring, f"name {row}"), encrypt(ring, f"note {row}")
                connection.execute("INSERT INTO clients (name, note) VALUES (%s, %s)", values)

    @contextmanager
    def opened(self) -> Iterator[Pipeline]:
        with open_pipeline(settings.load(self.file), actor="test") as pipeline:
            yield pipeline

    def sign(self, request: str, *officers: DemoOfficer) -> None:
        with self.opened() as pipeline:
            stored = pipeline.ledger.request(request)
            for officer in officers or self.officers[:2]:
                add_approval(pipeline, stored, officer.sign(pipeline.ledger.approval_text(stored.id)))

    def refused(self, *arguments: str, **variables: str) -> str:
        self.folder.run(*arguments, expect=1, **variables)
        return self.folder.printed[-1]

    def replace(self) -> str:
        request = self.folder.run(
            "replace-key", "v1", "--reason", "the wrong key was imported", ENCRYPTION_MASTER_KEY=base64_of(self.right)
        ).strip()
        self.sign(request)
        done = self.folder.run("replace-key", "v1", "--json", ENCRYPTION_MASTER_KEY=base64_of(self.right))
        assert documented("replace-key", done)["done"] is True
        return request

    def plain(self, ring: KeyRing) -> list[str]:
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("SELECT name FROM clients ORDER BY id").fetchall()
        return [decrypt(ring, value) for (value,) in rows]


@pytest.fixture
def officers(
    security_officer: DemoOfficer, privacy_officer: DemoOfficer, sealed_officer: DemoOfficer
) -> tuple[DemoOfficer, ...]:
    return security_officer, privacy_officer, sealed_officer


@pytest.fixture
def home(tmp_path: Path, database_url: str, officers: tuple[DemoOfficer, ...]) -> Home:
    return Home(tmp_path, database_url, officers)


SENTENCE = "keys/v1.key decrypts none of the 60 values tried under v1 (clients.name 0 of 30, clients.note 0 of 30)"


def test_no_light_is_green_over_values_that_no_key_opens_and_nothing_is_built_on_them(home: Home) -> None:
    home.fill(home.right)
    home.folder.run("preflight", "--json", expect=1)
    seen = json.loads(home.folder.printed[-2])
    assert seen["ready"] is False
    lights = {check["name"]: check for check in seen["checks"]}
    assert lights["current_key_is_intact"]["light"] == "red"
    assert SENTENCE in lights["current_key_is_intact"]["value"]
    assert "replace-key" in lights["current_key_is_intact"]["do"]
    assert "every_value_is_readable" not in lights
    assert lights["duration_is_known"]["light"] == "amber"
    assert "not known: 60 values of 30 sampled rows do not decrypt" in lights["duration_is_known"]["value"]
    for command in (("request", "--reason", "yearly"), ("backup",), ("init",)):
        assert SENTENCE in home.refused(*command), command
    with home.opened() as pipeline:
        assert pipeline.ledger.requests() == ()


def test_lights_say_how_many_values_were_decrypted(home: Home) -> None:
    home.fill(home.wrong)  # which is the right one then
    home.folder.run("backup")
    lights = {check["name"]: check for check in json.loads(home.folder.run("preflight", "--json"))["checks"]}
    assert "decrypts 60 of 60 values that were tried" in lights["current_key_is_intact"]["value"]
    assert lights["every_value_is_readable"]["light"] == "green"
    assert "all 60 values of a sample decrypt" in lights["every_value_is_readable"]["value"]
    assert "by 30 rows of this database rewritten" in lights["duration_is_known"]["value"]


def test_values_of_another_key_that_come_after_the_request_stop_the_promotion(home: Home) -> None:
    home.fill(home.wrong)
    home.folder.run("backup")
    with home.opened() as pipeline:
        request = open_request(pipeline, reason="yearly", requested_by="test").id
    home.sign(request)
    with psycopg.connect(home.url, autocommit=True) as connection:
        connection.execute("TRUNCATE clients")
    home.fill(home.right)
    nothing: Any = None
    with open_backups(settings.load(home.file), actor="test") as site, pytest.raises(WrongKeyError):
        rehearse(site, nothing, nothing, site.pipeline.ledger.request(request), nothing)
    with home.opened() as pipeline:
        with pytest.raises(WrongKeyError, match="decrypts none of the 60 values tried under v1"):
            list(runner.run(pipeline, request, lambda _progress: None))
        assert pipeline.keys.read().primary == V1
        assert pipeline.ledger.walk(request).done(Step.DUAL_KEY_ROLLOUT) is not None


def test_two_officers_replace_the_key_and_the_rotation_then_finishes(home: Home) -> None:
    home.fill(home.right)
    request = home.replace()
    text = home.folder.run("approve", request, "--text")
    assert f"From: v1 {home.wrong.fingerprint}\n" in text
    assert f"To: v1 {home.right.fingerprint}\n" in text
    assert "which opened none of 60 values that were tried; the other one opened 60 of them" in text
    assert "words of the program" not in text
    home.folder.run("backup")
    home.folder.run("preflight")
    home.folder.run("audit", "verify")
    rotation = home.folder.run("request", "--reason", "yearly").strip()
    home.sign(rotation)
    for phase in ("dual_key_rollout", "primary_key_rollout"):
        home.folder.run("rotate", rotation, "--through", phase)
    home.folder.run("rotate", rotation)
    given = {"ENCRYPTION_MASTER_KEY_V2": base64_of(home.right)}
    assert "v2 was made by this pipeline and not imported" in home.refused(
        "replace-key", "v2", "--reason", "x", **given
    )
    with home.opened() as pipeline:
        ring = KeyRing({V2: pipeline.keys.read().material(V2)}, V2)
    assert home.plain(ring) == [f"name {row}" for row in range(ROWS)]
    assert base64_of(home.right) not in "".join(home.folder.printed)
    backups = [path.name for path in (home.folder.path / ".keyrotation" / "backups").glob("encryption-key-v1-*")]
    assert len(backups) >= 2, "of the replaced key, too"


def test_the_page_says_how(home: Home) -> None:
    home.fill(home.right)
    lines = block("replace-key").replace("=…", f"={base64_of(home.right)}")
    with one_gnupg_home(*home.officers) as gnupg:
        variables = {"GNUPGHOME": gnupg, "PATH": f"{KEYROTATION.parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", lines],
            cwd=home.folder.path,
            env=environment(**variables),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert f"v1 is {home.right.fingerprint[:16]} now, instead of {home.wrong.fingerprint[:16]}" in done.stdout
    assert base64_of(home.right) not in f"{done.stdout}{done.stderr}"


def test_a_rotation_that_stuck_on_the_wrong_key_is_taken_over_and_finished(home: Home) -> None:
    home.fill(home.wrong)
    home.folder.run("backup")
    rotation = home.folder.run("request", "--reason", "yearly").strip()
    home.sign(rotation)
    home.folder.run("rotate", rotation, "--through", "primary_key_rollout")
    with psycopg.connect(home.url, autocommit=True) as connection:
        connection.execute("TRUNCATE clients RESTART IDENTITY")
    home.fill(home.right)  # as a home of which nobody had tried the key
    home.refused("rotate", rotation)
    home.replace()
    taken = home.folder.run("request", "--reason", "go on with the right key").strip()
    home.sign(taken)
    home.folder.run("rotate", taken)
    with home.opened() as pipeline:
        stored = pipeline.keys.read()
    assert (tuple(stored.live), stored.primary) == ((V2,), V2)
    assert home.plain(stored.ring()) == [f"name {row}" for row in range(ROWS)]


@pytest.mark.parametrize(("filled", "given", "sentence"), [
    pytest.param("wrong", "right", "decrypts 60 of 60 values under it, so", id="it decrypts values"),
    pytest.param("other", "right", "decrypts 0 of 60 values under it", id="other decrypts no value"),
    pytest.param("right", "wrong", "is the registered one already", id="the same key"),
])  # fmt: skip
def test_only_a_key_that_opens_nothing_is_replaced_and_only_by_one_that_opens_the_values(
    home: Home, filled: str, given: str, sentence: str
) -> None:
    keys = {"right": home.right, "wrong": home.wrong, "other": KeyMaterial.generate()}
    home.fill(keys[filled])
    command = ("replace-key", "v1", "--reason", "try")
    assert sentence in home.refused(*command, ENCRYPTION_MASTER_KEY=base64_of(keys[given]))
    assert "set ENCRYPTION_MASTER_KEY to the key that decrypts" in home.refused(*command)


def test_one_officer_or_another_key_than_the_signed_one_replaces_nothing(home: Home) -> None:
    home.fill(home.right)
    command = ("replace-key", "v1", "--reason", "the wrong key was imported")
    request = home.folder.run(*command, ENCRYPTION_MASTER_KEY=base64_of(home.right)).strip()
    home.sign(request, home.officers[0])
    assert "needs 1 more approval" in home.refused("replace-key", "v1", ENCRYPTION_MASTER_KEY=base64_of(home.right))
    with home.opened() as pipeline, pytest.raises(KeyRotationError, match="needs 1 more signature"):
        replace_key(pipeline, pipeline.ledger.request(request), home.right)
    home.sign(request, home.officers[1])
    other = base64_of(KeyMaterial.generate())
    assert "but officers signed" in home.refused("replace-key", "v1", ENCRYPTION_MASTER_KEY=other)
    with home.opened() as pipeline:
        assert pipeline.keys.read().material(V1) == home.wrong


def test_the_database_owner_replaces_no_key_by_writing_events(home: Home) -> None:
    home.fill(home.right)
    with owner_of(home.url) as owner:
        Forger(owner).append(KeyReplaced(V1, home.wrong.fingerprint, home.right.fingerprint))
    assert "(key_replaced) is not signed by the pipeline" in home.refused("audit", "verify")
    home.refused("request", "--reason", "yearly")


@pytest.mark.parametrize("moment", ["replace", "replace_key"])
def test_a_death_in_the_middle_is_completed_by_running_it_again(
    home: Home, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    home.fill(home.right)
    command = ("replace-key", "v1", "--reason", "the wrong key was imported")
    request = home.folder.run(*command, ENCRYPTION_MASTER_KEY=base64_of(home.right)).strip()
    home.sign(request)

    def die(*_arguments: object, **_options: object) -> None:
        raise ProcessKilled(moment)

    with home.opened() as pipeline, monkeypatch.context() as patched:
        patched.setattr(type(pipeline.keys if moment == "replace" else pipeline.ledger), moment, die)
        with pytest.raises(ProcessKilled):
            replace_key(pipeline, pipeline.ledger.request(request), home.right)
    home.folder.run("replace-key", "v1", ENCRYPTION_MASTER_KEY=base64_of(home.right))
    with home.opened() as pipeline:
        assert pipeline.keys.read().material(V1) == home.right
        assert pipeline.ledger.keys()[0].fingerprint == home.right.fingerprint
        assert pending_replacement(pipeline.ledger, V1) is None
    home.folder.run("audit", "verify")


def test_a_replacement_whose_signatures_expired_in_the_middle_is_completed_by_another(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.fill(home.right)
    command = ("replace-key", "v1", "--reason", "the wrong key was imported")
    request = home.folder.run(*command, ENCRYPTION_MASTER_KEY=base64_of(home.right)).strip()
    home.sign(request)

    def die(*_arguments: object, **_options: object) -> None:
        raise ProcessKilled

    with home.opened() as pipeline, monkeypatch.context() as patched:
        patched.setattr(type(pipeline.ledger), "replace_key", die)
        with pytest.raises(ProcessKilled):
            replace_key(pipeline, pipeline.ledger.request(request), home.right)
    assert "has begun, so it cannot be cancelled; run `keyrotation replace-key v1`" in home.refused("cancel", request)
    with home.opened() as pipeline, monkeypatch.context() as patched:
        patched.setattr(approvals, "past_dates", lambda *_: "its dates have passed")
        cancel(pipeline, pipeline.ledger.request(request))
    stranger = base64_of(KeyMaterial.generate())
    assert "the key store holds another v1" in home.refused(*command, ENCRYPTION_MASTER_KEY=stranger)
    home.replace()
    with home.opened() as pipeline:
        assert pipeline.keys.read().material(V1) == home.right
        assert pipeline.ledger.keys()[0].fingerprint == home.right.fingerprint
    home.folder.run("audit", "verify")


def test_no_key_is_imported_for_a_column_that_is_all_of_another_format(
    tmp_path: Path, database_url: str, officers: tuple[DemoOfficer, ...]
) -> None:
    home = Home(tmp_path, database_url, officers, imported=False)
    tokens = Fernet(Fernet.generate_key())
    with psycopg.connect(database_url, autocommit=True) as connection:
        for row in range(ROWS):
            connection.execute("INSERT INTO clients (name) VALUES (%s)", (tokens.encrypt(b"%d" % row).decode(),))
    refused = home.refused("init", ENCRYPTION_MASTER_KEY=base64_of(home.right))
    assert "clients.name is declared as native, but all 30 values looked at are fernet" in refused
    with home.opened() as pipeline:
        assert pipeline.ledger.keys() == ()

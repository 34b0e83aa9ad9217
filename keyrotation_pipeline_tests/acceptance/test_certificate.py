"""A certificate of key death is refused where key store or database contradict it, whatever the audit says."""

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.reporting.retirement_certificate import in_words
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.test_cli import V1, Clinic, fill, officers
from keyrotation_pipeline_tests.packs import verified
from keyrotation_pipeline_tests.servers import Server, copy_of

__all__ = ["officers"]


@dataclass
class Rotated:
    """A clinic whose v1 a rotation has retired."""

    clinic: Clinic
    request: str

    @property
    def keys(self) -> Path:
        return settings.load(self.clinic.path).keys_directory


@pytest.fixture(scope="module")
def rotated(
    tmp_path_factory: pytest.TempPathFactory, server: Server, officers: tuple[DemoOfficer, DemoOfficer]
) -> Iterator[Rotated]:
    folder, key = tmp_path_factory.mktemp("rotated"), KeyMaterial.generate()
    with copy_of(server, "template1") as url, ExitStack() as applications:
        fill(url, key)
        clinic = Clinic(Folder(folder, []), officers, key, url, applications)
        clinic.initialise()
        request = clinic.approved_request(*officers)
        clinic.walk(request)
        yield Rotated(clinic, request)


@contextmanager
def live_again(made: Rotated, name: str = "v1") -> Iterator[None]:
    """Somebody copies the archived key to where applications get theirs."""
    copied = made.keys / f"{name}.key"
    shutil.copy2(made.keys / "archive" / "v1.key", copied)
    yield
    copied.unlink()


@contextmanager
def the_primary_again(made: Rotated) -> Iterator[None]:
    with live_again(made):
        (made.keys / "primary").write_text("v1\n")
        yield
        (made.keys / "primary").write_text("v2\n")


@contextmanager
def a_key_of_nobody(made: Rotated) -> Iterator[None]:
    (file := made.keys / "v9.key").touch(mode=0o600)
    file.write_text(f"{base64_of(KeyMaterial.generate())}\n")
    yield
    file.unlink()


@contextmanager
def fence_dropped(made: Rotated) -> Iterator[None]:
    with psycopg.connect(made.clinic.database_url, autocommit=True) as owner:
        ((name, definition),) = owner.execute(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE conrelid = 'clients'::regclass AND contype = 'c'"
        ).fetchall()
        comment = owner.execute("SELECT obj_description(oid) FROM pg_constraint WHERE conname = %s", (name,)).fetchone()
        owner.execute(f'ALTER TABLE clients DROP CONSTRAINT "{name}"')
        yield
        owner.execute(f'ALTER TABLE clients ADD CONSTRAINT "{name}" {definition}')
        if comment and comment[0]:
            owner.execute(f"COMMENT ON CONSTRAINT \"{name}\" ON clients IS '{comment[0]}'")


@contextmanager
def value_behind_the_fence(made: Rotated) -> Iterator[None]:
    """Whoever owns the database writes an old value, and makes the fence again as if nothing had been."""
    old = encrypt(KeyRing({V1: made.clinic.key}, V1), "a straggler")
    with psycopg.connect(made.clinic.database_url, autocommit=True) as owner:
        kept = owner.execute("SELECT first_name FROM clients WHERE id = 1").fetchone()
        assert kept is not None
        ((name, definition),) = owner.execute(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE conrelid = 'clients'::regclass AND contype = 'c'"
        ).fetchall()
        owner.execute(f'ALTER TABLE clients DROP CONSTRAINT "{name}"')
        owner.execute("UPDATE clients SET first_name = %s WHERE id = 1", (old,))
        owner.execute(f'ALTER TABLE clients ADD CONSTRAINT "{name}" {definition} NOT VALID')
        owner.execute("UPDATE pg_constraint SET convalidated = true WHERE conname = %s", (name,))
        yield
        owner.execute("UPDATE clients SET first_name = %s WHERE id = 1", kept)
    made.clinic.run("status", "--count")


@contextmanager
def no_longer_declared(made: Rotated) -> Iterator[None]:
    path, before = made.clinic.path, made.clinic.path.read_text()
    first, _, rest = before.partition("[[tables]]")
    path.write_text(f"{first}[[tables]]{rest.partition('[[tables]]')[2]}")
    yield
    path.write_text(before)


REFUSED: dict[str, tuple[Callable[[Rotated], AbstractContextManager[None]], str]] = {
    "live again": (live_again, "v1 is live in the key store"),
    "live under another name": (lambda made: live_again(made, "v9"), "the key of v1 is live in the key store as v9"),
    "the primary": (the_primary_again, "v1 is the key store's primary"),
    "a divergence": (a_key_of_nobody, "the key store holds v9, of which the database knows nothing"),
    "a fence dropped": (fence_dropped, "table clients takes values under v1"),
    "a table no longer declared": (no_longer_declared, "nobody looks whether table clients still refuses it"),
    "a value behind the fence": (value_behind_the_fence, "a count found 1 value under v1 in clients"),
}


def certify(made: Rotated, expect: int = 0) -> dict[str, Any]:
    said = made.clinic.run("report", "--format", "certificate", "--rotation", made.request, expect=expect)
    return {} if expect else json.loads(base64.b64decode(json.loads(said)["payload"]))["predicate"]


@pytest.mark.parametrize("world", REFUSED)
def test_a_key_that_the_world_contradicts_gets_no_certificate(rotated: Rotated, world: str) -> None:
    change, sentence = REFUSED[world]
    with change(rotated):
        certify(rotated, expect=1)
        assert sentence in rotated.clinic.error
        assert len(rotated.clinic.error.splitlines()) == 1
    assert certify(rotated)["keys"][0]["version"] == "v1"


def test_a_certificate_states_a_count_of_its_own(rotated: Rotated) -> None:
    before = certify(rotated)
    rotated.clinic.execute("DELETE FROM clients WHERE id = 2")
    after = certify(rotated)
    again = after["counted_again"]
    assert again["seq"] > before["audit_head"]["seq"]
    assert again["began_at"] <= again["recorded_at"]
    assert [(each["table"], each["rows"]) for each in again["tables"]] == [("clients", 299), ("billing.Invoices", 300)]
    assert all(each["old_values"] == 0 and each["refuses"] == ["v1"] for each in again["tables"])
    assert again["not_counted"] == []
    values = sum(each["values"] for each in again["tables"])
    said = f"by what each value names: 0 of {values} values of clients, billing.Invoices\n"
    assert said in in_words({"predicate": after})


def test_a_pack_says_which_key_got_no_certificate_and_why(rotated: Rotated, tmp_path: Path) -> None:
    with fence_dropped(rotated):
        rotated.clinic.run("report", "--format", "pack", "--output", str(tmp_path / "pack"))
    assert f"rotation {rotated.request[:8]} has no certificate in it" in rotated.clinic.error
    assert not list((tmp_path / "pack").glob("certificates/*.json"))
    code, said = verified(tmp_path / "pack")
    assert code == 0, said
    assert "which got no certificate" in said
    assert "table clients takes values under v1" in said


def test_a_pack_says_by_whose_choice_nothing_was_counted_for_it(rotated: Rotated, tmp_path: Path) -> None:
    counted = certify(rotated)["counted_again"]
    rotated.clinic.run("report", "--format", "pack", "--no-count", "--output", str(tmp_path / "pack"))
    [file] = (tmp_path / "pack" / "certificates").iterdir()
    said = json.loads(base64.b64decode(json.loads(file.read_bytes())["payload"]))
    again = said["predicate"]["counted_again"]
    assert (again["event"], again["last"]) == ("count_skipped", counted)
    assert f"not counted again for this, by the choice of {again['not_taken_by']} (" in in_words(said)
    code, lines = verified(tmp_path / "pack")
    assert code == 0, lines
    assert "not_taken_by" not in certify(rotated)["counted_again"], "a certificate of its own is counted for"
    rotated.clinic.run("report", "--no-count", expect=2)

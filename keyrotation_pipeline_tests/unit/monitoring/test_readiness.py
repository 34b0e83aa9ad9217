"""The list of the pre-flight: every problem named, red only for what a request is refused for, green only if seen."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest

from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.backups.catalog import BackupContext, Objectives
from keyrotation_pipeline.errors import BackupError, KeyRotationError, PreflightError, RequestError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.formats.rails_ar_encryption import RAILS
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.incidents.alerts import Channels
from keyrotation_pipeline.model.approval import Officer, Roster
from keyrotation_pipeline.model.backups import BackupSet, CertificateStatus, dump_name, stamp_of
from keyrotation_pipeline.model.environment import Problem, Standby, UnseenDisk, Wal
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.incidents import Contact, ContactRole
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.request_events import RehearsalFinding, Rehearsed
from keyrotation_pipeline.model.requests import WALK
from keyrotation_pipeline.model.status import Check, Light
from keyrotation_pipeline.model.tables import FoundColumn
from keyrotation_pipeline.monitoring.readiness import readiness
from keyrotation_pipeline.requests.confirming import add_confirmation, confirmation_text
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.fakes import (
    FERNET_TOKENS,
    PIPELINE,
    START,
    V1,
    V2,
    V3,
    FakeFiles,
    FakeRollout,
    FakeSignatures,
    FakeWorld,
    fake_manifest_trust,
    fake_pipeline,
    rotation_of,
)
from keyrotation_pipeline_tests.fakes.database import AMPLE
from keyrotation_pipeline_tests.fakes.inventory import declared_tokens
from keyrotation_pipeline_tests.fakes.world import ROSTER
from keyrotation_pipeline_tests.unit.incidents.test_alert_delivery import FakeChannel
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, sign
from keyrotation_pipeline_tests.unit.rotation.test_fences import retired


@dataclass
class Clinic:
    """A world that is ready, and its backups."""

    world: FakeWorld
    site: BackupContext

    def checks(self) -> dict[str, Check]:
        return {check.name: check for check in readiness(self.site).checks}


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    world = fake_pipeline({"clients": [{"first_name": "v2:Zoe", "email": "v2:zoe@example.org"}]})
    trust, nothing = fake_manifest_trust(world.ledger, world.pipeline.signatures), None
    pin(world, replace(ROSTER, officers=(*ROSTER.officers, Officer("Cem", "C" * 40))))
    place: Any = BackupDirectory(tmp_path)
    fields: list[Any] = [
        world.pipeline,
        place,
        nothing,
        trust,
        (),
        nothing,
        nothing,
        nothing,
        2,
        7,
        Objectives(1, 1),
    ]
    return Clinic(world, BackupContext(*fields))


def pin(world: FakeWorld, roster: Roster) -> None:
    world.signatures.configured, world.keys.roster = roster, roster.digest
    world.anchors.kept = None  # of the chain that is begun again
    world.ledger.begin_with(roster, *world.ledger.keys())


def two_problems(world: FakeWorld) -> None:
    world.database.problems = (
        Problem("role r lacks UPDATE on clients; GRANT UPDATE", fatal=True, check="role_may_read_and_write"),
        Problem("column email is too narrow; widen it", fatal=True, check="values_fit"),
        Problem("role r is a superuser; make another", fatal=False, check="role_is_no_superuser"),
    )


def other_key(world: FakeWorld) -> None:
    world.keys.live[V2] = KeyMaterial.generate()


def no_primary(world: FakeWorld) -> None:
    world.keys.primary_version = None


def no_backup(world: FakeWorld) -> None:
    del world.vault.backups[V2]


def other_roster(world: FakeWorld) -> None:
    world.signatures.configured = replace(world.signatures.configured, required=3)


RED = [
    pytest.param(two_problems, {"role_may_read_and_write", "values_fit"}, id="problems of tables, all of them"),
    pytest.param(other_key, {"current_key_is_intact", "current_key_is_backed_up"}, id="the store has another key"),
    pytest.param(no_primary, {"current_key_is_intact"}, id="no primary is named"),
    pytest.param(no_backup, {"current_key_is_backed_up"}, id="the key has no backup"),
    pytest.param(other_roster, {"roster_is_the_pinned_one"}, id="the roster differs"),
]


@pytest.mark.parametrize(("spoil", "expected"), RED)
def test_red_is_what_a_request_is_refused_for(
    clinic: Clinic, spoil: Callable[[FakeWorld], None], expected: set[str]
) -> None:
    spoil(clinic.world)
    found = readiness(clinic.site)
    assert expected <= {check.name for check in found.of(Light.RED)}
    assert not found.ready
    assert all(check.do for check in found.of(Light.RED))
    with pytest.raises(KeyRotationError):
        open_request(clinic.world.pipeline, reason="yearly", requested_by="dba")


def test_a_world_that_is_ready_has_no_red_and_its_request_opens(clinic: Clinic) -> None:
    found = readiness(clinic.site)
    assert [check for check in found.checks if check.light is Light.RED] == []
    assert found.ready
    assert clinic.checks()["current_key_is_intact"].value.startswith("v2, ")
    assert "1 rows" in clinic.checks()["values_are_counted"].value
    open_request(clinic.world.pipeline, reason="yearly", requested_by="dba")


def test_a_request_names_every_problem(clinic: Clinic) -> None:
    two_problems(clinic.world)
    with pytest.raises(PreflightError, match=r"lacks UPDATE.*too narrow"):
        open_request(clinic.world.pipeline, reason="yearly", requested_by="dba")


def test_an_emergency_is_not_refused_for_a_missing_backup(clinic: Clinic) -> None:
    no_backup(clinic.world)
    opened = open_request(clinic.world.pipeline, reason="leak", requested_by="dba", incident="INC-1")
    assert opened.source == V2


def arrange_amber(world: FakeWorld) -> None:
    world.database.findings = (FoundColumn("notes", "body", 3, 0, (V2,)),)
    world.database.rows["clients"].append({"first_name": "plain", "email": None})
    world.database.around = replace(
        AMPLE,
        disk=UnseenDisk("the server is on far"),
        wal=Wal(1, ("slot old",), 0),
        standbys=(Standby("far", 900.0),),
        prints_rows=True,
    )
    world.database.fence_state["clients"] = (V2,)
    world.database.writes = 2**31
    world.signatures.standings = (
        CertificateStatus("certificate of Ada", encrypts=False, ends_at=START + timedelta(days=30)),
        CertificateStatus("certificate of Ben", encrypts=False, ends_at=None),
    )
    world.rollout.running = ()


def test_amber_says_what_blocks_later_and_what_was_not_seen(clinic: Clinic) -> None:
    arrange_amber(clinic.world)
    checks = clinic.checks()
    amber = {name: check.value for name, check in checks.items() if check.light is Light.AMBER}
    assert "notes.body (3)" in amber["no_undeclared_ciphertext"]
    assert "1 in clients" in amber["every_value_is_encrypted"]
    assert amber["disk_is_large_enough"].startswith("not seen: the server is on far; ")
    assert "slot old" in amber["wal_is_let_go"]
    assert "far 900 s" in amber["standbys_keep_up"]
    assert "Ada until 2026-02-04" in amber["certificates_outlast_the_rotation"]
    assert "Ben" not in amber["certificates_outlast_the_rotation"]
    expected = {
        "log_shows_no_rows", "no_fence_is_left_over", "key_usage_below_gcm_limit", "instances_read_the_primary",
        "database_backup_is_fresh", "recovery_was_tested",
    }  # fmt: skip
    assert expected <= amber.keys()
    assert all(check.do for check in checks.values() if check.light is Light.AMBER)


@pytest.mark.parametrize(
    ("table", "largest", "ready", "new"),
    [
        pytest.param(2**30, 2**30, 80 * 2**20, 59, id="an idle server with the default settings"),
        pytest.param(2**30, 2**30, 2**30, None, id="files that exist are reused"),
        pytest.param(2**26, 2**30, 80 * 2**20, None, id="a small table"),
        pytest.param(2**30, 2**33, 2**30, 128, id="checkpoints keep more than exists"),
    ],
)
def test_new_wal_files_are_foreseen(clinic: Clinic, table: int, largest: int, ready: int, new: int | None) -> None:
    clinic.world.database.around = replace(AMPLE, table_bytes=table, wal=Wal(largest, (), ready))
    found = clinic.checks()["wal_files_exist"]
    if new is None:
        assert found.light is Light.GREEN
        return
    assert (found.light, found.value.split(",")[0]) == (Light.AMBER, f"up to {new} more are created")
    assert f"SET min_wal_size = '{min(3 * table, largest) // 2**20}MB'" in str(found.do)
    assert len(f"{found.value}; {found.do}") <= 300


def test_a_column_in_another_format_is_named_and_green(clinic: Clinic) -> None:
    clinic.world.database.other_formats = (FERNET_TOKENS,)
    check = clinic.checks()["other_formats_are_known"]
    assert (check.light, check.value) == (Light.GREEN, "left as they are: public.tokens.token (fernet)")


def test_a_declared_column_in_another_format_is_red(clinic: Clinic) -> None:
    for row in clinic.world.database.rows["clients"]:
        row["email"] = "gAAAAAtoken"
    clinic.world.database.other_formats = (declared_tokens("clients", "email"),)
    check = clinic.checks()["other_formats_are_known"]
    assert check.light is Light.RED
    assert check.value.startswith("clients.email is declared as native, but all 3 values")
    assert check.do.startswith("correct [format], or leave the column out")


def routine(world: FakeWorld) -> None:
    open_request(world.pipeline, reason="yearly", requested_by="dba")


def emergency(world: FakeWorld) -> None:
    open_request(world.pipeline, reason="leak", requested_by="dba", incident="INC-1")


@pytest.mark.parametrize(("opened", "light"), [
    pytest.param(lambda _world: None, Light.RED, id="nothing is open: the next is a routine one"),
    pytest.param(routine, Light.RED, id="a routine rotation"),
    pytest.param(emergency, Light.AMBER, id="an emergency, which does not wait for another officer"),
])  # fmt: skip
def test_officers_of_whom_none_may_be_lost_are_red_for_routine_work(
    clinic: Clinic, opened: Callable[[FakeWorld], None], light: Light
) -> None:
    pin(clinic.world, ROSTER)
    opened(clinic.world)
    check = clinic.checks()["more_officers_than_required"]
    assert (check.light, check.value.partition(":")[0]) == (light, "2 officers, 2 must sign")
    assert "keyrotation policy --reason" in check.do


def test_officers_of_whom_one_may_be_lost_are_green(clinic: Clinic) -> None:
    check = clinic.checks()["more_officers_than_required"]
    assert (check.light, check.value) == (Light.GREEN, "3 officers, 2 must sign")


NAMING = "applications_name_their_primary"


def test_red_without_a_report_of_who_names_its_primary_until_an_officer_confirms(clinic: Clinic) -> None:
    world = clinic.world
    world.keys_are({V1: KeyState.ARCHIVED, V2: KeyState.ACTIVE})
    assert clinic.checks()[NAMING].light is Light.GREEN
    world.rollout.running = (replace(world.rollout.instances()[0], names_primary=False),)
    seen = clinic.checks()[NAMING]
    assert (seen.light, seen.do.partition(" (")[0]) == (Light.RED, "set ENCRYPTION_PRIMARY_VERSION=v2")
    world.rollout.running = ()
    seen = clinic.checks()[NAMING]
    assert seen.light is Light.RED
    assert seen.value.startswith("no application instance reports itself")
    assert "`keyrotation confirm ID`" in seen.do

    walk = open_request(world.pipeline, reason="yearly", requested_by="dba")
    assert f"`keyrotation confirm {walk.id}`" in clinic.checks()[NAMING].do
    with pytest.raises(RequestError, match=r"needs 2 more approvals before a rollout of it can be confirmed; sign"):
        confirmation_text(world.pipeline, walk)
    for officer in (ADA, BEN):
        sign(world, walk, officer)
    text = confirmation_text(world.pipeline, world.ledger.walk(walk.id))
    add_confirmation(world.pipeline, walk, FakeSignatures.sign(ADA, text))
    seen = clinic.checks()[NAMING]
    assert (seen.light, seen.value) == (Light.GREEN, "confirmed by Ada")


@pytest.mark.parametrize("mode", [RolloutMode.KUBERNETES, RolloutMode.CONFIRM, RolloutMode.NONE])
def test_amber_says_what_an_application_does_that_chooses_its_key_itself(clinic: Clinic, mode: RolloutMode) -> None:
    clinic.world.rollout.mode = mode
    assert clinic.checks()[NAMING].light is Light.GREEN, "every instance that reports names its primary"
    clinic.world.rollout.running = ()
    seen = clinic.checks()[NAMING]
    assert seen.light is Light.AMBER
    for said in (f"mode {mode}", "as soon as it gets it", '"v3 value seen before promotion"', "only a rollback helps"):
        assert said in seen.value
    assert "`keyrotation docs source-procedure`" in seen.do
    assert readiness(clinic.site).ready


@pytest.mark.parametrize(
    ("value_format", "place", "guide"), [(FERNET, "first", "fernet"), (RAILS, "last", "rails")], ids=["Fernet", "Rails"]
)
def test_amber_says_which_key_of_its_list_an_application_must_encrypt_with(
    clinic: Clinic, value_format: ValueFormat, place: str, guide: str
) -> None:
    pipeline = clinic.world.pipeline
    object.__setattr__(pipeline, "tables", tuple(replace(table, format=value_format) for table in pipeline.tables))
    clinic.world.rollout.mode, clinic.world.rollout.running = RolloutMode.NONE, ()
    said = clinic.checks()[NAMING].do
    assert said == f"have every application encrypt with the {place} key of its list; see `keyrotation docs {guide}`"


def test_nothing_is_said_of_primaries_once_the_key_is_made(clinic: Clinic) -> None:
    rotation_of(clinic.world)
    clinic.world.rollout.running = ()
    assert NAMING not in clinic.checks()


def test_a_table_that_takes_a_retired_version_again_is_named(clinic: Clinic) -> None:
    world = clinic.world
    world.keys_are({V1: KeyState.ARCHIVED, V2: KeyState.ACTIVE})
    retired(world, "clients")
    world.database.fence_state["clients"] = (V1,)
    seen = clinic.checks()["retired_versions_are_refused"]
    assert (seen.light, seen.value) == (Light.GREEN, "clients refuses v1")
    world.database.fence_state["clients"] = ()
    check = clinic.checks()["retired_versions_are_refused"]
    assert check.light is Light.AMBER
    assert check.value == "table clients takes values under v1 again, which was retired in it"
    assert check.do


def test_what_was_not_looked_at_is_not_green(clinic: Clinic) -> None:
    missing = Problem("table x is missing; create it", fatal=True, check="tables_are_readable")
    clinic.world.database.problems = (missing,)
    checks = clinic.checks()
    assert checks["types_hold_text"].light is Light.AMBER
    assert checks["takes_writes"].light is Light.GREEN
    assert "duration_is_known" not in checks  # the sample runs only where writes are found harmless


def test_an_open_rotation_is_what_is_looked_at(clinic: Clinic) -> None:
    rotation = rotation_of(clinic.world)
    check = clinic.checks()["no_other_rotation_is_open"]
    assert check.light is Light.AMBER
    assert rotation.id in check.do


def test_an_open_rotation_is_named_where_it_is_not_seen_what_it_waits_for(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation = open_request(clinic.world.pipeline, reason="yearly", requested_by="dba")
    for officer in (ADA, BEN):
        sign(clinic.world, rotation, officer)
    monkeypatch.setattr(FakeRollout, "instances", silent)
    check = clinic.checks()["no_other_rotation_is_open"]
    assert (check.light, check.do) == (Light.AMBER, "start it")
    assert rotation.id in check.value
    assert check.value.endswith("not seen what it waits for: it does not answer")


def silent(*_: object) -> NoReturn:
    raise BackupError("it does not answer; start it")


def test_a_place_that_does_not_answer_for_its_dump_hides_no_other_check(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = stamp_of(START, PIPELINE)
    dump = FakeFiles(clinic.site.local).dump(dump_name(stamp), ())
    clinic.site.trust.write(clinic.site.local, BackupSet(stamp, "clinic", (), dump, clinic.world.ledger.head()))
    assert clinic.checks()["database_backup_is_fresh"].light is Light.GREEN
    monkeypatch.setattr(BackupDirectory, "holds", silent)
    check = clinic.checks()["database_backup_is_fresh"]
    assert check == Check(check.name, Light.AMBER, "not seen: it does not answer", "start it")


def rehearsed(source: KeyVersion = V2, *findings: RehearsalFinding) -> Rehearsed:
    seconds = {} if findings else {str(step): 2.0 for step in WALK}
    return Rehearsed(None, source, V3, "database-1.dump.gpg", START, "embedded", 9, 9, seconds, findings)


@pytest.mark.parametrize(("found", "days", "light", "value"), [
    pytest.param(None, 0, Light.AMBER, "no rotation from the present primary was rehearsed", id="never"),
    pytest.param(rehearsed(V1), 0, Light.AMBER, "no rotation from the present primary", id="from an earlier primary"),
    pytest.param(rehearsed(), 6, Light.GREEN, "v2 to v3 in 12 s plus the rollouts; nothing stopped it, 144.0 h ago",
                 id="in the week before"),
    pytest.param(rehearsed(), 8, Light.AMBER, "192.0 h ago", id="long ago"),
    pytest.param(rehearsed(V2, RehearsalFinding("retired_key", "x")), 0, Light.AMBER, "would stop at retired_key",
                 id="it would stop"),
])  # fmt: skip
def test_the_rehearsal_of_the_next_rotation_is_a_box(
    clinic: Clinic, found: Rehearsed | None, days: int, light: Light, value: str
) -> None:
    if found is not None:
        clinic.world.ledger.append(found)
    clinic.world.clock.at += timedelta(days=days)
    box = clinic.checks()["rotation_was_rehearsed"]
    assert (box.light, value in box.value, bool(box.do)) == (light, True, light is Light.AMBER)


def test_who_is_notified_is_a_box_where_it_was_looked_at(clinic: Clinic) -> None:
    contact = Contact(ContactRole.ON_CALL, "Zoe", None, "+1 555 0100")
    everybody = Channels((FakeChannel("topic t"),), {ContactRole.ON_CALL: (FakeChannel("mail to z@c"),)}, (contact,))
    assert "people_can_be_told" not in clinic.checks()
    for channels, light, value in (
        (Channels(), Light.AMBER, "names anybody"),
        (everybody, Light.GREEN, "topic t, on-call by mail to z@c, on-call: Zoe, +1 555 0100; whether it arrives"),
    ):
        (box,) = [
            each for each in readiness(clinic.site, channels.in_words).checks if each.name == "people_can_be_told"
        ]
        assert (box.light, value in box.value) == (light, True)

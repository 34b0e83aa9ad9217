"""A key is destroyed when nothing that is kept can need it, after approval, and whatever kills the process."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

import pytest

from keyrotation_pipeline.audit.verify import verify_audit
from keyrotation_pipeline.backups.catalog import BackupContext, Objectives
from keyrotation_pipeline.backups.destruction import Destruction, destroy, open_destruction, pending_destruction
from keyrotation_pipeline.backups.remaining_copies import exposed_copies
from keyrotation_pipeline.errors import (
    ApprovalError,
    BackupError,
    BlockedError,
    KeyRotationError,
    KeyStoreError,
    RequestError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.backups import (
    BackupSet,
    DatabaseContent,
    DatabaseCopy,
    StoredFile,
    StoredVersion,
    TableContent,
    dump_name,
    signature_name,
    stamp_of,
)
from keyrotation_pipeline.model.key_events import KeyDestroyed, SourceKeyImported
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.manifest import render
from keyrotation_pipeline.model.older_versions import OlderVersions
from keyrotation_pipeline.model.requests import Request, RequestStatus
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn, TableName
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline_tests.fakes import (
    PIPELINE,
    START,
    V1,
    V2,
    V3,
    FakeSigner,
    FakeWorld,
    Journal,
    ProcessKilled,
    fake_manifest_trust,
    fake_pipeline,
    rotation_of,
)
from keyrotation_pipeline_tests.fakes.backups import DEFINITION
from keyrotation_pipeline_tests.unit.incidents.cases import call_compromised
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, request, sign

KEY_FILE = "encryption-key-v1-20260105-030000-efa1f375.bin.gpg"
OF_V10 = "encryption-key-v10-20260105-030000-efa1f375.bin.gpg"
LOCKED_UNTIL = START + timedelta(days=35)


@dataclass
class FakePlace:
    """`LocalPlace` in a dictionary; what a destruction does not need is an error."""

    description: str
    journal: Journal
    files: dict[str, bytes] = field(default_factory=dict)
    locks: dict[str, datetime] = field(default_factory=dict)
    old: tuple[StoredVersion, ...] = ()
    older: OlderVersions = field(default_factory=OlderVersions)

    def with_versions(self) -> "FakePlace":
        return self

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.files))

    def read(self, name: str, most_bytes: int = 0) -> bytes:  # noqa: ARG002  nothing here is large
        if name not in self.files:
            raise BackupError(f"{name} is not in {self.description}; name another")
        return self.files[name]

    def locked_until(self, name: str) -> datetime | None:
        return self.locks.get(name)

    def versions(self, prefix: str) -> tuple[StoredVersion, ...]:
        current = tuple(StoredVersion(name, None, self.locks.get(name)) for name in self.names())
        return tuple(each for each in (*current, *self.old) if each.name.startswith(prefix))

    def probably_holds(self, file: StoredFile) -> bool:
        raise NotImplementedError

    def holds(self, file: StoredFile) -> bool:
        raise NotImplementedError

    def receiving(self, name: str) -> AbstractContextManager[IO[bytes]]:
        raise NotImplementedError

    def remove(self, name: str) -> None:
        self.journal.note(f"remove {name}")
        self.files.pop(name, None)

    def require_usable(self) -> None:
        raise NotImplementedError

    def fetch(self, file: StoredFile, target: Path) -> None:
        raise NotImplementedError

    def put(self, name: str, source: Path) -> None:
        raise NotImplementedError

    def digest(self, file: StoredFile) -> str:
        raise NotImplementedError

    def path(self, name: str) -> Path:
        raise NotImplementedError

    def write(self, name: str, content: bytes) -> None:
        raise NotImplementedError

    def claiming(self, name: str) -> AbstractContextManager[bool]:
        raise NotImplementedError

    def unfinished(self) -> tuple[str, ...]:
        raise NotImplementedError


@dataclass
class Clinic:
    """v1 archived and backed up here and in a bucket that locks one of its two copies; v2 the primary."""

    world: FakeWorld
    local: FakePlace
    bucket: FakePlace
    site: BackupContext

    def state(self) -> KeyState:
        return self.world.ledger.state.keys[V1].state

    def requested(self) -> Request:
        return open_destruction(self.site, V1, reason="ten years over", requested_by="dba")[0]

    def signed(self) -> Request:
        opened = self.requested()
        for officer in (ADA, BEN):
            sign(self.world, opened, officer)
        return self.world.ledger.request(opened.id)

    def destroyed(self) -> Destruction:
        return destroy(self.site, self.signed())

    def untouched(self) -> bool:
        return V1 in self.world.keys.shelf and KEY_FILE in self.local.files


def clinic_of() -> Clinic:
    world = fake_pipeline({"clients": [{"first_name": "v2:Zoe", "email": "v2:zoe@example.org"}]})
    world.keys.archive(V1)
    world.keys_are({V1: KeyState.ARCHIVED, V2: KeyState.ACTIVE})
    copies = {KEY_FILE: b"", f"{KEY_FILE}.json": b"", OF_V10: b""}
    local = FakePlace("directory backups", world.journal, dict(copies))
    another = KEY_FILE.replace("0105", "0106")
    bucket = FakePlace("s3://bucket/", world.journal, {**copies, another: b""}, {KEY_FILE: LOCKED_UNTIL})
    return Clinic(world, local, bucket, site_of(world, local, bucket))


def site_of(world: FakeWorld, local: FakePlace | None = None, *offsite: FakePlace) -> BackupContext:
    """Where a world's backups are; by default there are none yet, and none elsewhere."""
    place = local or FakePlace("directory backups", world.journal)
    return BackupContext(
        world.pipeline, place, None, fake_manifest_trust(world.ledger, world.pipeline.signatures), offsite,  # type: ignore[arg-type]
        None, None, None, 2, 7, Objectives(1, 1),  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture
def clinic() -> Clinic:
    return clinic_of()


def manifest(*versions: KeyVersion) -> tuple[str, str, bytes]:
    """Names of a dump and of its manifest, and the manifest."""
    table = EncryptedTable(TableName("public", "clients"), ("email",))
    content = TableContent(table, 1, {"email": dict.fromkeys(versions, 1)})
    dump = DatabaseCopy(
        StoredFile(dump_name(stamp_of(START, PIPELINE)), "0" * 64, 1, ("F" * 40,)),
        (content,),
        18,
        DatabaseContent((), 0),
        DEFINITION,
    )
    made = BackupSet(stamp_of(START, PIPELINE), "clinic", (), dump, clinic_of().world.ledger.head())
    return dump.file.name, made.name, render(made, FakeSigner().public)


def keep_dump(place: FakePlace, *versions: KeyVersion) -> None:
    dump, name, content = manifest(*versions)
    place.files |= {dump: b"", name: content, signature_name(name): FakeSigner().sign(content)}


# --- what it does ---------------------------------------------------------------------------------------------------


def test_the_key_and_its_local_copies_go_and_the_others_are_named_with_their_locks(clinic: Clinic) -> None:
    done = clinic.destroyed()
    assert clinic.state() is KeyState.DESTROYED
    assert (clinic.world.keys.archived(), clinic.world.keys.versions()) == ((), (V2,))
    assert clinic.local.names() == (OF_V10,)
    assert len(clinic.bucket.names()) == 4
    assert done.local == (KEY_FILE, f"{KEY_FILE}.json")
    assert [str(copy) for copy in done.held] == [
        f"{KEY_FILE} in s3://bucket/, locked until 2026-02-09 09:00 UTC",
        f"{KEY_FILE.replace('0105', '0106')} in s3://bucket/, not locked",
    ]
    assert clinic.world.ledger.facts_of("key_destroyed") == done.as_fact(KeyDestroyed).as_json()


def test_officers_sign_what_goes_and_what_stays(clinic: Clinic) -> None:
    opened = clinic.requested()
    text = clinic.world.ledger.approval_text(opened.id).decode()
    assert "\nAction: destroy\nAuthorises: destroy v1 in the key store and its key files in the local backups" in text
    assert f"\nFrom: v1 {opened.source_fingerprint}\nTo: destroyed\n" in text
    assert "words of the program" not in text
    assert "ten years over; copies that stay: 2 in s3://bucket/ (the last lock until 2026-02-09 09:00 UTC)" in text


def test_officers_sign_the_non_current_versions_too_each_with_its_lock(clinic: Clinic) -> None:
    clinic.bucket.old = (
        StoredVersion(KEY_FILE, "a1.b2", LOCKED_UNTIL),
        StoredVersion("encryption-key-v1-\u202e\nAction: rotate", "x y", None),
        StoredVersion(OF_V10, "of another key", None),
    )
    opened = clinic.requested()
    text = clinic.world.ledger.approval_text(opened.id).decode()
    assert (
        "2 non-current versions there, which anybody who may read versions can read (the last lock until 2026-02-09 "
        f"09:00 UTC): {KEY_FILE} version a1.b2 locked until 2026-02-09 09:00 UTC; an object of another name version ? "
        "not locked"
    ) in text
    for officer in (ADA, BEN):
        sign(clinic.world, opened, officer)
    done = destroy(clinic.site, clinic.world.ledger.request(opened.id))
    assert f"{KEY_FILE} (non-current version a1.b2) in s3://bucket/, locked until 2026-02-09 09:00 UTC" in map(
        str, done.held
    )
    facts = clinic.world.ledger.facts_of("key_destroyed")
    assert [copy["version"] for copy in facts["held"]] == [None, None, "a1.b2", "x y"]


def test_of_very_many_versions_the_first_are_named_and_the_others_counted(clinic: Clinic) -> None:
    clinic.bucket.old = tuple(StoredVersion(KEY_FILE, f"n{number}", None) for number in range(1000))
    text = clinic.world.ledger.approval_text(clinic.requested().id).decode()
    assert "1,000 non-current versions" in text
    assert "and 960 more" in text


def test_officers_sign_what_the_key_store_keeps(clinic: Clinic) -> None:
    clinic.world.keys.residual_copies = "its old version stays readable by its version id"
    text = clinic.world.ledger.approval_text(clinic.requested().id).decode()
    assert "without such a copy; its old version stays readable by its version id\n" in text
    assert "words of the program" not in text


def test_the_audit_has_the_intent_before_the_key_goes_and_the_outcome_after(clinic: Clinic) -> None:
    clinic.destroyed()
    entries = clinic.world.journal.entries
    order = ["event key_destruction_intended", "commit", "keys.destroy v1", f"remove {KEY_FILE}", "event key_destroyed"]
    places = [entries.index(each, entries.index(order[0])) for each in order]
    assert places == sorted(places)
    verify_audit(clinic.world.ledger)
    assert clinic.world.anchors.kept == clinic.world.ledger.head()


@pytest.mark.parametrize("changed", [True, False])
def test_that_a_list_which_somebody_had_changed_is_written_again_is_recorded_before(
    clinic: Clinic, *, changed: bool
) -> None:
    signed = clinic.signed()
    clinic.world.keys.undelivered = "it is not the list of the live keys" if changed else None
    destroy(clinic.site, signed)
    entries = clinic.world.journal.entries
    noted = f"event {EventKind.KEY_LIST_DELIVERY_INTENDED}"
    assert (noted in entries[: entries.index("keys.destroy v1")]) == changed


def test_the_number_is_never_used_again(clinic: Clinic) -> None:
    clinic.destroyed()
    assert request(clinic.world).target == V3
    with pytest.raises(RequestError, match="v1 is destroyed already; `keyrotation audit log` has the record"):
        clinic.requested()


@pytest.mark.parametrize(
    ("destroyed", "refusal"),
    [
        pytest.param(True, "v1 is destroyed already", id="of nothing that is left"),
        pytest.param(False, "say why with `keyrotation destroy v1 --reason TEXT`", id="of an archived version"),
    ],
)
def test_a_reason_is_asked_for_only_where_there_is_something_to_destroy(
    clinic: Clinic, destroyed: bool, refusal: str
) -> None:
    if destroyed:
        clinic.destroyed()
    with pytest.raises(RequestError, match=refusal):
        open_destruction(clinic.site, V1, reason=None, requested_by="dba")


def test_rotate_says_which_command_carries_it_out(clinic: Clinic) -> None:
    with pytest.raises(RequestError, match="is not a rotation; run `keyrotation destroy"):
        clinic.world.ledger.walk(clinic.signed().id)


def test_a_compromised_version_may_go_too(clinic: Clinic) -> None:
    call_compromised(clinic.world, "v1", "v2")
    clinic.destroyed()
    assert clinic.state() is KeyState.DESTROYED


def test_a_dump_of_another_pipeline_is_listed_as_that(clinic: Clinic) -> None:
    dump_of_another_pipeline(clinic)
    lost_manifest(clinic)
    lost, others = sorted(each for each in exposed_copies(clinic.site, [V3]) if each.startswith("database-"))[::-1]
    assert lost.endswith("in s3://bucket/: no intact manifest says which keys it needs")
    assert others.endswith("in s3://bucket/: it is of the pipeline 0a1b2c3d, which is unknown here")


# --- what refuses it ------------------------------------------------------------------------------------------------


def still_live(clinic: Clinic) -> None:
    clinic.world.keys.restore(V1)
    call_compromised(clinic.world, "v1", "v2")


def value_left(clinic: Clinic) -> None:
    clinic.world.database.rows["clients"].append({"first_name": "v1:Old", "email": None})


def value_elsewhere(clinic: Clinic) -> None:
    clinic.world.database.findings = (FoundColumn("archive.old", "note", 1, 0, (V1,)),)


def lost_manifest(clinic: Clinic) -> None:
    clinic.bucket.files[manifest(V2)[0]] = b""


def dump_of_another_pipeline(clinic: Clinic) -> None:
    """With its manifest, which does not count here."""
    for name in manifest(V2)[:2]:
        clinic.bucket.files[name.replace(PIPELINE, "0a1b2c3d")] = b""


def damaged_manifest(clinic: Clinic) -> None:
    dump, name, content = manifest(V2)
    clinic.local.files |= {dump: b"", name: content[:-20]}


def other_key(clinic: Clinic) -> None:
    clinic.world.keys.shelf[V1] = KeyMaterial.generate()


REFUSALS = [
    pytest.param(still_live, BlockedError, "v1 is live in the key store", id="live"),
    pytest.param(lambda c: rotation_of(c.world), BlockedError, r"rotate \w{32} is about v1", id="unfinished rotation"),
    pytest.param(value_left, BlockedError, r"table clients holds 1 value under v1", id="a value"),
    pytest.param(value_elsewhere, BlockedError, r"archive\.old\.note is not declared", id="an undeclared value"),
    pytest.param(
        lambda c: keep_dump(c.bucket, V1, V2), BlockedError, "read database-.* in s3://bucket/; ", id="dump in a bucket"
    ),
    pytest.param(
        lambda c: keep_dump(c.local, V1), BlockedError, r"read database-.* in directory backups; ", id="local dump"
    ),
    pytest.param(lost_manifest, BlockedError, "no manifest says which keys database-", id="dump without manifest"),
    pytest.param(damaged_manifest, BlockedError, "no manifest says which keys", id="dump with a damaged manifest"),
    pytest.param(
        dump_of_another_pipeline, BlockedError,
        r"which keys database-\S+ in s3://bucket/ \(of the pipeline 0a1b2c3d\) needs; give each pipeline",
        id="dump of another pipeline",
    ),
    pytest.param(other_key, KeyStoreError, "the key store holds another v1", id="another key in the archive"),
]  # fmt: skip


@pytest.mark.parametrize(("arrange", "error", "sentence"), REFUSALS)
def test_whatever_needs_the_key_refuses_the_request(
    clinic: Clinic, arrange: Callable[[Clinic], object], error: type[KeyRotationError], sentence: str
) -> None:
    arrange(clinic)
    with pytest.raises(error, match=sentence):
        clinic.requested()
    assert pending_destruction(clinic.world.pipeline.ledger, V1) is None


@pytest.mark.parametrize(("arrange", "error", "sentence"), REFUSALS)
def test_whatever_came_to_need_it_since_refuses_the_destruction(
    clinic: Clinic, arrange: Callable[[Clinic], object], error: type[KeyRotationError], sentence: str
) -> None:
    opened = clinic.signed()
    shelved = clinic.world.keys.get(V1)
    arrange(clinic)
    with pytest.raises(error, match=sentence):
        destroy(clinic.site, opened)
    assert clinic.state() is not KeyState.DESTROYED
    assert KEY_FILE in clinic.local.files
    assert clinic.world.keys.get(V1) == shelved or arrange is other_key


def test_dumps_that_need_only_other_keys_or_are_gone_refuse_nothing(clinic: Clinic) -> None:
    keep_dump(clinic.bucket, V2)
    keep_dump(clinic.local, V1)
    del clinic.local.files[manifest(V1)[0]]
    clinic.destroyed()
    assert clinic.state() is KeyState.DESTROYED


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        pytest.param(V2, "v2 is active, and only an archived or compromised version", id="active"),
        pytest.param(V3, "v3 is not registered", id="unknown"),
    ],
)
def test_only_archived_and_compromised_versions_are_asked_for(
    clinic: Clinic, version: KeyVersion, sentence: str
) -> None:
    with pytest.raises(RequestError, match=sentence):
        open_destruction(clinic.site, version, reason="why not", requested_by="dba")


def test_without_two_signatures_nothing_goes(clinic: Clinic) -> None:
    opened = clinic.requested()
    sign(clinic.world, opened, ADA)
    with pytest.raises(ApprovalError, match=r"needs 1 more signature"):
        destroy(clinic.site, opened)
    assert clinic.untouched()


def test_another_key_registered_under_the_version_since_the_signatures_is_not_destroyed(clinic: Clinic) -> None:
    opened = clinic.signed()
    other = KeyMaterial.generate()
    clinic.world.keys.shelf[V1] = other
    record = clinic.world.ledger.state.keys[V1]
    clinic.world.ledger.state.keys[V1] = replace(record, fingerprint=other.fingerprint)
    with pytest.raises(ApprovalError, match="v1 is registered as another key than the one signed for"):
        destroy(clinic.site, opened)
    assert clinic.untouched()
    assert clinic.state() is KeyState.ARCHIVED


def test_a_second_request_for_the_same_version_and_a_cancelled_one_are_refused(clinic: Clinic) -> None:
    opened = clinic.signed()
    with pytest.raises(RequestError, match="is open; sign or cancel it"):
        clinic.requested()
    cancel(clinic.world.pipeline, opened)
    with pytest.raises(RequestError, match="destroys nothing"):
        destroy(clinic.site, opened)
    assert clinic.untouched()


def test_it_waits_for_a_backup_that_may_just_copy_the_key(clinic: Clinic) -> None:
    opened = clinic.signed()
    with clinic.world.ledger.lock("backup"), pytest.raises(BlockedError):
        destroy(clinic.site, opened)
    assert clinic.untouched()


def test_the_key_of_another_library_stays_while_a_backup_from_before_its_import_is_kept(clinic: Clinic) -> None:
    keep_dump(clinic.local, V2)  # which names no value of the library, as nobody had declared its column
    clinic.world.ledger.append(SourceKeyImported(V1, clinic.world.keys.shelf[V1].fingerprint, "OLD_KEY"))
    with pytest.raises(
        BlockedError, match=r"v1 may be needed to read database-.* made before it was imported; destroy"
    ):
        clinic.requested()
    for name in clinic.local.names():
        if name.startswith(("database-", "backup-")):
            clinic.local.remove(name)
    clinic.destroyed()


def test_the_key_of_another_library_stays_while_a_column_may_hold_its_values(clinic: Clinic) -> None:
    clinic.world.ledger.append(SourceKeyImported(V1, clinic.world.keys.shelf[V1].fingerprint, "OLD_KEY"))
    clinic.world.database.rows["clients"][0]["email"] = "tx/xz0B5+j3uK0v+GcYpyw=="  # `from` was removed too early
    refusal = r"clients.email holds 1 value in plaintext, and v1 may be their key"
    with pytest.raises(BlockedError, match=refusal):
        clinic.requested()


# --- dying at any moment --------------------------------------------------------------------------------------------


def test_after_a_death_at_any_change_the_same_again_finishes_it() -> None:
    changes = 0
    while True:
        clinic = clinic_of()
        opened = clinic.signed()
        clinic.world.journal.die_at = len(clinic.world.journal.entries) + changes
        try:
            destroy(clinic.site, opened)
            break
        except ProcessKilled:
            clinic.world.journal.die_at = None
        # The key is never gone while the ledger still promises it.
        assert clinic.state() is KeyState.DESTROYED or clinic.untouched()
        done = destroy(clinic.site, opened)
        assert done.local == (KEY_FILE, f"{KEY_FILE}.json")
        assert (clinic.world.keys.archived(), clinic.local.names()) == ((), (OF_V10,))
        assert clinic.world.ledger.request(opened.id).status is RequestStatus.FINISHED
        assert clinic.world.ledger.event_names().count("key_destroyed") == 1
        verify_audit(clinic.world.ledger)
        changes += 1
    assert changes > 7


def test_one_that_died_at_any_change_and_ran_out_of_time_is_recorded_by_another_request() -> None:
    changes = 0
    while True:
        clinic = clinic_of()
        opened = clinic.signed()
        clinic.world.journal.die_at = len(clinic.world.journal.entries) + changes
        try:
            destroy(clinic.site, opened)
            break
        except ProcessKilled:
            clinic.world.journal.die_at = None
        clinic.world.clock.at += timedelta(days=8)
        clinic.world.signatures.signed_at = clinic.world.clock.at
        cancel(clinic.world.pipeline, opened)
        done = clinic.destroyed()
        assert done.local == (KEY_FILE, f"{KEY_FILE}.json")
        assert clinic.world.ledger.event_names().count("key_destroyed") == 1
        assert clinic.state() is KeyState.DESTROYED
        verify_audit(clinic.world.ledger)
        changes += 1
    assert changes > 7


def test_one_that_has_begun_is_not_cancelled_while_its_signatures_count(clinic: Clinic) -> None:
    opened = clinic.signed()
    clinic.world.journal.die_at = len(clinic.world.journal.entries) + 5
    with pytest.raises(ProcessKilled, match=r"keys\.destroy"):
        destroy(clinic.site, opened)
    clinic.world.journal.die_at = None
    with pytest.raises(
        RequestError, match=r"has begun, so it cannot be cancelled; run `keyrotation destroy v1`, which"
    ):
        cancel(clinic.world.pipeline, opened)
    destroy(clinic.site, opened)
    assert clinic.world.ledger.event_names().count("key_destroyed") == 1


def test_one_that_runs_is_not_cancelled(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, refused, removes = clinic.signed(), [], type(clinic.world.keys).destroy

    def next_to_it(*arguments: Any) -> Any:  # noqa: ANN401 - as the key store's own
        with pytest.raises(BlockedError) as refusal:
            cancel(clinic.world.pipeline, opened)
        refused.append(str(refusal.value))
        return removes(*arguments)

    monkeypatch.setattr(type(clinic.world.keys), "destroy", next_to_it)
    destroy(clinic.site, opened)
    assert refused == ["destroy is locked by another process; wait for it"]
    assert clinic.world.ledger.request(opened.id).status is RequestStatus.FINISHED


def test_one_that_died_and_ran_out_of_time_is_asked_for_again(clinic: Clinic) -> None:
    opened = clinic.signed()
    entries = clinic.world.journal.entries
    clinic.world.journal.die_at = len(entries) + 5
    with pytest.raises(ProcessKilled, match=r"keys\.destroy"):
        destroy(clinic.site, opened)
    clinic.world.journal.die_at = None
    clinic.world.clock.at += timedelta(days=8)
    with pytest.raises(RequestError, match=f"cancel it, then run `keyrotation destroy {V1}`"):
        destroy(clinic.site, opened)
    cancel(clinic.world.pipeline, opened)
    clinic.world.signatures.signed_at = clinic.world.clock.at
    clinic.destroyed()
    assert V1 not in clinic.world.keys.shelf
    assert json.loads(clinic.world.ledger.state.events[-1].body)["facts"]["to"] == "finished"

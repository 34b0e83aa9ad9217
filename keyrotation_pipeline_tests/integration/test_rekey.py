"""Old backups after a compromise: a set made again under the present key, proven, and never taken for a fresh one."""

import json
from contextlib import suppress
from dataclasses import replace
from typing import cast

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.engine.postgres_rewriting import PostgresRewriting
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.scratch import ScratchDump
from keyrotation_pipeline.backups import rekey as rekeying
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.catalog import kept_sets
from keyrotation_pipeline.backups.destruction import open_destruction
from keyrotation_pipeline.backups.recovery_test import recovery_test
from keyrotation_pipeline.backups.rekey import Rekeyed, rekey
from keyrotation_pipeline.backups.remaining_copies import (
    exposed_copies,
    kept_dumps_that_need,
    sets_to_rekey,
    unlisted_dumps,
)
from keyrotation_pipeline.errors import (
    BackupError,
    BlockedError,
    DamagedBackupError,
    DecryptionError,
    LostRowsError,
    MissingVersionError,
    PreflightError,
    ProofError,
    RequestError,
    UndecryptableError,
)
from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.search_index import Indexer, IndexForm
from keyrotation_pipeline.model.backup_events import BackupRekeyIntended
from keyrotation_pipeline.model.backups import BackupSet
from keyrotation_pipeline.model.progress import Rewritten
from keyrotation_pipeline.model.tables import EncryptedTable, Place, SearchIndex, TableName
from keyrotation_pipeline.monitoring.backup_status import backup_lights
from keyrotation_pipeline_tests.backup_sites import Clinic
from keyrotation_pipeline_tests.compromised import call_compromised
from keyrotation_pipeline_tests.contract.key_store import archive
from keyrotation_pipeline_tests.fakes import ProcessKilled
from keyrotation_pipeline_tests.integration.encrypted_rows import insert, ring_of, sealed

V1, V2, V2X = KeyVersion(1), KeyVersion(2), KeyVersion(2, 2)
PARTITIONED = """
CREATE TABLE public.visits (id bigint, year int, note text, plain text, PRIMARY KEY (id, year))
PARTITION BY LIST (year);
CREATE TABLE public.visits_2024 PARTITION OF public.visits FOR VALUES IN (2024);
CREATE TABLE public.visits_2025 PARTITION OF public.visits FOR VALUES IN (2025);
CREATE MATERIALIZED VIEW public.shown AS SELECT name FROM public.clients
"""
VISITS = EncryptedTable(TableName("public", "visits"), ("note",))


def rekeyed(clinic: Clinic, wanted: str | None = None) -> Rekeyed:
    with clinic.recovery_key() as key:
        return rekey(clinic.site, key, wanted, lambda _progress: None)


def declare(clinic: Clinic, *tables: EncryptedTable) -> None:
    clinic.site = replace(clinic.site, pipeline=replace(clinic.site.pipeline, tables=tables))


def compromise(clinic: Clinic) -> None:
    """v1 is known to others: nothing is under it any more but in backups."""
    connection = clinic.connection
    for column in ("name", "email"):
        under_v1 = f"SELECT id, {column} FROM public.clients WHERE {column} LIKE 'v1:%'"
        for number, stored in connection.execute(under_v1.encode()).fetchall():
            with suppress(DecryptionError):  # of the value that a test has broken
                text = sealed(clinic.ring, 2, decrypt(clinic.ring, str(stored)))
                connection.execute(f"UPDATE public.clients SET {column} = %s WHERE id = %s".encode(), (text, number))
    call_compromised(clinic.site.pipeline, V1, clinic.signers)


def old_set(clinic: Clinic) -> BackupSet:
    """A set under v1 and v2 from before the compromise, which was noticed a day later."""
    made = back_up(clinic.site).made
    clinic.pass_days(1)
    compromise(clinic)
    return made


def under(clinic: Clinic, made: BackupSet) -> dict[str, str]:
    """Every value of `clients` in a set's dump, by version and plaintext."""
    assert made.dump is not None
    with clinic.recovery_key() as key, clinic.site.restorer.workspace() as workspace:
        clinic.site.local.fetch(made.dump.file, workspace / "dump")
        with clinic.site.restorer.restored(made.dump, workspace / "dump", key) as restored:
            connection = cast("PostgresRewriting", restored.rewriting).connection
            found = connection.execute("SELECT name FROM public.clients UNION ALL SELECT email FROM public.clients")
            values = [str(row[0]) for row in found if row[0]]
    encrypted = {decrypt(clinic.ring, value): value.partition(":")[0] for value in values if ":" in value}
    return encrypted | {value: "as it is" for value in values if ":" not in value}


def test_a_set_of_several_versions_and_partitions_is_made_again_under_the_primary(clinic: Clinic) -> None:
    clinic.connection.execute(PARTITIONED)
    insert(
        clinic.connection,
        "public.visits",
        [
            (number, 2024 + number % 2, sealed(clinic.ring, 1 + number % 2, f"visit {number}"), "x")
            for number in range(9)
        ],
    )
    declare(clinic, *clinic.site.pipeline.tables, VISITS)
    clinic.connection.execute("UPDATE public.clients SET email = 'never encrypted' WHERE id = 2")
    old = old_set(clinic)
    clinic.connection.execute("DROP TABLE public.visits CASCADE")
    declare(clinic, *clinic.site.pipeline.tables[:2])
    fresh = back_up(clinic.site).made
    done = rekeyed(clinic)
    made = done.made
    assert made.made_from is not None
    assert (made.made_from.manifest, made.made_at, made.database) == (old.name, old.made_at, old.database)
    assert [copy.version for copy in made.keys] == [V2]
    assert made.dump is not None
    assert made.dump.versions == (V2,)
    assert done.record.values == {"clients": 6, "billing.Invoices": 1, "visits": 9}
    assert done.record.left_behind == (V1,)
    assert done.left == ()
    names = ("Ada", "Ben", "Cy", "Dee", "ada@example.org", "dee@example.org")
    assert under(clinic, made) == dict.fromkeys(names, "v2") | {"never encrypted": "as it is"}
    # In every place, after the audit's order between the sets, and newer than none.
    for place in clinic.site.places:
        kept = kept_sets(place, clinic.site.trust)
        assert kept.refused == {}
        assert [each.name for each in kept.sets if each.dump] == [fresh.name, old.name, made.name]
        assert kept.newest == fresh


@pytest.mark.extended
def test_search_indexes_become_those_of_the_new_key_alone(clinic: Clinic) -> None:
    form = IndexForm("clients.email")
    indexer = Indexer(form, clinic.ring)
    clinic.connection.execute("ALTER TABLE public.clients ADD email_odd text UNIQUE, ADD email_even text UNIQUE")
    emails = clinic.connection.execute("SELECT id, email FROM public.clients WHERE email <> ''").fetchall()
    texts = {int(str(number)): decrypt(clinic.ring, str(stored)) for number, stored in emails}
    for number, text in texts.items():
        index = indexer.under(V1, text.encode())
        clinic.connection.execute("UPDATE public.clients SET email_odd = %s WHERE id = %s", (index, number))
    clients, *others = clinic.site.pipeline.tables
    declared = SearchIndex("email", "email_odd", "email_even", form)
    declare(clinic, replace(clients, indexes=(declared,)), *others)
    old_set(clinic)
    since = SearchIndex("name", "name_odd", "name_even", form)  # not there then
    declare(clinic, replace(clients, indexes=(declared, since)), *others)
    made = rekeyed(clinic).made
    assert made.dump is not None
    with clinic.recovery_key() as key, clinic.site.restorer.workspace() as workspace:
        clinic.site.local.fetch(made.dump.file, workspace / "dump")
        with clinic.site.restorer.restored(made.dump, workspace / "dump", key) as restored:
            connection = cast("PostgresRewriting", restored.rewriting).connection
            found = connection.execute("SELECT id, email_odd, email_even FROM public.clients").fetchall()
    assert len(texts) > 1
    for key_of_row, odd, even in found:
        expected = texts.get(int(str(key_of_row)))
        assert (odd, even) == (None, None if expected is None else indexer.under(V2, expected.encode()))


def test_values_of_the_second_generation_are_read_each_under_the_label_of_its_column(connection: Connection) -> None:
    ring = KeyRing({V2X: KeyMaterial.generate()}, V2X)
    table = EncryptedTable(TableName("public", "people"), ("mail", "phone"), bindings=(("mail", "clients.mail"),))
    mail, phone = (encrypt(ring, "text", label) for label in ("clients.mail", "people.phone"))
    connection.execute("CREATE TABLE public.people (mail text, phone text)")
    insert(connection, "public.people", [(mail, phone), (phone, mail), (None, phone)])
    found = ScratchDump("", connection, None).read(table, ring)
    assert (found.rows, found.values, found.failures) == (3, 3, 2)


def test_the_key_of_rows_has_the_name_that_it_had_then(local_clinic: Clinic) -> None:
    clients, *others = local_clinic.site.pipeline.tables
    bound = replace(clients, format=replace(clients.format, row="id", row_from=3))
    declare(local_clinic, bound, *others)
    old = old_set(local_clinic)
    local_clinic.connection.execute("ALTER TABLE public.clients RENAME id TO number")
    declare(local_clinic, replace(bound, format=replace(bound.format, row="number")), *others)
    made = rekeyed(local_clinic, old.name).made
    assert made.dump is not None
    assert made.dump.versions == (V2,)
    assert {each.table.format.row for each in made.dump.tables} == {"id", ""}


@pytest.mark.extended
def test_values_in_bytes_documents_and_arrays_are_made_again_too(local_clinic: Clinic) -> None:
    connection, ring = local_clinic.connection, local_clinic.ring
    connection.execute("CREATE TABLE public.notes (id int PRIMARY KEY, raw bytea, doc jsonb, tags text[])")
    insert_row = "INSERT INTO public.notes VALUES (%s, convert_to(%s, 'UTF8'), jsonb_build_object('t', %s::text), %s)"
    for number in (1, 2):
        raw, token, tag = (sealed(ring, number, f"{slot} {number}") for slot in ("raw", "token", "tag"))
        connection.execute(insert_row, (number, raw, token, [None, tag, ""]))
    places = (Place("raw"), Place("doc", ("t",)), Place("tags", elements=True))
    declare(local_clinic, *local_clinic.site.pipeline.tables, EncryptedTable.of(TableName("public", "notes"), places))
    old = old_set(local_clinic)
    connection.execute("DROP TABLE public.notes")
    declare(local_clinic, *local_clinic.site.pipeline.tables[:2])
    made = rekeyed(local_clinic).made
    assert old.dump is not None
    assert made.dump is not None
    assert [each.table.places for each in made.dump.tables if each.table.places] == [places[1:]]
    assert made.dump.versions == (V2,)
    (counted,) = [each for each in made.dump.tables if each.table.name.table == "notes"]
    assert counted.values == {"raw": {V2: 2}, "doc.t": {V2: 2}, "tags[]": {V2: 2}}
    with local_clinic.recovery_key() as key:
        assert recovery_test(local_clinic.site, key).made == old


@pytest.mark.extended
def test_nobody_takes_it_for_a_fresh_backup(local_clinic: Clinic) -> None:
    old = old_set(local_clinic)
    pipeline = local_clinic.site.pipeline
    before = backup_lights(pipeline, pipeline.ledger.keys(), local_clinic.clock.now()).last
    made = rekeyed(local_clinic).made
    assert backup_lights(pipeline, pipeline.ledger.keys(), local_clinic.clock.now()).last == before == old.made_at
    with local_clinic.recovery_key() as key:
        report = recovery_test(local_clinic.site, key)
    assert report.made == old
    assert report.rpo_seconds >= 24 * 3600
    # Even where it is the only one that is left, as whoever owns a bucket may have it, nobody takes it for the newest.
    for name in (*(file.name for file in old.files), old.name):
        local_clinic.site.local.remove(name)
    with local_clinic.recovery_key() as key, pytest.raises(BackupError, match=rf"{old.name}, the newest backup"):
        recovery_test(local_clinic.site, key)
    assert made.made_at == old.made_at


@pytest.mark.extended
def test_the_recovery_test_restores_rekeyed_sets_in_turn_with_their_own_keys(local_clinic: Clinic) -> None:
    older = back_up(local_clinic.site).made
    local_clinic.pass_days(1)
    made = [rekeyed(local_clinic, each.name).made for each in (old_set(local_clinic), older)]

    def restored() -> str | None:
        with local_clinic.recovery_key() as key:
            tested = recovery_test(local_clinic.site, key).rekeyed
        return None if tested is None else tested.name

    dumps = [each.dump.file.name for each in made if each.dump is not None]
    assert [restored() for _ in range(3)] == [dumps[0], dumps[1], dumps[0]]
    path = local_clinic.site.local.path(dumps[0])
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedBackupError, match=dumps[0]):
        restored()
    path.unlink()  # as retention does
    assert restored() == dumps[1]


def test_the_compromised_key_can_be_destroyed_once_every_dump_is_replaced(clinic: Clinic) -> None:
    old = old_set(clinic)
    assert old.dump is not None
    back_up(clinic.site)
    archive(clinic.site.pipeline.keys, V1)
    with pytest.raises(BlockedError, match=rf"{old.dump.file.name} in .*replaced by `keyrotation backup --rekey`"):
        open_destruction(clinic.site, V1, reason="leaked", requested_by="test")
    assert [each.name for each in sets_to_rekey(clinic.site)] == [old.name]
    made = rekeyed(clinic).made
    assert made.dump is not None
    today = replace(clinic.site, pipeline=replace(clinic.site.pipeline, clock=SystemClock()))  # as the ledger has it
    request, _ = open_destruction(today, V1, reason="leaked", requested_by="test")
    assert f"{old.dump.file.name} in {clinic.site.local.description} ({made.name} replaces it)" in request.reason
    # Damaged in one place, it replaces nothing there.
    path = clinic.site.local.path(made.dump.file.name)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert kept_dumps_that_need(clinic.site.kept(), V1) == (f"{old.dump.file.name} in {clinic.site.local.description}",)


@pytest.mark.extended
def test_what_the_key_opens_is_listed_by_place(clinic: Clinic) -> None:
    old = old_set(clinic)
    back_up(clinic.site)
    made = rekeyed(clinic).made
    assert old.dump is not None
    lines = exposed_copies(clinic.site, [V1])
    for place in clinic.site.places:
        (dump,) = [line for line in lines if line.startswith(f"{old.dump.file.name} in {place.description}")]
        assert dump.endswith(f"holds values under v1; {made.name} replaces it")
        assert any(line.startswith(f"encryption-key-v1-{old.stamp}.bin.gpg in {place.description}") for line in lines)
    assert not any(made.stamp in line.split()[0] for line in lines)


@pytest.mark.extended
def test_an_undeclared_column_with_values_is_named_and_goes_along_once_it_is_declared(local_clinic: Clinic) -> None:
    local_clinic.connection.execute("ALTER TABLE public.clients ADD COLUMN nickname text")
    local_clinic.connection.execute(
        "UPDATE public.clients SET nickname = %s WHERE id = 1", (sealed(local_clinic.ring, 1, "Addy"),)
    )
    old = old_set(local_clinic)
    with pytest.raises(BlockedError, match=rf"nickname of {old.name} is not declared and holds values under v1"):
        rekeyed(local_clinic)
    first, *others = local_clinic.site.pipeline.tables
    declare(local_clinic, EncryptedTable(first.name, (*first.columns, "nickname")), *others)
    made = rekeyed(local_clinic).made
    assert made.dump is not None
    assert made.dump.tables[0].values["nickname"] == {V2: 1}


@pytest.mark.extended
@pytest.mark.parametrize("case", ["lost table", "unreadable", "trigger", "no key", "no primary"])
def test_what_would_not_be_the_same_is_refused_and_leaves_nothing(local_clinic: Clinic, case: str) -> None:
    clinic, connection = local_clinic, local_clinic.connection
    wanted: str | None = None
    error: type[Exception]
    if case == "unreadable":
        stranger = ring_of(1, 2)
        connection.execute("UPDATE public.clients SET name = %s WHERE id = 1", (sealed(stranger, 1, "Eve"),))
        error, sentence = UndecryptableError, r"1 value of clients in .* cannot be decrypted"
    if case == "trigger":
        connection.execute(
            "CREATE FUNCTION public.shout() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN NEW.id := NEW.id + 100; RETURN NEW; END'"
        )
        connection.execute(
            "CREATE TRIGGER shout BEFORE UPDATE ON public.clients FOR EACH ROW "
            "WHEN (current_setting('keyrotation.engine', true) = 'on') EXECUTE FUNCTION public.shout()"
        )
        error, sentence = PreflightError, "shout"
    old = back_up(clinic.site).made
    clinic.pass_days(1)
    if case == "trigger":
        connection.execute("DROP TRIGGER shout ON public.clients")
    compromise(clinic)
    if case == "lost table":
        # As if its rows had been lost between the count and the dump: the manifest, signed by us, says more.
        assert old.dump is not None
        told = replace(
            old.dump, tables=(replace(old.dump.tables[0], table=EncryptedTable(TableName("public", "gone"), ("x",))),)
        )
        lying = replace(old, dump=replace(told, content=old.dump.content))
        clinic.site.trust.write(clinic.site.local, lying)
        error, sentence = LostRowsError, "table gone is not in what"
    if case == "no key":
        store = clinic.settings.home / "keys"
        (store / "v1.key").unlink()
        wanted, error, sentence = old.name, MissingVersionError, "needs the key v1"
    if case == "no primary":
        call_compromised(clinic.site.pipeline, V2, clinic.signers)
        error, sentence = RequestError, "the primary v2 is compromised"
    names = clinic.site.local.names()
    with pytest.raises(error, match=sentence) as refused:
        rekeyed(clinic, wanted)
    assert "Eve" not in str(refused.value)
    assert clinic.site.local.names() == names


def test_what_the_engine_did_not_do_or_did_besides_is_noticed(
    local_clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_set(local_clinic)
    names, sweep = local_clinic.site.local.names(), PostgresRewriting.sweep

    def nothing(*_arguments: object, **_options: object) -> Rewritten:
        return Rewritten()

    def more(
        rewriting: PostgresRewriting,
        request: str,
        table: EncryptedTable,
        ring: KeyRing,
        target: KeyVersion,
        *,
        wait: bool,
    ) -> Rewritten:
        rewriting.connection.execute("UPDATE public.clients SET id = id + 100 WHERE id = 1")
        return sweep(rewriting, request, table, ring, target, wait=wait)

    for instead in (nothing, more):
        monkeypatch.setattr(PostgresRewriting, "sweep", instead)
        with pytest.raises(ProofError, match=r"clients of .* differs under v2"):
            rekeyed(local_clinic)
    assert local_clinic.site.local.names() == names


@pytest.mark.extended
def test_a_set_that_needs_no_other_key_and_one_that_is_not_there_are_refused(local_clinic: Clinic) -> None:
    old_set(local_clinic)
    fresh = back_up(local_clinic.site).made
    with pytest.raises(RequestError, match="needs no key but v2 already"):
        rekeyed(local_clinic, fresh.name)
    with pytest.raises(BackupError, match=r"backup-20200101-000000-efa1f375\.json is not in"):
        rekeyed(local_clinic, "backup-20200101-000000-efa1f375.json")
    rekeyed(local_clinic)
    with pytest.raises(RequestError, match="no kept database backup needs a compromised key"):
        rekeyed(local_clinic)


@pytest.mark.extended
@pytest.mark.parametrize("at", ["key", "upload"])
def test_what_a_killed_run_left_is_not_found_by_the_next(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    old = old_set(clinic)
    subject, name = (type(clinic.site.configurations), "make") if at == "key" else (rekeying, "copied")
    with monkeypatch.context() as patch:
        patch.setattr(subject, name, _kill)
        with pytest.raises(ProcessKilled):
            rekeyed(clinic)
    left = [name for name in clinic.site.local.names() if f"{old.stamp}-2" in name]
    assert left
    back_up(clinic.site)
    for place in clinic.site.places:
        assert unlisted_dumps([kept_sets(place, clinic.site.trust)], clinic.site.trust) == {}
    there = [name for name in clinic.site.local.names() if f"{old.stamp}-2" in name]
    if at == "upload":  # it is a set, and uploaded by the backup
        assert [each.name for each in sets_to_rekey(clinic.site)] == []
    else:
        assert there == []
        assert rekeyed(clinic).made.stamp == f"{old.stamp}-3"
    assert kept_sets(clinic.site.offsite[0], clinic.site.trust).refused == {}


def _kill(*_arguments: object, **_options: object) -> None:
    raise ProcessKilled


@pytest.mark.extended
def test_the_audit_says_before_and_after_what_is_made_of_what(local_clinic: Clinic) -> None:
    old = old_set(local_clinic)
    made = rekeyed(local_clinic).made
    events = [json.loads(event.body) for event in local_clinic.site.pipeline.ledger.events()]
    told = [each for each in events if each["event"] in {"backup_rekey_intended", "backup_sealed", "backup_rekeyed"}]
    intended, seal, after = told[-3:]
    assert intended["facts"] == {"set": made.name, "made_from": old.name, "target": "v2"}
    assert seal["facts"]["made_from"] == old.name
    assert after["facts"]["left_behind"] == ["v1"]
    assert BackupRekeyIntended.kind == intended["event"]

"""AES-GCM values, of which nothing names the key: the engine, the fence of logins and the evidence by decrypting."""

import os
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg import sql
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.own_schema import with_schema
from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.evidence import decrypt
from keyrotation_pipeline.adapters.postgres.inventory import discovery, places, quarantine
from keyrotation_pipeline.adapters.postgres.inventory.layout_sql import LayoutSql
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.inventory.relations import heaps, tree
from keyrotation_pipeline.adapters.postgres.preflight.logins import logins_can_be_kept_from_writing
from keyrotation_pipeline.adapters.postgres.preflight.table import Subject
from keyrotation_pipeline.adapters.postgres.retirement import fence, search
from keyrotation_pipeline.adapters.postgres.retirement.postgres_retirement import PostgresEvidence, PostgresFencing
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import (
    BlockedError,
    DefinitionChangedError,
    FenceError,
    PreflightError,
    ProofError,
    UnknownKeyVersionError,
)
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.formats.aes_gcm import AES_GCM
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.reads import Defect, DefectKind
from keyrotation_pipeline.model.proof import Searched, SnapshotPosition, ZeroOldRows
from keyrotation_pipeline.model.tables import EncryptedTable, OldRows, Place, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, ring_of, running, table_of
from keyrotation_pipeline_tests.integration.stored_places import BYTE_FORMATS
from keyrotation_pipeline_tests.integration.test_engine_interleaving import between_read_and_write
from keyrotation_pipeline_tests.vectors.two_keys import opened_by_both

V1, V2 = KeyVersion(1), KeyVersion(2)
LAYOUT = Layout("b64(nonce12 tag16 ct)")
ROWS = 40


def sealed(key: KeyMaterial, text: str) -> str:
    nonce = os.urandom(12)
    return LAYOUT.join(nonce, AESGCM(raw_of(key)).encrypt(nonce, text.encode(), None)).decode()


def opened_with(key: KeyMaterial, value: str) -> str:
    taken = LAYOUT.split(value.encode())
    assert taken is not None
    return AESGCM(raw_of(key)).decrypt(taken.nonce, taken.body, None).decode()


@pytest.fixture
def logins(connection: Connection) -> Iterator[tuple[str, str]]:
    """Two logins of the application; roles belong to the whole server."""
    first, second = (f"app_{secrets.token_hex(4)}_g{number}" for number in (1, 2))
    for name in (first, second):
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    yield first, second
    for name in (first, second):
        connection.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(*[sql.Identifier(name)] * 2))


class Notes:
    """A table in another schema than the usual one, with a name that must be quoted, and what rotates it."""

    def __init__(self, url: str, connection: Connection, logins: tuple[str, str]) -> None:
        self.url, self.connection, self.logins = url, connection, logins
        self.ring = ring_of(1, 2)
        declared = replace(AES_GCM, layout=LAYOUT.text, logins=((V1, logins[0]), (V2, logins[1])))
        self.table: EncryptedTable = replace(table_of("Not es", "body", "50% off", schema="Cl inic"), format=declared)
        connection.execute(
            'CREATE SCHEMA "Cl inic"; CREATE TABLE "Cl inic"."Not es" '
            '(id int PRIMARY KEY, body text, plain text, "50% off" varchar(200))'
        )
        for login in logins:
            self.grant(login)
        for row in range(ROWS):
            connection.execute(
                'INSERT INTO "Cl inic"."Not es" VALUES (%s, %s, %s, %s)',
                (row, self.value(V1, f"body {row}"), "public", self.value(V1, "x")),
            )
        running(connection, "routine")
        keys = CurrentKeys(lambda: connect(url), lambda: self.ring, Limits())
        self.inventory = PostgresInventory(connection, keys=keys)
        self.fencing, self.evidence = PostgresFencing(connection, keys), PostgresEvidence(connection, keys=keys)
        self.engine = Engine(url, self.ring)

    def grant(self, login: str) -> None:
        for right in ("USAGE ON SCHEMA {}", "SELECT, INSERT, UPDATE ON {}"):
            place = sql.Identifier("Cl inic") if "SCHEMA" in right else sql.Identifier("Cl inic", "Not es")
            self.connection.execute(sql.SQL(f"GRANT {right} TO {{}}").format(place, sql.Identifier(login)))

    def value(self, version: KeyVersion, text: str) -> str:
        return sealed(self.ring.material(version), text)

    def set(self, row: int, value: str | None, column: str = "body", by: Connection | None = None) -> None:
        named = sql.Identifier(column).as_string().replace("%", "%%")
        statement = f'UPDATE "Cl inic"."Not es" SET {named} = %s WHERE id = %s'
        (by or self.connection).execute(statement.encode(), (value, row))

    def session(self, login: str) -> Connection:
        return connect(make_conninfo(self.url, user=login))

    def rewritten(self) -> "Notes":
        assert self.engine.shard(self.table).rows == ROWS
        return self

    def fenced(self) -> SnapshotPosition:
        assert self.fencing.fence(self.table, [V1])
        return SnapshotPosition(self.evidence.current_xid(), self.evidence.barrier())

    def searched(self) -> Searched:
        return self.evidence.search([self.table], V1, [V1], self.engine.progress.append)

    def proven(self, moment: SnapshotPosition, searched: Searched | None) -> ZeroOldRows:
        with self.connection.transaction():
            self.connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            return self.evidence.zero_old_rows([self.table], V1, [V1], moment, searched)

    def problems(self) -> list[str]:
        subject = Subject(self.connection, self.table, tree(self.connection, self.table), V2)
        return [problem.message for problem in logins_can_be_kept_from_writing(subject)]


@pytest.fixture
def notes(database_url: str, migrated: Connection, logins: tuple[str, str]) -> Notes:
    return Notes(database_url, migrated, logins)


def test_the_codec_decides_which_rows_are_written_and_counts_are_of_what_decrypts(notes: Notes) -> None:
    notes.set(3, notes.value(V2, "new"))
    notes.set(3, None, "50% off")
    assert notes.fencing.old_rows(notes.table, [V1], None) == OldRows(ROWS - 1, 0)
    promoted = notes.evidence.current_xid()
    notes.set(4, notes.value(V1, "late"))
    assert notes.fencing.old_rows(notes.table, [V1], promoted) == OldRows(ROWS - 1, 1)
    done = notes.engine.shard(notes.table)
    assert (done.rows, done.values, done.quarantined) == (ROWS - 1, 2 * ROWS - 2, 0)
    again = notes.engine.sweep(notes.table, wait=True)
    assert (again.rows, again.skipped) == (0, 0)
    (counted,) = notes.inventory.count([notes.table])
    assert counted.by_column == {"body": {V2: ROWS}, "50% off": {V2: ROWS - 1}}
    assert (counted.unencrypted, counted.unreadable, counted.fenced_against) == (0, 0, ())


def test_a_row_that_others_write_all_the_time_is_written_by_its_key(notes: Notes) -> None:
    def touched(_: int) -> None:
        notes.connection.execute('UPDATE "Cl inic"."Not es" SET plain = \'touched\' WHERE id = 7')

    with between_read_and_write(touched):
        done = notes.engine.sweep(notes.table, wait=True)
    assert (done.rows, done.skipped) == (ROWS, 0)
    assert notes.fencing.old_rows(notes.table, [V1], None) == OldRows(0, 0)


def test_what_opens_under_no_key_or_under_two_is_in_quarantine_and_blocks_the_proof(notes: Notes) -> None:
    both = LAYOUT.join(*opened_by_both(*(raw_of(notes.ring.material(v)) for v in (V1, V2)))).decode()
    third = sealed(KeyMaterial.generate(), "third")
    for row, value in ((1, both), (2, third), (3, "plain"), (4, notes.value(V1, notes.value(V1, "twice")))):
        notes.set(row, value)
    assert notes.engine.shard(notes.table).quarantined == 4
    unknown = Defect(DefectKind.UNKNOWN_KEY)
    found = {entry.key: entry.defect for entry in quarantine.load(notes.connection, [notes.table])}
    assert found == {
        '["1"]': unknown,
        '["2"]': unknown,
        '["3"]': Defect(DefectKind.NOT_A_VALUE),
        '["4"]': Defect(DefectKind.ENCRYPTED_TWICE, V1),
    }
    (counted,) = notes.inventory.count([notes.table])
    assert (counted.unencrypted_by_column, counted.unreadable) == ({"body": 1}, 4)
    for row in (3, 4):
        notes.set(row, notes.value(V2, "fixed"))
    notes.engine.sweep(notes.table)
    moment = notes.fenced()
    with pytest.raises(FenceError, match=r"1 row with values under v1 again"):  # and under v2
        notes.searched()
    notes.set(1, None)
    with pytest.raises(ProofError, match=r"1 value cannot be decrypted"):
        notes.searched()
    with pytest.raises(FenceError, match=r"column body: 1 value .* cannot be opened with v2 alone"):
        notes.proven(moment, None)


def test_the_evidence_is_of_decrypting_and_says_so(notes: Notes) -> None:
    moment = notes.rewritten().fenced()
    searched = notes.searched()
    assert searched.values == {"Cl inic.Not es": 2 * ROWS}
    found = notes.proven(moment, searched)
    assert (found.old_values, found.values) == (0, 2 * ROWS)
    assert notes.table.format.identified_by is IdentifiedBy.DECRYPT  # which the retirement records
    assert notes.proven(moment, None).values == 2 * ROWS
    assert "weaker evidence than a count by the database" in notes.table.format.identified_by.evidence


def test_of_what_is_too_large_to_be_read_again_only_new_pages_are_decrypted_and_the_evidence_says_so(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = notes.rewritten().fenced()
    searched = notes.searched()
    monkeypatch.setattr(search, "READ_AGAIN_PAGES", 0)
    with notes.session(notes.logins[1]) as new, notes.connection.transaction():
        notes.connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        found = notes.evidence.zero_old_rows([notes.table], V1, [V1], moment, searched)
        notes.set(5, notes.value(V2, "meanwhile"), by=new)
    assert notes.table.name.table in str(found.not_read_again)
    assert "not read again: only their new pages, while others could write" in notes.table.format.identified_by.evidence


def test_an_old_login_is_refused_at_once_in_open_sessions_and_keeps_its_other_columns(notes: Notes) -> None:
    first, second = notes.logins
    with notes.session(first) as old, notes.session(second) as new:
        statement = 'UPDATE "Cl inic"."Not es" SET body = %s WHERE id = 1'
        old.execute(statement, (notes.value(V1, "prepared"),), prepare=True)
        assert notes.fencing.fences(notes.table) == ()
        notes.rewritten().fenced()
        assert notes.fencing.fences(notes.table) == (V1,)
        insert = 'INSERT INTO "Cl inic"."Not es" (id, "50%% off") VALUES (99, %s)'
        for refused in (statement, insert):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                old.execute(refused, (notes.value(V1, "late"),), prepare=True)
        old.execute('UPDATE "Cl inic"."Not es" SET plain = \'mine\' WHERE id = 1')
        assert old.execute('SELECT count(body) FROM "Cl inic"."Not es"').fetchone() == (ROWS,)
        new.execute(statement, (notes.value(V2, "new"),))
        notes.fencing.unfence(notes.table, V1)
        assert notes.fencing.fences(notes.table) == ()
        old.execute(statement, (notes.value(V1, "back"),))
        old.execute(insert, (notes.value(V1, "back"),))
        acl = 'SELECT relacl FROM pg_class WHERE oid = \'"Cl inic"."Not es"\'::regclass'
        assert str(notes.connection.execute(acl).fetchone()).count("arw/") == 2


@pytest.mark.parametrize("held", ["group", "PUBLIC", "trigger", "owner", "another login", "pg_write_all_data"])
def test_a_login_that_cannot_be_refused_makes_no_fence(notes: Notes, held: str) -> None:
    first, _ = notes.logins
    other = f"other_{secrets.token_hex(4)}"
    execute, quoted = notes.connection.execute, sql.Identifier
    execute(sql.SQL("CREATE ROLE {}").format(quoted(other)))
    try:
        if held == "owner":
            execute(sql.SQL('ALTER TABLE "Cl inic"."Not es" OWNER TO {}').format(quoted(first)))
        elif held == "another login":
            execute(sql.SQL("ALTER ROLE {} LOGIN").format(quoted(other)))
            notes.grant(other)
        elif held == "pg_write_all_data":
            execute(sql.SQL("GRANT pg_write_all_data TO {}").format(quoted(first)))
        else:
            role = sql.SQL("PUBLIC") if held == "PUBLIC" else quoted(other)
            right = sql.SQL("TRIGGER" if held == "trigger" else "UPDATE (body)")
            execute(sql.SQL('GRANT {} ON "Cl inic"."Not es" TO {}').format(right, role))
            execute(sql.SQL("GRANT {} TO {}").format(quoted(other), quoted(first)))
        found = "; ".join(notes.problems())
        words = {"owner": "as the table's owner", "another login": f"can be written by {other}"}
        words |= {"group": f"through role {other}", "trigger": "has TRIGGER on"}
        assert words.get(held, f"through {'role ' * (held != 'PUBLIC')}{held}") in found
        with pytest.raises(FenceError):
            notes.fencing.fence(notes.table, [V1])
        assert notes.fencing.fences(notes.table) == ()
    finally:
        execute('ALTER TABLE "Cl inic"."Not es" OWNER TO CURRENT_USER')
        execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(*[quoted(other)] * 2))


@pytest.mark.parametrize("child", [False, True], ids=["alone", "with a child of the same name, in a schema before it"])
def test_the_preflight_names_what_is_missing(notes: Notes, child: bool) -> None:
    if child:
        notes.connection.execute(
            'CREATE SCHEMA "Attic"; CREATE TABLE "Attic"."Not es" () INHERITS ("Cl inic"."Not es")'
        )
    assert notes.problems() == []
    _, second = notes.logins
    notes.connection.execute(sql.SQL('REVOKE INSERT ON "Cl inic"."Not es" FROM {}').format(sql.Identifier(second)))
    (lacking,) = notes.problems()
    assert f'lacks rights that the present one has; GRANT INSERT ON "Cl inic"."Not es" TO {second}' in lacking
    notes.table = replace(notes.table, format=replace(notes.table.format, logins=((V1, "nobody_here"),)))
    assert [sentence[:44] for sentence in notes.problems()] == [
        "[format.logins] names no login for v2; creat",
        "login nobody_here of [format.logins] does no",
    ]


def test_a_view_through_which_the_application_writes_is_refused(notes: Notes) -> None:
    notes.connection.execute('CREATE VIEW "Cl inic".seen AS SELECT * FROM "Cl inic"."Not es"')
    assert notes.problems() == []
    notes.connection.execute(
        sql.SQL('GRANT UPDATE (body) ON "Cl inic".seen TO {}').format(sql.Identifier(notes.logins[0]))
    )
    (found,) = notes.problems()
    assert '"Cl inic".seen writes Cl inic.Not es with its owner' in found
    notes.connection.execute(
        'REVOKE ALL ON "Cl inic".seen FROM PUBLIC; CREATE VIEW public.over_it AS TABLE "Cl inic".seen'
    )
    notes.connection.execute(sql.SQL("GRANT INSERT ON public.over_it TO {}").format(sql.Identifier(notes.logins[0])))
    assert len(notes.problems()) == 2


RULE = """
CREATE TABLE public.way (id int, body text);
CREATE RULE along AS ON INSERT TO public.way
DO ALSO UPDATE "Cl inic"."Not es" SET body = new.body WHERE id = new.id
"""


@pytest.mark.parametrize(
    "made",
    [
        pytest.param('CREATE VIEW public.way AS SELECT id, body FROM "Cl inic"."Not es"', id="view"),
        pytest.param(RULE, id="rule"),
    ],
)
def test_who_writes_through_a_view_or_a_rule_is_a_writer(notes: Notes, made: str) -> None:
    old, undeclared = notes.logins[0], f"{notes.logins[0]}_other"
    assert notes.rewritten().fenced()
    notes.connection.execute(made.encode())
    assert notes.fencing.fences(notes.table) == (V1,)
    notes.connection.execute(sql.SQL("GRANT INSERT, UPDATE ON public.way TO {}").format(sql.Identifier(old)))
    assert notes.fencing.fences(notes.table) == ()
    with pytest.raises(FenceError, match=rf"login {old} can write its encrypted columns through public\.way"):
        notes.fenced()
    notes.connection.execute(sql.SQL("REVOKE ALL ON public.way FROM {}").format(sql.Identifier(old)))
    assert notes.fencing.fences(notes.table) == (V1,)
    with undeclared_login(notes.connection, undeclared):
        notes.connection.execute(sql.SQL("GRANT INSERT ON public.way TO {}").format(sql.Identifier(undeclared)))
        assert notes.fencing.fences(notes.table) == ()
        assert f"login {undeclared} can write its encrypted columns through public.way" in notes.problems()[0]


@contextmanager
def undeclared_login(connection: Connection, name: str) -> Iterator[None]:
    connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    yield
    connection.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


def test_an_old_login_with_every_right_can_add_no_trigger_either(notes: Notes) -> None:
    first, second = notes.logins
    execute, table = notes.connection.execute, sql.SQL('"Cl inic"."Not es"')
    for login in map(sql.Identifier, notes.logins):
        execute(sql.SQL('GRANT ALL ON {} TO {}; GRANT CREATE ON SCHEMA "Cl inic" TO {}').format(table, login, login))
    assert notes.problems() == []
    notes.rewritten().fenced()
    with notes.session(first) as old, pytest.raises(psycopg.errors.InsufficientPrivilege):
        old.execute(
            'CREATE TRIGGER mine BEFORE UPDATE ON "Cl inic"."Not es" '
            "FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        )
    with notes.session(second) as new:
        notes.set(1, notes.value(V2, "new"), by=new)
    execute(sql.SQL("GRANT TRIGGER ON {} TO {}").format(table, sql.Identifier(first)))
    assert notes.fencing.fences(notes.table) == ()
    notes.fencing.unfence(notes.table, V1)
    with notes.session(first) as old:
        notes.set(1, notes.value(V1, "back"), by=old)
    with undeclared_login(notes.connection, f"{first}_other"):
        execute(sql.SQL("GRANT TRIGGER ON {} TO {}").format(table, sql.Identifier(f"{first}_other")))
        assert f"its encrypted columns can be written by {first}_other, not in" in notes.problems()[0]


TRIGGERED = """
CREATE FUNCTION public.before_write() RETURNS trigger LANGUAGE plpgsql {options} AS $$ BEGIN {body} RETURN NEW; END $$;
CREATE TRIGGER early BEFORE {events} ON "Cl inic"."Not es" FOR EACH ROW EXECUTE FUNCTION public.before_write()
"""


@pytest.mark.parametrize(
    ("body", "events", "options"),
    [
        pytest.param("NEW.body := NEW.plain;", "UPDATE", "", id="on UPDATE"),
        pytest.param('NEW."50% off" = NEW.plain;', "INSERT OR UPDATE OF plain", "", id="on INSERT, a quoted name"),
        pytest.param("NEW := jsonb_populate_record(NEW, '{}');", "UPDATE OF plain, body", "", id="the whole row"),
        pytest.param("", "UPDATE", "SECURITY DEFINER", id="with its owner's rights"),
    ],
)
def test_a_trigger_that_may_set_an_encrypted_column_is_a_way_around_the_fence(
    notes: Notes, body: str, events: str, options: str
) -> None:
    old, late = notes.logins[0], notes.value(V1, "late")
    moment = notes.rewritten().fenced()
    notes.connection.execute(TRIGGERED.format(body=body, events=events, options=options).encode())
    if body.startswith("NEW.body"):  # it does let an old value in
        with notes.session(old) as session:
            notes.set(3, late, "plain", by=session)
        assert notes.connection.execute('SELECT body FROM "Cl inic"."Not es" WHERE id = 3').fetchone() == (late,)
        notes.set(3, notes.value(V2, "late"), "plain")
    assert notes.fencing.fences(notes.table) == ()
    said = rf'login {old} can write a column, where trigger early of "Cl inic"\."Not es" may set an encrypted'
    with pytest.raises(FenceError, match=said):
        notes.fencing.fence(notes.table, [V1])
    with pytest.raises(FenceError, match="is not fenced against v1"):
        notes.proven(moment, None)
    named = 'trigger early of "Cl inic"."Not es" calls public.before_write(), which may set an encrypted column'
    assert any(named in problem for problem in notes.problems())
    other_columns = sql.SQL('REVOKE ALL ON "Cl inic"."Not es" FROM {}; GRANT SELECT ON "Cl inic"."Not es" TO {}')
    notes.connection.execute(other_columns.format(*[sql.Identifier(old)] * 2))
    assert notes.fencing.fences(notes.table) == (V1,)


@pytest.mark.parametrize(
    ("body", "events"),
    [
        pytest.param("NEW.plain := now()::text;", "INSERT OR UPDATE", id="another column"),
        pytest.param("NEW.body := upper(NEW.body);", "UPDATE OF body", id="only with the column"),
        pytest.param("IF NEW.body IS DISTINCT FROM OLD.body THEN NEW.plain = ''; END IF;", "UPDATE", id="reads it"),
    ],
)
def test_a_trigger_that_cannot_set_one_is_none(notes: Notes, body: str, events: str) -> None:
    notes.rewritten().fenced()
    notes.connection.execute(TRIGGERED.format(body=body, events=events, options="").encode())
    assert notes.fencing.fences(notes.table) == (V1,)
    assert notes.problems() == []
    with undeclared_login(notes.connection, f"{notes.logins[0]}_other"):
        grant = sql.SQL('GRANT UPDATE (plain) ON "Cl inic"."Not es" TO {}')
        notes.connection.execute(grant.format(sql.Identifier(f"{notes.logins[0]}_other")))
        assert notes.fencing.fences(notes.table) == (V1,)


def test_a_function_that_writes_with_its_owners_rights_is_warned_of(notes: Notes) -> None:
    notes.connection.execute(
        "CREATE FUNCTION public.change(int, text) RETURNS void LANGUAGE sql SECURITY DEFINER AS "
        '\'UPDATE "Cl inic"."Not es" SET body = $2 WHERE id = $1\'; '
        "CREATE FUNCTION public.unrelated() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'"
    )
    (warned,) = notes.problems()
    assert "function public.change(integer,text) runs as postgres for " in warned
    assert notes.logins[0] in warned
    notes.connection.execute("REVOKE EXECUTE ON FUNCTION public.change FROM PUBLIC")
    assert notes.problems() == []


def test_a_rollback_grants_what_another_login_has_and_no_more(notes: Notes) -> None:
    first, second = map(sql.Identifier, notes.logins)
    notes.rewritten()
    insert = sql.SQL('REVOKE INSERT ON "Cl inic"."Not es" FROM {}, {}')
    notes.connection.execute(insert.format(first, second))
    notes.fenced()
    notes.fencing.unfence(notes.table, V1)
    assert rights_of(notes) == [["UPDATE"], ["UPDATE"]]
    notes.fencing.fence(notes.table, [V1, V2])
    notes.fencing.unfence(notes.table, V1)  # no other login can write
    assert rights_of(notes) == [["INSERT", "UPDATE"], []]


def rights_of(notes: Notes) -> list[list[str]]:
    """What each login may do with an encrypted column, besides reading it."""
    asked = "SELECT has_column_privilege(%s, '\"Cl inic\".\"Not es\"', 'body', %s)"
    return [
        [
            right
            for right in ("INSERT", "UPDATE")
            if notes.connection.execute(asked, (login, right)).fetchone() == (True,)
        ]
        for login in notes.logins
    ]


def test_whoever_changes_the_rights_at_the_same_time_is_waited_for(notes: Notes) -> None:
    notes.rewritten()
    notes.connection.execute("SET lock_timeout = '100ms'")
    revoke = sql.SQL('REVOKE TRIGGER ON "Cl inic"."Not es" FROM {}').format(sql.Identifier(notes.logins[1]))
    with connect(notes.url) as other, ThreadPoolExecutor(1) as pool:
        with other.transaction():
            other.execute(revoke)
            fenced = pool.submit(notes.fenced)
            with pytest.raises(TimeoutError):
                fenced.result(timeout=1)
        fenced.result()
    assert notes.fencing.fences(notes.table) == (V1,)


def test_a_right_that_a_login_has_passed_on_is_named_and_can_be_taken_as_said(notes: Notes) -> None:
    first = notes.logins[0]
    notes.rewritten()
    grant = sql.SQL('GRANT UPDATE (body), INSERT ON "Cl inic"."Not es" TO {} WITH GRANT OPTION')
    notes.connection.execute(grant.format(sql.Identifier(first)))
    group = sql.Identifier(f"{first}_group")
    notes.connection.execute(sql.SQL("CREATE ROLE {}").format(group))
    with notes.session(first) as old:
        old.execute(sql.SQL('GRANT UPDATE (body), INSERT ON "Cl inic"."Not es" TO {}').format(group))
    said = "a login of .* has passed on its right to write table Cl inic.Not es; run (REVOKE .*) as its owner"
    with pytest.raises(PreflightError, match=said) as refused:
        notes.fenced()
    found = re.search(said, str(refused.value))
    assert found is not None
    notes.connection.execute(found[1].encode())
    notes.connection.execute(sql.SQL("DROP ROLE {}").format(group))
    notes.fenced()
    with notes.session(first) as old:
        old.execute('UPDATE "Cl inic"."Not es" SET plain = \'mine\' WHERE id = 1')


def test_a_view_that_asks_for_the_rights_of_its_user_is_no_way_around_the_fence(notes: Notes) -> None:
    notes.connection.execute(
        'CREATE VIEW public.way WITH (security_invoker = on) AS SELECT id, body FROM "Cl inic"."Not es"'
    )
    notes.connection.execute(sql.SQL("GRANT UPDATE ON public.way TO {}").format(sql.Identifier(notes.logins[0])))
    assert notes.problems() == []


def test_what_was_written_after_the_search_is_found_while_nobody_can_write(notes: Notes) -> None:
    moment = notes.rewritten().fenced()
    searched = notes.searched()
    notes.set(5, notes.value(V2, "good"))
    assert notes.proven(moment, searched).values == 2 * ROWS
    with notes.session(notes.logins[1]) as stale:  # an instance with the new login and the old key
        notes.set(6, notes.value(V1, "late"), by=stale)
    with pytest.raises(FenceError, match=r"column body: 1 value .* cannot be opened with v2 alone"):
        notes.proven(moment, searched)
    with pytest.raises(FenceError, match=r"1 row with values under v1 again"):
        notes.searched()


def test_writers_go_on_until_the_last_decrypt_which_reads_what_they_wrote(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = notes.rewritten().fenced()
    searched, discover, written = notes.searched(), discovery.discover, notes.value(V2, "new")

    def while_somebody_writes(*arguments: Any) -> object:  # noqa: ANN401
        with notes.session(notes.logins[1]) as writer:
            notes.set(5, written, by=writer)
        return discover(*arguments)

    monkeypatch.setattr(discovery, "discover", while_somebody_writes)
    assert notes.proven(moment, searched).values == 2 * ROWS
    written = notes.value(V1, "stale")
    with pytest.raises(FenceError, match=r"column body: 1 value .* cannot be opened with v2 alone"):
        notes.proven(moment, searched)


def test_a_right_that_was_given_and_taken_during_the_proof_is_seen(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = notes.rewritten().fenced()
    searched, real = notes.searched(), decrypt.lock_writers_out

    def given_and_taken(*arguments: Any) -> None:  # noqa: ANN401
        with connect(notes.url) as owner:
            for change in ("GRANT UPDATE ON {} TO {}", "REVOKE UPDATE ON {} FROM {}"):
                named = sql.Identifier("Cl inic", "Not es"), sql.Identifier(notes.logins[0])
                owner.execute(sql.SQL(change).format(*named))
        real(*arguments)

    monkeypatch.setattr(decrypt, "lock_writers_out", given_and_taken)
    with pytest.raises(DefinitionChangedError, match="or the rights on it were changed after the proof"):
        notes.proven(moment, searched)


def test_a_transaction_that_wrote_before_the_revoke_is_waited_for(notes: Notes) -> None:
    notes.rewritten()
    with notes.session(notes.logins[0]) as old, old.transaction():
        notes.set(7, notes.value(V1, "early"), by=old)
        moment = notes.fenced()
        searched = notes.searched()
        with pytest.raises(BlockedError):
            notes.proven(moment, searched)
    with pytest.raises(FenceError, match=r"cannot be opened with v2 alone"):
        notes.proven(moment, searched)


def test_a_relation_that_is_attached_after_the_search_is_read_whole(notes: Notes) -> None:
    moment = notes.rewritten().fenced()
    notes.connection.execute('CREATE TABLE "Cl inic".old (LIKE "Cl inic"."Not es" INCLUDING ALL)')
    notes.connection.execute('INSERT INTO "Cl inic".old (id, body) VALUES (1000, %s)', (notes.value(V1, "old"),))
    notes.connection.execute("SELECT pg_current_xact_id()")
    searched = notes.searched()
    notes.connection.execute('ALTER TABLE "Cl inic".old INHERIT "Cl inic"."Not es"')
    with pytest.raises(FenceError, match="cannot be opened with v2 alone"):
        notes.proven(moment, searched)


def test_rights_that_were_changed_after_the_proof_are_refused(notes: Notes) -> None:
    moment = notes.rewritten().fenced()
    notes.grant(notes.logins[0])
    with pytest.raises(FenceError, match="is not fenced against v1"):
        notes.proven(moment, notes.searched())
    notes.fencing.fence(notes.table, [V1])
    with pytest.raises(DefinitionChangedError, match="or the rights on it were changed after the proof"):
        notes.proven(moment, notes.searched())


def test_the_fence_of_another_home_after_the_proof_is_nobodys_change_of_this_one(notes: Notes) -> None:
    moment = notes.rewritten().fenced()
    with connect(with_schema(notes.url, "another")) as other:
        name = fence.name(other)
        other.execute(
            f'ALTER TABLE "Cl inic"."Not es" ADD CONSTRAINT {name} CHECK (plain <> \'v1:\'); '
            f'ALTER TABLE "Cl inic"."Not es" DROP CONSTRAINT {name}'.encode()
        )
    with pytest.raises(DefinitionChangedError, match="or the rights on it were changed after the proof"):
        notes.proven(moment, notes.searched())
    moment = SnapshotPosition(notes.evidence.current_xid(), notes.evidence.barrier())
    assert notes.proven(moment, notes.searched()).old_values == 0


def test_more_than_a_little_is_never_left_for_the_lock(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    notes.rewritten().fenced()
    monkeypatch.setattr(decrypt, "MOST_VALUES_LEFT", 3)
    readings = []

    def oldest(connection: Connection) -> int:
        readings.append(connection)
        if len(readings) <= most:
            for row in range(4):
                notes.set(row, notes.value(V2, f"busy {len(readings)}"))
        return real(connection)

    real, most = decrypt.oldest_in_progress, 3
    monkeypatch.setattr(decrypt, "oldest_in_progress", oldest)
    notes.searched()
    assert len(readings) == most + 1
    most = 10**6
    with pytest.raises(BlockedError, match="written faster than what is written can be decrypted"):
        notes.searched()


def test_a_key_that_is_the_primary_is_not_retired_and_without_keys_nothing_is(notes: Notes) -> None:
    moment = notes.rewritten().fenced()
    notes.ring = KeyRing({version: notes.ring.material(version) for version in notes.ring.versions}, V1)
    with pytest.raises(ProofError, match="names v1 as primary, which is to be retired"):
        notes.proven(moment, None)
    notes.evidence = PostgresEvidence(notes.connection)
    with pytest.raises(PreflightError, match="cannot be counted without the keys"):
        notes.searched()


def test_a_key_that_was_destroyed_counts_for_nothing_in_the_next_rotation(notes: Notes) -> None:
    notes.ring = KeyRing({V2: notes.ring.material(V2)}, V2)
    assert notes.fencing.old_rows(notes.table, [V1], None) == OldRows(0, 0)
    notes.set(3, notes.value(V2, "new"))
    assert notes.fencing.old_rows(notes.table, [V1, V2], None) == OldRows(1, 0)
    with pytest.raises(ProofError, match=rf"{2 * ROWS - 1} values cannot be decrypted"):
        notes.searched()
    with pytest.raises(UnknownKeyVersionError):  # whether a key is in use is not answered without it
        notes.inventory.rows_seen(notes.table, V1, 60)


def test_values_in_bytea_documents_and_arrays_are_rotated_and_proven_too(
    database_url: str, migrated: Connection, logins: tuple[str, str]
) -> None:
    notes = Notes(database_url, migrated, logins)
    places = [Place("raw"), Place("doc", path=("secrets", "token")), Place("tags", elements=True)]
    notes.table = EncryptedTable.of(TableName("Cl inic", "places"), places, notes.table.format)
    migrated.execute('CREATE TABLE "Cl inic".places (id int PRIMARY KEY, raw bytea, doc jsonb, tags text[])')
    for login in logins:
        migrated.execute(sql.SQL('GRANT ALL ON "Cl inic".places TO {}').format(sql.Identifier(login)))
    for row in range(ROWS):
        one, two, three = (notes.value(V1, text) for text in ("bytes", "document", "element"))
        migrated.execute(
            "INSERT INTO \"Cl inic\".places VALUES (%s, %s, jsonb_build_object('n', 1, 'secrets', "
            "jsonb_build_object('token', %s::text)), %s)",
            (row, one.encode(), two, [three, None, ""]),
        )
    moment = notes.rewritten().fenced()
    searched = notes.searched()
    assert notes.proven(moment, searched).values == 3 * ROWS
    found = migrated.execute(
        "SELECT convert_from(raw, 'UTF8'), doc #>> '{secrets,token}', tags[1], doc -> 'n', tags[2:] "
        'FROM "Cl inic".places WHERE id = 3'
    ).fetchone()
    assert found is not None
    *values, kept, rest = found
    key = notes.ring.material(V2)
    assert [opened_with(key, str(value)) for value in values] == ["bytes", "document", "element"]
    assert (kept, rest) == (1, [None, ""])
    with notes.session(logins[0]) as old, pytest.raises(psycopg.errors.InsufficientPrivilege):
        old.execute("UPDATE \"Cl inic\".places SET doc = '{}' WHERE id = 3")
    late = [notes.value(V1, "late")]
    migrated.execute('UPDATE "Cl inic".places SET tags = %s WHERE id = 5', (late,))
    with pytest.raises(FenceError, match=r"column tags\[\]: 1 value .* cannot be opened with v2 alone"):
        notes.proven(moment, searched)
    assert notes.problems() == []


def test_a_search_reads_nothing_where_no_text_tells_a_value(notes: Notes) -> None:
    notes.connection.execute("CREATE TABLE public.copies (body text); SELECT lo_from_bytea(0, 'text')")
    with connect(notes.url) as other, other.transaction():
        other.execute("LOCK TABLE public.copies, pg_largeobject IN ACCESS EXCLUSIVE MODE")
        assert discovery.discover(notes.connection, [notes.table]) == ()


def test_the_probe_opens_values_of_each_place_and_finds_the_layout_that_fits(notes: Notes) -> None:
    present = KeyRing({V1: notes.ring.material(V1)}, V1)
    notes.connection.execute('UPDATE "Cl inic"."Not es" SET "50% off" = NULL')
    good, empty = notes.inventory.probe(notes.table, present, 25)
    assert (good.tried, good.opened, good.fits, good.refusal) == (25, 25, None, None)
    assert (empty.tried, empty.refusal) == (0, None)
    other = replace(notes.table, format=replace(notes.table.format, layout="b64(nonce12 ct tag16)"))
    wrong, _ = notes.inventory.probe(other, present, 200)
    assert (wrong.tried, wrong.opened, wrong.fits) == (ROWS, 0, LAYOUT.text)
    assert str(wrong.refusal) == (
        f'Cl inic.Not es.body: none of {ROWS} values opens with the present keys as "b64(nonce12 ct tag16)"; they open '
        'as "b64(nonce12 tag16 ct)": correct [format] layout'
    )
    strange, _ = notes.inventory.probe(other, ring_of(1, primary=1), 200)
    assert "no other known layout opens them either" in str(strange.refusal)


@pytest.fixture
def scans(migrated: Connection, database_url: str, logins: tuple[str, str]) -> tuple[EncryptedTable, Engine]:
    """A table of raw bytes, in another schema than the usual one."""
    declared = replace(
        BYTE_FORMATS["raw"].declared, logins=tuple((KeyVersion(n), login) for n, login in enumerate(logins, 1))
    )
    migrated.execute('CREATE SCHEMA "Cl inic"; CREATE TABLE "Cl inic".scans (id int PRIMARY KEY, a bytea, "b%" bytea)')
    running(migrated, "routine")
    return replace(table_of("scans", "a", "b%", schema="Cl inic"), format=declared), Engine(database_url, ring_of(1, 2))


def test_raw_bytes_are_rewritten_counted_and_proven(
    migrated: Connection, scans: tuple[EncryptedTable, Engine], database_url: str
) -> None:
    (table, engine), raw = scans, BYTE_FORMATS["raw"]
    seal, keys = raw.seal, [engine.ring.material(version) for version in (V1, V2)]
    # A text with an escape, one of no characters, and one that is longer than what a page holds.
    texts = dict(enumerate(["\\000 \\\\", "", "x" * 20_000, *map(str, range(ROWS))]))
    for row, text in texts.items():
        values = (row, seal(keys[0], text), seal(keys[row % 2], text))
        migrated.execute('INSERT INTO "Cl inic".scans VALUES (%s, %s, %s)', values)
    ports = CurrentKeys(lambda: connect(database_url), lambda: engine.ring, Limits())
    inventory, fencing = PostgresInventory(migrated, keys=ports), PostgresFencing(migrated, ports)
    assert fencing.old_rows(table, [V1], None).rows == len(texts)
    probes = inventory.probe(table, engine.ring, 200)
    assert [(each.tried, each.opened) for each in probes] == [(len(texts), len(texts))] * 2
    assert engine.shard(table).rows == len(texts)
    evidence = PostgresEvidence(migrated, keys=ports)
    assert fencing.fence(table, [V1])
    moment = SnapshotPosition(evidence.current_xid(), evidence.barrier())
    searched = evidence.search([table], V1, [V1], engine.progress.append)
    with migrated.transaction():
        migrated.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        assert evidence.zero_old_rows([table], V1, [V1], moment, searched).values == 2 * len(texts)
    (counted,) = inventory.count([table])
    assert counted.by_column == {"a": {V2: len(texts)}, "b%": {V2: len(texts)}}
    stored: Any = migrated.execute('SELECT id, a, "b%" FROM "Cl inic".scans').fetchall()
    for row, first, second in stored:
        assert raw.read(keys[1], first) == raw.read(keys[1], second) == texts[row]


def test_bytes_that_are_no_value_are_seen_as_what_they_are(
    migrated: Connection, scans: tuple[EncryptedTable, Engine]
) -> None:
    table, engine = scans
    good = BYTE_FORMATS["raw"].seal(engine.ring.material(V1), "text")
    layout = Layout(table.format.layout)
    bad = [
        b"\x01",
        good[:29],
        b"\x02" + good[1:],
        good[1:],
        b"plain text of some length, but not encrypted",
        b"\\" * 40,
    ]
    values = [*bad, good, good[:-1], b""]
    for row, value in enumerate(values):
        migrated.execute('INSERT INTO "Cl inic".scans (id, a) VALUES (%s, %s)', (row, value))
    text = places.text(tree(migrated, table)[0].columns[0])
    judged = sql.SQL('SELECT {} FROM "Cl inic".scans ORDER BY id').format(LayoutSql(layout).unencrypted(text))
    found = [unencrypted for (unencrypted,) in migrated.execute(judged).fetchall()]
    assert found == [layout.split(value) is None for value in values[:-1]] + [False]
    assert engine.shard(table).quarantined == len(bad) + 1
    defects = {entry.key: entry.defect.kind for entry in quarantine.load(migrated, [table])}
    assert defects == {f'["{row}"]': DefectKind.NOT_A_VALUE for row in range(len(bad))} | {
        f'["{len(bad) + 1}"]': DefectKind.UNKNOWN_KEY
    }


def test_a_column_of_text_cannot_hold_raw_bytes(migrated: Connection, scans: tuple[EncryptedTable, Engine]) -> None:
    table, _ = scans
    migrated.execute("ALTER TABLE \"Cl inic\".scans ALTER a TYPE text USING 'x'")
    with pytest.raises(PreflightError, match="a is of type text, and values of this"):
        heaps(migrated, table)

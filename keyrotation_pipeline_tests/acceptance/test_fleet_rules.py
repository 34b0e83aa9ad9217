"""A database for each tenant: members that a query lists, and a signed rule covers."""

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.model.members import Listed
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.test_fleet import CONFIGURATION, ROWS, Fleet, second  # noqa: F401
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.servers import Server

NAMED = CONFIGURATION[CONFIGURATION.index("[[databases]]") : CONFIGURATION.index("[approvals]")]
RULE = """
[[databases]]
name = "tenant_*"
url = {{ env = "TENANTS" }}
query = "SELECT name FROM public.tenants"
"""


@dataclass
class Tenants(Fleet):
    """A home whose tenants are databases on another server."""

    server: Server | None = None

    @property
    def file(self) -> Path:
        return self.folder.path / "keyrotation.toml"

    @property
    def variables(self) -> dict[str, str]:
        assert self.server is not None
        return {"URL": self.urls[""], "TENANTS": self.server.url()}

    def administer(self, statement: str) -> None:
        assert self.server is not None
        with psycopg.connect(self.server.url(), autocommit=True) as admin:
            admin.execute(statement.encode())

    def create(self, name: str, *, filled: bool = True) -> None:
        """Makes a tenant, whose application writes with the present primary."""
        assert self.server is not None
        self.administer(f"CREATE DATABASE {name}")
        self.urls[name] = self.server.url(name)
        self.execute(name, "CREATE TABLE clients (id int PRIMARY KEY, name text, note text)")
        with psycopg.connect(self.urls[name], autocommit=True) as connection:
            connection.execute("INSERT INTO clients (id) SELECT generate_series(0, %s)", (ROWS - 1,))
        if filled:
            self.expected |= {(name, row): f"{name} {row}" for row in range(ROWS)}
            for row in range(ROWS):
                self.write(name, row)
        self.enlist(name)

    def enlist(self, name: str) -> None:
        with psycopg.connect(self.urls[""], autocommit=True) as connection:
            connection.execute("INSERT INTO tenants VALUES (%s)", (name,))

    def configure(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    def attention(self) -> list[str]:
        said: list[str] = json.loads(self.typed("status", "--json"))["attention"]
        return said

    def members(self) -> list[str]:
        return list(json.loads(self.typed("status", "--json"))["members"])

    def policy(self) -> str:
        """Has officers sign what the configuration says now; returns the text."""
        text = self.signed(self.typed("policy", "--reason", "tenants").split()[-1])
        self.typed("policy")
        return text


@pytest.fixture
def tenants(
    tmp_path: Path,
    database_url: str,
    second: Server,  # noqa: F811
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
) -> Tenants:
    officers = (security_officer, privacy_officer)
    named = roster_in_toml(officers)
    (tmp_path / "keyrotation.toml").write_text(CONFIGURATION.replace(NAMED, RULE).format(officers=named))
    made = Tenants(Folder(tmp_path, []), {"": database_url}, officers, server=second)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, name text, note text)")
        connection.execute("CREATE TABLE tenants (name text)")
    for name in ("tenant_1", "tenant_2"):
        made.create(name, filled=False)
    made.typed("init", ENCRYPTION_MASTER_KEY=base64.b64encode(os.urandom(32)).decode())
    for name in ("tenant_1", "tenant_2"):
        made.expected |= {(name, row): f"{name} {row}" for row in range(ROWS)}
        for row in range(ROWS):
            made.write(name, row)
    return made


@pytest.mark.extended
def test_a_tenant_is_not_signed_under_a_second_name(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the new entry stands before the rule by which it is a member."""
    monkeypatch.setenv("ACME", tenants.urls["tenant_1"])
    rule = RULE.format().strip()
    tenants.configure(rule, f'[[databases]]\nname = "acme"\nurl = {{ env = "ACME" }}\n\n{rule}')
    refused = tenants.refused("policy", "--reason", "acme opens")
    assert ", and so is [[databases]] tenant_1; correct its url, or leave it out" in refused


def test_a_tenant_that_comes_in_the_middle_of_a_walk_joins_by_the_rule_before_the_proof(tenants: Tenants) -> None:
    rule = f"tenant_*, system identifier {tenants.system('tenant_1')}"
    assert tenants.members() == ["tenant_1", "tenant_2"]
    request = tenants.requested("request", "--reason", "yearly")
    text = tenants.typed("approve", request, "--text")
    assert f"\nPlace tenant_*: {rule}\n" in text
    assert f"\nPlace tenant_2: tenant_2{rule.removeprefix('tenant_*')}; " in text
    assert "\nNOBODY IS ASKED about databases that join later: " in text
    tenants.create("tenant_3")  # still under v1
    tenants.typed("rotate", request, "--through", "rows")
    refused = tenants.refused("rotate", request)
    assert "database tenant_3 is listed by [[databases]] and no member yet" in refused
    require_listed_over_the_open_connection(tenants)
    assert any("tenant_3 is listed" in each for each in tenants.attention())
    assert tenants.live() == {"v1", "v2"}
    tenants.typed("init")
    tenants.typed("rotate", request, "--through", "zero_old_rows_proof")
    tenants.create("tenant_4")  # with values under v2, after the proof
    assert "database tenant_4 is listed" in tenants.refused("rotate", request)
    tenants.typed("init")
    tenants.typed("rotate", request)
    assert (tenants.live(), tenants.read()) == ({"v2"}, tenants.expected)
    proven = [each["facts"]["evidence"]["member"] for each in tenants.events("member_proven")]  # type: ignore[index]
    assert proven[-4:] == ["tenant_1", "tenant_2", "tenant_3", "tenant_4"]
    tenants.typed("audit", "verify")
    tenants.typed("backup")
    assert "\nPlace tenant_4: " in tenants.typed("approve", tenants.requested("request", "--reason", "next"), "--text")


def require_listed_over_the_open_connection(tenants: Tenants) -> None:
    """As the console looks: in a snapshot, whose settings it leaves as they are."""
    with tenants.pipeline() as pipeline, pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Connection, "connect", None)
        with pipeline.ledger.snapshot():
            assert pipeline.listed() == pipeline.listed() == Listed(("tenant_3",))
        pipeline.ledger.note_wait("request", "place", "whether it may be written again")


EVIL = """
ALTER TABLE tenants RENAME TO named;
CREATE TABLE ran (by_role text);
CREATE FUNCTION evil() RETURNS text VOLATILE LANGUAGE plpgsql AS $$ BEGIN RETURN 'tenant_6'; END $$;
CREATE VIEW tenants AS SELECT name FROM named UNION ALL SELECT evil();
"""


@pytest.mark.extended
def test_a_listing_is_believed_by_nobody_and_drops_no_member(tenants: Tenants) -> None:
    """Whoever owns the first database changes what the query returns."""
    request = tenants.requested("request", "--reason", "yearly")
    tenants.typed("rotate", request, "--through", "rows")
    listing = "SELECT name FROM public.tenants"
    for other in (f"{listing}, pg_catalog.pg_sleep(60)", f"COMMIT; {listing}", f"{listing} WHERE name LIKE 'tenant%'"):
        tenants.configure(listing, other)
        assert "tenant_* is not like `SELECT name FROM public.tenants`" in tenants.refused("init")
        tenants.configure(other, listing)
    for done, undone, sentence in (
        (
            "ALTER TABLE tenants RENAME TO named",
            "ALTER TABLE named RENAME TO tenants",
            "is not in the database; correct the query",
        ),
        ("INSERT INTO tenants VALUES (NULL)", "DELETE FROM tenants WHERE name IS NULL", "lists a row without a name"),
        (
            "INSERT INTO tenants VALUES ('tenant_1')",
            "DELETE FROM tenants; INSERT INTO tenants VALUES ('tenant_1'), ('tenant_2')",
            "lists tenant_1 twice, and a member is one database",
        ),
        (
            "INSERT INTO tenants VALUES ('clinic; DROP')",
            "DELETE FROM tenants WHERE name LIKE 'clinic%'",
            'lists "clinic; DROP", which that name does not match',
        ),
    ):
        tenants.execute("", done)
        for command in (("init",), ("rotate", request)):
            assert sentence in tenants.refused(*command)
        assert any(sentence in each for each in tenants.attention())
        assert tenants.members() == ["tenant_1", "tenant_2"]
        tenants.execute("", undone)
    tenants.execute("", EVIL)
    assert "tenants, declared through tenants, is not an ordinary table" in tenants.refused("init")
    tenants.execute("", "DROP VIEW tenants; ALTER TABLE named RENAME TO tenants")
    tenants.enlist("tenant_7")
    assert "database tenant_7: cannot connect to tenant_7@localhost" in tenants.refused("init")
    tenants.execute("", "DELETE FROM tenants WHERE name IN ('tenant_2', 'tenant_7')")
    assert any("database tenant_2 is no longer listed by" in each for each in tenants.attention())
    assert tenants.members() == ["tenant_1", "tenant_2"]
    tenants.administer("CREATE DATABASE tenant_9 TEMPLATE tenant_2")
    tenants.enlist("tenant_9")
    assert "database tenant_9: it is the member tenant_2 of this home" in tenants.refused("init")
    tenants.execute("", "DELETE FROM tenants WHERE name = 'tenant_9'")
    tenants.administer("ALTER DATABASE tenant_2 RENAME TO tenant_8")
    tenants.enlist("tenant_8")
    assert 'the server has no database "tenant_2"' in tenants.refused("init")
    assert "database tenant_8 is listed by" in tenants.refused("rotate", request)
    tenants.execute("", "DELETE FROM tenants WHERE name = 'tenant_8'")
    assert 'the server has no database "tenant_2"' in tenants.refused("rotate", request)
    assert tenants.live() == {"v1", "v2"}
    tenants.administer("ALTER DATABASE tenant_8 RENAME TO tenant_2")
    tenants.typed("rotate", request)
    assert (tenants.live(), tenants.read()) == ({"v2"}, tenants.expected)
    tenants.typed("audit", "verify")


@pytest.mark.extended
def test_a_rule_covers_what_officers_have_signed_and_no_more(tenants: Tenants, database_url: str) -> None:
    """Whoever writes the configuration changes the rule; what is gone is signed away."""
    name = '"tenant_*"'
    tenants.administer("CREATE DATABASE trial")
    tenants.configure(name, '"t*"')
    tenants.enlist("trial")
    assert "trial, system identifier" in tenants.refused("init")
    assert "which no rule covers that officers have signed" in tenants.said()
    assert "no officers have signed that it is one" in tenants.refused("request", "--reason", "yearly")
    with psycopg.connect(tenants.server.url("trial")) as connection:  # type: ignore[union-attr]
        schemas = connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'keyrotation'").fetchone()
    assert schemas == (0,)
    tenants.execute("", "DELETE FROM tenants WHERE name = 'trial'")
    tenants.configure('"t*"', name)
    with psycopg.connect(database_url, autocommit=True) as elsewhere:
        elsewhere.execute("CREATE DATABASE tenant_1")
        try:
            refused = tenants.refused("verify", TENANTS=database_url)
        finally:
            elsewhere.execute("DROP DATABASE tenant_1 WITH (FORCE)")
    assert "and officers have signed tenant_1, system identifier" in refused
    whole = tenants.file.read_text()
    tenants.configure(name, f'{name}\ngone = ["tenant_2"]')
    assert "tenant_2 is no longer in [[databases]], and no officers have signed that" in tenants.refused(
        "request", "--reason", "yearly"
    )
    tenants.file.write_text(whole)
    tenants.typed("init")
    assert tenants.members() == ["tenant_1", "tenant_2"]
    tenants.configure(name, f'{name}\ngone = ["tenant_2"]')
    text = tenants.policy()
    assert "\nPlace tenant_*: tenant_* without tenant_2, system identifier " in text
    assert "\nPlace tenant_2: " not in text
    tenants.typed("init")
    assert tenants.members() == ["tenant_1"]
    tenants.typed("rotate", tenants.requested("request", "--reason", "yearly"))
    assert tenants.live() == {"v2"}
    tenants.typed("audit", "verify")

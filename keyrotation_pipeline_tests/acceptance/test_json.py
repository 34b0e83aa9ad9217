"""What programs read: the fields of each command's `--json`, and its refusals. A change of a field is a new schema."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.cli.commands import COMMANDS
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.documents import FIELDS, documented, named, refusal
from keyrotation_pipeline_tests.acceptance.test_cli import Clinic, clinic, officers  # noqa: F401
from keyrotation_pipeline_tests.acceptance.test_pipeline_role import CONFIGURATION, LINES, Desk, Line
from keyrotation_pipeline_tests.integration.encrypted_rows import insert, ring_of, sealed
from keyrotation_pipeline_tests.servers import EMBEDDED_18, discard, start_server
from keyrotation_pipeline_tests.vectors.foreign_values import FOREIGN

# Their results are documents of their own, or nothing.
NO_JSON = {"up", "report"}
# They are refused below, or make databases of their own: the tests of these commands read their results.
ELSEWHERE = {"demo", "docs", "recover", "policy", "reconcile", "destroy", "replace-key", "incident close", "probe"}


def with_json() -> set[str]:
    """Every command that takes `--json`."""
    found = set()
    for name, each in COMMANDS.items():
        loaded = each.load(name)
        for inner, command in getattr(loaded, "commands", {"": loaded}).items():
            if "--json" in {option for parameter in command.params for option in parameter.opts}:
                found.add(f"{name} {inner}".strip())
    return found


def test_every_command_that_shows_something_is_documented_here() -> None:
    tried = {named(line.words) for line in LINES}
    assert with_json() == {name for name in FIELDS if "--" not in name} - {"docs PAGE"}
    assert with_json() - ELSEWHERE <= tried
    assert (tried | {"up"}) - with_json() == NO_JSON


QUICK = (
    "init", "status", "metrics", "docs", "inventory", "scan", "verify", "requests", "history", "rollout",
    "audit verify", "audit log", "audit witness", "incident list", "backup --list",
)  # fmt: skip


def test_the_quick_commands_print_what_is_documented(clinic: Clinic) -> None:  # noqa: F811
    clinic.initialise()
    cancelled = clinic.approved_request(clinic.officers[0])
    was = documented("cancel", clinic.run("cancel", cancelled, "--json"))
    assert was["before"] == {"phase": "requested", "signed_by": ["Security Officer"], "approvals_required": 2}
    assert (was["id"], was["phase"], was["action"], was["type"]) == (cancelled, "cancelled", "rotate", "routine")
    assert (was["from"], was["to"]) == ("v1", "v2")
    assert documented("cancel", clinic.run("cancel", cancelled, "--json"))["before"] is None
    request = clinic.approved_request(*clinic.officers)
    works = (f"pace {request}", f"requests --announcement {request}", f"rotate {request} --dry-run")
    token = next(entry.values[0] for entry in FOREIGN if entry.format == "fernet")
    clinic.execute(f"CREATE TABLE tokens (token text); INSERT INTO tokens VALUES ('{token!s}')")
    (other,) = documented("inventory", clinic.run("inventory", "--json"))["other_formats"]
    assert (other["table"], other["column"], other["format"], other["tier"]) == (
        "public.tokens", "token", "fernet", "certain",
    )  # fmt: skip
    assert "public.tokens.token" in clinic.run("inventory")
    unpaused = f"rotation {request[:8]} was not paused, and stays requested; see `keyrotation status`"
    assert unpaused in clinic.run("resume", request)
    for words in (*QUICK, *works, f"pause {request}", f"resume {request}"):
        documented(words, clinic.run(*words.split(), "--json"))


@pytest.mark.parametrize(
    ("typed", "code", "says"),
    [
        pytest.param("status", 1, "run `keyrotation init` or `keyrotation demo`", id="nothing is there"),
        pytest.param("statsu", 2, "No such command", id="no such command"),
        pytest.param("--verison status", 2, "No such option", id="no such option before the command"),
        pytest.param("status --cuont", 2, "No such option", id="no such option"),
        pytest.param("rotate", 2, "Missing argument", id="missing argument"),
        pytest.param("rotate x --through nowhere", 2, "'nowhere' is not one of", id="wrong value"),
        pytest.param("incident opn", 2, "No such command", id="no such command of a group"),
        pytest.param("status --nagios", 2, "give it alone", id="options that exclude each other"),
    ],
)
def test_a_refusal_is_one_line_of_json_on_stderr(tmp_path: Path, typed: str, code: int, says: str) -> None:
    folder = Folder(tmp_path, [])
    folder.run(*typed.split(), "--json", expect=code)
    printed, complaint = folder.printed[-2:]
    assert (printed, complaint.count("\n")) == ("", 1)
    assert says in refusal(complaint)


def test_a_refusal_of_the_database_is_json_too(clinic: Clinic) -> None:  # noqa: F811
    clinic.initialise()
    request = clinic.approved_request(clinic.officers[0])
    clinic.run("rotate", request, "--json", expect=1)
    assert "needs 1 more approval" in refusal(clinic.error)
    clinic.execute("UPDATE clients SET email = first_name || 'x' WHERE id = 1")
    value = documented("verify", clinic.run("verify", "--json", expect=1))
    assert value["failures"] == 1
    assert "cannot be decrypted" in refusal(clinic.error), "next to the result, which is on stdout"


@pytest.fixture
def desk(
    tmp_path: Path,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    sealed_officer: DemoOfficer,
    recovery_officer: DemoOfficer,
) -> Iterator[Desk]:
    server = start_server(EMBEDDED_18)
    try:
        ring = ring_of(1, primary=1)
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute("CREATE ROLE keyrotation SUPERUSER LOGIN")
            admin.execute("CREATE DATABASE clinic")
        with psycopg.connect(server.url("clinic"), autocommit=True) as connection:
            connection.execute("CREATE TABLE clients (id int PRIMARY KEY, name text)")
            insert(connection, "clients", [(number, sealed(ring, 1, f"name {number}")) for number in range(8)])
        (tmp_path / "keyrotation.toml").write_text(
            CONFIGURATION.format(
                security=security_officer.certificate, privacy=privacy_officer.certificate,
                sealed=sealed_officer.certificate, recovery=recovery_officer.certificate, binaries="",
            )
        )  # fmt: skip
        (tmp_path / "recovery.asc").write_bytes(recovery_officer.gpg("--armor", "--export-secret-keys"))
        key = base64_of(ring.material(ring.primary))
        yield Desk(server, Folder(tmp_path, []), (security_officer, privacy_officer), key)
    finally:
        discard(server)


def follow(desk: Desk, line: Line) -> None:
    if line.signed_by:
        text = desk.type(f"{line.words} --text")
        for officer in desk.officers[: line.signed_by]:
            signature = officer.sign(text.encode()).decode()
            documented(f"{line.words} --signature", desk.type(f"{line.words} --signature - --json", text=signature))
        return
    if named(line.words) in NO_JSON:
        desk.type(line.words, line.exits)
        return
    printed = desk.type(f"{line.words} --json", line.exits)
    if printed:
        value = documented(line.words, printed)
        desk.kept.update({line.keep: value["id"]} if line.keep else {})
    if line.exits:
        assert refusal(desk.folder.printed[-1])


@pytest.mark.extended
def test_every_command_prints_what_is_documented(desk: Desk) -> None:
    for line in LINES:
        follow(desk, line)

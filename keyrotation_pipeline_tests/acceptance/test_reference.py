"""Blocks of the guides that are looked up, each typed as it stands where its section says it applies."""

import json
import re
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from keyrotation_pipeline_tests.acceptance.command import KEYROTATION
from keyrotation_pipeline_tests.acceptance.nights import Night
from keyrotation_pipeline_tests.acceptance.test_runbook import lines_of
from keyrotation_pipeline_tests.pages import block
from keyrotation_pipeline_tests.servers import Server

pytestmark = pytest.mark.extended
OFFICERS = ("Security Officer", "Privacy Officer")
# What shows for ever is interrupted, as by Ctrl-C, and has then ended well.
UNTIL_INTERRUPTED = f"""
keyrotation() {{
  case " $* " in
    *" --watch "*) timeout --preserve-status --signal INT 5 {KEYROTATION} "$@" || test $? = 130 ;;
    *) command keyrotation "$@" ;;
  esac
}}
"""
THIRD_OFFICER = """
[[approvals.officers]]
name = "Recovery Officer"
certificate = "officers/recovery.asc"
"""


def by_both(lines: str) -> str:
    """The lines, with those that two officers type typed by each, who is named to gpg since both keys are here."""
    return "".join(
        "".join(line.replace("gpg -ab", f'gpg -u "{name}" -ab') for name in OFFICERS)
        if "two officers" in line
        else line
        for line in lines.splitlines(keepends=True)
    )


def typed(night: Night, lines: str, **variables: str) -> str:
    """What is seen when these lines are typed; `variables` are those that the reader has from elsewhere."""
    known = "".join(f"{name}={value}\n" for name, value in variables.items())
    return night.shell(f"{UNTIL_INTERRUPTED}{known}{by_both(lines)}")


def signed_request(night: Night, through: str = "") -> str:
    """A rotation that both officers signed, carried out so far; gives back its id."""
    lines = block("routine").splitlines(keepends=True)
    opening = [line for line in lines if "keyrotation request" in line or "gpg -ab" in line]
    return typed(night, "".join([*opening, f"keyrotation rotate $ID {through}\n", "echo $ID\n"])).split()[-1]


def status(night: Night) -> dict[str, Any]:
    return dict(json.loads(night.shell("keyrotation status --json")))


def state(night: Night, version: str) -> str:
    [found] = [key["state"] for key in status(night)["key_versions"] if key["version"] == version]
    return str(found)


def test_a_routine_rotation_its_reports_another_roster_and_the_end_of_its_old_key(night: Night) -> None:
    night.shell("keyrotation backup")
    reported = typed(night, block("routine") + "echo $ID\n")
    for seen in ("nothing stopped it", "Authorises: create v2", "key_version", "finished: nothing is left under v1"):
        assert seen in reported
    rotation = reported.split()[-1]
    assert re.fullmatch("[0-9a-f]{32}", rotation)

    head = status(night)["audit"]["head"]
    reported = typed(night, block("report"), ID=rotation, HEAD=head)
    assert "application/vnd.in-toto+json" in reported
    assert "everything that was checked holds" in reported
    for name in ("report.html", "report.json", "oscal.json", "year.html", "pack/verify.py"):
        assert (night.path / name).stat().st_size > 1000

    rotation = signed_request(night, "--through dual_key_rollout")
    paced = [line for line in typed(night, block("pace"), ID=rotation).splitlines() if " runs " in line]
    assert [line.partition(" runs ")[2] for line in paced] == [
        "500 rows/s a shard",
        "500 rows/s a shard, duty cycle 0.1",
        "500 rows/s a shard, duty cycle 0.1, hours 22:00-06:00 UTC",
        "500 rows/s a shard, duty cycle 0.1, hours 22:00-06:00 UTC",
        "as configured",
    ]
    night.shell(f"keyrotation cancel {rotation}")

    with (night.path / "keyrotation.toml").open("a") as configuration:
        configuration.write(THIRD_OFFICER)
    assert "Recovery Officer\npinned; " in typed(night, block("policy"))

    for dump in (night.path / ".keyrotation" / "backups").glob("database-*"):
        dump.unlink()
    typed(night, block("destroy"))
    assert state(night, "v1") == "destroyed"
    assert status(night)["attention"] == []


def test_an_emergency_whether_it_was_a_breach_and_the_backups_that_it_leaves(night: Night) -> None:
    night.shell("keyrotation backup")
    reported = typed(night, lines_of("on-call/emergency") + "echo $INCIDENT\n")
    assert "finished: nothing is left under v1" in reported
    assert len(re.findall(r"(?m)^\w.* {3,}reached 2", reported)) == 4
    assert "is closed" in reported
    incident = reported.split()[-1]
    assert "# " in (night.path / "incident.md").read_text()
    (night.path / "answers.toml").write_text('key_breached = "no"\n[affected]\nOhio = 40\n')
    reported = typed(night, block("assess"), INCIDENT=incident)
    for seen in (
        "presumed a breach",
        "Notice to media of Ohio",
        "in force with 2 more signatures by",
        "by Privacy Officer: 2 of 2",
    ):
        assert seen in reported
    reported = typed(night, block("rekey"))
    assert "every value under v2, none under v1" in reported
    assert "is to be destroyed permanently" in reported


def test_a_rollback_and_a_database_that_was_restored(night: Night, server: Server) -> None:
    rotation = signed_request(night, "--through rows")
    reported = typed(night, re.sub("(?m)^ROTATION=.*", f"ROTATION={rotation}", lines_of("on-call/rollback")))
    assert "finished: nothing is left under v2" in reported
    assert "ROLLBACK POST-MORTEM" in reported
    assert state(night, "v1") == "active"

    url = night.variables["KEYROTATION_DATABASE_URL"]
    name = conninfo_to_dict(url)["dbname"]
    night.shell(f"pg_dump --format=custom --file=clinic.dump '{url}'")
    signed_request(night)
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {name}")
    night.shell(f"pg_restore --no-owner --exit-on-error --dbname '{url}' clinic.dump")
    reported = typed(night, block("reconcile"))
    assert "values are under v1, whose key applications do not get" in reported
    assert state(night, "v3") == "active"
    assert status(night)["rotation"]["to"] == "v4"

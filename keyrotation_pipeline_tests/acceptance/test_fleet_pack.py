"""Evidence of a fleet's members, hidden or exchanged by whoever has the home: pack and audit name the member."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.keystores import signing_key
from keyrotation_pipeline.reporting.pack_files import AUDIT, events_in
from keyrotation_pipeline_tests.acceptance.test_fleet import Fleet, fleet, second
from keyrotation_pipeline_tests.packs import manifest_again, rewrite, sign_again, verified

__all__ = ["fleet", "second"]
pytestmark = pytest.mark.extended
Bodies = list[dict[str, Any]]


def evidence_of(bodies: Bodies, member: str) -> dict[str, Any]:
    (found,) = (each for each in bodies if each["facts"].get("evidence", {}).get("member") == member)
    return found


def removed(bodies: Bodies) -> None:
    bodies.remove(evidence_of(bodies, "south"))


def removed_from_the_retirement(bodies: Bodies) -> None:
    removed(bodies)
    (retired,) = (each["facts"] for each in bodies if each["event"] == "key_retired")
    retired["members"].remove("south")
    retired["tables"].remove("south:clients")


def swapped(bodies: Bodies) -> None:
    """Each of two members gives the evidence of the other."""
    north, south = (evidence_of(bodies, each)["facts"]["evidence"] for each in ("north", "south"))
    north["member"], south["member"] = "south", "north"


def of_another(bodies: Bodies) -> None:
    """A member gives the evidence of another one as its own, of its own place."""
    north, south = (evidence_of(bodies, each)["facts"] for each in ("north", "south"))
    south["evidence"] = {**north["evidence"], "member": "south", "state": south["evidence"]["state"]}


def of_no_table(bodies: Bodies) -> None:
    evidence_of(bodies, "south")["facts"]["evidence"]["tables"] = []


def of_an_earlier_attempt(bodies: Bodies) -> None:
    evidence = evidence_of(bodies, "south")
    bodies.remove(evidence)
    bodies.insert(next(n for n, each in enumerate(bodies) if each["event"] == "retire_key_intended"), evidence)


FORGED: tuple[tuple[Callable[[Bodies], None], str], ...] = (
    (removed, "(key_retired) lacks the evidence of south"),
    (removed_from_the_retirement, "(key_retired) is not of the members that officers signed: south"),
    (swapped, "(member_proven) is of south in another place than officers signed"),
    (of_another, "(member_proven) is not of the tables of south that officers signed"),
    (of_no_table, "(member_proven) is not of the tables of south that officers signed"),
    (of_an_earlier_attempt, "(key_retired) lacks the evidence of south"),
)


def test_whoever_has_the_home_and_its_key_hides_the_evidence_of_no_member(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With right numbers, hashes, files and signatures of the pipeline."""
    for name, url in fleet.variables.items():
        monkeypatch.setenv(name, url)
    fleet.typed("rotate", fleet.requested("request", "--reason", "yearly"))
    key, pack = signing_key(settings.load(fleet.folder.path / "keyrotation.toml")), tmp_path / "pack"
    fleet.typed("report", "--format", "pack", "--output", str(pack))
    code, said = verified(pack)
    assert code == 0, said
    for change, sentence in FORGED:
        forged = tmp_path / change.__name__
        shutil.copytree(pack, forged)
        rewrite(forged, change)
        sign_again(forged, key)
        manifest_again(forged, key.sign)
        code, said = verified(forged)
        assert (code, sentence in said) == (1, True), said
    put_in(fleet, tmp_path / "removed")
    refused = fleet.refused("audit", "verify")
    assert FORGED[0][1] in refused


def put_in(fleet: Fleet, pack: Path) -> None:
    """Makes the audit of a pack the one of the home."""
    events = events_in((pack / AUDIT).read_bytes())
    with psycopg.connect(fleet.urls[""], autocommit=True) as owner:
        owner.execute("ALTER TABLE keyrotation.audit_events DISABLE TRIGGER ALL")
        owner.execute("ALTER TABLE keyrotation.audit_head DISABLE TRIGGER ALL")
        owner.execute("DELETE FROM keyrotation.audit_events")
        columns = "seq, body, previous_hash, hash, event, request, signature"
        with owner.cursor().copy(f"COPY keyrotation.audit_events ({columns}) FROM STDIN".encode()) as copy:
            for each in events:
                row = (each.seq, each.body, each.previous, each.hash, each.kind, each.request, each.signature)
                copy.write_row(row)
        owner.execute("UPDATE keyrotation.audit_head SET seq = %s, hash = %s", (events[-1].seq, events[-1].hash))

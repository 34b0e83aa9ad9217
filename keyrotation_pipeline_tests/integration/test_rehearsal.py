"""A rehearsal carries the whole rotation out on a backup: what it finds, and that it touches nothing real."""

import json
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.postgres.server.scratch import ScratchServers
from keyrotation_pipeline.assembly.backups import RestoredStages
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.rehearsal import rehearse
from keyrotation_pipeline.errors import (
    BackupError,
    BlockedError,
    RequestError,
    RestoredQueryTimeoutError,
    UnsignedBackupError,
    WrongKeyError,
)
from keyrotation_pipeline.model.backups import is_manifest, signature_name
from keyrotation_pipeline.model.request_events import Rehearsed
from keyrotation_pipeline.model.requests import WALK, RequestStatus, Step, Walk
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, Folder, environment
from keyrotation_pipeline_tests.backup_sites import Clinic, archive_by_officers
from keyrotation_pipeline_tests.contract.key_store import V1, archive
from keyrotation_pipeline_tests.integration.encrypted_rows import sealed
from keyrotation_pipeline_tests.integration.test_killed_recovery import command_line, descendants, homes_of
from keyrotation_pipeline_tests.waiting import eventually

CODE_ON_UPDATE = """
CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
CREATE TRIGGER noted BEFORE UPDATE ON public.clients FOR EACH ROW EXECUTE FUNCTION public.f();
ALTER TABLE public.clients ADD CONSTRAINT only_old CHECK (name NOT LIKE 'v3:%');
"""
DAMAGED_AND_UNDECLARED = """
UPDATE public.clients SET name = left(name, -6) || 'AAAA==' WHERE id = 1;
CREATE TABLE public.copies AS SELECT name AS kept FROM public.clients;
"""
# ANALYZE evaluates it, in the scratch server alone, and it goes on after a statement timeout.
NEVER_ENDING = """
CREATE FUNCTION public.forever(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    WHILE session_user LIKE 'keyrotation_restore_%' AND current_setting('application_name') = 'keyrotation' LOOP
        BEGIN
            PERFORM pg_sleep(0.1);
        EXCEPTION WHEN query_canceled THEN NULL;
        END;
    END LOOP;
    RETURN x;
END $$;
CREATE TABLE public.guarded AS SELECT 1 AS x;
CREATE INDEX ON public.guarded (public.forever(x));
"""


def rehearsed(clinic: Clinic, request: Walk | None = None) -> Rehearsed:
    with clinic.recovery_key() as key:
        return rehearse(clinic.site, key, RestoredStages(clinic.settings), request, lambda _progress: None)


def requested(clinic: Clinic) -> Walk:
    return open_request(clinic.site.pipeline, reason="yearly", requested_by="ada")


def test_every_step_is_timed_on_the_backup_and_nothing_real_is_touched(local_clinic: Clinic) -> None:
    pipeline = local_clinic.site.pipeline
    back_up(local_clinic.site)
    walk, stored, seq = requested(local_clinic), pipeline.keys.read(), pipeline.ledger.head().seq
    rows = local_clinic.connection.execute("TABLE public.clients").fetchall()

    done = rehearsed(local_clinic, walk)

    assert (done.findings, set(done.seconds)) == ((), set(WALK))
    assert (done.source, done.target, done.dump_rows, done.rows_now) == (walk.source, walk.target, 5, 5)
    assert done.total_seconds == pytest.approx(
        sum(done.seconds.values()) - sum(done.seconds[step] for step in WALK if step not in done.predicted_seconds)
    )
    assert overview(pipeline).rehearsal is not None
    told = [json.loads(event.body) for event in pipeline.ledger.events(after_seq=seq)]
    assert [each["event"] for each in told] == ["rehearsal_started", "rotation_rehearsed"]
    assert not any(word in json.dumps(told) for word in ("Ada", "example.org"))
    assert pipeline.ledger.walk(walk.id).status is RequestStatus.REQUESTED
    assert pipeline.keys.read() == stored
    assert local_clinic.connection.execute("TABLE public.clients").fetchall() == rows
    assert homes_of(os.getpid()) == []
    assert not (local_clinic.settings.home / "recovery").exists()


def test_the_rotation_after_a_finished_one_is_rehearsed(local_clinic: Clinic) -> None:
    for (row,) in local_clinic.connection.execute("SELECT id FROM public.clients").fetchall():
        value = sealed(local_clinic.ring, 2, f"re-encrypted {row}")
        local_clinic.connection.execute("UPDATE public.clients SET name = %s WHERE id = %s", (value, row))
    archive(local_clinic.site.pipeline.keys, V1)
    archive_by_officers(local_clinic, V1)
    back_up(local_clinic.site)

    done = rehearsed(local_clinic)

    assert (done.findings, set(done.seconds)) == ((), set(WALK))
    assert (str(done.source), str(done.target)) == ("v2", "v3")


def test_what_a_step_would_stop_at_is_named_and_what_later_ones_would(local_clinic: Clinic) -> None:
    local_clinic.connection.execute(DAMAGED_AND_UNDECLARED)
    back_up(local_clinic.site)
    damaged, undeclared = rehearsed(local_clinic).findings
    assert damaged.step == Step.ZERO_OLD_ROWS_PROOF
    assert "table clients, column name: 1 value (fails authentication under key version v1)" in damaged.sentence
    assert undeclared.step == Step.RETIRED_KEY
    assert undeclared.sentence.startswith("copies, column kept: undeclared column holds encrypted values (4 values)")


def test_what_a_request_would_be_refused_for_is_found_before_any_row(local_clinic: Clinic) -> None:
    local_clinic.connection.execute(CODE_ON_UPDATE)
    back_up(local_clinic.site)
    done = rehearsed(local_clinic)
    (finding,) = done.findings
    assert (finding.step, done.seconds, done.total_seconds) == ("request", {}, None)
    for named in ("trigger noted of clients", "CHECK only_old of clients"):
        assert named in finding.sentence


def test_a_statement_that_never_ends_ends_the_rehearsal_and_its_server(local_clinic: Clinic) -> None:
    local_clinic.connection.execute(NEVER_ENDING)
    back_up(local_clinic.site)
    scratch = ScratchServers(local_clinic.settings.home / "recovery", None, longest_seconds=2)
    site = replace(local_clinic.site, restorer=scratch)
    sentence = r"a statement over it took over 2 s; raise \[recovery\] longest_restore_seconds"
    with local_clinic.recovery_key() as key, pytest.raises(RestoredQueryTimeoutError, match=sentence):
        rehearse(site, key, RestoredStages(local_clinic.settings), None, lambda _progress: None)
    *_, last = local_clinic.site.pipeline.ledger.events()
    assert json.loads(last.body)["event"] == "rehearsal_failed"
    assert not (local_clinic.settings.home / "recovery").exists()


def test_without_a_backup_that_is_ours_and_whole_nothing_is_rehearsed(local_clinic: Clinic) -> None:
    pipeline = local_clinic.site.pipeline
    for name in local_clinic.site.local.names():  # those that the import of the keys made
        local_clinic.site.local.remove(name)
    with pytest.raises(BackupError, match="has no backup of the database; run `keyrotation backup`"):
        rehearsed(local_clinic)
    *_, last = pipeline.ledger.events()
    assert json.loads(last.body)["event"] == "rehearsal_failed"
    back_up(local_clinic.site)
    (manifest,) = [name for name in local_clinic.site.local.names() if is_manifest(name)]
    signature = local_clinic.site.local.path(signature_name(manifest))
    ours = signature.read_bytes()
    signature.write_bytes(bytes(len(ours)))
    with pytest.raises(UnsignedBackupError):
        rehearsed(local_clinic)
    signature.write_bytes(ours)
    with pipeline.ledger.lock("recovery-test"), pytest.raises(BlockedError, match="recovery-test"):
        rehearsed_from_elsewhere(local_clinic)


def rehearsed_from_elsewhere(clinic: Clinic) -> Rehearsed:
    """In a session of its own, as another process has."""
    from keyrotation_pipeline.assembly.backups import open_backups  # noqa: PLC0415

    with open_backups(clinic.settings, actor="other") as site, clinic.recovery_key() as key:
        return rehearse(site, key, RestoredStages(clinic.settings), None, lambda _progress: None)


def test_values_under_a_key_that_no_backup_holds_are_named(local_clinic: Clinic) -> None:
    stranger = sealed(local_clinic.ring, 2, "x").replace("v2:", "v7:", 1)
    local_clinic.connection.execute("UPDATE public.clients SET name = %s WHERE id = 1", (stranger,))
    with pytest.raises(BackupError, match="under v7"):
        back_up(local_clinic.site)
    with pytest.raises(WrongKeyError, match=r"there are values under v7 \(1 tried\), and no key for it is given"):
        rehearsed(local_clinic)


def test_only_a_rotation_that_has_not_begun_is_rehearsed(local_clinic: Clinic) -> None:
    pipeline = local_clinic.site.pipeline
    walk = requested(local_clinic)
    pipeline.ledger.set_status(walk.id, RequestStatus.CANCELLED)
    with pytest.raises(RequestError, match=rf"rotation {walk.id} is cancelled; .* rehearse before it begins"):
        rehearsed(local_clinic, pipeline.ledger.walk(walk.id))


def test_nothing_of_a_killed_rehearsal_lives_on_or_can_be_read(local_clinic: Clinic) -> None:
    back_up(local_clinic.site)
    walk = requested(local_clinic)
    secret = local_clinic.directory / "recovery.sec"
    secret.write_bytes(local_clinic.secret_key())
    command: list[str | Path] = [KEYROTATION, "rehearse", walk.id, "--key", secret]
    with subprocess.Popen(
        command, cwd=local_clinic.directory, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        assert eventually(lambda: any(keys_in(home) for home in homes_of(process.pid)))
        homes, family = homes_of(process.pid), descendants(process.pid)
        os.kill(process.pid, signal.SIGKILL)
    assert len(homes) == 2  # the recovery key's, and the stage's
    assert eventually(lambda: not any(home.exists() for home in homes))
    assert eventually(lambda: not any(map(command_line, family)))
    Folder(local_clinic.directory, []).run("status")
    assert not (local_clinic.settings.home / "recovery").exists()


def keys_in(home: Path) -> list[Path]:
    return list(home.glob("pipeline/keys/*.key"))

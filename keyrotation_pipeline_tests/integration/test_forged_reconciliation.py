"""`reconcile` abandons anchors and pins rosters again: the database's owner writes its events, and gains nothing."""

from dataclasses import replace

import pytest
from psycopg import sql

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.backups.anchors import advance_head
from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.audit.divergence import divergence
from keyrotation_pipeline.audit.request_rules import abandoning
from keyrotation_pipeline.audit.verify import verify_everything
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.errors import AuditError, BackupError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.approval import Roster, signed_fields
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.request_events import DatabaseReconciled, RosterPinned
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import add_approval, approval_text
from keyrotation_pipeline.requests.opening import new_request
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline.rotation.keys import import_keys
from keyrotation_pipeline.rotation.reconcile import RECONCILE, open_reconciliation, reconcile
from keyrotation_pipeline_tests.forging import Forger, signature_of
from keyrotation_pipeline_tests.integration.test_database_owner import (
    V1,
    Office,
    called_destroyed,
    destruction_of,
    office,
)
from keyrotation_pipeline_tests.signed_texts import with_lines

__all__ = ["office"]
V2 = KeyVersion(2)
OWNERS = ("Eve", "Mal")
NOT_PINNED = r"\(roster_pinned\) pins a roster that nobody is known to have signed"


def forged(
    office: Office, pipeline: Pipeline, forger: Forger, request: Request, filed_under: Roster, authorises: str = ""
) -> None:
    """Open and begin a request, with signatures of Eve and Mal that are filed under officers of a roster."""
    text = approval_text(pipeline, request)
    if authorises:
        text = with_lines(text, {"Authorises": f"{signed_fields(text)['Authorises']}; {authorises}"})
    officers = zip(filed_under.officers, OWNERS, strict=True)
    signatures = [signature_of(office.people[name], text, each.fingerprint) for each, name in officers]
    forger.begin(request, text, signatures)


def reconciliation(pipeline: Pipeline) -> Request:
    record = pipeline.ledger.keys()[0]
    opened = new_request(
        Request,
        pipeline,
        RECONCILE,
        source=V1,
        fingerprint=record.fingerprint,
        target=V1,
        reason="x",
        requested_by="owner",
    )
    return replace(opened, action=RequestAction.RECONCILE)


def roster_of(office: Office, *names: str) -> Roster:
    """The roster of these people, which nobody pinned."""
    office.configure(*names)
    with office.pipeline() as pipeline:
        roster = pipeline.signatures.roster()
    office.configure("Ada", "Ben")
    return roster


def pinned_by_force(office: Office, *names: str) -> None:
    """A roster, pinned by a reconciliation that its own officers seem to have signed."""
    roster = roster_of(office, *names)
    with office.pipeline() as pipeline, office.forger() as forger:
        request = reconciliation(pipeline)
        forged(office, pipeline, forger, request, roster)
        forger.append(RosterPinned.of(roster), request.id)
        forger.move(request.id, RequestStatus.RUNNING, RequestStatus.FINISHED)


def destroyed_by_its_officers(office: Office) -> None:
    roster = roster_of(office, *OWNERS)
    with office.pipeline() as pipeline, office.forger() as forger:
        *_, record = pipeline.ledger.keys()
        request = destruction_of(pipeline, record)
        forged(office, pipeline, forger, request, roster)
        called_destroyed(forger, record, request.id)
        forger.move(request.id, RequestStatus.RUNNING, RequestStatus.FINISHED)


def test_no_key_is_left_out_of_a_backup_by_a_roster_that_was_pinned_for_a_moment(office: Office) -> None:
    """Nothing looks wrong in the end: the roster is the one that home and key store know."""
    with office.pipeline() as pipeline:
        import_keys(pipeline, KeyRing({V1: office.key, V2: KeyMaterial.generate()}, V1))
        pinned_roster(pipeline)
    pinned_by_force(office, *OWNERS)
    destroyed_by_its_officers(office)
    pinned_by_force(office, "Ada", "Ben")
    with open_backups(settings.load(office.file), actor="test") as site:
        assert [copy.version for copy in back_up(site).made.keys] == [V1, V2]
        with pytest.raises(AuditError, match=NOT_PINNED):
            verify_everything(site.pipeline)


def test_no_key_is_encrypted_to_whom_a_forged_reconciliation_made_a_recipient(office: Office) -> None:
    pinned_by_force(office, *OWNERS)
    office.configure(*OWNERS)
    with open_backups(settings.load(office.file), actor="test") as site:
        before = site.local.names()
        with pytest.raises(BackupError, match="is not a pinned recipient of backups"):
            back_up(site)
        assert site.local.names() == before
        with pytest.raises(AuditError, match=NOT_PINNED):
            verify_everything(site.pipeline)


def test_no_anchor_is_abandoned_by_signatures_that_no_officer_made(office: Office) -> None:
    lost = AuditHead(10**6, "ab" * 32)
    with office.pipeline() as pipeline, office.forger() as forger:
        advance_head(office.anchors, lost, lambda _: True)
        request = reconciliation(pipeline)
        forged(office, pipeline, forger, request, pinned_roster(pipeline), abandoning([lost]))
        forger.append(DatabaseReconciled("x", V1, (V1,), {}, (), (lost,)), request.id)
        forger.move(request.id, RequestStatus.RUNNING, RequestStatus.FINISHED)
        assert divergence(pipeline, pipeline.keys.read()).unknown == (lost,)
        with pytest.raises(AuditError, match="cut off"):
            verify_everything(pipeline)


def test_a_roster_that_was_lost_and_signed_back_leaves_an_audit_that_verifies(office: Office) -> None:
    with office.owner() as owner:
        tables = [name for (name,) in owner.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'keyrotation'")]
        owner.execute("CREATE SCHEMA kept")
        for name in tables:
            owner.execute(sql.SQL("CREATE TABLE kept.{0} AS TABLE keyrotation.{0}").format(sql.Identifier(name)))
    office.changed("Ada", "Cem")
    with office.owner() as owner:
        for name in tables:
            owner.execute(sql.SQL("DELETE FROM keyrotation.{}").format(sql.Identifier(name)))
            owner.execute(
                sql.SQL("INSERT INTO keyrotation.{0} OVERRIDING SYSTEM VALUE SELECT * FROM kept.{0}").format(
                    sql.Identifier(name)
                )
            )
        owner.execute("DROP SCHEMA kept CASCADE")
    with office.pipeline() as pipeline:
        opened, _ = open_reconciliation(pipeline, requested_by="dba")
        for name in ("Ada", "Cem"):
            add_approval(pipeline, opened, office.people[name].sign(pipeline.ledger.approval_text(opened.id)))
        reconcile(pipeline, opened)
        assert [officer.name for officer in pinned_roster(pipeline).officers] == ["Ada", "Cem"]
        verify_everything(pipeline)
        assert not divergence(pipeline, pipeline.keys.read())

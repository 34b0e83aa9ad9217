"""What every `Ledger` must do. A test class inherits the suite and has two fixtures.

`ledger` is empty; `other` is the same one as another process has it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from keyrotation_pipeline.audit.events import AuditEntry, entries, newest_first, recorded
from keyrotation_pipeline.audit.verify import verify_audit
from keyrotation_pipeline.errors import (
    ApprovalError,
    BlockedError,
    KeyRotationError,
    KeyStoreError,
    OutOfOrderError,
    RequestError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.approval import ApprovalText, Officer, Roster, Signature
from keyrotation_pipeline.model.audit import GENESIS, AuditHead, EventKind, Fact, Note
from keyrotation_pipeline.model.comparison import NOT_COMPARED
from keyrotation_pipeline.model.data_events import Counted
from keyrotation_pipeline.model.environment import Unsearched
from keyrotation_pipeline.model.key_events import KeyRegistered, KeyStateChanged
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.member_answers import MemberAnswer
from keyrotation_pipeline.model.request_events import (
    Blocked,
    CancelIntended,
    PromotionRecorded,
    RequestOpened,
    RotationAuditWritten,
    SignatureAdded,
    StatusChanged,
    StepFinished,
    Unblocked,
)
from keyrotation_pipeline.model.requests import (
    MAY_FOLLOW,
    Request,
    RequestAction,
    RequestStatus,
    RotationType,
    Step,
    StepRecord,
    Walk,
)
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount, TableName
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline_tests.fakes.journal import START
from keyrotation_pipeline_tests.fakes.signatures import FakeSignatures

AT = datetime(2026, 1, 5, 8, 0, 0, 123456, tzinfo=UTC)
V1, V2, V3 = KeyVersion(1), KeyVersion(2), KeyVersion(3)
CLIENTS = EncryptedTable(TableName("public", "clients"), ("first_name", "email"))
ROSTER = Roster(2, (Officer("Ada", "A" * 40, "mQAQZGE="), Officer("Bén", "B" * 40)), ("F" * 40,))


def rotation(number: int = 1, **changes: object) -> Walk:
    """A new request; each number gives another id."""
    new = Walk(
        id=f"{number:032x}", type=RotationType.ROUTINE, action=RequestAction.ROTATE, source=V1,
        source_fingerprint="1f" * 32, target=V2, reason="yearly", incident=None, requested_by="dba@clinic",
        requested_at=AT, start_by=AT + timedelta(days=3650), finish_by=AT + timedelta(days=3650),
        audit_head=(0, GENESIS), status=RequestStatus.REQUESTED, steps=(), approvals=(),
    )  # fmt: skip
    return replace(new, **changes)  # type: ignore[arg-type]


def opened_as(action: RequestAction) -> Request:
    """A new request that does not walk."""
    content = {each.name: getattr(rotation(2), each.name) for each in fields(Request)}
    return Request(**{**content, "action": action})


def text_of(
    request: Request, roster: Roster = ROSTER, after: Roster | None = None, decrypts: str | None = None
) -> bytes:
    """The text to sign for a request; for a change of the roster, to another one; `decrypts`: else as its action."""
    if decrypts is None and request.action is RequestAction.DECRYPT:
        decrypts = "7 values in cases.note to plaintext"
    is_policy = request.action is RequestAction.POLICY
    return ApprovalText(
        request=request.id, action=request.action, authorises="that, and nothing else",
        database="clinic, system identifier 7", key_store="file",
        source=str(roster) if is_policy else f"{request.source} {request.source_fingerprint}",
        target=str(after) if is_policy else "destroyed" if request.action == "destroy" else str(request.target),
        columns=(), rollout=None, not_looked_at=(), roster=roster, requested_by=request.requested_by,
        audit_head=request.audit_head, start_by=request.start_by, finish_by=request.finish_by,
        reason=request.reason if request.incident is None else f"incident {request.incident}: {request.reason}",
        not_before=request.not_before, manual=request.manual, incident=request.incident,
        compared=None if request.incident is None else NOT_COMPARED,
        decrypts=decrypts,
    ).render()  # fmt: skip


def signature_by(officer: str, text: bytes) -> Signature:
    return Signature(officer, FakeSignatures.sign(officer, text), START)


TEXT = text_of(rotation())
SIGNATURE = signature_by("A" * 40, TEXT)
COSIGNATURE = signature_by("B" * 40, TEXT)


def open_signed(ledger: Ledger, request: Request, roster: Roster = ROSTER) -> None:
    """Open a request, and both officers sign it."""
    ledger.open(request, text := text_of(request, roster))
    for officer in ROSTER.officers:
        ledger.add_signature(request.id, signature_by(officer.fingerprint, text))


def sign(ledger: Ledger) -> None:
    """Both officers sign the request."""
    for signature in (SIGNATURE, COSIGNATURE):
        ledger.add_signature(rotation().id, signature)


def start(ledger: Ledger) -> None:
    """Both officers sign the request, and it runs."""
    sign(ledger)
    ledger.set_status(rotation().id, RequestStatus.RUNNING)


def step(name: Step = Step.ROWS, table: str | None = None, shard: int | None = None) -> StepRecord:
    return StepRecord(name, table, shard, AT, {"rows": 7, "swept_rows": {"clients": 2}})


COUNT = TableCount(CLIENTS, 10, {V1: 12, V2: 8}, 1, 2, 1, 3, (V1,), AT, {"email": {V1: 12}}, {"first_name": 2})
SUCCESSOR = rotation(2, supersedes=rotation().id, not_before=AT + timedelta(days=7))
V3_RECORD = KeyRecord(V3, KeyState.PRE_ACTIVATION, "3f" * 32, AT)


@dataclass(frozen=True)
class Change:
    """One change, and the event that it must append."""

    make: Callable[[Ledger], None]
    fact: Fact
    request: str | None = None
    before: Callable[[Ledger], None] = lambda _ledger: None


CHANGES = {
    "key registered": Change(lambda ledger: ledger.add_key(V3_RECORD, None), KeyRegistered.of(V3_RECORD)),
    "key state": Change(
        lambda ledger: ledger.set_key_state(V1, KeyState.ACTIVE, rotation().id),
        KeyStateChanged(V1, KeyState.PRE_ACTIVATION, KeyState.ACTIVE, "1f" * 32),
        rotation().id,
        start,
    ),
    "request opened": Change(
        lambda ledger: ledger.open(SUCCESSOR, text_of(SUCCESSOR)),
        RequestOpened.of(SUCCESSOR, text_of(SUCCESSOR)),
        SUCCESSOR.id,
    ),
    "signature": Change(
        lambda ledger: ledger.add_signature(rotation().id, SIGNATURE), SignatureAdded.of(SIGNATURE), rotation().id
    ),
    "finished step": Change(
        lambda ledger: ledger.finish_step(rotation().id, step()), StepFinished.of(step()), rotation().id, start
    ),
    "finished shard": Change(
        lambda ledger: ledger.finish_step(rotation().id, step(Step.ROWS, "clients", 0)),
        StepFinished.of(step(Step.ROWS, "clients", 0)),
        rotation().id,
        start,
    ),
    "status": Change(
        lambda ledger: ledger.set_status(rotation().id, RequestStatus.RUNNING),
        StatusChanged(RequestStatus.REQUESTED, RequestStatus.RUNNING, AT),
        rotation().id,
        sign,
    ),
    "status because of another": Change(
        lambda ledger: ledger.set_status(rotation().id, RequestStatus.CANCELLED, by=SUCCESSOR.id),
        StatusChanged(RequestStatus.REQUESTED, RequestStatus.CANCELLED, AT, by=SUCCESSOR.id),
        rotation().id,
    ),
    "promotion": Change(
        lambda ledger: ledger.set_promotion(rotation().id, 4711), PromotionRecorded(4711), rotation().id, start
    ),
    "blocked": Change(
        lambda ledger: ledger.block(rotation().id, "web-1 lags; restart it"),
        Blocked("web-1 lags; restart it"),
        rotation().id,
    ),
}
FORBIDDEN = [
    pytest.param(before, after, id=f"{before} to {after}")
    for before in RequestStatus
    for after in RequestStatus
    if before is not after and after not in MAY_FOLLOW[before]
]
# The shortest way to each status.
WAYS = {
    RequestStatus.REQUESTED: (),
    RequestStatus.RUNNING: (RequestStatus.RUNNING,),
    RequestStatus.PAUSED: (RequestStatus.PAUSED,),
    RequestStatus.CANCELLED: (RequestStatus.CANCELLED,),
    RequestStatus.FINISHED: (RequestStatus.RUNNING, RequestStatus.FINISHED),
}


def newest(ledger: Ledger) -> AuditEntry:
    *_, last = entries(ledger)
    return last


class LedgerSuite:
    """The suite, for every method of the port."""

    @pytest.fixture
    def opened(self, ledger: Ledger) -> Ledger:
        """A ledger with a request, and v1 registered."""
        ledger.pin_roster(ROSTER)
        ledger.add_key(KeyRecord(V1, KeyState.PRE_ACTIVATION, "1f" * 32, AT), None)
        ledger.open(rotation(), TEXT)
        return ledger

    @pytest.fixture
    def running(self, opened: Ledger) -> Ledger:
        """A ledger whose request runs."""
        start(opened)
        return opened

    def test_a_request_comes_back_as_it_was_opened(self, opened: Ledger) -> None:
        assert opened.walk(rotation().id) == rotation()
        assert opened.current() == rotation()
        assert opened.approval_text(rotation().id) == TEXT

    def test_a_request_that_is_left_to_people_comes_back_as_its_text_says(self, opened: Ledger) -> None:
        opened.set_status(rotation().id, RequestStatus.CANCELLED)
        opened.open(rotation(2, manual=True), text_of(rotation(2, manual=True)))
        assert opened.walk(rotation(2).id) == rotation(2, manual=True)
        assert {each.id: each.manual for each in opened.requests()} == {rotation().id: False, rotation(2).id: True}

    def test_no_request_opens_while_another_is_unfinished(self, opened: Ledger) -> None:
        with pytest.raises(RequestError):
            opened.open(rotation(2), text_of(rotation(2)))
        assert opened.requests() == (rotation(),)

    def test_the_next_request_opens_once_the_last_is_over(self, opened: Ledger) -> None:
        opened.set_status(rotation().id, RequestStatus.CANCELLED)
        later = rotation(2, requested_at=AT + timedelta(minutes=1))
        opened.open(later, text_of(later))
        assert [each.id for each in opened.requests()] == [rotation(2).id, rotation().id]

    @pytest.mark.parametrize("name", CHANGES)
    def test_every_change_appends_one_event_that_says_what_it_was(self, opened: Ledger, name: str) -> None:
        CHANGES[name].before(opened)
        before = opened.head().seq
        CHANGES[name].make(opened)
        reported = newest(opened)
        fact = reported.fact()
        if isinstance(fact, StatusChanged):
            fact = replace(fact, at=AT)
        assert (reported.seq, reported.request, fact) == (before + 1, CHANGES[name].request, CHANGES[name].fact)
        assert verify_audit(opened) == opened.head() == AuditHead(before + 1, opened.head().hash)

    @pytest.mark.parametrize("append", [
        pytest.param(lambda ledger: ledger.set_status(rotation().id, RequestStatus.RUNNING), id="start unsigned"),
        pytest.param(lambda ledger: ledger.finish_step(rotation().id, step()), id="a step of an unsigned request"),
        pytest.param(lambda ledger: ledger.set_key_state(V1, KeyState.ACTIVE, rotation().id), id="key state"),
        pytest.param(lambda ledger: ledger.set_key_state(V1, KeyState.ACTIVE, None), id="key state of no request"),
        pytest.param(lambda ledger: ledger.pin_roster(replace(ROSTER, required=1), rotation().id), id="roster"),
        pytest.param(lambda ledger: ledger.set_promotion(rotation().id, 4711), id="promotion"),
        pytest.param(
            lambda ledger: ledger.add_signature(rotation().id, replace(SIGNATURE, signature=b"garbage")), id="signature"
        ),
        pytest.param(lambda ledger: ledger.open(rotation(2), text_of(rotation(3))), id="another request's text"),
    ])  # fmt: skip
    def test_what_the_audit_would_never_verify_with_is_not_recorded(
        self, opened: Ledger, append: Callable[[Ledger], None]
    ) -> None:
        before = opened.head(), opened.requests(), opened.keys(), opened.pinned_roster()
        with pytest.raises(KeyRotationError):
            append(opened)
        assert (opened.head(), opened.requests(), opened.keys(), opened.pinned_roster()) == before
        assert opened.replayed().faults == ()

    def test_events_are_read_by_kind_by_request_and_from_a_seq_on(self, opened: Ledger) -> None:
        opened.append(CancelIntended(V2), rotation().id)
        opened.append(CancelIntended(V3), rotation(2).id)
        opened.append(Note(EventKind.BACKUP_MADE, {"event": "cancel_intended"}), rotation().id)

        def seqs(*kinds: EventKind, request: str | None = None, after_seq: int = 0) -> list[int]:
            return [event.seq for event in opened.events(*kinds, request=request, after_seq=after_seq)]

        assert seqs() == [1, 2, 3, 4, 5, 6]
        assert seqs(EventKind.CANCEL_INTENDED) == [4, 5]
        assert seqs(EventKind.CANCEL_INTENDED, EventKind.BACKUP_MADE, after_seq=4) == [5, 6]
        assert seqs(request=rotation().id) == [3, 4, 6]
        assert seqs(EventKind.CANCEL_INTENDED, request=rotation(2).id) == [5]
        assert seqs(EventKind.KEY_DESTROYED) == []
        assert list(recorded(opened, CancelIntended, rotation().id)) == [CancelIntended(V2)]

    def test_the_newest_events_of_some_kinds_come_first_however_many_there_are(self, opened: Ledger) -> None:
        opened.append(CancelIntended(V2), rotation().id)
        for number in range(120):
            opened.append(Note(EventKind.BACKUP_MADE, {"number": number}))
        kinds = EventKind.CANCEL_INTENDED, EventKind.BACKUP_MADE
        assert list(opened.newest(*kinds)) == list(opened.events(*kinds))[::-1]
        assert [each.facts["number"] for each in islice(newest_first(opened, *kinds), 3)] == [119, 118, 117]
        assert list(opened.newest(EventKind.KEY_DESTROYED)) == []

    @pytest.mark.parametrize("name", CHANGES)
    def test_a_change_is_undone_with_the_transaction_that_fails_around_it(self, opened: Ledger, name: str) -> None:
        def stored() -> tuple[object, ...]:
            signatures = opened.signatures(rotation().id)
            return opened.head(), opened.keys(), opened.requests(), signatures, opened.pinned_roster()

        CHANGES[name].before(opened)
        before = stored()

        def change_then_fail() -> None:
            with opened.transaction():
                CHANGES[name].make(opened)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            change_then_fail()
        assert stored() == before

    @pytest.mark.parametrize(
        "record",
        [
            pytest.param(step(Step.KEY_VERSION), id="step"),
            pytest.param(step(Step.ROWS, "clients", 0), id="shard"),
            pytest.param(step(Step.ROWS), id="the step that closes its shards"),
        ],
    )
    def test_a_finished_step_is_recorded_once(self, running: Ledger, record: StepRecord) -> None:
        running.finish_step(rotation().id, record)
        before = running.head()
        running.finish_step(rotation().id, replace(record, facts={"rows": 0}))
        assert running.walk(rotation().id).steps == (record,)
        assert running.head() == before

    def test_signatures_come_back_byte_for_byte_and_name_the_officer(self, opened: Ledger) -> None:
        opened.add_signature(rotation().id, SIGNATURE)
        assert opened.signatures(rotation().id) == (SIGNATURE,)
        assert opened.walk(rotation().id).approvals == ("A" * 40,)

    def test_of_two_signatures_of_one_second_the_one_recorded_first_comes_first(self, opened: Ledger) -> None:
        for signature in (COSIGNATURE, SIGNATURE):
            opened.add_signature(rotation().id, signature)
        assert opened.walk(rotation().id).approvals == ("B" * 40, "A" * 40)

    def test_an_officer_signs_only_once(self, opened: Ledger) -> None:
        opened.add_signature(rotation().id, SIGNATURE)
        with pytest.raises(ApprovalError):
            opened.add_signature(rotation().id, replace(SIGNATURE, signature=b"other"))
        assert opened.signatures(rotation().id) == (SIGNATURE,)

    def test_nobody_signs_a_request_that_is_over(self, opened: Ledger) -> None:
        opened.set_status(rotation().id, RequestStatus.CANCELLED)
        head = opened.head()
        with pytest.raises(RequestError, match="is cancelled"):
            opened.add_signature(rotation().id, SIGNATURE)
        assert (opened.signatures(rotation().id), opened.head()) == ((), head)

    def test_times_of_start_and_end_follow_the_status(self, opened: Ledger) -> None:
        sign(opened)
        assert opened.walk(rotation().id).started_at is None
        opened.set_status(rotation().id, RequestStatus.RUNNING)
        started_at = opened.walk(rotation().id).started_at
        opened.set_status(rotation().id, RequestStatus.FINISHED)
        finished = opened.walk(rotation().id)
        assert started_at is not None
        assert (finished.started_at, finished.status) == (started_at, RequestStatus.FINISHED)
        assert finished.finished_at is not None
        assert opened.current() is None

    def test_the_first_promotion_stays(self, running: Ledger) -> None:
        running.set_promotion(rotation().id, 4711)
        running.set_promotion(rotation().id, 4712)
        assert running.walk(rotation().id).promotion_xid == 4711

    def test_what_blocks_is_shown_until_nothing_does(self, opened: Ledger) -> None:
        opened.block(rotation().id, "instance web-1 lags; restart it")
        assert opened.walk(rotation().id).blocked_by == "instance web-1 lags; restart it"
        opened.block(rotation().id, None)
        assert opened.walk(rotation().id).blocked_by is None
        assert newest(opened).fact() == Unblocked()

    def test_a_rollout_that_was_waited_for_in_vain_is_no_failure(self, opened: Ledger) -> None:
        opened.block(rotation().id, "web-1 lags; restart it", rollout_pending=True)
        found = opened.walk(rotation().id)
        assert (found.blocked_by, found.failure) == ("web-1 lags; restart it", None)
        opened.block(rotation().id, "web-1 lags; restart it")
        assert opened.walk(rotation().id).failure == "web-1 lags; restart it"

    @pytest.mark.parametrize("sentence", [None, "web-1 lags; restart it"])
    def test_what_blocks_as_before_is_no_change(self, opened: Ledger, sentence: str | None) -> None:
        opened.block(rotation().id, sentence)
        before = opened.head()
        opened.block(rotation().id, sentence)
        assert opened.head() == before

    def test_a_finished_step_ends_what_blocked_the_rotation(self, running: Ledger) -> None:
        running.block(rotation().id, "web-1 lags; restart it")
        running.finish_step(rotation().id, step())
        assert running.walk(rotation().id).blocked_by is None
        reported = [each.kind for each in entries(running, after_seq=running.head().seq - 2)]
        assert reported == ["unblocked", "step_finished"]

    @pytest.mark.parametrize(("before", "after"), FORBIDDEN)
    def test_a_request_takes_only_statuses_that_may_follow(
        self, opened: Ledger, before: RequestStatus, after: RequestStatus
    ) -> None:
        sign(opened)
        for status in WAYS[before]:
            opened.set_status(rotation().id, status)
        head = opened.head()
        with pytest.raises(OutOfOrderError):
            opened.set_status(rotation().id, after)
        assert (opened.walk(rotation().id).status, opened.head()) == (before, head)

    @pytest.mark.parametrize("status", RequestStatus)
    def test_the_same_status_again_is_no_change(self, opened: Ledger, status: RequestStatus) -> None:
        sign(opened)
        for each in WAYS[status]:
            opened.set_status(rotation().id, each)
        before = opened.head()
        opened.set_status(rotation().id, status)
        assert opened.head() == before

    def test_a_rotation_is_found_by_the_beginning_of_its_id(self, opened: Ledger) -> None:
        assert opened.walk(rotation().id[:31]) == rotation()

    def test_an_unknown_rotation_is_refused(self, opened: Ledger) -> None:
        with pytest.raises(RequestError):
            opened.walk("ffffffff")

    @pytest.mark.parametrize(
        "ask",
        [
            pytest.param(lambda ledger: ledger.walk("f" * 32), id="walk"),
            pytest.param(lambda ledger: ledger.approval_text("f" * 32), id="text"),
            pytest.param(lambda ledger: ledger.add_signature("f" * 32, SIGNATURE), id="signature"),
            pytest.param(lambda ledger: ledger.set_status("f" * 32, RequestStatus.RUNNING), id="status"),
        ],
    )
    def test_whatever_is_asked_of_an_unknown_request_is_refused(
        self, opened: Ledger, ask: Callable[[Ledger], object]
    ) -> None:
        before = opened.head()
        with pytest.raises(RequestError):
            ask(opened)
        assert opened.head() == before

    def test_an_unknown_version_has_no_state(self, ledger: Ledger) -> None:
        with pytest.raises(RequestError):
            ledger.set_key_state(V1, KeyState.ACTIVE, None)

    def test_only_one_key_is_active(self, running: Ledger) -> None:
        running.add_key(V3_RECORD, rotation().id)
        running.set_key_state(V1, KeyState.ACTIVE, rotation().id)
        with pytest.raises(OutOfOrderError):
            running.set_key_state(V3, KeyState.ACTIVE, rotation().id)

    def test_no_number_and_no_key_is_registered_for_both_generations(self, opened: Ledger) -> None:
        opened.add_key(KeyRecord(V1, KeyState.PRE_ACTIVATION, "1f" * 32, AT), None)
        for version, fingerprint in ((KeyVersion(1, 2), "2f" * 32), (KeyVersion(2, 2), "1f" * 32)):
            with pytest.raises(KeyStoreError, match="no key serves both generations"):
                opened.add_key(KeyRecord(version, KeyState.PRE_ACTIVATION, fingerprint, AT), None)
        assert opened.keys() == (KeyRecord(V1, KeyState.PRE_ACTIVATION, "1f" * 32, AT),)

    def test_a_version_keeps_its_fingerprint_for_ever(self, opened: Ledger) -> None:
        before = opened.head()
        opened.add_key(KeyRecord(V1, KeyState.PRE_ACTIVATION, "1f" * 32, AT), None)
        assert opened.head() == before
        with pytest.raises(KeyStoreError):
            opened.add_key(KeyRecord(V1, KeyState.PRE_ACTIVATION, "2f" * 32, AT), None)
        assert opened.keys() == (KeyRecord(V1, KeyState.PRE_ACTIVATION, "1f" * 32, AT),)

    def test_a_key_takes_only_states_that_may_follow(self, running: Ledger) -> None:
        for state in (KeyState.ACTIVE, KeyState.ACTIVE, KeyState.DEACTIVATED, KeyState.ARCHIVED):
            running.set_key_state(V1, state, rotation().id)
        with pytest.raises(KeyRotationError):
            running.set_key_state(V1, KeyState.PRE_ACTIVATION, None)
        (record,) = running.keys()
        assert record.state is KeyState.ARCHIVED

    def test_the_pinned_roster_is_never_replaced(self, ledger: Ledger) -> None:
        assert ledger.pinned_roster() is None
        ledger.pin_roster(ROSTER)
        before = ledger.head()
        ledger.pin_roster(ROSTER)
        assert ledger.head() == before
        with pytest.raises(ApprovalError):
            ledger.pin_roster(replace(ROSTER, required=1))
        assert ledger.pinned_roster() == ROSTER

    def test_a_pinned_roster_brings_its_certificates_back(self, ledger: Ledger) -> None:
        ledger.pin_roster(ROSTER)
        pinned = ledger.pinned_roster()
        assert pinned is not None
        assert [each.certificate for each in pinned.officers] == ["mQAQZGE=", ""]

    def test_a_request_replaces_the_pinned_roster_and_the_audit_says_which(self, opened: Ledger) -> None:
        policy = opened_as(RequestAction.POLICY)
        fewer = replace(ROSTER, required=1)
        text = text_of(policy, after=fewer)
        opened.open(policy, text)
        for officer in ROSTER.officers:
            opened.add_signature(policy.id, signature_by(officer.fingerprint, text))
        opened.set_status(policy.id, RequestStatus.RUNNING)
        opened.pin_roster(fewer, policy.id)
        assert opened.pinned_roster() == fewer
        (*_, event) = opened.events()
        reported = json.loads(event.body)
        assert (reported["event"], reported["request"], reported["facts"]["required"]) == (
            "roster_pinned",
            policy.id,
            1,
        )

    def test_counts_come_back_whole_and_the_last_ones_only(self, ledger: Ledger) -> None:
        ledger.save_counts([replace(COUNT, rows=9, values_by_version={V1: 20})])
        ledger.save_counts([COUNT])
        assert ledger.counts([CLIENTS, EncryptedTable(TableName("public", "other"), ("x",))]) == (COUNT,)
        assert newest(ledger).kind == EventKind.COUNTED

    def test_what_members_answered_comes_back_without_an_event_and_is_no_count(self, ledger: Ledger) -> None:
        first = MemberAnswer("north", AT, 7, problem="no server answers there: “élan” \x00 \U0001f511")
        second = MemberAnswer(
            "south", AT, 7, AT, None, {"south:clients": (V1, V2)}, {"south:clients": ()}, {"south:visits": "locked"},
            ("south:old",), {"south:clients": AT}, AT, (Unsearched("large objects", ("a", "b"), member="south"),),
        )  # fmt: skip
        ledger.save_counts([COUNT])
        head = ledger.head()
        ledger.save_answers(())
        assert ledger.answers() == {}
        ledger.save_answers([first, second])
        later = replace(first, asked_at=AT + timedelta(minutes=15), problem=None)
        ledger.save_answers([later])
        assert ledger.answers() == {"north": later, "south": second}
        assert (ledger.head(), ledger.counts([CLIENTS])) == (head, (COUNT,))

    def test_counting_again_is_an_event_even_without_a_change(self, ledger: Ledger) -> None:
        ledger.save_counts([COUNT])
        later = replace(COUNT, counted_at=AT + timedelta(days=1))
        ledger.save_counts([later])
        assert [each.tables[0].counted_at for each in recorded(ledger, Counted)] == [AT, later.counted_at]
        assert ledger.counts([CLIENTS]) == (later,)

    def test_no_count_is_no_event_and_a_table_without_one_is_named(self, ledger: Ledger) -> None:
        ledger.save_counts([])
        assert ledger.head().seq == 0
        ledger.save_counts([COUNT], [EncryptedTable(TableName("public", "large"), ("x",))])
        assert [each.not_counted for each in recorded(ledger, Counted)] == [("large",)]

    def test_counts_of_other_columns_than_the_declared_ones_are_not_shown(self, ledger: Ledger) -> None:
        ledger.save_counts([COUNT])
        assert ledger.counts([EncryptedTable(TableName("public", "clients"), ("first_name", "email", "phone"))]) == ()

    def test_the_source_procedures_row_is_begun_at_the_start_and_completed_once(self, opened: Ledger) -> None:
        started = replace(rotation(), started_at=AT)
        for records, completed in ((0, None), (41, AT + timedelta(hours=1)), (99, AT + timedelta(days=8))):
            opened.write_rotation_audit(started, "Ada <ada@clinic.org>", records, completed)
        begun, done = recorded(opened, RotationAuditWritten, rotation().id)
        assert (begun.rotation_date, begun.completion_date, begun.records_reencrypted) == (AT, None, 0)
        assert done == replace(begun, completion_date=AT + timedelta(hours=1), records_reencrypted=41)
        reported = (begun.old_key_version, begun.new_key_version, begun.rotation_type, begun.initiated_by, begun.notes)
        assert reported == ("v1", "v2", "routine", "Ada <ada@clinic.org>", "yearly")

    def test_the_source_procedures_row_of_a_rollback_says_so(self, opened: Ledger) -> None:
        opened.write_rotation_audit(replace(rotation(), action=RequestAction.ROLLBACK), "Ada", 0, None)
        (row,) = recorded(opened, RotationAuditWritten)
        assert row.rotation_type == "rollback"

    def test_nothing_is_walked_before_anything_is_rewritten(self, opened: Ledger) -> None:
        assert opened.shard_progress(rotation().id) == ()

    def test_a_wait_is_reported_until_it_ends_and_leaves_no_event(self, opened: Ledger) -> None:
        head = opened.head()
        opened.note_wait(rotation().id, "clients shard 00", "pausing: standby x is late")
        opened.note_wait(rotation().id, "clients shard 01", "waiting: clients is locked")
        reported = {each.place: each.waiting_for for each in opened.waits(rotation().id)}
        assert reported == {
            "clients shard 00": "pausing: standby x is late",
            "clients shard 01": "waiting: clients is locked",
        }
        assert opened.waits("0e" * 16) == ()
        for place in reported:
            opened.end_wait(rotation().id, place)
        assert opened.waits(rotation().id) == ()
        assert opened.head() == head

    def test_a_lock_is_free_again_after_its_block(self, ledger: Ledger) -> None:
        for _ in range(2):
            with ledger.lock("clients/00"):
                pass

    def test_a_lock_that_another_process_holds_is_refused(self, ledger: Ledger, other: Ledger) -> None:
        with other.lock("clients/00"):
            with ledger.lock("clients/01"):
                pass
            with pytest.raises(BlockedError), ledger.lock("clients/00"):
                pass
        with ledger.lock("clients/00"):
            pass

    def test_every_process_sees_which_locks_are_held(self, ledger: Ledger, other: Ledger) -> None:
        with other.lock("clients/01"), other.lock("clients/00"), ledger.lock("100%/00"):
            assert ledger.held_locks("clients/") == ("clients/00", "clients/01")
            assert other.held_locks("100%/") == ("100%/00",)
            assert ledger.held_locks("%") == ()
        assert ledger.held_locks("clients/") == ()

    @pytest.mark.parametrize(
        "secret",
        [
            pytest.param(b"\x00" * 32, id="bytes"),
            pytest.param(KeyMaterial.generate(), id="key material"),
            pytest.param({"inside": [b"bytes"]}, id="bytes inside"),
        ],
    )
    def test_facts_that_are_not_plain_json_are_never_appended(self, ledger: Ledger, secret: object) -> None:
        with pytest.raises(TypeError, match="the fact leak"):
            ledger.append(Note(EventKind.BACKUP_MADE, {"leak": secret}))
        assert ledger.head() == AuditHead(0, GENESIS)

    def test_a_request_that_supersedes_another_waits_at_the_same_time(self, opened: Ledger) -> None:
        rollback = rotation(2, action=RequestAction.ROLLBACK, source=V2, target=V1, supersedes=rotation().id)
        opened.open(rollback, text_of(rollback))
        assert (opened.current(), opened.waiting()) == (rotation(), rollback)

    def test_only_one_request_waits_to_supersede_another(self, opened: Ledger) -> None:
        opened.open(rotation(2, supersedes=rotation().id), text_of(rotation(2, supersedes=rotation().id)))
        with pytest.raises(RequestError):
            opened.open(rotation(3, supersedes=rotation().id), text_of(rotation(3, supersedes=rotation().id)))

    def test_an_emergency_may_wait_at_the_same_time_as_a_routine_request_and_comes_first(self, opened: Ledger) -> None:
        opened.open(rotation(2, supersedes=rotation().id), text_of(rotation(2, supersedes=rotation().id)))
        urgent = rotation(3, supersedes=rotation().id, type=RotationType.EMERGENCY, incident="INC-2026-001")
        opened.open(urgent, text_of(urgent))
        assert opened.waiting() == urgent
        another = replace(urgent, id=rotation(4).id)
        with pytest.raises(RequestError):
            opened.open(another, text_of(another))

    def test_a_request_that_supersedes_starts_only_once_the_other_has_ended(self, opened: Ledger) -> None:
        successor = rotation(2, supersedes=rotation().id)
        opened.open(successor, text_of(successor))
        with pytest.raises(RequestError):
            opened.set_status(successor.id, RequestStatus.RUNNING)
        opened.set_status(rotation().id, RequestStatus.CANCELLED)
        for officer in ROSTER.officers:
            opened.add_signature(successor.id, signature_by(officer.fingerprint, text_of(successor)))
        opened.set_status(successor.id, RequestStatus.RUNNING)
        current = opened.current()
        assert current is not None
        assert (current.id, opened.waiting()) == (successor.id, None)

    def test_a_policy_request_is_no_rotation(self, opened: Ledger) -> None:
        policy = opened_as(RequestAction.POLICY)
        opened.open(policy, text_of(policy))
        assert (opened.current(), opened.request(policy.id)) == (rotation(), policy)
        with pytest.raises(RequestError, match="is not a rotation"):
            opened.walk(policy.id)

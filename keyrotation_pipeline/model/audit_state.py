"""Where the events of an audit lead: roster, requests, keys, incidents and answers, as of one event.

The chain is the ledger, so this is the state of everything. `audit/rules` says how each event changes it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from keyrotation_pipeline.errors import ApprovalError, IncidentError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Officer, Roster, Signature, VerifiedSignature, signed_fields
from keyrotation_pipeline.model.audit import GENESIS, HASH_BYTES, AuditHead
from keyrotation_pipeline.model.breach import NO_NOTICE, BreachAnswers
from keyrotation_pipeline.model.comparison import as_signed
from keyrotation_pipeline.model.environment import DatabaseServer
from keyrotation_pipeline.model.incidents import Incident, IncidentStatus
from keyrotation_pipeline.model.keys import GONE, KeyRecord, KeyState
from keyrotation_pipeline.model.members import members_among
from keyrotation_pipeline.model.proof import MemberEvidence
from keyrotation_pipeline.model.request_events import RotationAuditWritten, SignatureAdded
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus, Walk

# Nothing decides or destroys by an audit with a single fault. So one with many costs no further verification, which
# starts gpg each time; a reconciliation may be signed by so many officers of a roster that the database has lost.
MOST_FAULTS = 20
# Of the name of a tree at witnesses; nothing else that the home signs begins so.
_ORIGIN = "keyrotation"
_TREE_CHARS = 16
# As `SignatureVerifier.verify_as_of`: text, signature, officers, and the moment it was recorded.
Verify = Callable[[bytes, bytes, Sequence[Officer], datetime], VerifiedSignature]


class ImpossibleError(Exception):
    """An event that cannot have happened. Its text is the rest of a sentence that begins with the event."""


def _by_nobody(signer: str | None) -> str:
    if signer is None:
        return "is not signed by the pipeline"
    return f"is signed by {signer[:16]}, which no officers have named"


@dataclass(frozen=True, slots=True)
class Unverified:
    """A signature on a reconciliation by nobody on the pinned roster.

    The database may have lost the roster whose officers sign; then the reconciliation pins it again.

    Args:
        seq, at: of its event.
    """

    seq: int
    at: datetime
    request: str
    fact: SignatureAdded

    @property
    def fault(self) -> str:
        """What is wrong with it, as long as its roster is not pinned again."""
        return f"event {self.seq} (signature_added) is by nobody on the pinned roster"


@dataclass(frozen=True, slots=True)
class Incidents:
    """Every incident, and every flag that was taken.

    Args:
        by_id: in the order in which they were opened.
        flags: keys of the flags that were taken, each once.
        news: digest of what was reported, and the incident that it opened.
        set_aside: flags that nobody can act on, each with the moment and the reason.
    """

    by_id: dict[str, Incident] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    news: dict[str, str] = field(default_factory=dict)
    set_aside: dict[str, tuple[datetime, str]] = field(default_factory=dict)

    def copy(self) -> "Incidents":
        """The same, to be changed on its own."""
        return Incidents(dict(self.by_id), set(self.flags), dict(self.news), dict(self.set_aside))

    @property
    def unfinished(self) -> tuple[Incident, ...]:
        """The open ones, oldest first."""
        return tuple(each for each in self.by_id.values() if each.status is not IncidentStatus.CLOSED)

    def compared(self, name: str, seq: int) -> str:
        """What the text of an emergency anchored at an event says of comparisons with a backup; see `as_signed`."""
        found = self.by_id.get(name)
        return as_signed(() if found is None else found.comparisons, seq)

    def incident(self, name: str) -> Incident:
        """Find one by its id, case-insensitively.

        Raises:
            IncidentError: there is none.
        """
        if (found := self.by_id.get(name.strip().upper())) is None:
            raise IncidentError(
                f"there is no incident {name[:40]!r}; `keyrotation incident list` shows those there are"
            )
        return found


@dataclass(slots=True)
class AuditState:
    """What holds after some events.

    Args:
        lost: the furthest event that this process has read and that is no longer there.
        verify: verifies a signature as of the moment it was recorded; raises ApprovalError.
        head: the last event.
        hashes: 32 bytes of each event, in order.
        database: the database that the audit is of, without its host.
        place: the database that the present event names; another one, if the database was restored or renamed.
        foreign: by seq, the databases that events name and that no reconciliation has made this one.
        latest: the latest time of an event.
        misplaced: a phrase for each event that is out of order, or filed under another kind or request.
        refused: by seq, the kind of an event that cannot have happened and changed nothing, and why.
        roster: the pinned one.
        rosters: every pinned one, with the seq of its event and the request that pinned it.
        began_under: of each request that has begun, the roster that was pinned then.
        home: the id of the home; None: the audit is of an earlier version.
        server: where the database ran when the newest walk was requested, or as officers signed since.
        member_servers: the same of each member of a fleet.
        set_aside: by member, the last events of copies of the audit that officers have signed to be made anew.
        hosts: those in the text of the last request that began, else those that `init` pinned; None: it pinned none.
        joined: by member of a fleet that a rule covered, the event with which it joined last.
        signers: fingerprints of the keys that sign backups: the first that was pinned, and each that stands in the
            text of a request that began.
        signed_from: the event with which the pipeline began to sign what it appends; None: it has not.
        signer: fingerprint of the key that signs events now: of the first, or of the home that the text of the last
            request that began names.
        unsigned: by seq, the kind of an event since then that this key did not sign, and the key that did, if any did.
            It decides nothing.
        voided: those of them that officers have signed to be nobody's, or that are of a home which they named later.
        own_signer: the key of this home; what it wrote before officers named it is believed here, though not elsewhere.
        imports: version and fingerprint of each key whose import was intended.
        keys: by version.
        requests: by id; a `Walk` with its steps in order of name.
        texts: the exact bytes to sign, by request.
        signatures: by request, in order of time.
        unverified: those of them that do not count, see `Unverified`.
        retired: versions that a rotation took from the applications and that have not come back.
        unseen: those of them that no rotation has seen to be gone from every instance since, with the request that took
            them last.
        proven: by request, the last evidence of each member of a fleet.
        compromised_by: by version, the request that called it compromised.
        audit_rows: of `key_rotation_audit`, by request.
        incidents: and the flags that were taken.
        answers: by incident, all answers about the breach so far, and the event that completed them.
        abandoned: anchors that a signed reconciliation gave up.
        trees: at witnesses, the origin of each tree that the audit left, and how many events were signed there.
        tree: the request that left the last of them; None: none was left.
        reconciled_at: when the last one was carried out.
        agreed: by incident, officers who signed exactly these answers, and the decision as they read it.
        settled: incidents whose answers as they are enough officers had signed when the last of them did.
    """

    verify: Verify
    lost: AuditHead | None = None
    head: AuditHead = field(default_factory=lambda: AuditHead(0, GENESIS))
    hashes: bytearray = field(default_factory=bytearray)
    database: str | None = None
    place: str | None = None
    foreign: dict[int, str] = field(default_factory=dict)
    latest: datetime | None = None
    misplaced: tuple[str, ...] = ()
    refused: dict[int, tuple[str, str]] = field(default_factory=dict)
    roster: Roster | None = None
    rosters: list[tuple[int, Roster, str | None]] = field(default_factory=list)
    began_under: dict[str, Roster] = field(default_factory=dict)
    home: str | None = None
    server: DatabaseServer | None = None
    member_servers: dict[str, DatabaseServer] = field(default_factory=dict)
    set_aside: dict[str, tuple[AuditHead, ...]] = field(default_factory=dict)
    hosts: tuple[str, ...] | None = None
    joined: dict[str, int] = field(default_factory=dict)
    signers: set[str] = field(default_factory=set)
    signed_from: int | None = None
    signer: str | None = None
    unsigned: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    voided: set[int] = field(default_factory=set)
    own_signer: str | None = None
    imports: set[tuple[KeyVersion, str]] = field(default_factory=set)
    keys: dict[KeyVersion, KeyRecord] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    signatures: dict[str, tuple[Signature, ...]] = field(default_factory=dict)
    unverified: list[Unverified] = field(default_factory=list)
    retired: set[KeyVersion] = field(default_factory=set)
    unseen: dict[KeyVersion, str] = field(default_factory=dict)
    proven: dict[str, dict[str, MemberEvidence]] = field(default_factory=dict)
    compromised_by: dict[KeyVersion, str] = field(default_factory=dict)
    audit_rows: dict[str | None, RotationAuditWritten] = field(default_factory=dict)
    incidents: Incidents = field(default_factory=Incidents)
    answers: dict[str, tuple[BreachAnswers, int]] = field(default_factory=dict)
    abandoned: set[AuditHead] = field(default_factory=set)
    trees: dict[str, int] = field(default_factory=dict)
    tree: str | None = None
    reconciled_at: datetime | None = None
    agreed: dict[str, tuple[frozenset[str], str]] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)

    def leads_through(self, anchor: AuditHead) -> bool:
        """Whether a recorded head is in this audit."""
        return anchor.hash == self.hash_at(anchor.seq)

    def missing(self, anchors: Iterable[AuditHead]) -> tuple[AuditHead, ...]:
        """Those of recorded heads that are not in this audit, and that no signed reconciliation gave up."""
        return tuple(each for each in anchors if not self.leads_through(each) and each not in self.abandoned)

    def replaces(self, anchor: AuditHead) -> bool:
        """Whether the head is to be stored in place of a recorded one: it is newer, or officers gave the other up."""
        return anchor in self.abandoned or (anchor.seq < self.head.seq and self.leads_through(anchor))

    def hash_at(self, seq: int) -> str:
        """The hash of an event in hex; empty, if there are not so many."""
        return self.hashes[(seq - 1) * HASH_BYTES : seq * HASH_BYTES].hex() if seq else GENESIS

    @property
    def has_walk(self) -> bool:
        """Whether a walk is under way, or waits for its start."""
        return any(isinstance(each, Walk) and not each.is_over for each in self.requests.values())

    def left(self, member: str) -> DatabaseServer | None:
        """Where a member of a fleet ran when the walk that is under way was requested, or as officers signed since."""
        return self.member_servers.get(member) if self.has_walk else None

    def joined_after(self, seq: int) -> Mapping[str, str]:
        """The members of a fleet that joined by a rule after an event, each with its place."""
        present = members_among(self.hosts or ())
        return {name: place for name, place in present.items() if self.joined.get(name, 0) > seq}

    @property
    def origin(self) -> str | None:
        """The name of the audit's tree at witnesses; None: the home has no id."""
        if self.home is None:
            return None
        return f"{_ORIGIN}/{self.home}" if self.tree is None else f"{_ORIGIN}/{self.home}/{self.tree[:_TREE_CHARS]}"

    @property
    def faults(self) -> tuple[str, ...]:
        """A phrase for everything that is wrong with these events."""
        return (*(each.fault for each in self.unverified), *self._by_nobody(), *self._others())

    def _by_nobody(self) -> Iterator[str]:
        yield from (f"event {seq} ({kind}) {_by_nobody(by)}" for seq, (kind, by) in self.unvouched.items())

    def _others(self, reconciled: str | None = None) -> Iterator[str]:
        yield from self.misplaced
        yield from (f"event {seq} ({kind}) {fault}" for seq, (kind, fault) in self.refused.items())
        foreign = ((seq, place) for seq, place in self.foreign.items() if place != reconciled)
        yield from (f"event {seq} is of another database ({place})" for seq, place in foreign)

    def faults_but(
        self, officers: Sequence[Officer], reconciled: str | None = None, *, reconciling: bool = False
    ) -> Iterator[str]:
        """The faults, without what a reconciliation is about to end.

        Args:
            officers: their signatures on a reconciliation count once it has pinned their roster again.
            reconciled: the database that the audit will be of; None: no reconciliation is carried out.
            reconciling: whether officers are asked to void what the pipeline did not sign.
        """
        if not reconciling:
            yield from self._by_nobody()
        for each in self.unverified:
            with suppress(ImpossibleError):
                signed = each.fact.signature, each.fact.officer
                verified_by(self.verify, officers, self.texts[each.request], *signed, since=None, at=each.at)
                continue
            yield each.fault
        yield from self._others(reconciled)

    @property
    def unvouched(self) -> Mapping[int, tuple[str, str | None]]:
        """Those of the unsigned events that officers have still to void."""
        own = self.own_signer
        return {
            seq: (kind, by)
            for seq, (kind, by) in self.unsigned.items()
            if seq not in self.voided and (by is None or by != own)
        }

    def unvouched_until(self, seq: int) -> tuple[AuditHead, ...]:
        """Those of others that officers are to void who sign for an audit that ends here."""
        return tuple(AuditHead(each, self.hash_at(each)) for each in sorted(self.unvouched) if each <= seq)

    @property
    def writes_what_counts(self) -> bool:
        """Whether what this home appends decides anything: nobody signs, or officers have named its key."""
        return self.signed_from is None or self.own_signer == self.signer

    @property
    def ignored(self) -> frozenset[int]:
        """The events that say nothing to this home."""
        own = self.own_signer
        return frozenset(seq for seq, (_, by) in self.unsigned.items() if by is None or by != own)

    def known(self, request: str | None) -> Request:
        """A request that was opened before."""
        if request is None or request not in self.requests:
            raise ImpossibleError("is of a request that was never opened")
        return self.requests[request]

    def require_signed(self, request: str | None, *actions: RequestAction) -> Request:
        """A request to do one of these (or anything), not over, that enough officers of its roster signed."""
        stored = self.known(request)
        require(not actions or stored.action in actions, f"is by a request to {stored.action}")
        require(not stored.is_over, f"is by a request that is {stored.status}")
        here = self.place == self.database or stored.action is RequestAction.RECONCILE
        require(here, "is of another database, which nobody has reconciled")
        require(names_database(self.texts[stored.id], self.place), "is by a request for another database")
        self.require_enough(stored)
        return stored

    def require_running(self, request: str | None, *actions: RequestAction) -> Request:
        """The same, and it has begun."""
        stored = self.require_signed(request, *actions)
        require(stored.status is RequestStatus.RUNNING, f"is by a request that is {stored.status}")
        return stored

    def require_walk(self, request: str | None) -> Walk:
        """A signed request that has steps."""
        stored = self.require_signed(request)
        if not isinstance(stored, Walk):
            raise ImpossibleError(f"is a step of a request to {stored.action}, which has none")
        return stored

    def is_settled_as_none(self, incident: str) -> bool:
        """Whether enough officers have signed, over the answers as they are, that nobody is to be notified."""
        return incident in self.settled and self.agreed[incident][1] in NO_NOTICE

    @property
    def suspected(self) -> dict[KeyVersion, Incident]:
        """The versions that must not become the primary, each with the first incident that names it.

        An incident about a key that is out of use can be closed by one person: until officers have signed that it was
        no breach, its versions stay suspected.
        """
        found = (
            each
            for each in reversed(self.incidents.by_id.values())
            if each.status is not IncidentStatus.CLOSED or not self.is_settled_as_none(each.id)
        )
        return {version: each for each in found for version in each.versions}

    def may_be_held(self, record: KeyRecord) -> bool:
        """Whether an instance may have a key that the key store does not give any more: nobody has seen otherwise.

        A state says so, unless the key was called compromised before a rotation had seen it.
        """
        if record.state is KeyState.COMPROMISED:
            return record.version not in self.retired or record.version in self.unseen
        return record.state not in GONE

    def require_enough(self, request: Request) -> None:
        """Refuse what too few officers of the roster that it counts under have signed."""
        roster = self.roster_of(request.id)
        officers = {officer.fingerprint for officer in roster.officers} if roster else set()
        verified = set(request.approvals) - {
            each.fact.officer for each in self.unverified if each.request == request.id
        }
        enough = roster is not None and len(officers & verified) >= roster.required
        require(enough, "is by a request that too few have signed")

    def roster_of(self, request: str) -> Roster | None:
        """The roster under which a request counts: the pinned one; of one that has begun, the one pinned then.

        So a change of officers does not end what runs, also where it replaces one whose key has expired.
        """
        return self.began_under.get(request, self.roster)

    def signers_of(self, request: str) -> tuple[Officer, ...]:
        """Who can still sign a request: officers of the roster that it counts under who are pinned now, too."""
        counts_under = self.roster_of(request)
        if self.roster is None or counts_under is None:
            return ()
        return tuple(each for each in self.roster.officers if each in counts_under.officers)

    def verified(
        self,
        text: bytes,
        signature: str,
        officer: str,
        *,
        since: datetime | None,
        at: datetime,
        officers: Sequence[Officer] | None = None,
    ) -> VerifiedSignature:
        """A good signature of an officer.

        Args:
            signature: in hex.
            officer: whose it is said to be.
            officers: who may have made it; None: those of the pinned roster.
            since: it is not older; OpenPGP's times are in whole seconds.
            at: when it was recorded.
        """
        faults = len(self.refused) + len(self.unverified)
        require(faults < MOST_FAULTS, f"follows {MOST_FAULTS} events that cannot have happened, and was not verified")
        if officers is None:
            officers = self.roster.officers if self.roster else ()
        return verified_by(self.verify, officers, text, signature, officer, since=since, at=at)

    def roster_at(self, seq: int) -> Roster | None:
        """The pinned roster at an event."""
        return next((roster for pinned, roster, _ in reversed(self.rosters) if pinned <= seq), None)


def verified_by(
    verify: Verify,
    officers: Sequence[Officer],
    text: bytes,
    signature: str,
    officer: str,
    *,
    since: datetime | None,
    at: datetime,
) -> VerifiedSignature:
    """A good signature by one of these officers; see `AuditState.verified`."""
    try:
        verified = verify(text, bytes.fromhex(signature), officers, at)
    except (ApprovalError, ValueError) as error:
        raise ImpossibleError(f"has no good signature: {str(error).partition(';')[0]}") from None
    require(verified.officer == officer, f"is signed by {verified.officer[-16:]}, not by {officer[-16:]}")
    # A signature without a time is over a text that nobody can have known before, and not older than that.
    signed_at = at if verified.signed_at is None else verified.signed_at
    require(since is None or signed_at >= since.replace(microsecond=0), "is signed before what it is about")
    require(signed_at <= at, "is signed after it was recorded")
    return verified


def is_its_time(verified: VerifiedSignature, said: datetime, since: datetime, at: datetime) -> bool:
    """Whether an event gives the time of a signature: what that says, else when it was received.

    Args:
        since: when that which was signed became known.
        at: of the event.
    """
    return since <= said <= at if verified.signed_at is None else said == verified.signed_at


def names_database(text: bytes, database: str | None, header: str | None = None) -> bool:
    """Whether a signed text is for this database; it also names a superuser, which may change."""
    named = signed_fields(text, header).get("Database", "")
    return database is not None and (named == database or named.startswith(f"{database}, as superuser "))


def require_lines(text: bytes, expected: Mapping[str, str | None], header: str | None = None) -> Mapping[str, str]:
    """The lines of a text for signing, by name: these with their values, and none of those that are None."""
    try:
        fields = signed_fields(text, header)
    except ApprovalError:
        raise ImpossibleError("has a text that nobody can have signed") from None
    for name, value in expected.items():
        require(fields.get(name) == value, f"has a text with another line {name} than its facts")
    return fields


def require(holds: bool, otherwise: str) -> None:  # noqa: FBT001  reads as a sentence
    """Refuse an event; `otherwise` is the rest of a sentence that begins with it."""
    if not holds:
        raise ImpossibleError(otherwise)

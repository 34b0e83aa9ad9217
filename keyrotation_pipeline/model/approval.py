"""The canonical text that officers sign, and the roster of officers."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.visible_text import is_hidden

HEADER = "keyrotation-approval-v1"
HOSTS = "Hosts"
SIGNER = "Backups signed by"
COMPARED = "Values compared with a backup"
CARRIED_OUT = ("Carried out", "by people, in Dagster or by keyrotation rotate; the conductor leaves it")


def how_to_sign(command: str, request: str) -> str:
    """What an officer types to sign a request (``approve``), or that its rollout is done (``confirm``)."""
    return f"keyrotation {command} {request} --text | gpg -ab | keyrotation {command} {request} --signature -"


@dataclass(frozen=True, slots=True)
class Officer:
    """One officer: a name to show and the primary-key fingerprint that identifies the certificate.

    Args:
        certificate: base64 of the public certificate when the roster was read; it does not decide who an officer is.
    """

    name: str
    fingerprint: str
    certificate: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Roster:
    """Who may approve, how many must, and who can read backups; pinned by `init`, changed by `policy`.

    Args:
        required: signatures of different officers that an action needs; at least 2 outside a demo home.
        recipients: primary-key fingerprints of the backup recipients.
    """

    required: int
    officers: tuple[Officer, ...]
    recipients: tuple[str, ...]

    def __str__(self) -> str:
        """The roster in one line of a signed text, whatever the order in the configuration."""
        named = sorted((each.fingerprint, json.dumps(each.name, ensure_ascii=False)) for each in self.officers)
        officers = ", ".join(f"{fingerprint} {name}" for fingerprint, name in named)
        return f"{self.required} of {officers}; recipients {', '.join(sorted(self.recipients))}"

    @property
    def digest(self) -> str:
        """SHA-256 of that line, in hex: what is stored outside the database."""
        return hashlib.sha256(str(self).encode()).hexdigest()

    def differences(self, other: "Roster") -> tuple[str, ...]:
        """The parts that differ in `other`, whatever the order."""
        parts = (
            ("required", self.required, other.required),
            ("officers", set(self.officers), set(other.officers)),
            ("recipients", set(self.recipients), set(other.recipients)),
        )
        return tuple(name for name, mine, others in parts if mine != others)

    def name_of(self, fingerprint: str) -> str | None:
        """The name of the officer with this primary-key fingerprint; None: nobody on the roster has it."""
        return next((each.name for each in self.officers if each.fingerprint == fingerprint), None)


@dataclass(frozen=True, slots=True)
class RosterSignature:
    """One officer's signature (hex) on a change of the roster, and when it was recorded."""

    officer: str
    signature: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RosterChange:
    """A signed change to a roster: the text that officers of the roster before signed."""

    roster: Roster
    text: str
    signatures: tuple[RosterSignature, ...]


@dataclass(frozen=True, slots=True)
class PinnedRoster:
    """A roster and the audit event that pinned it.

    Args:
        changes: the signed changes that led to it from the first roster, which a restored database may have lost.
    """

    seq: int
    roster: Roster
    changes: tuple[RosterChange, ...] = ()

    def is_same(self, other: "PinnedRoster") -> bool:
        """Whether it is the same roster, pinned by the same event."""
        return (self.seq, self.roster.digest) == (other.seq, other.roster.digest)


@dataclass(frozen=True, slots=True)
class Signature:
    """One officer's detached signature, exactly as given."""

    officer: str
    signature: bytes
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class ApprovalText:
    """The facts that are signed. `render` gives the canonical bytes, one field a line, ending with a newline.

    Args:
        rollout: how applications are seen to have the keys, in words; None for what changes no application.
        not_looked_at: names and values of further lines, of what nobody looks at.
        not_before: the earliest start; None, and no line: it may start at once.
        manual: whether people carry it out, and the conductor starts no step.
        incident: makes it an emergency.
        compared: of an emergency, whether values were compared with a backup when it was requested.
        hosts: each host that the configuration names, with its setting; without any there is no line.
        signer: fingerprint of the pipeline's own key; None, and no line: there is none.
    """

    request: str
    action: str
    authorises: str
    database: str
    key_store: str
    source: str
    target: str
    columns: tuple[str, ...]
    rollout: str | None
    not_looked_at: tuple[tuple[str, str], ...]
    required: int
    officers: tuple[str, ...]
    recipients: tuple[str, ...]
    audit_head: tuple[int, str]
    start_by: datetime
    finish_by: datetime
    reason: str
    not_before: datetime | None = None
    manual: bool = False
    incident: str | None = None
    compared: str | None = None
    hosts: tuple[str, ...] = ()
    signer: str | None = None

    def render(self) -> bytes:
        """The canonical text in UTF-8.

        Raises:
            ApprovalError: a field holds a line break, a control or a bidi character, so two people could read it
                differently.
        """
        seq, head = self.audit_head
        rollout = () if self.rollout is None else (("Rollout", self.rollout),)
        not_before = () if self.not_before is None else (("Not before", signed_moment(self.not_before)),)
        fields = (
            ("Request", self.request),
            ("Action", self.action),
            ("Authorises", self.authorises),
            ("Database", self.database),
            ("Key store", self.key_store),
            ("From", self.source),
            ("To", self.target),
            ("Columns", ", ".join(self.columns)),
            *rollout,
            *self.not_looked_at,
            ("Officers", f"{self.required} of {', '.join(self.officers)}"),
            ("Recipients", ", ".join(self.recipients)),
            *([(HOSTS, "; ".join(self.hosts))] if self.hosts else []),
            *([] if self.signer is None else [(SIGNER, self.signer)]),
            ("Audit head", f"{seq} {head}"),
            *not_before,
            ("Start by", signed_moment(self.start_by)),
            ("Finish by", signed_moment(self.finish_by)),
            *([CARRIED_OUT] if self.manual else []),
            *(() if self.incident is None else (("Incident", self.incident),)),
            *(() if self.compared is None else ((COMPARED, self.compared),)),
            ("Reason", self.reason),
        )
        return rendered(HEADER, fields)


def rendered(header: str, fields: Sequence[tuple[str, str]]) -> bytes:
    """The canonical bytes of a text for signing: the header, then one field per line.

    Raises:
        ApprovalError: a value could make its line misleading.
    """
    for name, value in fields:
        require_plain(name, value)
    return "".join([f"{header}\n", *(f"{name}: {value}\n" for name, value in fields)]).encode()


def require_plain(name: str, value: str) -> None:
    """Refuse a value that could make a signed line misleading.

    Raises:
        ApprovalError: `value` has a control, line-separating, bidi or otherwise invisible character, or spaces around.
    """
    if value != value.strip():
        raise ApprovalError(f"{name} begins or ends with white space; write it without")
    if is_hidden(value):
        character = next(filter(is_hidden, value))
        raise ApprovalError(
            f"{name} holds the character U+{ord(character):04X}, which can hide or reorder text; "
            "write it in one plain line"
        )


def signed_fields(text: bytes) -> Mapping[str, str]:
    """The fields of a canonical text, by name.

    Raises:
        ApprovalError: it is not in the form that `render` writes, with each field once.
    """
    lines = text.decode(errors="replace").split("\n")
    fields = {name: value for name, colon, value in (line.partition(": ") for line in lines[1:-1]) if colon}
    if lines[0] != HEADER or lines[-1] or len(fields) != len(lines) - 2:
        raise ApprovalError("a signed text is not one that this program writes; run `keyrotation audit verify`")
    return fields


def hosts_in(fields: Mapping[str, str]) -> tuple[str, ...]:
    """The hosts in the fields of a canonical text."""
    return tuple(fields[HOSTS].split("; ")) if HOSTS in fields else ()


def signer_in(fields: Mapping[str, str]) -> tuple[str, ...]:
    """The fingerprint of the key that signs backups, in the fields of a canonical text; empty: it names none."""
    return (fields[SIGNER],) if SIGNER in fields else ()


def left_to_people(text: bytes) -> bool:
    """Whether a canonical text says that people carry the request out."""
    return f"\n{': '.join(CARRIED_OUT)}\n".encode() in text


def differing_lines(signed: bytes, rebuilt: bytes) -> Sequence[str]:
    """Names of the fields in which two canonical texts differ, for the error message."""
    before, after = (dict(_split(text)) for text in (signed, rebuilt))
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def _split(text: bytes) -> list[tuple[str, str]]:
    lines = text.decode(errors="replace").splitlines()
    return [(line.partition(": ")[0], line.partition(": ")[2]) for line in lines]


def signed_moment(at: datetime) -> str:
    """A moment as a signed text writes it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class VerifiedSignature:
    """A good signature: who (primary-key fingerprint) and when (seconds precision).

    Args:
        address: the mail address in the certificate's primary user id; None: it has none.
    """

    officer: str
    signed_at: datetime
    address: str | None = None

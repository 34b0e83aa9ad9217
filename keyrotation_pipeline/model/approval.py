"""The canonical text that officers sign, and the roster of officers."""

import hashlib
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.earlier_summaries import FIRST_APPROVAL, SECOND_APPROVAL
from keyrotation_pipeline.model.members import MEMBER, member_line, place_lines, places_in
from keyrotation_pipeline.model.signed_lines import COMPARED_BACKUP, DECRYPTS, ENCRYPTED, PLAINTEXT_STAYS, STAYS
from keyrotation_pipeline.model.signed_summary import APPROVAL, FOURTH_APPROVAL, THIRD_APPROVAL, summary
from keyrotation_pipeline.model.visible_text import is_hidden, plain_name, signed_name

HEADER = APPROVAL
# The present one first; texts with an earlier one stay as they are.
HEADERS = (HEADER, FOURTH_APPROVAL, THIRD_APPROVAL, SECOND_APPROVAL, FIRST_APPROVAL)
HOSTS = "Hosts"
SECRETS = "Secrets"
SIGNER = "Backups signed by"
COMPARED = "Values compared with a backup"
CARRIED_OUT = ("Carried out", "by people, in Dagster or by keyrotation rotate; the conductor leaves it")


def how_to_sign(command: str, request: str, program: str = "gpg -ab") -> str:
    """What an officer types to sign a request (``approve``), or that its rollout is done (``confirm``).

    Args:
        program: what signs; for officers with an SSH key see `Officer.signing_programs`.
    """
    return f"keyrotation {command} {request} --text | {program} | keyrotation {command} {request} --signature -"


# ssh-keygen signs for a purpose; what it signed for another one is no approval.
SSH_NAMESPACE = "keyrotation-pipeline"
SSH_SIGNATURE = b"-----BEGIN SSH SIGNATURE-----"
# No DSA, no certificates, and no options before the key.
SSH_KEY_FORM = re.compile(
    r"(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com) "
    r"[A-Za-z0-9+/]+={0,2}",
    re.ASCII,
)

# What `ssh-keygen -t` calls the file of a key.
_SSH_FILES = {
    "ssh-ed25519": "ed25519",
    "ssh-rsa": "rsa",
    "sk-ssh-ed25519@openssh.com": "ed25519_sk",
    "sk-ecdsa-sha2-nistp256@openssh.com": "ecdsa_sk",
}


def ssh_fingerprint(line: str) -> str:
    """The fingerprint of a public SSH key as ``ssh-keygen -l`` shows it; `line` is its type and its base64."""
    try:
        key = b64decode(line.partition(" ")[2], validate=True)
    except ValueError:
        return "SHA256:none"
    return f"SHA256:{b64encode(hashlib.sha256(key).digest()).decode().rstrip('=')}"


@dataclass(frozen=True, slots=True)
class Officer:
    """One officer: a name to show, and the keys that are theirs; whichever of them signs, it is one signature.

    Args:
        fingerprint: identifies the officer: of the OpenPGP certificate's primary key, else of the SSH key.
        certificate: base64 of the public certificate when the roster was read; it does not decide who an officer is.
        ssh_key: type and base64 of the public SSH key; empty: none.
    """

    name: str
    fingerprint: str
    certificate: str = field(default="", repr=False, compare=False)
    ssh_key: str = field(default="", repr=False)

    @property
    def signing_programs(self) -> tuple[tuple[str, str], ...]:
        """For each key of the officer what it is, and the command that signs with it from stdin to stdout."""
        found = list[tuple[str, str]]()
        if not self.ssh_key or ssh_fingerprint(self.ssh_key) != self.fingerprint:
            found.append((f"OpenPGP key {self.fingerprint}", f"gpg -u {self.fingerprint} -ab"))
        if self.ssh_key:
            kind = "SSH security key" if self.ssh_key.startswith("sk-") else "SSH key"
            file = f"~/.ssh/id_{_SSH_FILES.get(self.ssh_key.partition(' ')[0], 'ecdsa')}"
            program = f"ssh-keygen -Y sign -n {SSH_NAMESPACE} -f {file}"
            found.append((f"{kind} {ssh_fingerprint(self.ssh_key)}", program))
        return tuple(found)

    @property
    def keys(self) -> str:
        """The fingerprint of each key."""
        found = [self.fingerprint, *([ssh_fingerprint(self.ssh_key)] if self.ssh_key else [])]
        return " or ".join(dict.fromkeys(found))

    def __str__(self) -> str:
        """The officer in a signed text: the name in quotes, then the fingerprint of each key."""
        return _named(self.name, self.keys)


def _named(name: str | None, keys: str) -> str:
    return f"({keys})" if name is None else f"{json.dumps(name, ensure_ascii=False)} ({keys})"


@dataclass(frozen=True, slots=True)
class Roster:
    """Who may approve, how many must, and who can read backups; pinned by `init`, changed by `policy`.

    Args:
        required: signatures of different officers that an action needs; at least 2 outside a demo home.
        recipients: primary-key fingerprints of the backup recipients.
        recipient_names: what their certificates said when the roster was read, by fingerprint.
    """

    required: int
    officers: tuple[Officer, ...]
    recipients: tuple[str, ...]
    recipient_names: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        """The roster in one line of a signed text, whatever the order in the configuration."""
        return f"{self._sorted_officers()}; recipients {', '.join(self.named_recipients(sorted(self.recipients)))}"

    def _sorted_officers(self) -> str:
        by_fingerprint = sorted(self.officers, key=lambda each: (each.fingerprint, each.name))
        return f"{self.required} of {', '.join(map(str, by_fingerprint))}"

    @property
    def signed_officers(self) -> str:
        """The line `Officers` of a signed text."""
        return f"{self.required} of {', '.join(map(str, self.officers))}"

    def named_recipients(self, fingerprints: Sequence[str]) -> tuple[str, ...]:
        """Recipients in a signed text: the name in quotes, if one is known, then the fingerprint."""
        names = {**self.recipient_names, **{each.fingerprint: each.name for each in self.officers}}
        return tuple(_named(names.get(each), each) for each in fingerprints)

    @property
    def digest(self) -> str:
        """SHA-256 of the roster, in hex: what is stored outside the database.

        Without the names in recipients' certificates, which their owners may change.
        """
        decides = f"{self._sorted_officers()}; recipients {', '.join(sorted(self.recipients))}"
        return hashlib.sha256(decides.encode()).hexdigest()

    def differences(self, other: "Roster") -> tuple[str, ...]:
        """The parts that differ in `other`, whatever the order."""
        parts = (
            ("required", self.required, other.required),
            ("officers", set(self.officers), set(other.officers)),
            ("recipients", set(self.recipients), set(other.recipients)),
        )
        return tuple(name for name, mine, others in parts if mine != others)

    def name_of(self, fingerprint: str) -> str | None:
        """The name of the officer whom this fingerprint identifies; None: nobody on the roster."""
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
    """One officer's detached signature, exactly as given.

    Args:
        signed_at: as the signature says; one by an SSH key says no time, so when it was received.
    """

    officer: str
    signature: bytes
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class ApprovalText:
    """The facts that are signed. `render` gives the canonical bytes, one field a line, ending with a newline.

    Args:
        columns: table and column, as they are named there.
        rollout: how applications are seen to have the keys, in words; None for what changes no application.
        not_looked_at: names and values of further lines, of what nobody looks at.
        not_before: the earliest start; None, and no line: it may start at once.
        manual: whether people carry it out, and the conductor starts no step.
        incident: makes it an emergency.
        compared: of an emergency, whether values were compared with a backup when it was requested.
        hosts: each host that the configuration names, with its setting; without any there is no line. Each member of a
            fleet among them has a line of its own.
        values_in: by member of a fleet, how many values were counted in it before the request.
        secrets: where each secret is that is sent to one, with its setting; likewise.
        signer: fingerprint of the pipeline's own key; None, and no line: there is none.
        value_format: the format of the values in these columns, in words; None, and no line: our own.
        plaintext: what becomes of columns that held plaintext; None, and no line: there are none.
        migrated: the same of columns with values of other libraries, with format and key.
        unauthenticated: those of them in which only padding and UTF-8 show that a value was opened rightly.
        compared_backups: whether a backup was compared with their tables; None, and no line: an older text, or there
            are none of them.
        decrypts: what a walk gives its old form back, with counts; None, and no line: it encrypts.
        header: `HEADER`, or of a stored text the one that it has.
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
    roster: Roster
    audit_head: tuple[int, str]
    start_by: datetime
    finish_by: datetime
    requested_by: str
    reason: str
    not_before: datetime | None = None
    manual: bool = False
    incident: str | None = None
    compared: str | None = None
    hosts: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    signer: str | None = None
    value_format: str | None = None
    plaintext: str | None = None
    migrated: str | None = None
    unauthenticated: str | None = None
    compared_backups: str | None = None
    decrypts: str | None = None
    values_in: Mapping[str, str] = field(default_factory=dict)
    header: str = HEADER

    def render(self) -> bytes:
        """The canonical text in UTF-8.

        Raises:
            ApprovalError: a field holds a line break, a control or a bidi character, so two people could read it
                differently.
        """
        seq, head = self.audit_head
        rollout = () if self.rollout is None else (("Rollout", self.rollout),)
        not_before = () if self.not_before is None else (("Not before", signed_time(self.not_before)),)
        fields = (
            ("Request", self.request),
            ("Action", self.action),
            *([] if self.decrypts is None else [(DECRYPTS, self.decrypts)]),
            ("Authorises", self.authorises),
            ("Database", self.database),
            ("Key store", self.key_store),
            ("From", self.source),
            ("To", self.target),
            (COLUMNS, ", ".join(one_of_several(each, self.header) for each in self.columns)),
            *([] if self.value_format is None else [("Format", self.value_format)]),
            *([] if self.plaintext is None else [("Plaintext", self.plaintext)]),
            *([(PLAINTEXT_STAYS, STAYS)] if (self.plaintext or "").startswith(ENCRYPTED) else []),
            *([] if self.migrated is None else [("Other libraries", self.migrated)]),
            *([] if self.unauthenticated is None else [("Not authenticated", self.unauthenticated)]),
            *([] if self.compared_backups is None else [(COMPARED_BACKUP, self.compared_backups)]),
            *rollout,
            *place_lines(self.hosts, self.values_in),
            *self.not_looked_at,
            ("Officers", self.roster.signed_officers),
            ("Recipients", ", ".join(self.roster.named_recipients(self.roster.recipients))),
            *([(HOSTS, "; ".join(hosts))] if (hosts := [h for h in self.hosts if not h.startswith(MEMBER)]) else []),
            *([(SECRETS, "; ".join(self.secrets))] if self.secrets and self.header != FIRST_APPROVAL else []),
            *([] if self.signer is None else [(SIGNER, self.signer)]),
            ("Audit head", f"{seq} {head}"),
            *not_before,
            ("Start by", signed_time(self.start_by)),
            ("Finish by", signed_time(self.finish_by)),
            *([CARRIED_OUT] if self.manual else []),
            *(() if self.incident is None else (("Incident", self.incident),)),
            *(() if self.compared is None else ((COMPARED, self.compared),)),
            ("Requested by", self.requested_by),
            ("Reason", self.reason),
        )
        return rendered(self.header, fields)


# The line of a text for signing that lists every column.
COLUMNS = "Columns"


def one_of_several(name: str, header: str) -> str:
    """A table's column in a line that lists several, in a text with this header."""
    if header == FIRST_APPROVAL:
        return plain_name(name) if ", " in name else name
    return signed_name(name)


def rendered(header: str, fields: Sequence[tuple[str, str]]) -> bytes:
    """The canonical bytes of a text for signing: the header, what the lines mean in sentences, and a line per field.

    Raises:
        ApprovalError: a value could make its line misleading.
    """
    for name, value in fields:
        require_plain(name, value)
    lines = [header, "", *summary(header, dict(fields)), "", *(f"{name}: {value}" for name, value in fields), ""]
    return "\n".join(lines).encode()


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


def header_of(text: bytes, headers: Sequence[str] = HEADERS) -> str:
    """The header of a text for signing, if it is one of these; else the present one, which is the first of them."""
    return next((each for each in headers if text.startswith(f"{each}\n".encode())), headers[0])


def signed_fields(text: bytes, header: str | None = None) -> Mapping[str, str]:
    """The fields of a canonical text, by name.

    Args:
        header: None: that of an approval.

    Raises:
        ApprovalError: it is not exactly what `rendered` writes of these fields, each of which it has once. So the
            sentences above them say what they say.
    """
    lines = _lines(text)
    fields = [(name, value) for name, colon, value in (line.partition(": ") for line in lines) if colon]
    try:
        same = len(dict(fields)) == len(lines) and rendered(header or header_of(text), fields) == text
    except ApprovalError:
        same = False
    if not same:
        raise ApprovalError("a signed text is not one that this program writes; run `keyrotation audit verify`")
    return dict(fields)


def _lines(text: bytes) -> Sequence[str]:
    """The lines after the sentences."""
    return text.decode(errors="replace").removesuffix("\n").rpartition("\n\n")[2].split("\n")


def hosts_in(fields: Mapping[str, str]) -> tuple[str, ...]:
    """The hosts in the fields of a canonical text, the places of the secrets that are sent to them, and the members."""
    hosts = tuple(each for name in (HOSTS, SECRETS) if name in fields for each in fields[name].split("; "))
    return (*hosts, *(member_line(name, place) for name, place in places_in(fields).items()))


def signer_in(fields: Mapping[str, str]) -> tuple[str, ...]:
    """The fingerprint of the key that signs backups, in the fields of a canonical text; empty: it names none."""
    return (fields[SIGNER],) if SIGNER in fields else ()


def left_to_people(text: bytes) -> bool:
    """Whether a canonical text says that people carry the request out."""
    return f"\n{': '.join(CARRIED_OUT)}\n".encode() in text


def differing_lines(signed: bytes, rebuilt: bytes) -> Sequence[str]:
    """Names of the fields in which two canonical texts differ, for the error message."""
    before, after = (dict(line.partition(": ")[::2] for line in _lines(text)) for text in (signed, rebuilt))
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def signed_time(at: datetime) -> str:
    """A moment as a signed text writes it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class VerifiedSignature:
    """A good signature: who (the fingerprint that identifies the officer) and when (seconds precision).

    Args:
        signed_at: None: it says no time (SSH), so that the time of receipt counts.
        address: the mail address in the certificate's primary user id; None: it has none.
    """

    officer: str
    signed_at: datetime | None
    address: str | None = None

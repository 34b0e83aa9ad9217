"""Requests that officers sign: what applications must do for one, how to sign, whether enough have, and a signature."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from keyrotation_pipeline.cli import output
from keyrotation_pipeline.errors import ApprovalError, BlockedError
from keyrotation_pipeline.model.approval import Officer, Roster, how_to_sign
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.backups import CertificateStatus
from keyrotation_pipeline.model.fleet import LINES_OF_CODE, RolloutMode
from keyrotation_pipeline.model.requests import Request, Walk
from keyrotation_pipeline.model.visible_text import plain_name
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.ports.database import DatabaseEnvironment
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.ports.rollout import Rollout
from keyrotation_pipeline.regular_files import read_typed
from keyrotation_pipeline.requests.approvals import authority, text_to_sign

Reason = Annotated[
    str | None,
    typer.Option("--reason", help="Why, in one plain line; the officers sign it.", show_default=False),
]
TextToSign = Annotated[
    bool, typer.Option("--text", help="Print the exact text to sign, and nothing else.", show_default=False)
]
SignatureFile = Annotated[
    str | None, typer.Option("--signature", metavar="FILE", help="Add a detached OpenPGP or SSH signature; - is stdin.")
]

SigningAs = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Show what this officer types to sign.", show_default=False),
]


def propose(
    pipeline: Pipeline,
    request: Request,
    value: Mapping[str, Any],
    lines: Iterable[str],
    then: str | None = None,
    *,
    as_json: bool,
) -> None:
    """Print an opened request: what it is and how to sign it on stderr, its id alone on stdout.

    Args:
        value: what `--json` prints instead.
        then: what to do when enough officers have signed.
    """
    if as_json:
        output.document(value)
        return
    for line in lines:
        output.note(line)
    required = authority(pipeline, request).required
    shows = f"`keyrotation approve {request.id} --as NAME` shows each what, and how"
    sign = f"{counted(required, 'officer')} must sign; {shows}"
    output.note(f"{sign}; then {then}" if then else sign)
    sys.stdout.write(f"{request.id}\n")


def require_signed(pipeline: Pipeline, request: Request) -> None:
    """Refuse to execute a request that not enough officers have signed.

    Raises:
        BlockedError: signatures are missing.
    """
    if (missing := authority(pipeline, request).required - len(request.approvals)) > 0:
        raise BlockedError(
            f"request {request.id} needs {counted(missing, 'more approval')}; sign with "
            f"`keyrotation approve {request.id}`, or withdraw it with `keyrotation cancel {request.id}`"
        )


def guide_to_approve(pipeline: Pipeline, request: Request, officer: str | None, *, as_json: bool) -> None:
    """Show an officer everything about approving a request.

    Args:
        officer: the name of the one who asks; None: not given.

    Raises:
        ApprovalError, RequestError: no signature would count now.
    """
    text, roster = text_to_sign(pipeline, request)
    then = pipeline.actions[request.action].command(request)
    ended = unusable_by_officers(pipeline.signatures)
    shown = Guide("approve", request.id, text, roster, request.approvals, roster.required, then, officer, ended)
    guide(pipeline.environment, shown, as_json=as_json)


@dataclass(frozen=True)
class Guide:
    """What an officer is told about a text to sign.

    Args:
        command: what prints the text and takes a signature: ``approve`` or ``confirm``.
        signed: fingerprints of those who have.
        required: how many must.
        then: what to type when enough have signed.
        asked_by: the name of the officer who asks; None: not given.
        unusable: certificates of officers who can sign nothing with them.
    """

    command: str
    request: str
    text: bytes
    roster: Roster
    signed: Sequence[str]
    required: int
    then: str
    asked_by: str | None = None
    unusable: Sequence[CertificateStatus] = ()


def unusable_by_officers(signatures: SignatureVerifier) -> Sequence[CertificateStatus]:
    """The certificates with which their officers can sign nothing now."""
    return [each for each in signatures.certificates() if each.unusable is not None and not each.encrypts]


def guide(environment: DatabaseEnvironment, shown: Guide, *, as_json: bool) -> None:
    """Show an officer a text, who has signed it, how to sign it, and what comes next."""
    database, roster = environment.identity().name, shown.roster
    signed = [roster.name_of(each) or each for each in shown.signed]
    enough = len(signed) >= shown.required
    missing = [each for each in roster.officers if each.fingerprint not in shown.signed]
    asking = missing if shown.asked_by is None else [_officer(roster, shown.asked_by)]
    ways = [] if enough else [each for officer in asking if officer in missing for each in _ways(shown, officer)]
    if as_json:
        value = {"database": database, "id": shown.request, "text": shown.text.decode(), "required": shown.required}
        who = {"signed_by": signed, "missing": [each.name for each in missing], "how_to_sign": ways}
        output.document({**value, **who, "next": shown.then})
        return
    output.heading(database)
    output.line("Read this whole text; it is what you sign:")
    output.line()
    output.show_to_sign(shown.text)
    output.line()
    output.line(output.field("signed", f"{', '.join(signed) or 'nobody'} ({shown.required} must)"))
    if ways and len(asking) > 1:
        names = ", ".join(each.name for each in asking)
        output.line(output.field("to sign", f"`keyrotation {shown.command} {shown.request} --as NAME` ({names})"))
        ways = []
    for each in shown.unusable if ways else ():
        if each.fingerprint in {officer.fingerprint for officer in asking}:
            output.line(output.field("note", str(each.unusable), output.BAD))
    for way in ways:
        output.line(output.field("to sign", f"{way['officer']}, with the {way['key']}:"))
        output.line(output.Text(f"  {way['command']}", whole=True))
    for program, note in _NOTES.items():
        if any(program in way["command"] for way in ways):
            output.line(output.field("note", note))
    lacking = shown.required - len(signed)
    waits = "" if enough else f"once {lacking} more {'has' if lacking == 1 else 'have'} signed: "
    output.line(output.field("then", f"{waits}{shown.then}"))


def _officer(roster: Roster, name: str) -> Officer:
    found = [each for each in roster.officers if each.name.casefold() == name.strip().casefold()]
    if not found:
        names = ", ".join(each.name for each in roster.officers)
        raise ApprovalError(f"no officer is called {plain_name(name)}; give one of {names} as --as")
    return found[0]


_NOTES = {
    "| gpg": "gpg asks for your passphrase, or the PIN of your card",
    "| ssh-keygen": "after -f stands the file of your SSH key; a security key waits for your touch",
}


def _ways(shown: Guide, officer: Officer) -> Iterator[Mapping[str, str]]:
    """What an officer can type, by each of their keys."""
    for key, program in officer.signing_programs:
        yield {"officer": officer.name, "key": key, "command": how_to_sign(shown.command, shown.request, program)}


def duties(rollout: Rollout, walk: Walk) -> Iterator[str]:
    """What the applications must do for a rotation, or who confirms that they did, one line each."""
    mode = rollout.mode
    yield mode.rule(walk.source, walk.target, rollout.workloads)
    match mode:
        case RolloutMode.ATTEST:
            yield "each application instance reports itself by:"
            yield from (f"  {code}" for code in LINES_OF_CODE)
        case RolloutMode.CONFIRM:
            yield f"after each of the three rollouts an officer confirms it: keyrotation confirm {walk.id}"
        case RolloutMode.KUBERNETES | RolloutMode.NONE | RolloutMode.SERVER:
            pass


def given_signature(
    *, text: bool, signature: str | None, or_neither: bool = False, officer: str | None = None
) -> bytes:
    """The detached signature in a file, or on standard input where it is named ``-``; empty where `text` is asked for.

    Read it before opening a database: the signing program may wait for its user for a while.

    Raises:
        BadParameter: both are given, or neither.
        ApprovalError: the file cannot be read.
    """
    if (text and signature is not None) or not (text or signature or or_neither):
        raise typer.BadParameter("give either --text or --signature FILE", param_hint="--text / --signature")
    if officer is not None and (text or signature is not None):
        raise typer.BadParameter("give it alone", param_hint="--as")
    if signature is None:
        return b""
    if signature == "-":
        return sys.stdin.buffer.read()
    try:
        return read_typed(signature)
    except OSError:
        raise ApprovalError(
            f"signature file {signature} cannot be read; write it with `gpg -ab` or `ssh-keygen -Y sign`, or use "
            "--signature -"
        ) from None

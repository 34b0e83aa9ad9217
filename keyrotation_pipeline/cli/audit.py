"""`audit verify` checks the chain of events against itself and outside anchors; `audit log` lists its events."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.audit.events import AuditEntry, entries, entry_of
from keyrotation_pipeline.audit.verify import read_anchors, verify_everything
from keyrotation_pipeline.audit.witnessed import witnessed
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.commands import WholeGroup
from keyrotation_pipeline.cli.options import Config, Json, actor, offered_requests
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.audit import EventKind, counted, instant
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.regular_files import read_typed
from keyrotation_pipeline.reporting.written import written_at
from keyrotation_pipeline.requests.witnessing import home_key
from keyrotation_pipeline.requests.witnessing import witness as witness_now

app = typer.Typer(
    cls=WholeGroup,
    help="The hash-chained audit of everything that was done.",
    no_args_is_help=True,
    rich_markup_mode=None,
    suggest_commands=False,
)


@app.callback()
def audit() -> None:
    """The hash-chained audit of everything that was done."""


@app.command()
def verify(
    anchor: Annotated[
        Path | None,
        typer.Option("--anchor", metavar="FILE", help="A signed approval text, a backup's manifest or a report."),
    ] = None,
    *,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Verify every event, signature and time stamp.

    Finds events that were changed, removed, reordered or cut off, and signatures and time stamps that do not hold.
    """
    content = None if anchor is None else _read(anchor)
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        database = pipeline.environment.identity().name
        written = None if anchor is None or content is None else written_at(pipeline.ledger, anchor.name, content)
        anchors = () if content is None else read_anchors(content.decode(errors="replace"))
        head = verify_everything(pipeline, *anchors)
        stamped = sum(1 for _ in entries(pipeline.ledger, EventKind.AUDIT_TIMESTAMPED))
        vouched = pipeline.timestamps is not None
        seen, contradicted = _witnesses(pipeline.ledger, head.seq)
        unusable = [each.unusable for each in pipeline.signatures.certificates() if each.unusable and not each.encrypts]
    value = {
        "database": database, "verified": True, "seq": head.seq, "head": head.hash, "unusable": unusable,
        "timestamps": stamped, "timestamps_verified": vouched, "witnesses": seen,
    }  # fmt: skip
    lines = [f"{head.seq:,} events verified, up to {head.hash}"]
    if stamped and vouched:
        lines.append(f"{counted(stamped, 'time stamp')} verified with [audit] timestamp_certificates")
    elif stamped:
        lines.append(
            f"{counted(stamped, 'time stamp')} NOT verified: [audit] timestamp_certificates names no certificate"
        )
    lines += _witness_lines(seen, head.seq)
    lines += [f"signatures made before then stay verified, though {message}" for message in unusable]
    seq = max((each.seq for each in anchors), default=0)
    if anchor and written is not None:
        lines.append(
            f"{anchor.name} is the report that event {written:,} recorded, and event {seq:,} is its audit head"
        )
    elif anchor:
        lines.append(f"the chain contains the anchor of {anchor.name}, event {seq:,}; nothing else of it was compared")
    output.show(database, value, lines, as_json=as_json)
    if contradicted is not None:
        raise AuditError(contradicted)


def _witnesses(ledger: Ledger, last: int) -> tuple[list[dict[str, Any]], str | None]:
    """What each witness that officers have signed last has signed of this audit; and what one contradicts."""
    found = witnessed(ledger)
    seen = [
        {
            "witness": each.witness.name,
            "origin": each.origin,
            "events": each.size,
            "signed_at": instant(each.signed_at(ledger.verify_event)),
            "not_witnessed": last - each.size,
        }
        for each in found
    ]
    return seen, next((each.failing[1] for each in found if each.failing and each.signed is not None), None)


def _witness_lines(seen: Sequence[Mapping[str, Any]], last: int) -> Iterator[str]:
    for each in seen:
        if each["events"]:
            at = f" on {each['signed_at']}" if each["signed_at"] else ""
            yield (
                f"{each['witness']} has signed the first {each['events']:,} of {last:,} events{at}, which are as it "
                "signed them; what it has signed since, it was not asked"
            )
        else:
            yield f"{each['witness']} has signed nothing of this audit yet"
    if not seen:
        yield "no witness outside has signed this audit: officers have named none in [audit] witness"


@app.command()
def witness(*, config: Config = None, as_json: Json = False) -> None:
    """Have the witnesses sign the audit now.

    That happens by itself after each request, backup, recovery test and report, and once a day. It also shows the key
    that the operator of a witness must add before that witness signs anything.
    """
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        database, key = pipeline.environment.identity().name, home_key(pipeline)
        failed = witness_now(pipeline)
        seen, _ = _witnesses(pipeline.ledger, last := pipeline.ledger.head().seq)
    value = {"database": database, "key": None if key is None else str(key), "witnesses": seen, "failed": list(failed)}
    lines = [*_witness_lines(seen, last), *([] if key is None else [f"the key of this audit for witnesses: {key}"])]
    output.show(database, value, lines, as_json=as_json)
    if failed:
        raise AuditError("; ".join(failed))


@app.command()
def log(
    *,
    request: Annotated[
        str | None,
        typer.Option(
            "--request",
            metavar="ID",
            help="Only events of this request.",
            show_default=False,
            autocompletion=offered_requests,
        ),
    ] = None,
    event: Annotated[
        str | None, typer.Option("--event", metavar="NAME", help="Only events of this name.", show_default=False)
    ] = None,
    last: Annotated[
        int | None, typer.Option("--last", metavar="N", min=1, help="Only the newest N.", show_default=False)
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List the events, oldest first.

    Also those that the pipeline did not sign, which count for nothing. `keyrotation audit verify` checks whether they
    are genuine.
    """
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        database = pipeline.environment.identity().name
        wanted = pipeline.ledger.request(request).id if request is not None else None
        kinds = [_kind(event)] if event is not None else []
        listed = list(deque(map(entry_of, pipeline.ledger.events(*kinds, request=wanted)), maxlen=last))
        ignored = pipeline.ledger.replayed().ignored
    documents = [_document(entry, counts=entry.seq not in ignored) for entry in listed]
    lines = (_line(entry, counts=entry.seq not in ignored) for entry in listed)
    output.show(database, documents, lines, as_json=as_json)


def _line(entry: AuditEntry, *, counts: bool) -> str:
    about = f"  {entry.request}" if entry.request else ""
    unsigned = "" if counts else "  not signed by the pipeline"
    return f"{entry.seq:>6}  {output.seconds(entry.at)}  {entry.kind}{about}  {entry.actor}{unsigned}"


def _kind(name: str) -> EventKind:
    if name not in set(EventKind):
        raise AuditError(f"no event has the name {name[:40]!r}; `keyrotation audit log` shows their names")
    return EventKind(name)


def _document(entry: AuditEntry, *, counts: bool) -> dict[str, Any]:
    return {
        "seq": entry.seq,
        "at": instant(entry.at),
        "actor": entry.actor,
        "event": entry.kind,
        "request": entry.request,
        "facts": dict(entry.facts),
        "counts": counts,
    }


MOST_ANCHOR_BYTES = 256 << 20  # a report of ours is far smaller


def _read(path: Path) -> bytes:
    try:
        content = read_typed(path, MOST_ANCHOR_BYTES + 1)
    except OSError:
        raise AuditError(
            f"anchor {path} cannot be read; give an approval text, a backup's manifest or a report"
        ) from None
    if len(content) > MOST_ANCHOR_BYTES:
        raise AuditError(f"anchor {path} is larger than {MOST_ANCHOR_BYTES >> 20} MiB; give a report as we wrote it")
    return content

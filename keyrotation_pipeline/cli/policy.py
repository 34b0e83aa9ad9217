"""`policy`: a signed change of officers, threshold or recipients."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.policy import change_policy, open_policy, pending
from keyrotation_pipeline.requests.roster import pinned_roster


def policy_command(
    reason: Annotated[
        str | None,
        typer.Option("--reason", help="Why, in one plain line; the officers sign it.", show_default=False),
    ] = None,
    *,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Change officers, threshold or recipients to what keyrotation.toml now says.

    The first time, with --reason, it shows the difference and prints the id of a request. Once officers who are pinned
    today have signed that, run it again, and the new ones are pinned.
    """
    declared = settings.load(config)
    with open_pipeline(declared, actor=actor()) as pipeline:
        before, opened = pinned_roster(pipeline), pending(pipeline)
        if opened is None:
            _open(pipeline, before, reason, as_json=as_json)
            return
        if (missing := before.required - len(opened.approvals)) > 0:
            raise BlockedError(
                f"request {opened.id} needs {missing} more approval(s) of pinned officers; sign with "
                f"`keyrotation approve {opened.id} --text`, or withdraw it with `keyrotation cancel {opened.id}`"
            )
        after = change_policy(pipeline, opened)
        database = pipeline.database.identity().name
    if as_json:
        output.document(_document(database, opened.id, before, after, pinned=True))
        return
    output.heading(database)
    for line in _changes(before, after):
        output.line(line)
    output.line("pinned; whoever is no longer named approves nothing any more")


def _open(pipeline: Pipeline, before: Roster, reason: str | None, *, as_json: bool) -> None:
    opened, after = open_policy(pipeline, reason=reason, requested_by=actor()), pipeline.signatures.roster()
    database = pipeline.database.identity().name
    if as_json:
        output.document(_document(database, opened.id, before, after, pinned=False))
        return
    output.note(f"{database}: what is pinned, and what keyrotation.toml says instead")
    for line in _changes(before, after):
        output.note(line)
    output.note(
        f"{before.required} officers of those pinned today approve it with: "
        f"keyrotation approve {opened.id} --text | gpg -ab | keyrotation approve {opened.id} --signature -; "
        "then run `keyrotation policy` again"
    )
    sys.stdout.write(f"{opened.id}\n")


def _changes(before: Roster, after: Roster) -> Iterator[str]:
    if before.required != after.required:
        yield f"required   {before.required} becomes {after.required}"
    for sign, here, there in (("-", before, after), ("+", after, before)):
        for officer in sorted({*here.officers} - {*there.officers}, key=lambda each: each.name):
            yield f"officer    {sign} {officer.fingerprint} {officer.name}"
    for sign, here, there in (("-", before, after), ("+", after, before)):
        for recipient in sorted({*here.recipients} - {*there.recipients}):
            yield f"recipient  {sign} {recipient}"


def _document(database: str, request: str, before: Roster, after: Roster, *, pinned: bool) -> dict[str, Any]:
    changed = {"from": _roster(before), "to": _roster(after)}
    return {"database": database, "id": request, "pinned": pinned, **changed}


def _roster(roster: Roster) -> dict[str, Any]:
    return {
        "required": roster.required,
        "officers": [{"name": each.name, "fingerprint": each.fingerprint} for each in roster.officers],
        "recipients": list(roster.recipients),
    }

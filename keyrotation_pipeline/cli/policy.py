"""`policy`: a signed change of officers, threshold or recipients."""

from collections.abc import Iterator
from typing import Any

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.cli.output import show
from keyrotation_pipeline.cli.signing import Reason, propose, require_signed
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.requests.policy import change_policy, open_policy, pending
from keyrotation_pipeline.requests.roster import pinned_roster


def policy_command(reason: Reason = None, *, config: Config = None, as_json: Json = False) -> None:
    """Change officers, threshold or recipients to what keyrotation.toml now says.

    The first time, with --reason, it shows the difference and prints the id of a request. Once officers who are pinned
    today have signed that, run it again, and the new ones are pinned.
    """
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        before, database = pinned_roster(pipeline), pipeline.surroundings.identity().name
        if (request := pending(pipeline)) is None:
            request, after = open_policy(pipeline, reason=reason, requested_by=actor()), pipeline.signatures.roster()
            value = _document(database, request.id, before, after, pinned=False)
            lines = [f"{database}: what is pinned, and what keyrotation.toml says instead", *_changes(before, after)]
            lines.append("officers who are pinned today must sign")
            propose(pipeline, request, value, lines, "run `keyrotation policy` again", as_json=as_json)
            return
        require_signed(pipeline, request)
        after = change_policy(pipeline, request)
    lines = [*_changes(before, after), "pinned; officers who are no longer named can approve nothing"]
    show(database, _document(database, request.id, before, after, pinned=True), lines, as_json=as_json)


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

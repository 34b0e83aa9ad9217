"""`destroy`: permanently removes a key version, after approval."""

from typing import Annotated, Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.backups.destruction import Destruction, destroy, open_destruction, pending
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.cli.output import show
from keyrotation_pipeline.cli.signing import Reason, propose, require_signed
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.key_events import KeyDestroyed
from keyrotation_pipeline.model.requests import Request


def destroy_command(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Archived or compromised version, such as v1.")],
    *,
    reason: Reason = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Remove a key that nothing needs any more.

    The first time, with --reason, it prints the id of a request. Once two officers have signed that, run it again to
    remove the key.
    """
    wanted = KeyVersion.parse(version)
    with open_backups(settings.load(config), actor=actor()) as site:
        pipeline, database = site.pipeline, site.pipeline.surroundings.identity().name
        if (request := pending(pipeline, wanted)) is None:
            request, found = open_destruction(site, wanted, reason=reason, requested_by=actor())
            value = _document(database, request, found, destroyed=False)
            lines = [f"{database}: {wanted} ({found.fingerprint[:16]}) is to be destroyed permanently"]
            lines += _copies(found, "goes      ")
            propose(pipeline, request, value, lines, f"run `keyrotation destroy {wanted}` again", as_json=as_json)
            return
        require_signed(pipeline, request)
        done = destroy(site, request)
    lines = [f"{wanted} ({done.fingerprint[:16]}) is destroyed: it is no longer in the key store"]
    lines += _copies(done, "removed   ")
    lines.append("next: keyrotation backup, so that the newest set is complete without it")
    show(database, _document(database, request, done, destroyed=True), lines, as_json=as_json)


def _copies(found: Destruction, going: str) -> list[str]:
    lines = [f"{going}{name}" for name in found.local if not name.endswith(".json")]
    return lines + [f"stays     {copy}" for copy in found.held]


def _document(database: str, request: Request, found: Destruction, *, destroyed: bool) -> dict[str, Any]:
    return {"database": database, "id": request.id, "destroyed": destroyed, **found.as_fact(KeyDestroyed).as_json()}

"""`destroy`: a key version removed for good, after approval."""

import sys
from typing import Annotated, Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.backups.catalog import BackupSite
from keyrotation_pipeline.backups.destruction import Destruction, destroy, open_destruction, pending
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.key_events import KeyDestroyed
from keyrotation_pipeline.model.requests import Request
from keyrotation_pipeline.requests.roster import pinned_roster


def destroy_command(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Archived or compromised version, such as v1.")],
    *,
    reason: Annotated[
        str | None,
        typer.Option("--reason", help="Why, in one plain line; the officers sign it.", show_default=False),
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Remove a key that nothing needs any more.

    The first time, with --reason, it prints the id of a request. Once two officers have signed that, it does it.
    """
    wanted = KeyVersion.parse(version)
    declared = settings.load(config)
    with open_backups(declared, actor=actor()) as site:
        opened = pending(site.pipeline, wanted)
        if opened is None:
            _open(site, wanted, reason, as_json=as_json)
            return
        required = pinned_roster(site.pipeline).required
        if (missing := required - len(opened.approvals)) > 0:
            raise BlockedError(
                f"request {opened.id} needs {missing} more approval(s); sign with "
                f"`keyrotation approve {opened.id} --text`, or withdraw it with `keyrotation cancel {opened.id}`"
            )
        done = destroy(site, opened)
        database = site.pipeline.database.identity().name
    if as_json:
        output.document(_document(database, opened, done, destroyed=True))
        return
    output.heading(database)
    output.line(f"{wanted} ({done.fingerprint[:16]}) is destroyed: it is in the key store no more")
    for line in _lines(done, "removed   "):
        output.line(line)
    output.line("next: keyrotation backup, so that the newest set is whole without it")


def _open(site: BackupSite, version: KeyVersion, reason: str | None, *, as_json: bool) -> None:
    opened, found = open_destruction(site, version, reason=reason, requested_by=actor())
    database = site.pipeline.database.identity().name
    if as_json:
        output.document(_document(database, opened, found, destroyed=False))
        return
    output.note(f"{database}: {version} ({found.fingerprint[:16]}) is to be destroyed for good")
    for line in _lines(found, "goes      "):
        output.note(line)
    output.note(
        f"{pinned_roster(site.pipeline).required} officers approve it with: "
        f"keyrotation approve {opened.id} --text | gpg -ab | keyrotation approve {opened.id} --signature -; "
        f"then run `keyrotation destroy {version}` again"
    )
    sys.stdout.write(f"{opened.id}\n")


def _lines(found: Destruction, going: str) -> list[str]:
    lines = [f"{going}{name}" for name in found.local if not name.endswith(".json")]
    return lines + [f"stays     {copy}" for copy in found.held]


def _document(database: str, opened: Request, found: Destruction, *, destroyed: bool) -> dict[str, Any]:
    return {"database": database, "id": opened.id, "destroyed": destroyed, **found.as_fact(KeyDestroyed).as_json()}

"""`replace-key`: another key in the place of an imported one that opens no value, after approval."""

import sys
from typing import Annotated

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.errors import BlockedError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import keys_in, variable_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline.rotation.replace_key import open_replacement, pending, replace_key


def replace_key_command(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Version whose imported key opens no value.")],
    *,
    reason: Annotated[
        str | None,
        typer.Option("--reason", help="Why, in one plain line; the officers sign it.", show_default=False),
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Replace an imported key that opens no value by one that does.

    The right key is given as `init` takes it, in ENCRYPTION_MASTER_KEY, ENCRYPTION_MASTER_KEY_V2 … The first time, with
    --reason, it prints the id of a request. Once two officers have signed that, run it again, with the same key.
    """
    wanted = KeyVersion.parse(version)
    material = _given(wanted)
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        opened = pending(pipeline, wanted)
        if opened is None:
            _open(pipeline, wanted, material, reason, as_json=as_json)
            return
        if (missing := pinned_roster(pipeline).required - len(opened.approvals)) > 0:
            raise BlockedError(
                f"request {opened.id} needs {missing} more approval(s); sign with "
                f"`keyrotation approve {opened.id} --text`, or withdraw it with `keyrotation cancel {opened.id}`"
            )
        record = replace_key(pipeline, opened, material)
        database = pipeline.database.identity().name
    if as_json:
        output.document(
            {"database": database, "id": opened.id, "version": version, "fingerprint": record.fingerprint, "done": True}
        )
        return
    output.heading(database)
    output.line(f"{wanted} is {record.fingerprint[:16]} now, in place of {opened.source_fingerprint[:16]}")
    output.line("next: keyrotation backup; then rotate, if a rotation is under way by a new request that takes it over")


def _given(version: KeyVersion) -> KeyMaterial:
    name = variable_of(version)
    environment = settings.process_environment()
    if not environment.get(name, "").strip():
        raise RequestError(f"set {name} to the key that opens the values under {version}, then run this again")
    return keys_in({name: environment[name]})[version]


def _open(pipeline: Pipeline, version: KeyVersion, material: KeyMaterial, reason: str | None, *, as_json: bool) -> None:
    opened = open_replacement(pipeline, version, material, reason=reason, requested_by=actor())
    database = pipeline.database.identity().name
    if as_json:
        output.document(
            {"database": database, "id": opened.id, "version": str(version), "fingerprint": material.fingerprint,
             "done": False}
        )  # fmt: skip
        return
    output.note(f"{database}: {version} {opened.source_fingerprint[:16]} is to be {material.fingerprint[:16]}")
    output.note(
        f"{pinned_roster(pipeline).required} officers approve it with: "
        f"keyrotation approve {opened.id} --text | gpg -ab | keyrotation approve {opened.id} --signature -; "
        f"then run `keyrotation replace-key {version}` again, with the same key"
    )
    sys.stdout.write(f"{opened.id}\n")

"""`replace-key`: replaces an imported key that decrypts no value, after approval."""

from typing import Annotated, Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.cli.output import show
from keyrotation_pipeline.cli.signing import Reason, propose, require_signed
from keyrotation_pipeline.errors import RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import keys_in, variable_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.requests import Request
from keyrotation_pipeline.rotation.replace_key import open_replacement, pending, replace_key


def replace_key_command(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Version whose imported key decrypts no value.")],
    *,
    reason: Reason = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Replace an imported key that decrypts no value with one that does.

    The right key is given as `init` takes it, in ENCRYPTION_MASTER_KEY, ENCRYPTION_MASTER_KEY_V2 … The first time, with
    --reason, it prints the id of a request. Once two officers have signed that, run it again, with the same key.
    """
    wanted = KeyVersion.parse(version)
    material = _given(wanted)
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        database = pipeline.surroundings.identity().name
        if (request := pending(pipeline, wanted)) is None:
            request = open_replacement(pipeline, wanted, material, reason=reason, requested_by=actor())
            value = _document(database, request, material.fingerprint, done=False)
            what = f"{database}: {wanted} {request.source_fingerprint[:16]} is to be {material.fingerprint[:16]}"
            then = f"run `keyrotation replace-key {wanted}` again, with the same key"
            propose(pipeline, request, value, [what], then, as_json=as_json)
            return
        require_signed(pipeline, request)
        now = replace_key(pipeline, request, material).fingerprint
    lines = [
        f"{wanted} is {now[:16]} now, instead of {request.source_fingerprint[:16]}",
        "next: keyrotation backup; then rotate; if a rotation is under way, by a new request that takes it over",
    ]
    show(database, _document(database, request, now, done=True), lines, as_json=as_json)


def _given(version: KeyVersion) -> KeyMaterial:
    name = variable_of(version)
    environment = settings.process_environment()
    if not environment.get(name, "").strip():
        raise RequestError(f"set {name} to the key that decrypts the values under {version}, then run this again")
    return keys_in({name: environment[name]})[version]


def _document(database: str, request: Request, fingerprint: str, *, done: bool) -> dict[str, Any]:
    version = str(request.source)
    return {"database": database, "id": request.id, "version": version, "fingerprint": fingerprint, "done": done}

"""`policy`, `destroy`, `replace-key`, `reconcile` and `reseal`: changes that officers sign before they are made."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.backups.destruction import Destruction, destroy, open_destruction, pending_destruction
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.cli.output import show
from keyrotation_pipeline.cli.signing import Reason, propose, require_signed
from keyrotation_pipeline.errors import RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import keys_in, variable_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.audit import names
from keyrotation_pipeline.model.key_events import KeyDestroyed
from keyrotation_pipeline.model.requests import Request
from keyrotation_pipeline.requests.policy import change_policy, changed_host_names, open_policy, pending_policy
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline.rotation.reconcile import Plan, open_reconciliation, pending_reconciliation, reconcile
from keyrotation_pipeline.rotation.replace_key import open_replacement, pending_replacement, replace_key
from keyrotation_pipeline.rotation.sealing import reseal


def policy_command(reason: Reason = None, *, config: Config = None, as_json: Json = False) -> None:
    """Pin the officers that keyrotation.toml now names.

    And its threshold, recipients and hosts. The first time, with --reason, it shows the difference and prints the id of
    a request. Once officers who are pinned today have signed that, run it again, and the new ones are pinned.
    """
    with open_pipeline(settings.load(config), actor=actor(), asks_members=True) as pipeline:
        before, database = pinned_roster(pipeline), pipeline.environment.identity().name
        gone, new = changed_host_names(pipeline)
        hosts = [*(f"host       - {each}" for each in gone), *(f"host       + {each}" for each in new)]
        if (request := pending_policy(pipeline.ledger)) is None:
            request, after = open_policy(pipeline, reason=reason, requested_by=actor()), pipeline.signatures.roster()
            value = _document(database, request.id, before, after, pinned=False)
            lines = [f"{database}: what is pinned, and what keyrotation.toml says instead"]
            lines += [*_changes(before, after), *hosts]
            lines.append("officers who are pinned today must sign")
            propose(pipeline, request, value, lines, "run `keyrotation policy` again", as_json=as_json)
            return
        require_signed(pipeline, request)
        after = change_policy(pipeline, request)
    lines = [*_changes(before, after), *hosts, "pinned; officers who are no longer named can approve nothing"]
    show(database, _document(database, request.id, before, after, pinned=True), lines, as_json=as_json)


def _changes(before: Roster, after: Roster) -> Iterator[str]:
    if before.required != after.required:
        yield f"required   {before.required} becomes {after.required}"
    for sign, here, there in (("-", before, after), ("+", after, before)):
        for officer in sorted({*here.officers} - {*there.officers}, key=lambda each: each.name):
            yield f"officer    {sign} {officer.keys} {officer.name}"
    for sign, here, there in (("-", before, after), ("+", after, before)):
        for recipient in sorted({*here.recipients} - {*there.recipients}):
            yield f"recipient  {sign} {recipient}"


def _document(database: str, request: str, before: Roster, after: Roster, *, pinned: bool) -> dict[str, Any]:
    changed = {"from": _roster(before), "to": _roster(after)}
    return {"database": database, "id": request, "pinned": pinned, **changed}


def _roster(roster: Roster) -> dict[str, Any]:
    return {
        "required": roster.required,
        "officers": [
            {"name": each.name, "fingerprint": each.fingerprint, "keys": each.keys} for each in roster.officers
        ],
        "recipients": list(roster.recipients),
    }


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
        pipeline, database = site.pipeline, site.pipeline.environment.identity().name
        if (request := pending_destruction(pipeline.ledger, wanted)) is None:
            request, found = open_destruction(site, wanted, reason=reason, requested_by=actor())
            value = _destroy_document(database, request, found, destroyed=False)
            lines = [f"{database}: {wanted} ({found.fingerprint[:16]}) is to be destroyed permanently"]
            lines += _copies(found, "goes      ")
            propose(pipeline, request, value, lines, f"run `keyrotation destroy {wanted}` again", as_json=as_json)
            return
        require_signed(pipeline, request)
        done = destroy(site, request)
    lines = [f"{wanted} ({done.fingerprint[:16]}) is destroyed: it is no longer in the key store"]
    lines += _copies(done, "removed   ")
    lines.append("next: `keyrotation backup`, so that the newest set is complete without it")
    show(database, _destroy_document(database, request, done, destroyed=True), lines, as_json=as_json)


def _copies(found: Destruction, going: str) -> list[str]:
    lines = [f"{going}{name}" for name in found.local if not name.endswith(".json")]
    return lines + [f"stays     {copy}" for copy in found.held]


def _destroy_document(database: str, request: Request, found: Destruction, *, destroyed: bool) -> dict[str, Any]:
    return {"database": database, "id": request.id, "destroyed": destroyed, **found.as_fact(KeyDestroyed).as_json()}


def replace_key_command(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Version whose imported key decrypts no value.")],
    *,
    reason: Reason = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Replace an imported key that is wrong.

    One that decrypts no value, with one that does. The right key is given as `init` takes it, in ENCRYPTION_MASTER_KEY,
    ENCRYPTION_MASTER_KEY_V2 …, or alone in the variable of [format] keys. The first time, with --reason, it prints the
    id of a request. Once two officers have signed that, run it again, with the same key.
    """
    wanted = KeyVersion.parse(version)
    declared = settings.load(config)
    material = _given(declared, wanted)
    with open_pipeline(declared, actor=actor()) as pipeline:
        database = pipeline.environment.identity().name
        if (request := pending_replacement(pipeline.ledger, wanted)) is None:
            request = open_replacement(pipeline, wanted, material, reason=reason, requested_by=actor())
            value = _replace_key_document(database, request, material.fingerprint, done=False)
            what = f"{database}: {wanted} {request.source_fingerprint[:16]} is to be {material.fingerprint[:16]}"
            then = f"run `keyrotation replace-key {wanted}` again, with the same key"
            propose(pipeline, request, value, [what], then, as_json=as_json)
            return
        require_signed(pipeline, request)
        now = replace_key(pipeline, request, material).fingerprint
    lines = [
        f"{wanted} is {now[:16]} now, instead of {request.source_fingerprint[:16]}",
        "next: `keyrotation backup`; then rotate; if a rotation is under way, by a new request that takes it over",
    ]
    show(database, _replace_key_document(database, request, now, done=True), lines, as_json=as_json)


def _given(declared: settings.Settings, version: KeyVersion) -> KeyMaterial:
    if declared.format.held_at is not None:
        raise RequestError(
            f"{declared.format.held_at} holds the keys itself; have the right one put back there, or go on to the next "
            "version with `keyrotation request`"
        )
    name = declared.key_variable or variable_of(version)
    environment = settings.process_environment()
    if not environment.get(name, "").strip():
        raise RequestError(f"set {name} to the key that decrypts the values under {version}, then run this again")
    if declared.key_variable is None:
        return keys_in({name: environment[name]})[version]
    material, *others = declared.key_notation.keys_in(environment[name], name)
    if others:
        raise RequestError(
            f"{name} holds {1 + len(others)} keys; set it to the one that decrypts the values under {version}, "
            "then run this again"
        )
    return material


def _replace_key_document(database: str, request: Request, fingerprint: str, *, done: bool) -> dict[str, Any]:
    version = str(request.source)
    return {"database": database, "id": request.id, "version": version, "fingerprint": fingerprint, "done": done}


def reconcile_command(*, config: Config = None, as_json: Json = False) -> None:
    """Reconcile a restored database, or lost fences.

    The first time it prints what it found, what it will do, and the id of a request. Once two officers have signed
    that, run it again to do it.
    """
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        database = pipeline.environment.identity().name
        if (request := pending_reconciliation(pipeline.ledger)) is None:
            request, decided = open_reconciliation(pipeline, requested_by=actor())
            value = _reconcile_document(database, request, decided, reconciled=False)
            lines = [database, *_lines(decided)]
            propose(pipeline, request, value, lines, "run `keyrotation reconcile` again", as_json=as_json)
            return
        require_signed(pipeline, request)
        done = reconcile(pipeline, request)
    several = len(done.in_rows) > 1
    then = "; next: `keyrotation request`, which re-encrypts every value under one new version" if several else ""
    value = _reconcile_document(database, request, done, reconciled=True)
    output.show(database, value, [*_lines(done), f"done{then}"], as_json=as_json)


def reseal_command(*, config: Config = None, as_json: Json = False) -> None:
    """Seal stored keys under the configured wrapping key.

    The keys stay the same. It begins when every instance that reports has opened a canary under that key.
    """
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        done, database = reseal(pipeline), pipeline.environment.identity().name
    sealed = ", ".join(names(done.versions))
    lines = [f"{sealed or 'every key'} {'is' if sealed else 'was already'} sealed by {done.wrapping_key}"]
    value = {"database": database, "wrapping_key": done.wrapping_key, "sealed": names(done.versions)}
    output.show(database, value, lines, as_json=as_json)


def _lines(decided: Plan) -> list[str]:
    lines = [f"found     {finding}" for finding in decided.findings]
    lines.append(f"rows      values are under {', '.join(names(decided.in_rows)) or 'no version'}")
    lines.append(f"primary   {decided.primary}, as the key store has it")
    lines += [f"key       {version} {state}" for version, state in decided.states.items()]
    lines += [f"refuses   {name}: {', '.join(names(each))}" for name, each in sorted(decided.refused.items())]
    return lines + [f"ends      rotation {former}" for former in decided.ends]


def _reconcile_document(database: str, request: Request, decided: Plan, *, reconciled: bool) -> dict[str, Any]:
    return {
        "database": database,
        "id": request.id,
        "reconciled": reconciled,
        "found": list(decided.findings),
        "primary": str(decided.primary),
        "values_under": names(decided.in_rows),
        "states": {str(version): str(state) for version, state in decided.states.items()},
        "refused": {name: names(each) for name, each in decided.refused.items()},
        "ends": list(decided.ends),
    }

"""`reconcile`: brings a restored database back in line with the key store, and restores lost fences."""

from typing import Any

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.cli.signing import propose, require_signed
from keyrotation_pipeline.model.requests import Request
from keyrotation_pipeline.rotation.reconcile import Plan, open_reconciliation, pending, reconcile


def reconcile_command(*, config: Config = None, as_json: Json = False) -> None:
    """Reconcile a restored database, or restore lost fences.

    The first time it prints what it found, what it will do, and the id of a request. Once two officers have signed
    that, run it again to do it.
    """
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        database = pipeline.surroundings.identity().name
        if (request := pending(pipeline)) is None:
            request, decided = open_reconciliation(pipeline, requested_by=actor())
            value = _document(database, request, decided, reconciled=False)
            lines = [database, *_lines(decided)]
            propose(pipeline, request, value, lines, "run `keyrotation reconcile` again", as_json=as_json)
            return
        require_signed(pipeline, request)
        done = reconcile(pipeline, request)
    several = len(done.in_rows) > 1
    then = "; next: keyrotation request, which re-encrypts every value under one new version" if several else ""
    value = _document(database, request, done, reconciled=True)
    output.show(database, value, [*_lines(done), f"done{then}"], as_json=as_json)


def _lines(decided: Plan) -> list[str]:
    lines = [f"found     {finding}" for finding in decided.findings]
    lines.append(f"rows      values are under {', '.join(output.names(decided.in_rows)) or 'no version'}")
    lines.append(f"primary   {decided.primary}, as the key store has it")
    lines += [f"key       {version} {state}" for version, state in decided.states.items()]
    lines += [f"refuses   {name}: {', '.join(output.names(each))}" for name, each in sorted(decided.refused.items())]
    return lines + [f"ends      rotation {former}" for former in decided.ends]


def _document(database: str, request: Request, decided: Plan, *, reconciled: bool) -> dict[str, Any]:
    return {
        "database": database,
        "id": request.id,
        "reconciled": reconciled,
        "found": list(decided.findings),
        "primary": str(decided.primary),
        "values_under": output.names(decided.in_rows),
        "states": {str(version): str(state) for version, state in decided.states.items()},
        "refused": {name: output.names(each) for name, each in decided.refused.items()},
        "ends": list(decided.ends),
    }

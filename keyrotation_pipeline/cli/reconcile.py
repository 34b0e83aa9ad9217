"""`reconcile`: a database that was restored to an earlier state, and the key store that was not; and lost fences."""

import sys
from typing import Any

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.model.requests import Request
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation.reconcile import RECONCILE, Plan, open_reconciliation, pending, reconcile

_NEXT = '; next: keyrotation request --reason "…", which brings every value under one new version'


def reconcile_command(*, config: Config = None, as_json: Json = False) -> None:
    """Mend a restored database, or put lost fences back.

    The first time it says what it found and will do, and prints the id of a request. Once two officers have signed
    that, it does it.
    """
    declared = settings.load(config)
    with open_pipeline(declared, actor=actor()) as pipeline:
        opened = pending(pipeline)
        if opened is None:
            _open(pipeline, as_json=as_json)
            return
        required = RECONCILE.authority(pipeline).required
        if (missing := required - len(opened.approvals)) > 0:
            raise BlockedError(
                f"request {opened.id} needs {missing} more approval(s); sign with "
                f"`keyrotation approve {opened.id} --text`, or withdraw it with `keyrotation cancel {opened.id}`"
            )
        done = reconcile(pipeline, opened)
        database = pipeline.database.identity().name
    if as_json:
        output.document(_document(database, opened, done, reconciled=True))
        return
    output.heading(database)
    _show(done)
    several = len(done.in_rows) > 1
    output.line(
        f"done{'; next: keyrotation request, which brings every value under one new version' if several else ''}"
    )


def _open(pipeline: Pipeline, *, as_json: bool) -> None:
    opened, decided = open_reconciliation(pipeline, requested_by=actor())
    database = pipeline.database.identity().name
    if as_json:
        output.document(_document(database, opened, decided, reconciled=False))
        return
    output.note(database)
    for line in _lines(decided):
        output.note(line)
    output.note(
        f"{RECONCILE.authority(pipeline).required} officers approve it with: "
        f"keyrotation approve {opened.id} --text | gpg -ab | keyrotation approve {opened.id} --signature -; "
        "then run `keyrotation reconcile` again"
    )
    sys.stdout.write(f"{opened.id}\n")


def _show(decided: Plan) -> None:
    for line in _lines(decided):
        output.line(line)


def _lines(decided: Plan) -> list[str]:
    lines = [f"found     {finding}" for finding in decided.findings]
    lines.append(f"rows      values are under {', '.join(output.names(decided.in_rows)) or 'no version'}")
    lines.append(f"primary   {decided.primary}, as the key store has it")
    lines += [f"key       {version} {state}" for version, state in decided.states.items()]
    lines += [f"refuses   {name}: {', '.join(output.names(each))}" for name, each in sorted(decided.refused.items())]
    return lines + [f"ends      rotation {former}" for former in decided.ends]


def _document(database: str, opened: Request, decided: Plan, *, reconciled: bool) -> dict[str, Any]:
    return {
        "database": database,
        "id": opened.id,
        "reconciled": reconciled,
        "found": list(decided.findings),
        "primary": str(decided.primary),
        "values_under": output.names(decided.in_rows),
        "states": {str(version): str(state) for version, state in decided.states.items()},
        "refused": {name: output.names(each) for name, each in decided.refused.items()},
        "ends": list(decided.ends),
    }

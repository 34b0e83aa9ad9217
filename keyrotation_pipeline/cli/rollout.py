"""`rollout` and `confirm`: which application instance uses which key, and an officer's word where none can say so."""

import sys
from collections.abc import Iterator
from typing import Any

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, RequestId, SignatureFile, TextToSign, actor, given_signature
from keyrotation_pipeline.model.fleet import LINES_OF_CODE, RolloutMode, confirming
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.monitoring.fleet import fleet
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.confirming import add_confirmation, confirmation_text


def rollout(*, config: Config = None, as_json: Json = False) -> None:
    """Show which application instance reads and writes which key version.

    And how many values of an older version each has decrypted, and how many it could not decrypt, since it started.
    """
    with assembly.open_pipeline(settings.load(config), actor=actor()) as pipeline:
        content = fleet(pipeline)
    if as_json:
        output.document(content)
        return
    output.heading(content["database"])
    output.line(f"primary {content['primary'] or 'none'}; [rollout] mode {content['mode']}")
    for workload, waits in content["workloads"].items():
        output.line(f"{workload}: {waits or 'rolled out'}")
    if content["instances"]:
        columns = ("Instance", "Reads", "Writes", "Last heard of", "Still decrypted", "Could not decrypt")
        output.table(columns, map(_row, content["instances"]))
    else:
        output.line("no application instance reports itself; each does by:")
        for code in LINES_OF_CODE:
            output.line(f"  {code}")
    if content["waiting_for"]:
        output.line(f"waits: {content['waiting_for']}")
    for sentence in content["attention"]:
        output.line(f"Attention {sentence}", style="bold red")


def confirm(
    request_id: RequestId,
    *,
    text: TextToSign = False,
    signature: SignatureFile = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Print the text that says which rollout is done, or add an officer's signature over it.

    keyrotation confirm ID --text | gpg -ab | keyrotation confirm ID --signature -
    """
    content = given_signature(text=text, signature=signature)
    with assembly.open_pipeline(settings.load(config), actor=actor()) as pipeline:
        walk = pipeline.ledger.walk(request_id)
        if text:
            sys.stdout.buffer.write(confirmation_text(pipeline, walk))
            return
        officer, goal = add_confirmation(pipeline, walk, content)
        database = pipeline.database.identity().name
    if as_json:
        output.document({"id": walk.id, "officer": officer, "rollout": str(goal.aim)})
        return
    output.heading(database)
    output.line(f"confirmed by {officer}: every application instance {goal.statement()}")
    output.line(f"next: keyrotation rotate {walk.id}")


def duties(pipeline: Pipeline, walk: Walk) -> Iterator[str]:
    """What the applications have to do for a rotation, or who says that they did, a line each."""
    mode = pipeline.rollout.mode
    yield mode.rule(walk.source, walk.target, pipeline.rollout.workloads)
    match mode:
        case RolloutMode.ATTEST:
            yield "each application instance reports itself by:"
            yield from (f"  {code}" for code in LINES_OF_CODE)
        case RolloutMode.CONFIRM:
            yield f"after each of the three rollouts: {confirming(walk.id)}"
        case RolloutMode.KUBERNETES | RolloutMode.NONE:
            pass


def _row(instance: dict[str, Any]) -> tuple[str, ...]:
    silent = ", silent" if instance["silent"] else ""
    return (
        instance["instance"],
        ", ".join(instance["reads"]) or "not known",
        instance["writes"] or "not known",
        f"{instance['reported_at'][:16].replace('T', ' ')}{silent}",
        _counts(instance["decrypted"]),
        _counts(instance["failed"]),
    )


def _counts(by_version: dict[str, Any]) -> str:
    counts = (
        f"{version}: {count['values']:,}, last {count['last_at'][:16].replace('T', ' ')}"
        for version, count in by_version.items()
    )
    return "; ".join(counts) or "-"

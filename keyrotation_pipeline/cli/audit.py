"""`audit verify`: the chain of events, against itself and against what was written down elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.audit.chain import read_anchor
from keyrotation_pipeline.audit.verify import verify_everything
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.audit import AuditHead

app = typer.Typer(help="The hash-chained audit of all that was done.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def audit() -> None:
    """The hash-chained audit of all that was done."""


@app.command()
def verify(
    anchor: Annotated[
        Path | None,
        typer.Option("--anchor", metavar="FILE", help="A signed approval text, a backup's manifest or a report."),
    ] = None,
    *,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Find events changed, removed, reordered or cut off."""
    declared = settings.load(config)
    anchors = [_read(anchor)] if anchor else []
    with assembly.open_pipeline(declared, actor=actor()) as pipeline:
        database = pipeline.database.identity().name
        head = verify_everything(pipeline, *anchors)
    if as_json:
        output.document({"database": database, "verified": True, "seq": head.seq, "head": head.hash})
        return
    output.heading(database)
    output.line(f"{head.seq:,} events verified, up to {head.hash}")
    if anchor:
        output.line(f"the chain leads through the anchor of {anchor.name}, event {anchors[0].seq:,}")


def _read(path: Path) -> AuditHead:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise AuditError(
            f"anchor {path} cannot be read; give an approval text, a backup's manifest or a report"
        ) from None
    return read_anchor(text)

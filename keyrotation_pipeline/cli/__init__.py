"""The command `keyrotation`: thin, a file a group of commands; the doing is in `rotation` and `assembly`."""

import sys

MISSING_EXTRA = "{name} is not installed; the command needs the extra: pip install 'keyrotation-pipeline[pipeline]'\n"


def main() -> None:
    """Entry point. Applications install the distribution without the extra that this needs, so imports are guarded."""
    try:
        from keyrotation_pipeline.cli.application import run  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        name = missing.name or ""
        if name.partition(".")[0] == "keyrotation_pipeline":
            raise
        sys.stderr.write(MISSING_EXTRA.format(name=name))
        raise SystemExit(1) from None
    run()

"""The `keyrotation` command: a thin shell with a file per group of commands; `rotation` and `assembly` do the work."""

import gc
import logging
import os
import sys
import warnings

_INTERRUPTED = 130
# Imported modules stay loaded; by default the garbage collector would scan them all a dozen times during start.
_OBJECTS_BETWEEN_COLLECTIONS = 200_000
_STOPPED = "stopped here; whatever was committed stays, and the same command continues from there\n"
MISSING_EXTRA = (
    "this is keyrotation-pipeline for applications, which encrypts columns and lacks {name} for this command; "
    "run `pip install 'keyrotation-pipeline[pipeline]'` (`[scan]` is enough for scan, `[exec]` for exec)\n"
)


def main() -> None:
    """Run the command line; neither Ctrl-C nor a closed output pipe ends in a traceback."""
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    # A deprecation in click, about a name that typer imports: the user of a command cannot fix it.
    warnings.filterwarnings("ignore", "'click", DeprecationWarning)
    # What it logs of a lost connection; the command says that in a sentence of its own.
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    _open_closed_streams()
    try:
        _run()
    except KeyboardInterrupt:
        sys.stderr.write(_STOPPED)
        raise SystemExit(_INTERRUPTED) from None
    except BrokenPipeError:
        raise SystemExit(1) from None
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:  # the command noticed it first
            sys.stderr.write(_STOPPED)
        raise
    finally:
        _flush()
        gc.freeze()  # else the interpreter scans every imported object once more at exit


def _open_closed_streams() -> None:
    """Open devnull for a stream that the shell closed (``>&-``), which is None in Python."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115  open until the end


def _flush() -> None:
    """Flush stdout now; at interpreter exit a closed pipe would print a traceback."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())


def _run() -> None:
    """Import and run the commands, or name the missing extra: applications install the distribution without it."""
    try:
        from keyrotation_pipeline.cli.commands import run  # noqa: PLC0415

        run()
    except ModuleNotFoundError as missing:  # each command imports what it needs
        name = missing.name or ""
        if name.partition(".")[0] == "keyrotation_pipeline":
            raise
        sys.stderr.write(MISSING_EXTRA.format(name=name))
        raise SystemExit(1) from None

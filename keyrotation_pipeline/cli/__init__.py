"""The command `keyrotation`: thin, a file a group of commands; the doing is in `rotation` and `assembly`."""

import gc
import os
import sys
import warnings

_INTERRUPTED = 130
# What is imported stays; by default the garbage collector would look through all of it a dozen times meanwhile.
_OBJECTS_BETWEEN_COLLECTIONS = 200_000
_STOPPED = "stopped here; whatever was committed stays, and the same command goes on from there\n"
MISSING_EXTRA = "{name} is not installed; the command needs the extra: pip install 'keyrotation-pipeline[pipeline]'\n"


def main() -> None:
    """Entry point: neither Ctrl-C nor an output that nobody reads any more ends in a traceback."""
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    # Of click, about a name that typer imports: nothing that whoever types a command can mend.
    warnings.filterwarnings("ignore", "'click", DeprecationWarning)
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
        gc.freeze()  # else the interpreter looks through all that was imported once more, before it forgets it


def _open_closed_streams() -> None:
    """Where the shell closed a stream (``>&-``), Python has None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115  open until the end


def _flush() -> None:
    """Write what is left now; at the interpreter's end a closed pipe would show as a traceback."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())


def _run() -> None:
    """Applications install the distribution without the extra that this needs, so imports are guarded."""
    try:
        from keyrotation_pipeline.cli.application import run  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        name = missing.name or ""
        if name.partition(".")[0] == "keyrotation_pipeline":
            raise
        sys.stderr.write(MISSING_EXTRA.format(name=name))
        raise SystemExit(1) from None
    run()

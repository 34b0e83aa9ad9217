"""`keyrotation recover` as a program that is killed on the way: `dying_recovery.py FUNCTION EVENT NUMBER ARGUMENTS…`.

It dies when a function of the modules of the recovery is entered (``call``) or left (``return``) for the
NUMBER-th time. With ``-`` for FUNCTION, at the NUMBER-th such moment of any of them.
"""

import os
import signal
import sys
from types import FrameType
from typing import Any

from keyrotation_pipeline.adapters.backups.directory import write_new
from keyrotation_pipeline.assembly import recover as opening
from keyrotation_pipeline.backups import recover as recovering
from keyrotation_pipeline.backups import restore_checks
from keyrotation_pipeline.cli import main

FILES = frozenset({opening.__file__, recovering.__file__, restore_checks.__file__})


def die_at(function: str, event: str, number: int) -> None:
    """End the process at this moment, as `kill -9` would."""
    moments = iter(range(1, number))

    def trace(frame: FrameType, kind: str, _value: Any) -> Any:  # noqa: ANN401
        is_ours = frame.f_code.co_filename in FILES or frame.f_code is write_new.__code__
        if not is_ours or frame.f_code.co_name.startswith("<"):
            return None
        wanted = function in {"-", frame.f_code.co_name} and kind in (
            ("call", "return") if function == "-" else (event,)
        )
        if wanted and next(moments, None) is None:
            os.write(2, f"killed at the {kind} of {frame.f_code.co_name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


if __name__ == "__main__":
    _, name, what, count, *arguments = sys.argv
    sys.argv = ["keyrotation", *arguments]
    die_at(name, what, int(count))
    main()

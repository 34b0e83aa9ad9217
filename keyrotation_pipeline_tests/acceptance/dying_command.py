"""Types one command again and again, which is killed at every moment that it has not been killed at before.

A moment is an event of the audit, as it is stored and once it is committed, or a file of the home, as it is made, moved
or removed: `dying_command.py ARGUMENTS…`. Prints the moments, a line each, once the command came to its end.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keyrotation_pipeline.adapters.postgres.ledger.chain import AuditChain
from keyrotation_pipeline.cli import main
from keyrotation_pipeline.model.audit import AuditEvent

_FILES = frozenset({"os.link", "os.rename", "os.remove", "os.mkdir"})
_HAVE_TARGETS = frozenset({"os.link", "os.rename"})
_HOME = "/.keyrotation/"
_MOST = 150
_CHANGING = r"(?<=writing-)\w+|[0-9a-f]*[0-9][0-9a-f]*"
_WITHOUT_MEANING = "gnupg"  # directories of one call of gpg, whose names are random


def die_at_new(seen: frozenset[str], told: int) -> None:
    """Ends this process at the first moment that was not seen, as `kill -9` would, and says which to a descriptor."""

    def reached(moment: str) -> None:
        if moment not in seen:
            os.write(told, moment.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FILES and _HOME in (path := str(arguments[event in _HAVE_TARGETS])):
            name = re.sub(_CHANGING, "N", path.rpartition(_HOME)[2])
            if not name.startswith(_WITHOUT_MEANING):
                reached(f"{event} {name}")

    store, transaction = AuditChain._store, AuditChain.transaction  # noqa: SLF001

    def stored(self: AuditChain, event: AuditEvent) -> None:
        store(self, event)
        what = f"{event.kind} {json.loads(event.body)['facts'].get('step', '')}".rstrip()
        self.__dict__.setdefault("_kinds", []).append(what)
        reached(f"stored {what}")

    @contextmanager
    def committed(self: AuditChain) -> Iterator[None]:
        try:
            with transaction(self):
                yield
        except BaseException:
            self.__dict__.pop("_kinds", None)
            raise
        if not self._depth:
            for what in self.__dict__.pop("_kinds", []):
                reached(f"committed {what}")

    AuditChain._store, AuditChain.transaction = stored, committed  # type: ignore[method-assign]  # noqa: SLF001
    sys.addaudithook(watch)


def _typed(seen: frozenset[str]) -> str:
    """The moment at which a new process was killed; "": it came to its end."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        die_at_new(seen, writing)
        main()
        sys.exit()
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123  a descriptor
        moment = pipe.read().decode()
    _, status = os.wait()
    if not moment and status:
        sys.exit(f"refused after {sorted(seen)}")
    return moment


if __name__ == "__main__":
    sys.argv[0] = "keyrotation"
    killed: set[str] = set()
    while found := _typed(frozenset(killed)):
        if found in killed or len(killed) > _MOST:
            sys.exit(f"killed {len(killed)} times, and no end")
        killed.add(found)
        print(found, flush=True)  # noqa: T201

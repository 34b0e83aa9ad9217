"""Opens the members of a fleet when they are first needed, and names the one that an error comes from."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

import psycopg

from keyrotation_pipeline.adapters.postgres.server.connection import READ_ONLY
from keyrotation_pipeline.errors import (
    AuditError,
    CopyAheadError,
    DatabaseUnavailableError,
    KeyRotationError,
    MemberUnavailableError,
)
from keyrotation_pipeline.model.environment import MemberFound
from keyrotation_pipeline.model.proof import MemberState
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.database import DatabasePorts

# A server that is gone lets each attempt wait for ten seconds, and one command makes many.
NOT_ASKED_AGAIN_SECONDS = 30.0
# Of one process; a server has a hundred by default, for everybody.
KEPT_OPEN = 40


class Member(Protocol):
    """An opened member."""

    @property
    def ports(self) -> DatabasePorts:
        """Its ports, over connections of its own."""

    @property
    def is_open(self) -> bool:
        """Whether its connection was not lost since."""

    def bring_up_to_date(self) -> None:
        """Appends to its copy of the audit what the audit has since; raises PreflightError, CopyAheadError."""

    def found(self) -> MemberFound:
        """It as it is now; raises PreflightError where its copy of the audit was altered."""

    def require_copy(self) -> None:
        """Refuses what `bring_up_to_date` does, by the last event of its copy alone, and writes nothing."""

    def require_unmoved(self) -> None:
        """Refuses one that runs elsewhere than when the walk that is under way was requested; raises PreflightError."""

    def transaction(self) -> AbstractContextManager[object]:
        """A READ COMMITTED transaction of its own."""

    def limited(self, seconds: float) -> AbstractContextManager[None]:
        """Gives what is asked inside so long in all; raises DatabaseUnavailableError, and its connection is closed."""

    def state(self, tables: Sequence[EncryptedTable], relations: str = "") -> MemberState:
        """What identifies it now, and everything that its evidence rests on; `relations` as `ZeroOldRows` has them."""

    def wal_position(self) -> str:
        """The end of its WAL."""

    def has_reached(self, lsn: str) -> bool:
        """Whether its WAL is not behind this position."""

    def close(self) -> None:
        """Closes its connection."""


class OwnTables(Protocol):
    """The tables of the home's own database in the ledger's running transaction."""

    def unlocked_after(self) -> AbstractContextManager[object]:
        """Ends the locks taken inside, and undoes what is written there."""

    def lock(self, tables: Sequence[EncryptedTable]) -> None:
        """Keeps others from changing these until the transaction ends; raises BlockedError."""

    def state(self, tables: Sequence[EncryptedTable], relations: str = "") -> MemberState:
        """As `Member.state`."""


@dataclass
class Members:
    """The home's own database, and the others by name; threads may take different ones at the same time.

    Args:
        lead: the ports of the home's own database.
        open: opens each of the others, by name; raises KeyRotationError.
        reconciling: see `DatabaseEnvironment.members`.
    """

    lead: DatabasePorts
    open: Mapping[str, Callable[[], Member]]
    reconciling: bool = False
    _opened: dict[str, Member] = field(default_factory=dict, init=False)
    _in_use: Counter[str] = field(default_factory=Counter, init=False)
    _silent: dict[str, tuple[float, str]] = field(default_factory=dict, init=False)
    # One is opened at a time, for which the audit is replayed.
    _opening: Lock = field(default_factory=Lock, init=False)

    @contextmanager
    def at(self, name: str) -> Iterator[DatabasePorts]:
        """Yields the ports of one database, brought up to date; errors inside name it.

        Raises:
            MemberUnavailableError: it does not answer, is not where it was signed to be, or its copy is no copy.
        """
        if not name:
            yield self.lead
            return
        with self.member(name) as member:
            with _usable(name), suppress(*([CopyAheadError] if self.reconciling else [])):
                member.bring_up_to_date()
            yield member.ports

    def of(self, table: EncryptedTable) -> AbstractContextManager[DatabasePorts]:
        """As `at`, of the database that a table is in."""
        return self.at(table.name.database)

    @contextmanager
    def member(self, name: str) -> Iterator[Member]:
        """Yields one of the others as it is, and keeps it open for a while; errors inside name it."""
        with _named(name):
            with self._opening:
                if (member := self._opened.pop(name, None)) is None or not member.is_open:
                    with _usable(name):
                        self._close_unused()
                        member = self._open(name)
                self._opened[name] = member
                self._in_use[name] += 1
            try:
                yield member
            finally:
                self._in_use[name] -= 1

    @contextmanager
    def once(self, name: str) -> Iterator[Member]:
        """Yields one of the others as it is, and closes it unless it was open; errors inside name it.

        Raises:
            MemberUnavailableError: it does not answer, or cannot be used.
        """
        was_open = name in self._opened
        with _named(name), _usable(name), self.member(name) as member:
            try:
                yield member
            finally:
                if not was_open:
                    del self._opened[name]
                    member.close()

    def _close_unused(self) -> None:
        """Closes the one used last, if many are open: they are taken in turn, so it is needed again after the others.

        In use may be several, each by what goes through its rows.
        """
        unused = (name for name in reversed(self._opened) if not self._in_use[name])
        if len(self._opened) >= KEPT_OPEN and (last := next(unused, None)) is not None:
            self._opened.pop(last).close()

    def _open(self, name: str) -> Member:
        until, why = self._silent.get(name, (0.0, ""))
        if time.monotonic() < until:
            raise DatabaseUnavailableError(why)
        try:
            opened = self.open[name]()
        except DatabaseUnavailableError as error:
            self._silent[name] = time.monotonic() + NOT_ASKED_AGAIN_SECONDS, str(error)
            raise
        if not self.reconciling:
            try:
                opened.require_unmoved()
            except BaseException:
                opened.close()
                raise
        return opened

    def found(self) -> Mapping[str, MemberFound]:
        """Each of the others as it is now, but for those that do not answer or cannot be used."""
        found = dict[str, MemberFound]()
        for name in self.open:
            with suppress(MemberUnavailableError), self.member(name) as member, _usable(name):
                found[name] = member.found()
        return found

    def grouped(self, tables: Sequence[EncryptedTable]) -> Sequence[tuple[str, Sequence[EncryptedTable]]]:
        """Every database by name, the home's own (named "") first, with those of these tables that are in it."""
        found = dict[str, list[EncryptedTable]]({name: [] for name in ("", *self.open)})
        for each in tables:
            if each.name.database in found:
                found[each.name.database].append(each)
        return [(name, tuple(own)) for name, own in found.items()]

    def close(self) -> None:
        """Closes what was opened."""
        for each in self._opened.values():
            each.close()


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        with naming(name):
            yield
    except (DatabaseUnavailableError, psycopg.OperationalError) as error:
        why = str(error) if isinstance(error, KeyRotationError) else "the connection was lost; run this again"
        raise MemberUnavailableError(in_member(name, why)) from None
    except psycopg.errors.ReadOnlySqlTransaction:
        raise MemberUnavailableError(in_member(name, f"it {READ_ONLY}")) from None


@contextmanager
def _usable(name: str) -> Iterator[None]:
    """Whoever owns a member can keep it from being used, but not the others, nor `status` from showing them."""
    try:
        yield
    except AuditError:
        raise  # of the home itself
    except KeyRotationError as error:
        raise MemberUnavailableError(in_member(name, str(error))) from None
    except psycopg.errors.ProgrammingError as error:
        why = f"its schema of the pipeline's records was changed ({type(error).__name__}); find out who did that"
        raise MemberUnavailableError(
            in_member(name, f"{why}, DROP that SCHEMA there, then run `keyrotation init`")
        ) from None


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Has errors inside name a member."""
    try:
        yield
    except KeyRotationError as error:
        error.args = (in_member(name, str(error)), *error.args[1:])
        raise


def in_member(name: str, sentence: str) -> str:
    """A sentence about a member, by its name: what is said of `[database] url` is of its own in `[[databases]]`."""
    named = re.search(r"\b{0}:|\bdatabase {0} ".format(re.escape(name)), sentence)
    own = sentence.replace("[database] url", f"[[databases]] {name} url")
    return own if named else f"database {name}: {own}"

"""Sends statements before earlier ones are answered (libpq pipeline mode); passes arrays of bytes in binary form."""

import re
import select
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import errors, pq
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Transformer
from psycopg.types.string import ByteaBinaryLoader

from keyrotation_pipeline.adapters.postgres.server.connection import Connection

_NULL = b"\xff\xff\xff\xff"


class Array:
    """A one-dimensional array, packed.

    Args:
        items: each element as the server sends it in binary, or None for NULL.
    """

    __slots__ = ("packed",)
    oid = element_oid = 0

    def __init__(self, items: Iterable[bytes | None]) -> None:
        parts = [_NULL if item is None else len(item).to_bytes(4, "big") + item for item in items]
        # Dimensions, a flag for NULLs (the server detects them itself), element type, length, lower bound.
        header = (1, 0, self.element_oid, len(parts), 1) if parts else (0, 0, self.element_oid)
        self.packed = b"".join([*(number.to_bytes(4, "big") for number in header), *parts])

    @classmethod
    def of_packed(cls, packed: bytes) -> Self:
        """Wraps an array that is already in binary form."""
        array = cls.__new__(cls)
        array.packed = packed
        return array


class TextArray(Array):
    """``text[]``."""

    __slots__ = ()
    oid, element_oid = 1009, 25


class ByteaArray(Array):
    """``bytea[]``."""

    __slots__ = ()
    oid, element_oid = 1001, 17

    @classmethod
    def of_packed(cls, packed: bytes) -> Self:
        """Wraps a ``text[]``, which is packed alike but for the type that its header names."""
        return super().of_packed(packed[:8] + cls.element_oid.to_bytes(4, "big") + packed[12:])


class TidArray(Array):
    """``tid[]``, of row positions."""

    __slots__ = ()
    oid, element_oid = 1010, 27


class XidArray(Array):
    """``xid[]``, of row versions."""

    __slots__ = ()
    oid, element_oid = 1011, 28


class _ArrayDumper(Dumper):
    format = pq.Format.BINARY

    def dump(self, obj: Array) -> Buffer:
        return obj.packed


_DUMPERS = {
    kind: type(f"{kind.__name__}Dumper", (_ArrayDumper,), {"oid": kind.oid})
    for kind in (TextArray, ByteaArray, TidArray, XidArray)
}


def pass_bytes_through(connection: Connection) -> None:
    """Loads text, row positions and row versions as bytes, and sends them back as `Array`."""
    for name in ("text", "tid", "xid"):
        connection.adapters.register_loader(name, ByteaBinaryLoader)
    for kind, dumper in _DUMPERS.items():
        connection.adapters.register_dumper(kind, dumper)


Row = tuple[Any, ...]
Parameter = Array | str | int

# The statements use psycopg's placeholders and its doubled percent sign.
_PLACEHOLDER = re.compile(rb"%(?:%|\((\w+)\)[sbt])")


class StatementPipeline:
    """Sends prepared statements to the server and receives their answers in order.

    A context manager. At its end no answer is pending, and the connection is as it was before.

    Args:
        connection: in autocommit mode, outside of a transaction. Nothing else may use it meanwhile.
        statements: with psycopg's named placeholders; results are in binary form.

    Raises:
        psycopg.Error: the server refused to prepare one of them.
    """

    def __init__(self, connection: Connection, statements: Sequence[bytes]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._adapters = Transformer.from_context(connection)
        self._names: dict[bytes, tuple[bytes, Sequence[str]]] = {}
        self._ahead = 0
        try:
            for number, statement in enumerate(statements):
                self._prepare(b"keyrotation_%d" % number, statement)
        except psycopg.Error:
            with suppress(psycopg.Error):
                self._deallocate()  # the next attempt uses the same names
            raise

    def __enter__(self) -> "StatementPipeline":
        self._pgconn.enter_pipeline_mode()
        self._poll = select.poll()
        self._poll.register(self._pgconn.socket, select.POLLIN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        # The error that ended the block says more than its consequences.
        with suppress(psycopg.Error):
            while self._ahead:
                with suppress(errors.DatabaseError):
                    self.receive()
            self._pgconn.exit_pipeline_mode()
            self._deallocate()

    def send(self, statement: bytes, parameters: Mapping[str, Parameter]) -> None:
        """Sends a statement and its COMMIT after those sent before."""
        name, order = self._names[statement]
        values = [parameters[each] for each in order]
        packed = [value.packed if isinstance(value, Array) else str(value).encode() for value in values]
        formats = [pq.Format.BINARY if isinstance(value, Array) else pq.Format.TEXT for value in values]
        self._pgconn.send_query_prepared(name, packed, formats, pq.Format.BINARY)
        self._pgconn.pipeline_sync()
        self._ahead += 1

    def push(self) -> None:
        """Flushes everything that was sent to the network, so that nothing waits in our own buffer while we compute."""
        while self._pgconn.flush():
            self._wait(select.POLLIN | select.POLLOUT)

    def receive(self) -> list[Row]:
        """Returns the rows of the oldest statement whose answer was not received yet.

        For a statement without result rows, it is one row: the number of rows written.

        Raises:
            psycopg.Error: the server refused the statement and did nothing of it. Later statements are not affected.
        """
        self._ahead -= 1
        self.push()
        result, end = self._answer(), self._next()
        if end is not None and end.status != pq.ExecStatus.PIPELINE_SYNC:
            # The COMMIT failed: deferred constraints are checked only there.
            result, end = end, self._next() or self._next()
        if result.status not in {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK}:
            raise errors.error_from_result(result, self._connection.info.encoding)
        if end is None:
            raise psycopg.OperationalError("the server did not confirm the commit")
        if result.status == pq.ExecStatus.COMMAND_OK:
            return [(result.command_tuples,)]
        self._adapters.set_pgresult(result)
        return self._adapters.load_rows(0, result.ntuples, tuple)

    def _prepare(self, name: bytes, statement: bytes) -> None:
        order: list[str] = []

        def numbered(place: "re.Match[bytes]") -> bytes:
            if place[1] is None:
                return b"%"
            if (parameter := place[1].decode()) not in order:
                order.append(parameter)
            return b"$%d" % (order.index(parameter) + 1)

        result = self._pgconn.prepare(name, _PLACEHOLDER.sub(numbered, statement))
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise errors.error_from_result(result, self._connection.info.encoding)
        self._names[statement] = (name, order)

    def _answer(self) -> "pq.abc.PGresult":
        result = self._next()
        if result is None:
            raise psycopg.OperationalError("the server gave no answer")
        while self._next() is not None:
            pass  # None ends the answer to a statement
        return result

    def _deallocate(self) -> None:
        for name, _ in self._names.values():
            self._connection.execute(b"DEALLOCATE " + name)

    def _next(self) -> "pq.abc.PGresult | None":
        while self._pgconn.is_busy():
            self._wait(select.POLLIN)
            self._pgconn.consume_input()
        return self._pgconn.get_result()

    def _wait(self, events: int) -> None:
        self._poll.modify(self._pgconn.socket, events)
        if self._poll.poll()[0][1] & select.POLLIN and events & select.POLLOUT:
            self._pgconn.consume_input()  # a server that cannot send does not read either

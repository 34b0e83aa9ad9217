"""Arrays of bytes in PostgreSQL's binary form: values from the server go back to it without being parsed.

The text form of a ``text[]`` parameter costs ten times as much, and psycopg's own list dumper inspects each element.
"""

from collections.abc import Iterable
from typing import Self

from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.types.string import ByteaBinaryLoader

from keyrotation_pipeline.adapters.postgres.server.connection import Connection

_NULL = b"\xff\xff\xff\xff"


class Array:
    """A one-dimensional array, packed.

    Args:
        items: each element as the server sends it in binary, or None for NULL.
    """

    __slots__ = ("packed",)
    element_oid = 0

    def __init__(self, items: Iterable[bytes | None]) -> None:
        parts = [_NULL if item is None else len(item).to_bytes(4, "big") + item for item in items]
        # Dimensions, a flag for NULLs (the server finds them by itself), element type, length, lower bound.
        header = (1, 0, self.element_oid, len(parts), 1) if parts else (0, 0, self.element_oid)
        self.packed = b"".join([*(number.to_bytes(4, "big") for number in header), *parts])

    @classmethod
    def of_packed(cls, packed: bytes) -> Self:
        """An array that is already in binary form."""
        array = cls.__new__(cls)
        array.packed = packed
        return array


class TextArray(Array):
    """``text[]``."""

    __slots__ = ()
    element_oid = 25


class TidArray(Array):
    """``tid[]``, of row positions."""

    __slots__ = ()
    element_oid = 27


class XidArray(Array):
    """``xid[]``, of row versions."""

    __slots__ = ()
    element_oid = 28


class _ArrayDumper(Dumper):
    format = pq.Format.BINARY

    def dump(self, obj: Array) -> Buffer:
        return obj.packed


class _TextArrayDumper(_ArrayDumper):
    oid = 1009


class _TidArrayDumper(_ArrayDumper):
    oid = 1010


class _XidArrayDumper(_ArrayDumper):
    oid = 1011


def pass_bytes_through(connection: Connection) -> None:
    """Load text, row positions and row versions as bytes, and send them back as `Array`."""
    for name in ("text", "tid", "xid"):
        connection.adapters.register_loader(name, ByteaBinaryLoader)
    connection.adapters.register_dumper(TextArray, _TextArrayDumper)
    connection.adapters.register_dumper(TidArray, _TidArrayDumper)
    connection.adapters.register_dumper(XidArray, _XidArrayDumper)

"""The demo's application schema and invented patients, written as any user of `EncryptedType` would write them."""

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql
from sqlalchemy import Boolean, DateTime, ForeignKey, Uuid, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from keyrotation_pipeline.encrypted_type import EncryptedType
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing

# The declared columns, as the demo's keyrotation.toml lists them.
ENCRYPTED_COLUMNS = {
    "clients": ("first_name", "last_name", "email", "phone", "medical_history"),
    "appointments": ("notes",),
}

FIRST_NAMES = ("Ada", "Noor", "Émile", "Yuki", "Tomás", "Zoë", "Ivan", "Mbali", "Leah", "Søren", "Anh", "José")
LAST_NAMES = ("Okafor", "Lindqvist", "Haddad", "Nakamura", "Müller", "Silva", "Novák", "Dlamini", "Cohen", "O'Neil")
FINDINGS = (
    "Lower back pain since spring; responds to exercise.",
    "Type 2 diabetes, metformin 500 mg; foot check due.",
    "Post-operative knee, week six; full extension reached.",
    "Migraine with aura; keeps a diary; no triptans.",
    "Hypertension, well controlled; annual bloods normal.",
)
SCHEMA = """
CREATE TABLE clients (
    id uuid PRIMARY KEY,
    first_name text NOT NULL, last_name text NOT NULL, email text, phone text, medical_history text,
    consent_status boolean NOT NULL DEFAULT true,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE appointments (
    id uuid PRIMARY KEY,
    client_id uuid NOT NULL REFERENCES clients ON DELETE CASCADE,
    starts_at timestamptz NOT NULL,
    notes text
);
CREATE INDEX ON appointments (client_id);
"""


class Base(DeclarativeBase):
    """The declarative base of the demo's application."""


def mapped_clinic(ring: Callable[[], KeyRing]) -> tuple[type[Base], type[Base]]:
    """Returns the application's two mapped classes, which read and write through `ring`."""
    encrypted = EncryptedType(ring)

    class Client(Base):
        __tablename__ = "clients"
        id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
        first_name: Mapped[str] = mapped_column(encrypted)
        last_name: Mapped[str] = mapped_column(encrypted)
        email: Mapped[str | None] = mapped_column(encrypted)
        phone: Mapped[str | None] = mapped_column(encrypted)
        medical_history: Mapped[str | None] = mapped_column(encrypted)
        consent_status: Mapped[bool] = mapped_column(Boolean, default=True)
        updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    class Appointment(Base):
        __tablename__ = "appointments"
        id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
        client_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("clients.id"))
        starts_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
        notes: Mapped[str | None] = mapped_column(encrypted)

    return Client, Appointment


def exists(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    """Returns whether the clinic has been set up completely in this database."""
    row = connection.execute("SELECT to_regclass('public.appointments') IS NOT NULL").fetchone()
    return bool(row and row[0])


def admit(connection: psycopg.Connection[tuple[object, ...]], encrypt: Callable[[str], str], clients: int) -> None:
    """Creates the tables and `clients` patients with two appointments each, in one transaction."""
    admitted = [uuid.uuid4() for _ in range(clients)]
    with connection.transaction():
        connection.execute("SET LOCAL search_path = public")
        connection.execute(SCHEMA)
        _copy(connection, "clients", ("id", *ENCRYPTED_COLUMNS["clients"]), _patients(encrypt, admitted))
        _copy(connection, "appointments", ("id", "client_id", "starts_at", "notes"), _visits(encrypt, admitted))
    connection.execute("ANALYZE public.clients, public.appointments")


def stored_value(connection: psycopg.Connection[tuple[object, ...]]) -> str:
    """Returns an encrypted value as it is stored now."""
    ((value,),) = connection.execute("SELECT last_name FROM public.clients LIMIT 1").fetchall()
    return str(value)


def refuses(connection: psycopg.Connection[tuple[object, ...]], value: str) -> bool:
    """Returns whether the database refuses to store a value, and the refusal shows nothing of it or of its row."""
    written = "UPDATE public.clients SET last_name = %s WHERE id = (SELECT id FROM public.clients LIMIT 1)"
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(written, (value,))
    except psycopg.errors.InvalidTextRepresentation as refusal:
        shown = (refusal.diag.message_primary, refusal.diag.message_detail, refusal.diag.message_hint)
        return refusal.diag.message_detail is None and not any(value in each for each in shown if each)
    return False


def forget_applications(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Deletes what applications of earlier demos reported: each ended with its demo, though it may have been killed."""
    connection.execute("DELETE FROM keyrotation.instance_reports")


def patient(number: int) -> tuple[str, str, str | None, str | None, str | None]:
    """Returns first name, last name, e-mail, phone and history of the invented patient `number`."""
    first, last = FIRST_NAMES[number % len(FIRST_NAMES)], LAST_NAMES[number // 7 % len(LAST_NAMES)]
    history = None if number % 11 == 0 else f"{FINDINGS[number % len(FINDINGS)]} File {number}."
    return first, last, f"patient{number}@example.org", None if number % 5 == 0 else f"+1-555-{number:07d}", history


def _patients(encrypt: Callable[[str], str], admitted: list[uuid.UUID]) -> Iterator[tuple[object, ...]]:
    for number, identity in enumerate(admitted):
        yield identity, *(None if value is None else encrypt(value) for value in patient(number))


def _visits(encrypt: Callable[[str], str], admitted: list[uuid.UUID]) -> Iterator[tuple[object, ...]]:
    opening = datetime(2026, 1, 5, 8, tzinfo=UTC)
    for number, identity in enumerate(admitted * 2):
        notes = f"Visit {number}: {FINDINGS[number // 3 % len(FINDINGS)]}"
        yield uuid.uuid4(), identity, opening + timedelta(minutes=15 * number), encrypt(notes)


def _copy(
    connection: psycopg.Connection[tuple[object, ...]],
    table: str,
    columns: tuple[str, ...],
    rows: Iterator[tuple[object, ...]],
) -> None:
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier("public", table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)

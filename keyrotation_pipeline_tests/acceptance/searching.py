"""An application that finds rows by an encrypted address, in two instances that get their keys at different times."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import orm

from keyrotation_pipeline.encrypted_type import EncryptedType, MountedKeyRing, SearchIndex, matches
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline_tests.applications import beside, engine_of

ROWS = 60
NORMALISE = ("strip", "lower")
# Quarters of the rows: each instance writes one, and finds that and the two that nobody writes.
_OWNERS = 4

CREATE = """
CREATE SCHEMA care;
CREATE TABLE care."Patients" (
    id int PRIMARY KEY, "e-mail" text, phone text, odd text UNIQUE, even text, visits int
);
CREATE UNIQUE INDEX second ON care."Patients" (even)
"""


def mapped(keys: MountedKeyRing) -> Any:  # noqa: ANN401
    """The class of an instance."""
    base = orm.declarative_base()

    class Patient(base):  # type: ignore[misc,valid-type]
        __tablename__ = "Patients"
        __table_args__: ClassVar = {"schema": "care"}
        id = orm.mapped_column(sa.Integer, primary_key=True)
        address = orm.mapped_column("e-mail", EncryptedType(keys))
        phone = orm.mapped_column(EncryptedType(keys))
        address_odd = orm.mapped_column("odd", SearchIndex(keys, of="e-mail", odd=True, normalise=NORMALISE))
        address_even = orm.mapped_column("even", SearchIndex(keys, of="e-mail", odd=False, normalise=NORMALISE))
        visits = orm.mapped_column(sa.Integer, default=0)

    return Patient


@dataclass
class Instance:
    """One process of the application: its keys, and its mapping."""

    number: int
    url: str
    keys: MountedKeyRing
    expected: dict[int, str]
    wrong: list[str] = field(default_factory=list)
    searches: int = 0
    writes: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        self.patients = mapped(self.keys)
        self.engine = engine_of(self.url)

    def work(self, stop: threading.Event) -> None:
        chance = Random(self.number)
        while not stop.wait(0.01):
            row = chance.randrange(ROWS)
            try:
                self.step(row, chance)
            except (sa.exc.SQLAlchemyError, KeyRotationError) as error:
                self.wrong.append(f"{row}: {type(error).__name__} {error}")

    def step(self, row: int, chance: Random) -> None:
        owner = row % _OWNERS
        if owner not in {self.number, 2, 3}:
            return
        self.find(row)
        if owner == self.number:
            self.write(row)
        if chance.random() < 0.3:
            self.duplicate(row)

    def find(self, row: int) -> None:
        self.searches += 1
        with orm.Session(self.engine) as session:
            wanted = sa.select(self.patients).where(matches(self.patients.address, f" {self.expected[row].upper()} "))
            found = [(each.id, each.address) for each in session.scalars(wanted)]
        if found != [(row, self.expected[row])]:
            self.wrong.append(f"{row}: found {found}")

    def write(self, row: int) -> None:
        text = f"user{row}.{self.writes}@example.org"
        with orm.Session(self.engine) as session:
            patient = session.get_one(self.patients, row)
            patient.address, patient.visits = text, patient.visits + 1
            session.commit()
        self.writes += 1
        self.expected[row] = text
        self.find(row)

    def duplicate(self, row: int) -> None:
        with orm.Session(self.engine) as session:
            session.add(self.patients(id=1000 + row, address=self.expected[row].title(), phone="1"))
            try:
                session.commit()
            except sa.exc.IntegrityError:
                self.refused += 1
            else:
                self.wrong.append(f"{row}: two rows with one address")


@dataclass
class Searching:
    """Both instances, and what they should find."""

    instances: tuple[Instance, Instance]

    @classmethod
    def of(cls, url: str, delivered: Path) -> "Searching":
        expected = {row: f"user{row}@example.org" for row in range(ROWS)}
        first, second = (Instance(number, url, MountedKeyRing(str(delivered)), expected) for number in range(2))
        return cls((first, second))

    def fill(self) -> None:
        first = self.instances[0]
        with orm.Session(first.engine) as session:
            for row, address in first.expected.items():
                session.add(first.patients(id=row, address=address, phone=f"+49 {row}"))
            session.commit()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with beside(self.instances[0].work), beside(self.instances[1].work):
            yield

    def reload(self) -> None:
        """As a rollout does it: one instance after the other, which serve side by side meanwhile."""
        for each in self.instances:
            each.keys.reload()
            time.sleep(0.3)

    @property
    def wrong(self) -> list[str]:
        return [each for instance in self.instances for each in instance.wrong]

    def stored(self) -> list[tuple[str, str | None, str | None]]:
        with self.instances[0].engine.connect() as connection:
            rows = connection.exec_driver_sql('SELECT "e-mail", odd, even FROM care."Patients"').all()
        return [(value, odd, even) for value, odd, even in rows]

    def is_whole(self, version: str) -> None:
        """Nothing went wrong, and every row has a value and one index under this version alone."""
        assert self.wrong == []
        for instance in self.instances:
            assert (instance.searches > 5, instance.writes > 5, instance.refused > 1) == (True, True, True)
        number = int(version.removeprefix("v").removesuffix("x"))
        rows = self.stored()
        assert len(rows) == ROWS
        for value, odd, even in rows:
            kept, cleared = (odd, even) if number % 2 else (even, odd)
            assert value.startswith(f"{version}:")
            assert kept is not None
            assert kept.startswith(f"{version}:")
            assert cleared is None
        for instance in self.instances:
            for row in instance.expected:
                instance.find(row)
        assert self.wrong == []

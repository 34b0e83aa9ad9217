"""The demo's application with Fernet tokens: `MultiFernet` and SQL alone, and nothing of this package is imported.

It runs in a separate process, reads the list of keys that the key store delivers, and reports which keys it holds as
`keyrotation docs fernet` shows. Its ledger (plaintexts) stays in memory. When standard input ends, it stops, compares
the whole database with the ledger, and prints one line of JSON that holds only numbers and names of errors.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import select
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random  # noqa: TID251 - which patient is next is no secret

import psycopg
from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from psycopg import sql

INSTANCE = f"clinic-fernet-{os.getpid()}-{secrets.token_hex(3)}"
PAUSE_SECONDS = 0.004
RELOAD_SECONDS = 0.25
Row = dict[str, str | None]


class Keys:
    """The delivered list of keys, and the `MultiFernet` made of it."""

    def __init__(self, delivered: Path) -> None:
        self._delivered = delivered
        self.listed: list[str] = []
        self.reload()

    def reload(self) -> None:
        """Reads the list again, as a restart with the new environment would."""
        listed = self._delivered.read_text().strip().partition("=")[2].split(",")
        if listed != self.listed:
            self.fernet = MultiFernet([Fernet(key) for key in listed])
            self.listed = listed

    def encrypted(self, values: Row) -> Row:
        """Encrypts each value under the first key."""
        return {
            column: None if text is None else self.fernet.encrypt(text.encode()).decode()
            for column, text in values.items()
        }

    def decrypted(self, stored: Row) -> Row:
        """Decrypts each value under whichever key opens it."""
        return {
            column: None if token is None else self.fernet.decrypt(token).decode() for column, token in stored.items()
        }


class Application:
    """One running instance of the clinic's API.

    Args:
        columns: the encrypted ones of each table; the first table is the one of the patients.
    """

    def __init__(self, url: str, delivered: Path, columns: Mapping[str, Sequence[str]]) -> None:
        self.keys, self.columns = Keys(delivered), columns
        self.patients_table = next(iter(columns))
        self.connection = psycopg.connect(url, autocommit=True, options="-c search_path=public")
        self.tally = {"writes": 0, "reads": 0, "errors": 0, "lost_writes": 0, "slowest_milliseconds": 0.0}
        self.error_names: list[str] = []
        self.dice = Random(7)  # noqa: S311
        self.expected = {table: self._everything(table) for table in columns}
        self.admitted: list[uuid.UUID] = []

    def work(self, stop: threading.Event) -> None:
        """Inserts, updates, deletes and reads until `stop`."""
        tasks = (self._update, self._update, self._update, self._read, self._admit, self._discharge)
        while not stop.wait(PAUSE_SECONDS):
            started = time.monotonic()
            try:
                self.dice.choice(tasks)()
            except Exception as error:  # noqa: BLE001 - every kind counts as an error of the application
                self.tally["errors"] += 1
                self.error_names.append(type(error).__name__)
            elapsed = 1000 * (time.monotonic() - started)
            self.tally["slowest_milliseconds"] = max(self.tally["slowest_milliseconds"], elapsed)

    def compare(self) -> None:
        """Counts every row of the database that differs from the ledger."""
        self.keys.reload()
        for table, rows in self.expected.items():
            actual = self._everything(table)
            self.tally["lost_writes"] += sum(rows.get(key) != actual.get(key) for key in rows.keys() | actual.keys())

    def _everything(self, table: str) -> dict[uuid.UUID, Row]:
        statement = sql.SQL("SELECT id, {} FROM {}").format(self._columns(table), sql.Identifier(table))
        return {
            row[0]: self.keys.decrypted(dict(zip(self.columns[table], row[1:], strict=True)))
            for row in self.connection.execute(statement)
        }

    def _columns(self, table: str) -> sql.Composed:
        return sql.SQL(", ").join(map(sql.Identifier, self.columns[table]))

    def _update(self) -> None:
        table = self.dice.choice(list(self.columns))
        key, column = self.dice.choice(list(self.expected[table])), self.dice.choice(self.columns[table])
        values: Row = {column: f"changed {self.tally['writes']} ✓"}
        statement = sql.SQL("UPDATE {} SET {} = %s WHERE id = %s").format(sql.Identifier(table), sql.Identifier(column))
        self.connection.execute(statement, (self.keys.encrypted(values)[column], key))
        self.expected[table][key] |= values
        self.tally["writes"] += 1

    def _admit(self) -> None:
        key, table = uuid.uuid4(), self.patients_table
        values: Row = dict.fromkeys(self.columns[table], f"new {self.tally['writes']}")
        statement = sql.SQL("INSERT INTO {} (id, {}) VALUES (%s{})").format(
            sql.Identifier(table), self._columns(table), sql.SQL(", %s" * len(values))
        )
        self.connection.execute(statement, (key, *self.keys.encrypted(values).values()))
        self.expected[table][key] = values
        self.admitted.append(key)
        self.tally["writes"] += 1

    def _discharge(self) -> None:
        # Only patients admitted by this process: they have no appointments that a cascade would delete.
        if not self.admitted:
            return
        key, table = self.admitted.pop(), self.patients_table
        self.connection.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(sql.Identifier(table)), (key,))
        del self.expected[table][key]
        self.tally["writes"] += 1

    def _read(self) -> None:
        table = self.patients_table
        key = self.dice.choice(list(self.expected[table]))
        statement = sql.SQL("SELECT {} FROM {} WHERE id = %s").format(self._columns(table), sql.Identifier(table))
        found = self.connection.execute(statement, (key,)).fetchone()
        seen = None if found is None else self.keys.decrypted(dict(zip(self.columns[table], found, strict=True)))
        self.tally["reads"] += 1
        self.tally["lost_writes"] += seen != self.expected[table][key]


def report(connection: psycopg.Connection, keys: Keys, *, sign_off: bool = False) -> None:
    """Reports which keys this instance holds, by their fingerprints, and proves that it holds them."""
    asked = connection.execute("SELECT nonce, at FROM keyrotation.report_nonce").fetchone()
    if asked is None:
        return
    # Read after the nonce, so that the report says nothing from before what the nonce names.
    keys.reload()
    held = [base64.urlsafe_b64decode(key) for key in keys.listed]
    names = [hashlib.sha256(b"keyrotation-key-fingerprint-v1" + key).hexdigest() for key in held]
    content = {"nonce": asked[0], "at": asked[1], "reads": names, "writes": names[0], "names_primary": True}
    text = json.dumps({**content, "farewell": sign_off})
    proofs = []
    for name, key in zip(names, held, strict=True):
        derived = HKDF(SHA256(), 32, None, b"keyrotation-possession-v1").derive(key)
        proof = hmac.new(derived, f"{name}\n{INSTANCE}\n{text}".encode(), "sha256")
        proofs.append(f"{name}={proof.hexdigest()}")
    connection.execute(
        "INSERT INTO keyrotation.instance_reports (instance, report, proofs) VALUES (%s, %s, %s)",
        (INSTANCE, text, " ".join(proofs)),
    )


def _keep_reporting(url: str, keys: Keys, stop: threading.Event) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        while not stop.is_set():
            report(connection, keys)
            stop.wait(RELOAD_SECONDS)
        report(connection, keys, sign_off=True)


def main() -> None:
    """Runs until standard input ends; its first line is ``{"url", "keys", "columns"}``, since others see arguments."""
    setup = json.loads(sys.stdin.readline())
    application = Application(setup["url"], Path(setup["keys"]), setup["columns"])
    stop = threading.Event()
    threads = [
        threading.Thread(target=_keep_reporting, args=(setup["url"], application.keys, stop)),
        threading.Thread(target=application.work, args=(stop,)),
    ]
    for thread in threads:
        thread.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    select.select([sys.stdin], [], [])
    stop.set()
    for thread in threads:
        thread.join()
    application.compare()
    sys.stdout.write(json.dumps({**application.tally, "error_names": application.error_names}) + "\n")


if __name__ == "__main__":
    main()

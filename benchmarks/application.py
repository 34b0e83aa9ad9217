"""An application at work: reads and updates by key, a fixed number a second, whatever the database makes of them.

It is an open loop: each request has a time at which it should begin, and its latency counts from then, so that a stall
is felt by all the requests that it delays and not only by the one that met it.
"""

import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import psycopg

REQUESTS_PER_SECOND = 300
CONNECTIONS = 6


class Latency(NamedTuple):
    """Of one request, in seconds from the moment at which it should have begun: `at` of the monotonic clock."""

    seconds: float
    updates: bool
    at: float


@dataclass
class Load:
    """Requests under way, and what became of them.

    Args:
        keys: of the rows that it reads and updates; each connection updates rows of its own.
    """

    url: str
    keys: Sequence[object]
    latencies: list[Latency] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    updates: dict[object, int] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin."""
        self._ended.clear()
        began = time.monotonic() + 0.1
        self._threads = [threading.Thread(target=self._run, args=(number, began)) for number in range(CONNECTIONS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[Latency]:
        """End; latencies since the start."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        latencies, self.latencies = self.latencies, []
        return latencies

    def lost_writes(self) -> int:
        """Updates that were acknowledged and are not in the table."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("SELECT id, visits FROM clients WHERE visits > 0").fetchall()
        visits: dict[object, int] = {row[0]: row[1] for row in rows}
        return sum(count - visits.get(key, 0) for key, count in self.updates.items())

    def _run(self, number: int, began: float) -> None:
        chance = random.Random(number)
        mine = self.keys[number::CONNECTIONS]
        with psycopg.connect(self.url, autocommit=True) as connection:
            for intended in range(10**9):
                at = began + (intended * CONNECTIONS + number) / REQUESTS_PER_SECOND
                if self._ended.wait(max(0.0, at - time.monotonic())):
                    return
                updates = intended % 3 == 0
                self._request(connection, chance.choice(mine), updates=updates)
                self.latencies.append(Latency(time.monotonic() - at, updates, at))

    def _request(self, connection: "psycopg.Connection[tuple[object, ...]]", key: object, *, updates: bool) -> None:
        try:
            if updates:
                connection.execute("UPDATE clients SET visits = visits + 1 WHERE id = %s", (key,), prepare=True)
                self.updates[key] = self.updates.get(key, 0) + 1
            else:
                connection.execute("SELECT * FROM clients WHERE id = %s", (key,), prepare=True).fetchall()
        except psycopg.Error as error:
            self.errors.append(error.sqlstate or type(error).__name__)


def percentile(latencies: Sequence[float], percent: float) -> float:
    """In milliseconds."""
    cuts = statistics.quantiles(latencies, n=1000, method="inclusive")
    return cuts[min(998, round(percent * 10) - 1)] * 1000

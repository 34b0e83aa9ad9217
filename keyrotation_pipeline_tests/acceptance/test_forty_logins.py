"""Forty databases whose values only decrypting tells: each gives its evidence twice, and is locked no longer for that.

uv run pytest -s -m extended keyrotation_pipeline_tests/acceptance/test_forty_logins.py
"""

import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.fleet_logins import LoginFleet, create_logins, declared, fill
from keyrotation_pipeline_tests.acceptance.test_aes_gcm import HEX
from keyrotation_pipeline_tests.acceptance.test_forty_databases import (
    DATABASES,
    configured,
    create,
    locks_of,
    servers,  # noqa: F401
)
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.servers import Server

pytestmark = pytest.mark.extended
ROWS = 100


def made(folder: Path, urls: dict[str, str], officers: tuple[DemoOfficer, ...], names: tuple[str, ...]) -> LoginFleet:
    folder.mkdir()
    home = LoginFleet(Folder(folder, []), urls, officers, form=HEX, names=names, pause_seconds=0.4 / len(urls))
    key = HEX.key()
    fill(home, key, ROWS)
    configured(folder, [each for each in urls if each], officers)
    with (folder / "keyrotation.toml").open("a") as file:
        file.write(declared(HEX, names))
    home.typed("init", FIELD_KEYS=key)
    return home


def rotated(home: LoginFleet, servers: Sequence[Server]) -> tuple[float, dict[str, float]]:  # noqa: F811
    """For how long in all, and each database's longest lock; each is written as often in a fleet as alone."""
    request = home.requested("request", "--reason", "yearly")
    with locks_of(servers, home) as locks, beside(home.at_work):
        began = time.monotonic()
        home.typed("rotate", request)
        took = time.monotonic() - began
    assert (home.wrong, len(home.listed), home.read()) == ([], 1, home.expected)
    return took, {name: seconds for each in locks for name, seconds in each.longest.items()}


def test_members_are_locked_no_longer_than_single_databases(
    tmp_path: Path,
    servers: tuple[Server, ...],  # noqa: F811
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
) -> None:
    """As many homes with one database each are rotated, half of them before, half after."""
    officers = (security_officer, privacy_officer)
    names = tuple(f"app_{secrets.token_hex(4)}_g{number}" for number in (1, 2))
    for each in servers:
        create_logins(each, names)
    members = [f"m{number:02d}" for number in range(1, DATABASES)]
    fleet = made(tmp_path / "fleet", create(servers, ["", *members]), officers, names)
    singles = create(servers, [f"single{number:02d}" for number in range(DATABASES)])
    homes = [made(tmp_path / name, {"": url}, officers, names) for name, url in singles.items()]
    alone = [rotated(each, servers) for each in homes[: DATABASES // 2]]
    together, locked = rotated(fleet, servers)
    alone += [rotated(each, servers) for each in homes[DATABASES // 2 :]]
    own, single = locked.pop("lead"), [seconds for _, each in alone for seconds in each.values()]
    shares = {
        "time, of as many single ones": together / sum(took for took, _ in alone),
        "lock of a member, median": median(locked.values()) / median(single),
        "lock of a member, longest": max(locked.values()) / max(single),
        "lock of the home's own database": own / max(single),
    }
    print("; ".join(f"{what}: {share:.2f}" for what, share in shares.items()))  # noqa: T201
    assert shares.pop("time, of as many single ones") <= 1.2
    assert max(shares.values()) <= 1.5, shares

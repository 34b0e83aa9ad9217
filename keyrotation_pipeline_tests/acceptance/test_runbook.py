"""The page "At 3 a.m." of docs/operations.md, typed from top to bottom, and what it says that one should see."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, environment
from keyrotation_pipeline_tests.acceptance.test_clusters_page import one_gnupg_home
from keyrotation_pipeline_tests.applications import reporting
from keyrotation_pipeline_tests.servers import EMBEDDED_18

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
V1, ROWS = KeyVersion(1), 20
NEXT_BLOCK = "--- next block ---"
# Runs a second and more for each command that is typed; that each is one of ours and has its options is tested always.
pytestmark = pytest.mark.extended
CONFIGURATION = """
database.url = { env = "KEYROTATION_DATABASE_URL" }
[[tables]]
name = "clients"
columns = ["first_name", "email"]
[[approvals.officers]]
name = "Security Officer"
certificate = "officers/security.asc"
[[approvals.officers]]
name = "Privacy Officer"
certificate = "officers/privacy.asc"
[backup]
recipients = ["officers/recovery.asc", "officers/security.asc"]
"""


@dataclass(frozen=True)
class Block:
    """Lines to type, and what must be seen then."""

    lines: str
    seen: tuple[str, ...]


def sections() -> dict[str, list[Block]]:
    """The blocks under each heading of that part, in the order of the page; no block there is not to be typed."""
    (part,) = re.findall(r"(?ms)^## At 3 a\.m\.\n(.*?)^## ", PAGE.read_text())
    found = {each.partition("\n")[0]: list(_blocks(each)) for each in re.split(r"(?m)^### ", part)}
    assert 2 * sum(map(len, found.values())) == part.count("```"), "a block is not typed, or says not what is seen"
    return found


def _blocks(section: str) -> Iterator[Block]:
    """What should be seen stands in the first sentence below a block."""
    for lines, below in re.findall(r"(?s)```sh runbook\n(.*?)```\n\n(You see .*?)\. ", section):
        yield Block(lines, tuple(re.findall(r"`(.+?)`", below)))


@dataclass(frozen=True)
class Night:
    """A folder with a configuration, a database, and the secret keys of both officers."""

    path: Path
    variables: dict[str, str]

    def type(self, blocks: Sequence[Block], **instead: str) -> None:
        """Type blocks in one shell, and look for what should be seen; `instead`: values of variables of the page."""
        lines = f"echo '{NEXT_BLOCK}'\n".join(block.lines for block in blocks)
        for name, value in instead.items():
            lines, times = re.subn(rf"^{name}=\S+", f"{name}={value}", lines, flags=re.MULTILINE)
            assert times == 1, name
        printed = self.shell(lines).split(NEXT_BLOCK)
        for block, text in zip(blocks, printed, strict=True):
            assert block.seen
            for each in block.seen:
                assert each in text, f"after\n{block.lines}\nthere is no {each!r} in\n{text}"

    def shell(self, lines: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", lines],
            cwd=self.path,
            env=environment(**self.variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{lines}\n{done.stdout}"
        return done.stdout


@pytest.fixture
def night(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    recovery_officer: DemoOfficer,
) -> Iterator[Night]:
    ring = KeyRing({V1: KeyMaterial.generate()}, V1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, first_name text, email text)")
        for row in range(ROWS):
            connection.execute(
                "INSERT INTO clients VALUES (%s, %s, %s)", (row, encrypt(ring, "Zoe"), encrypt(ring, "e"))
            )
    (tmp_path / "officers").mkdir()
    for officer in (security_officer, privacy_officer, recovery_officer):
        shutil.copy(officer.certificate, tmp_path / "officers" / f"{officer.name.partition(' ')[0].lower()}.asc")
    (tmp_path / "recovery.sec.asc").write_bytes(recovery_officer.gpg("--armor", "--export-secret-keys"))
    (tmp_path / "keyrotation.toml").write_text(CONFIGURATION)
    path = f"{KEYROTATION.parent}:{EMBEDDED_18}:{os.environ['PATH']}"
    with one_gnupg_home(security_officer, privacy_officer) as home:
        night = Night(tmp_path, {"KEYROTATION_DATABASE_URL": database_url, "GNUPGHOME": home, "PATH": path})
        night.shell(f"ENCRYPTION_MASTER_KEY={base64_of(ring.material(V1))} keyrotation init")
        with reporting(database_url, tmp_path / ".keyrotation" / "keys"):
            yield night


def test_the_runbook_as_it_is_typed(night: Night) -> None:
    """One night with everything: a routine rotation, an exposed key, a rollback, a lost key, a drill."""
    page = sections()
    first, routine, emergency, rollback, lost_key, drill = page
    night.type(page[first])
    night.type(page[routine])
    night.type(page[emergency])
    to_roll_back = night.shell(
        'ID=$(keyrotation request --reason "again" 2>/dev/null)\n'
        + "".join(line for line in page[routine][1].lines.splitlines(keepends=True) if "gpg" in line)
        + "keyrotation rotate $ID --through rows\necho $ID"
    ).split()[-1]
    night.type(page[rollback], ROTATION=to_roll_back)
    (night.path / ".keyrotation" / "keys" / "v3.key").unlink()
    night.type(page[lost_key])
    night.type(page[drill])

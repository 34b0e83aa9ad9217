"""An officer's key, or the recovery key, is lost: what docs/guides/officers.md says then, typed as it stands."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline_tests.acceptance.nights import NewDesk, Night
from keyrotation_pipeline_tests.acceptance.test_clusters_page import one_gnupg_home
from keyrotation_pipeline_tests.acceptance.test_reference import by_both, signed_request, status
from keyrotation_pipeline_tests.applications import reporting
from keyrotation_pipeline_tests.officers import make_officer
from keyrotation_pipeline_tests.pages import block

pytestmark = pytest.mark.extended
SEALED = """[[approvals.officers]]
name = "Sealed Officer"
certificate = "officers/sealed.asc"
"""


@contextmanager
def with_keys_of(night: Night, *officers: DemoOfficer) -> Iterator[Night]:
    """The same folder, where gpg has the secret keys of these officers and of nobody else."""
    with one_gnupg_home(*officers) as home:
        yield replace(night, variables={**night.variables, "GNUPGHOME": home})


def exchange(night: Night, name: str, officer: DemoOfficer) -> None:
    """Name another certificate in place of one."""
    shutil.copy(officer.certificate, night.path / "officers" / f"new-{name}")
    path = night.path / "keyrotation.toml"
    text = path.read_text()
    assert f"officers/{name}" in text
    path.write_text(text.replace(f"officers/{name}", f"officers/new-{name}"))


def test_the_sealed_officer_and_the_one_who_is_left_replace_the_lost_one(
    night: Night, security_officer: DemoOfficer, sealed_officer: DemoOfficer, tmp_path: Path
) -> None:
    new, sealed_again = make_officer(tmp_path, "New Officer"), make_officer(tmp_path, "Sealed Officer")
    exchange(night, "privacy.asc", new)
    exchange(night, "sealed.asc", sealed_again)
    with with_keys_of(night, security_officer, sealed_officer) as left:
        printed = left.shell(block("lost-officer"))
    assert len(set(re.findall(r"(?m)^officer +[-+] .*", printed))) == 4
    assert "green  more officers than required: 3 officers, 2 must sign" in printed
    request = night.shell("keyrotation request --reason yearly").split()[-1]
    sign = f"keyrotation approve {request} --text | gpg -ab | keyrotation approve {request} --signature -"
    with with_keys_of(night, sealed_officer) as opened:
        assert "which no officer of the roster has" in opened.shell(f"! ({sign})")
    with with_keys_of(night, new) as arrived:
        arrived.shell(sign)


def test_two_of_two_who_have_lost_one_start_over_with_the_same_keys_and_rows(
    new_desk: NewDesk, security_officer: DemoOfficer, tmp_path: Path
) -> None:
    night, url = new_desk.night, new_desk.night.variables["KEYROTATION_DATABASE_URL"]
    configuration = night.path / "keyrotation.toml"
    configuration.write_text(configuration.read_text().replace(SEALED, ""))
    night.shell(f"ENCRYPTION_MASTER_KEY={base64_of(new_desk.key)} keyrotation init")
    with reporting(url, night.path / ".keyrotation" / "keys"):
        signed_request(night)
        lost = night.shell("! keyrotation preflight")
        assert "red    more officers than required: 2 officers, 2 must sign" in lost

        head = status(night)["audit"]["head"]
        night.shell(block("evidence"))
        exchange(night, "privacy.asc", make_officer(tmp_path, "New Officer"))
        configuration.write_text(configuration.read_text() + SEALED)
        assert "differ from what is pinned" in night.shell("! keyrotation request --reason yearly")
        printed = night.shell(block("start-over"))
        assert "green  more officers than required: 3 officers, 2 must sign" in printed
        with psycopg.connect(url) as connection:
            versions = "SELECT DISTINCT left(unnest(ARRAY[first_name, email]), 3) FROM clients"
            assert connection.execute(versions).fetchall() == [("v2:",)]
        assert "create v3" in night.shell("keyrotation approve $(keyrotation request --reason yearly) --text")
    night.shell(f"cd old-evidence && python3 -I verify.py {head}")


def test_the_second_recipient_reads_old_sets_and_the_new_recovery_key_the_next(night: Night, tmp_path: Path) -> None:
    night.shell("keyrotation backup")
    new = make_officer(tmp_path, "New Recovery")
    (night.path / "new-recovery.sec.asc").write_bytes(new.gpg("--armor", "--export-secret-keys"))
    exchange(night, "recovery.asc", new)
    printed = night.shell(by_both(block("lost-recovery-key")))
    assert re.search(r"all \d+ relations with every row", printed)
    (night.path / "recovery.sec.asc").unlink()
    old = min(path.name for path in (night.path / ".keyrotation" / "backups").glob("encryption-key-v1-*"))
    decrypt = f"gpg --decrypt .keyrotation/backups/{old} 2> /dev/null"
    assert night.shell(decrypt).strip() == (night.path / ".keyrotation" / "keys" / "v1.key").read_text().strip()

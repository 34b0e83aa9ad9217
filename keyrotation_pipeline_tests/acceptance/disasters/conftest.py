"""What the disasters share: officers, their keys in one GnuPG home, and a clinic for each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.acceptance.disasters.clinic import Clinic, RecordMinutes, Safe, open_clinic
from keyrotation_pipeline_tests.acceptance.test_clusters_page import one_gnupg_home
from keyrotation_pipeline_tests.buckets import TestBucket
from keyrotation_pipeline_tests.servers import Server


@pytest.fixture(scope="session")
def safe(
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    sealed_officer: DemoOfficer,
    recovery_officer: DemoOfficer,
    s3_url: str,
) -> Iterator[Safe]:
    """Three officers, two of whom sign, and a recovery key."""
    with one_gnupg_home(security_officer, privacy_officer) as home:
        yield Safe((security_officer, privacy_officer, sealed_officer), recovery_officer, home, s3_url)


@pytest.fixture
def clinic(tmp_path: Path, server: Server, bucket: TestBucket, safe: Safe) -> Iterator[Clinic]:
    """A clinic with rows, keys and a bucket; nothing is backed up by itself but its keys."""
    with open_clinic(tmp_path / "clinic", server, bucket, safe) as made:
        yield made


@pytest.fixture
def locked_clinic(tmp_path: Path, server: Server, locking_bucket: TestBucket, safe: Safe) -> Iterator[Clinic]:
    """The same with a bucket that locks what is put into it."""
    with open_clinic(tmp_path / "clinic", server, locking_bucket, safe) as made:
        yield made


@pytest.fixture
def record_minutes(request: pytest.FixtureRequest) -> RecordMinutes:
    """Tell how long a disaster lasted: a property of the test in JUnit's form (``--junitxml``)."""
    return lambda minutes: request.node.user_properties.append(("minutes", f"{minutes:.2f}"))

"""Every promise of the key stores again, where they also deliver the application's own list.

The tests are those of other modules: here every store has a list, and each of its reads looks whether that is right.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.keystores.aws import AwsKeyStore
from keyrotation_pipeline.adapters.keystores.file import APPLICATION_FILE, FileKeyStore
from keyrotation_pipeline.adapters.keystores.kubernetes import KubernetesKeyStore
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import BARE_KEYS
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline_tests.contract import test_remote_key_stores as remote
from keyrotation_pipeline_tests.contract.key_store import KeyStoreContract, Place
from keyrotation_pipeline_tests.contract.test_aws_key_store import (
    TestAwsKeyStore,  # noqa: F401 - run again here, as all of these
    secret,  # noqa: F401
    test_a_change_whose_answers_are_lost_one_by_one_ends_right,  # noqa: F401
    test_a_writer_that_lost_the_race_for_the_label_fails,  # noqa: F401
    test_a_writer_whose_put_was_overtaken_by_a_whole_change_is_told_so_at_once,  # noqa: F401
)
from keyrotation_pipeline_tests.contract.test_aws_walk import (
    hasty,  # noqa: F401
    test_a_walk_ends_right_though_each_call_fails_at_its_first_time,  # noqa: F401
)
from keyrotation_pipeline_tests.contract.test_file_key_store import FilePlace
from keyrotation_pipeline_tests.contract.test_key_loss import (
    TestAwsKeyStoreLoses,  # noqa: F401
    TestKubernetesKeyStoreLoses,  # noqa: F401
)
from keyrotation_pipeline_tests.contract.test_kubernetes_archive_in_aws import (
    TestKubernetesKeyStoreWithItsArchiveInAws,  # noqa: F401
    TestKubernetesKeyStoreWithItsArchiveInAwsLoses,  # noqa: F401
)
from keyrotation_pipeline_tests.contract.test_kubernetes_key_store import (
    TestKubernetesKeyStore,  # noqa: F401
    secrets,  # noqa: F401
    test_a_change_any_of_whose_calls_fails_once_ends_right,  # noqa: F401
    test_a_writer_that_lost_the_race_fails,  # noqa: F401
    test_both_secrets_are_read_as_they_stood_together,  # noqa: F401
)
from keyrotation_pipeline_tests.contract.test_kubernetes_walk import (
    test_a_walk_with_its_rollouts_ends_right_though_each_call_fails_at_its_first_time,  # noqa: F401
)

pytestmark = pytest.mark.extended
NAME = "FERNET_KEYS"
TestAwsLosesAnswers, TestKubernetesLosesAnswers = remote.TestAwsLosesAnswers, remote.TestKubernetesLosesAnswers
TestAwsIsLate = remote.TestAwsIsLate


@pytest.fixture
def key_list() -> str:
    return NAME


class FileWithAList(FileKeyStore):
    """A pickled one has it, too, as a store that is opened from settings."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, NAME)

    def listed(self) -> str | None:
        path = self._live / APPLICATION_FILE
        return path.read_text().partition("=")[2].strip() if path.exists() else None


class FilePlaceWithAList(FilePlace):
    def open(self) -> FileKeyStore:
        return FileWithAList(self.directory)


class TestFileKeyStore(KeyStoreContract):
    @pytest.fixture
    def new_place(self, tmp_path: Path) -> Callable[[], Place]:
        made: list[Path] = []

        def new() -> FilePlace:
            made.append(tmp_path / "stores" / str(len(made)))
            FileKeyStore.create(made[-1], NAME)
            return FilePlaceWithAList(made[-1])

        return new


Store = AwsKeyStore | KubernetesKeyStore | FileWithAList


@pytest.fixture(autouse=True)
def each_read_looks_at_the_list(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """By what the application would read, not by what the store says of it."""
    late = request.cls is TestAwsIsLate  # there one answer may be of an earlier moment than the other
    kinds: tuple[type[Store], ...] = (AwsKeyStore, KubernetesKeyStore, FileWithAList)
    for kind in kinds:
        real = kind.read

        def read(store: Store, real: Callable[[Store], StoredKeys] = real) -> StoredKeys:  # type: ignore[assignment]
            stored = real(store)
            if not late:
                _look(store, stored)
            return stored

        monkeypatch.setattr(kind, "read", read)


def _look(store: Store, stored: StoredKeys) -> None:
    if stored.primary is None or stored.primary not in stored.live:
        return
    versions = [stored.primary, *sorted({*stored.live} - {stored.primary}, reverse=True)]
    entries = [stored.live[each] for each in versions]
    if all(isinstance(each, KeyMaterial) for each in entries):
        assert list(BARE_KEYS.keys_in(store.listed() or "", NAME)) == entries
        assert stored.undelivered is None

"""Reads a file of a place in the version that verifies: the visible one, else one that it hides.

Whoever may write to a bucket, and not delete versions, can hide every file under a delete marker or other content.
What is hidden is read by the same rules as what is visible, so that a version counts only once it is verified.
"""

from collections.abc import Callable
from typing import TypeVar

from keyrotation_pipeline.errors import (
    AbsentBackupError,
    DamagedBackupError,
    FutureBackupError,
    ManifestError,
    ManifestSchemaError,
    UnsignedBackupError,
)
from keyrotation_pipeline.ports.backup_places import BackupPlace

T = TypeVar("T")


def first_verified(place: BackupPlace, name: str, attempt: Callable[[], T], size_bytes: int | None = None) -> T:
    """What the first version of a file gives that is accepted; the place reads the file in that version from then on.

    Args:
        attempt: reads the file from the place and verifies it.
        size_bytes: of the file, if it is known: older versions of another size are not read.

    Raises:
        UnsignedBackupError, DamagedBackupError, ManifestError, AbsentBackupError: none is; that of the first one.
        BackupError: one cannot be read, so nobody knows.
    """
    refused: Exception | None = None
    for version in place.older.of(name, size_bytes):
        try:
            with place.older.reading(name, version):
                return attempt()
        except (ManifestSchemaError, FutureBackupError):  # of ours, so no other version is
            raise
        except (AbsentBackupError, DamagedBackupError, UnsignedBackupError, ManifestError) as error:
            refused = refused or error
    raise refused or AbsentBackupError(f"{name} is not in {place.description} as it was stored; use an older backup")

"""File systems that are full, or nearly."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_BYTES = 64 << 10


@contextmanager
def full_disk(at: Path, free_bytes: int = 0) -> Iterator[Path]:
    """A real file system with so much room, 64 KiB at most."""
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_BYTES},mode=700", "none", str(at)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can mount a file system")
    try:
        (at / "filler").write_bytes(bytes(_BYTES - free_bytes))
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)

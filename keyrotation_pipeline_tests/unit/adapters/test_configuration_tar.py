"""The tar of a configuration is read as if anybody had made it."""

import io
import tarfile
from collections.abc import Mapping

import pytest

from keyrotation_pipeline.adapters.backups.encrypted_files import unpacked
from keyrotation_pipeline.errors import DamagedBackupError


def packed(members: Mapping[str, bytes], *others: tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid = len(content), 0o4777, 0
            tar.addfile(member, io.BytesIO(content))
        for member in others:
            tar.addfile(member)
    return file.getvalue()


def special(kind: bytes, name: str = "x", target: str = "", size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, size
    return member


def test_files_are_read_with_their_names_and_nothing_else_of_them() -> None:
    files = {"keyrotation.toml": b"[database]", "officers/a.asc": b"a", "elsewhere/etc/b.asc": b""}
    assert unpacked("configuration.tar.gpg", packed(files)) == files


@pytest.mark.parametrize(
    "tar",
    [
        pytest.param(packed({"../evil": b""}), id="above"),
        pytest.param(packed({"officers/../../evil": b""}), id="above, in the middle"),
        pytest.param(packed({"/etc/evil": b""}), id="absolute"),
        pytest.param(packed({"a\\..\\evil": b""}), id="with the separator of other systems"),
        pytest.param(packed({"a\nb": b""}), id="a line break in a name"),
        pytest.param(packed({"./a": b""}), id="a dot"),
        pytest.param(packed({"a": b"1"}, special(tarfile.REGTYPE, "a")), id="twice"),
        pytest.param(packed({}, special(tarfile.SYMTYPE, "keyrotation.toml", "/etc/shadow")), id="a symbolic link"),
        pytest.param(packed({"a": b""}, special(tarfile.LNKTYPE, "b", "a")), id="a hard link"),
        pytest.param(packed({}, special(tarfile.FIFOTYPE)), id="a pipe"),
        pytest.param(packed({}, special(tarfile.CHRTYPE)), id="a device"),
        pytest.param(packed({}, special(tarfile.DIRTYPE)), id="a directory"),
        pytest.param(packed({}, special(tarfile.REGTYPE, size=1 << 40)), id="larger than the tar"),
        pytest.param(b"not a tar" * 1000, id="no tar"),
        pytest.param(packed({"a": b"x" * 5000})[:1000], id="cut off"),
    ],
)
def test_anything_else_is_refused(tar: bytes) -> None:
    with pytest.raises(DamagedBackupError, match=r"^configuration\.tar\.gpg "):
        unpacked("configuration.tar.gpg", tar)

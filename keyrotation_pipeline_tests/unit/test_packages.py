"""The packages: what a wheel and the sdist hold, and what a type checker makes of an application that uses one."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

from keyrotation_pipeline_tests.pages import TOP

# What the native codec is built from.
FIELDCRYPTO = TOP / "keyrotation_pipeline" / "fieldcrypto"
CODEC = [str(path.relative_to(FIELDCRYPTO)) for path in FIELDCRYPTO.rglob("codec*.[ch]")]
APPLICATION = """
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from keyrotation_pipeline.encrypted_type import EncryptedType, EnvironmentKeyRing, attest, ciphertext_length

keys = EnvironmentKeyRing()


class Base(DeclarativeBase): ...


class Client(Base):
    __tablename__ = "clients"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(EncryptedType(keys))
    email: Mapped[str | None] = mapped_column(EncryptedType(keys, length=ciphertext_length(320)))


attest(create_engine("postgresql://"), keys)
"""


def built(target: str, into: Path, **environment: str) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(into)],
        cwd=TOP, env=os.environ | environment, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (package,) = into.iterdir()
    return package


@pytest.mark.parametrize(
    ("environment", "ends"),
    [pytest.param({"KEYROTATION_PURE_WHEEL": "1"}, "-py3-none-any.whl", id="for every platform"),
     pytest.param({}, ".whl", id="of this machine")],
)  # fmt: skip
def test_a_wheel_holds_types_pages_and_deployment_files(tmp_path: Path, environment: dict[str, str], ends: str) -> None:
    wheel = built("wheel", tmp_path, **environment)
    assert wheel.name.endswith(ends)
    names = set(ZipFile(wheel).namelist())
    package = "keyrotation_pipeline"
    assert {f"{package}/py.typed", *(f"{package}/fieldcrypto/{each}" for each in CODEC)} <= names
    for folder in ("docs", "deploy"):
        here = {path.relative_to(TOP).as_posix() for path in (TOP / folder).rglob("*") if path.is_file()}
        assert {f"{package}/share/{each}" for each in here if "__pycache__" not in each} <= names
    assert [each for each in names if "codec" in each and each.endswith(".so")] == [] or not environment
    assert not any(each.startswith("keyrotation_pipeline_tests") for each in names)


def test_the_sdist_holds_what_a_wheel_is_built_from_and_nothing_of_this_machine(tmp_path: Path) -> None:
    with tarfile.open(built("sdist", tmp_path)) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(listing, cwd=TOP, check=True, capture_output=True, text=True).stdout.splitlines()
    sources = {f"keyrotation_pipeline/fieldcrypto/{each}" for each in CODEC}
    assert {"hatch_build.py", *sources, "docs/on-call/emergency.md"} <= names
    assert names - {"PKG-INFO"} <= set(tracked)


def test_the_image_has_the_version_of_the_package() -> None:
    version = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    texts = [path.read_text() for path in (TOP / "deploy").rglob("*") if path.is_file()]
    tags = re.findall(r"keyrotation(?:, tag|): ?(\d[\w.]*)|newTag: (\S+)", "".join(texts))
    assert {tag or new for tag, new in tags} == {version}
    assert len(tags) == 4


def test_nothing_is_built_after_a_test_of_a_release_has_failed(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(TOP / ".ci" / "release", tmp_path / ".ci" / "release")
    (tmp_path / ".ci" / "run").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / ".ci" / "run").chmod(0o755)
    (tmp_path / "uv").write_text("#!/bin/sh\necho went on with uv\n")
    (tmp_path / "uv").chmod(0o755)
    (tmp_path / "pyproject.toml").write_text('version = "0.1.0"\n    "dagster>=1.13.10,<1.14",\n')
    places = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([tmp_path / ".ci" / "release"], env=places, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")


@pytest.mark.extended
def test_a_wheel_with_the_extra_scan_scans_and_has_nothing_else(tmp_path: Path, database_url: str) -> None:
    wheel, environment = built("wheel", tmp_path / "dist"), tmp_path / "environment"
    python = environment / "bin" / "python"
    for command in (
        ["uv", "venv", "--quiet", "--python", sys.executable, str(environment)],
        ["uv", "pip", "install", "--quiet", "--python", str(python), f"{wheel}[scan]"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    keyrotation = environment / "bin" / "keyrotation"
    scanned = subprocess.run([keyrotation, "scan", "--json", "--url", database_url], check=True, capture_output=True)
    assert json.loads(scanned.stdout)["places"] == []
    refused = subprocess.run([keyrotation, "status"], check=False, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr.partition(";")[0]) == (1, "pydantic is not installed")


@pytest.mark.extended
def test_a_strict_type_checker_accepts_an_application(tmp_path: Path) -> None:
    (tmp_path / "application.py").write_text(APPLICATION)
    command = [sys.executable, "-m", "mypy", "--strict", "application.py"]
    checked = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=300)
    assert checked.stdout == "Success: no issues found in 1 source file\n"

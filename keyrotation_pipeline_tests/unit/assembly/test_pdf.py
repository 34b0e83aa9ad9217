"""A report as PDF: by what is installed, in a process that gets nothing of ours, or one sentence."""

import os
import shutil
from pathlib import Path

import pytest

from keyrotation_pipeline.assembly import pdf
from keyrotation_pipeline.assembly.pdf import pdf_program, to_pdf
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline_tests.programs import needs_chromium

PAGE = b"<!DOCTYPE html><html lang='en'><title>A report</title><style>@page { size: A4 }</style><p>Met</p>"


def test_without_a_program_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KeyRotationError, match="a PDF needs Chromium or WeasyPrint; run `apt-get install chromium`"):
        pdf_program()


def test_a_program_gets_no_secret_and_its_failure_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KEYROTATION_DATABASE_URL", "postgresql://u:secret@db/")
    program, seen = tmp_path / "weasyprint", tmp_path / "seen"
    program.write_text(f"#!/bin/sh\nenv > {seen}\ncp $1 $2\n")
    program.chmod(0o700)
    assert to_pdf(PAGE, str(program)) == PAGE
    assert "secret" not in seen.read_text()
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(KeyRotationError, match=f"^{program} printed no PDF"):
        to_pdf(PAGE, str(program))


def test_nothing_outlives_a_program_that_takes_too_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program, folder, started = tmp_path / "weasyprint", tmp_path / "folder", tmp_path / "started"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(pdf, "_PATIENCE_SECONDS", 3.0)  # a busy machine starts a shell in one
    busy = "while :; do mkdir -p $(dirname $1)/profile; done"
    program.write_text(f"#!/bin/sh\n({busy}) &\necho $! > {started}\nwait\n")
    program.chmod(0o700)
    with pytest.raises(KeyRotationError, match=f"^{program} printed no PDF"):
        to_pdf(PAGE, str(program))
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
    assert list(folder.iterdir()) == []


@pytest.mark.extended
@needs_chromium
def test_chromium_prints_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(shutil.which('chromium') or '/usr/bin/chromium').parent}:{os.defpath}")
    printed = to_pdf(PAGE, pdf_program())
    assert printed.startswith(b"%PDF")

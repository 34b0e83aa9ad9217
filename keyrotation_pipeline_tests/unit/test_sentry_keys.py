"""The lines of the guide that make Sentry's directory of keys of the delivered list, typed into a shell."""

import os
import subprocess
from pathlib import Path

from keyrotation_pipeline.fieldcrypto.codecs.format import notation_of
from keyrotation_pipeline.fieldcrypto.formats.fernet_keyed_wrapper import KEYED_WRAPPER
from keyrotation_pipeline_tests.marked_libraries import KEYED_WRAPPER as LIBRARY
from keyrotation_pipeline_tests.pages import block


def test_a_shell_makes_the_directory_of_keys_of_the_list(tmp_path: Path) -> None:
    keys = notation_of(KEYED_WRAPPER).keys_in(",".join(LIBRARY.generate() for _ in range(2)), "KEYS")
    listed = notation_of(KEYED_WRAPPER).text_of(keys)
    shown = 'printf "%s %s %s" "$DATABASE_ENCRYPTION_FERNET_PRIMARY_KEY_ID" "${SENTRY_FERNET_KEYS-none}" "$keys"'
    done = subprocess.run(
        ["sh", "-euc", f"{block('sentry-keys')}\n{shown}"],
        env={**os.environ, "SENTRY_FERNET_KEYS": listed, "TMPDIR": str(tmp_path)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    primary, variable, directory = done.stdout.split()
    assert (primary, variable) == (keys[0].name, "none")
    made = {path.name: path.read_text().strip() for path in Path(directory).iterdir()}
    assert made == dict(each.split(":") for each in listed.split(","))
    assert Path(directory).stat().st_mode & 0o077 == 0

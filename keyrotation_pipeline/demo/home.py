"""Creates the demo's home: configuration, officers and a first key, which later demos use again."""

import json
from pathlib import Path

from keyrotation_pipeline.demo.clinic import ENCRYPTED_COLUMNS
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import HomeError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.settings import DEMO_MARKER, Settings, config_path, home_of, load

TABLES = tuple(EncryptedTable(TableName.parse(name), columns) for name, columns in ENCRYPTED_COLUMNS.items())
SHARDS = 4
ROLLOUT = """\
# The demo's application reports itself while it runs, and withdraws its report when it ends.
[rollout]
mode = "{mode}"

"""
FERNET_KEYS = """\
# The demo's application reads its keys by MultiFernet, from the line that the key store delivers.
[format]
name = "fernet"
keys = { env = "FERNET_KEYS" }

"""
OFFICERS = ("Security Officer", "Privacy Officer")
# Signs nothing here: with three officers, two of whom must sign, one may be lost.
SEALED = "Sealed Officer"
HEADING = """\
# Made by `keyrotation demo`: an invented clinic in an embedded PostgreSQL. Delete this file and its home to start over.
"""


def prepare(
    option: Path | None, rollout: RolloutMode = RolloutMode.ATTEST, values: ValueFormat = NATIVE
) -> tuple[Settings, tuple[DemoOfficer, ...]]:
    """Creates the demo's home and configuration, or finds those of an earlier demo; returns the officers who sign.

    Args:
        option: `--config`.
        rollout: how a new configuration observes rollouts; without an application nothing would be reported.
        values: the format of the clinic's values.

    Raises:
        HomeError: the home, or the configuration, is not a demo's of this format; nothing was changed.
    """
    path = config_path(option)
    home = home_of(path)
    marker = home / DEMO_MARKER
    _refuse_what_is_not_a_demo(path, home, marker)
    _refuse_another_format(path, home, values)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not marker.exists():
        marker.write_text(json.dumps({"made_by": "keyrotation demo"}) + "\n")
    officers = tuple(DemoOfficer.create(home / "officers", name) for name in (*OFFICERS, SEALED))
    if not path.exists():
        unfinished = path.with_suffix(".toml.unfinished")
        unfinished.write_text(_configuration(officers, rollout, values))
        unfinished.rename(path)
    return load(path), officers[: len(OFFICERS)]


def _refuse_what_is_not_a_demo(path: Path, home: Path, marker: Path) -> None:
    if marker.is_file():
        return
    if path.exists():
        raise HomeError(f"{path} is not a demo's configuration; run `keyrotation demo` in an empty folder")
    if home.exists() and any(home.iterdir()):
        raise HomeError(f"{home} is not a demo's home; run `keyrotation demo` in an empty folder")


def _refuse_another_format(path: Path, home: Path, values: ValueFormat) -> None:
    made = load(path).format.name if path.exists() else values.name
    if made != values.name:
        raise HomeError(
            f"{home} is a demo with values of the format {made}; run `keyrotation demo --format {made}` here, or this "
            "one in an empty folder"
        )


def _configuration(officers: tuple[DemoOfficer, ...], rollout: RolloutMode, values: ValueFormat) -> str:
    tables = "".join(
        f'[[tables]]\nname = "{table}"\ncolumns = {json.dumps(list(columns))}\n\n'
        for table, columns in ENCRYPTED_COLUMNS.items()
    )
    roster = "".join(
        "[[approvals.officers]]\n"
        f"name = {json.dumps(officer.name)}\ncertificate = {json.dumps(str(officer.certificate))}\n\n"
        for officer in officers
    )
    seen = ROLLOUT.format(mode=rollout)
    keys = FERNET_KEYS if values == FERNET else ""
    return f"{HEADING}\n{keys}{tables}[reencryption]\nshards = {SHARDS}\n\n{seen}[approvals]\nrequired = 2\n\n{roster}"

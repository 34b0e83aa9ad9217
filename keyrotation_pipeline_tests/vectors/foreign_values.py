"""Frozen values of other people's formats, made by the libraries themselves (`real`) or from their documentation."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKED_BY_NOTHING = frozenset(
    (
        "sqlalchemy-utils-aes", "sqlalchemy-utils-aesgcm", "django-searchable-encrypted-fields", "nacl-secretbox",
        "handmade-aesgcm-b64", "typeorm-encrypted-cbc", "typeorm-encrypted-gcm", "cryptr", "sequelize-encrypted",
        "lockbox", "attr_encrypted", "attr_encrypted-iv", "pgcrypto-raw",
    )
)  # fmt: skip


@dataclass(frozen=True)
class ForeignValues:
    """Three values of one format, as one column holds them."""

    format: str
    made_by: str
    real: bool
    key_ids: tuple[str, ...]
    values: tuple[str | bytes, ...]

    @property
    def marked(self) -> bool:
        """Whether a value shows its format."""
        return self.format not in MARKED_BY_NOTHING


def _load(entry: dict[str, Any]) -> ForeignValues:
    values = tuple(bytes.fromhex(value) if entry["encoding"] == "hex" else value for value in entry["values"])
    return ForeignValues(entry["format"], entry["made_by"], entry["real"], tuple(entry["key_ids"]), values)


FOREIGN = tuple(
    _load(entry) for entry in json.loads(Path(__file__).with_name("foreign_values.json").read_text(encoding="utf-8"))
)
MARKED = tuple(entry for entry in FOREIGN if entry.marked)

"""Real values of libraries and their keys, of which nothing else is said, are found to belong together."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.probe import KNOWN, Fit, fits

FOLDER = Path(__file__).parents[3] / "vectors"


def read(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / name).read_text())
    return found


def stored(entry: dict[str, Any], *, in_hex: bool) -> list[bytes]:
    return [bytes.fromhex(each["stored"]) if in_hex else each["stored"].encode() for each in entry["values"]]


@pytest.mark.parametrize(
    "entry", [each for each in read("aes_gcm.json") if each["layout"] in KNOWN], ids=lambda each: str(each["library"])
)
def test_a_layout_is_found_with_the_encoding_of_the_key(entry: dict[str, Any]) -> None:
    values = stored(entry, in_hex=entry["encoding"] == "hex")
    best, *others = fits(entry["key"], "KEYS", [*values, b"something else"])
    assert {each.layout.replace("b64url", "b64") for each in others} <= {best.layout}, "without + and / both are right"
    assert best == Fit("aes-gcm", entry["layout"], "hex", len(values))


@pytest.mark.parametrize(
    "entry", [each for each in read("prefixed.json") if "aad" not in each], ids=lambda each: str(each["made_by"])
)
def test_bytes_that_name_their_key_are_found(entry: dict[str, Any]) -> None:
    values = stored(entry, in_hex=True)
    if entry["format"] == "tink":
        listed, layout = json.dumps(entry["keyset"]), "raw(nonce12 ct tag16)"
    else:
        listed = f"{entry['label']}:{base64.b64encode(bytes.fromhex(entry['key'])).decode()}"
        layout = f"raw(nonce{entry['iv_length']} tag16 ct)"
    assert fits(listed, "KEYS", values) == [Fit(entry["format"], layout, "", len(values))]


def test_keys_that_open_nothing_and_what_is_no_key() -> None:
    entry = next(each for each in read("marked.json") if each["format"] == "cloak-47ng")
    values = stored(entry, in_hex=False)
    (fit,) = fits(",".join(entry["keys"]), "KEYS", values)
    assert (fit.format, fit.opened) == ("cloak-47ng", len(values))
    assert fits("00" * 32, "KEYS", values) == []
    with pytest.raises(InvalidKeyError, match="KEYS holds no keys that are known here") as raised:
        fits("correct horse", "KEYS", values)
    assert "horse" not in str(raised.value)

"""Recognises values of Cloak for Elixir."""

import re

from keyrotation_pipeline.fieldcrypto.formats.cloak_ecto import SPEC
from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, in_bytes

_LABEL = re.compile(rb"[A-Za-z0-9][\w.:-]{1,63}\Z", re.ASCII)
# The labels of Cloak's documentation, which nearly everybody keeps, are evidence in themselves.
_USUAL_LABEL = re.compile(rb"AES\.(?:GCM|CTR)\.V\d{1,4}\Z")
# iv12 and tag16 · iv16 and one byte
_SHORTEST_GCM_BYTES, _SHORTEST_CTR_BYTES = 28, 17


@in_bytes("cloak-ecto", "cloak-ecto-ctr", starts=(b"\x01",), advice=SPEC.advice)
def cloak_ecto(raw: bytes) -> Recognised | None:
    """Recognises Cloak (Elixir): ``0x01 ‖ length ‖ label ‖ iv ‖ [tag16 ‖] ciphertext``; the label names the key.

    CTR is told by the label, or by a payload too short for GCM.
    """
    if len(raw) < 2 + _SHORTEST_CTR_BYTES or raw[0] != 1:
        return None
    label, payload_bytes = raw[2 : 2 + raw[1]], len(raw) - 2 - raw[1]
    if payload_bytes < _SHORTEST_CTR_BYTES or not _LABEL.match(label):
        return None
    ctr = b"CTR" in label or payload_bytes < _SHORTEST_GCM_BYTES
    name, usual = "cloak-ecto-ctr" if ctr else "cloak-ecto", _USUAL_LABEL.match(label) is not None
    return Recognised(name, label.decode("ascii"), weak=not usual, body=b"" if usual else raw[2 + len(label) :])

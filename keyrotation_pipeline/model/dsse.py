"""A signed statement in the DSSE envelope. Source: DSSE protocol 1.0.2; in-toto attestation framework, Statement v1."""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"


def payload_of(statement: Mapping[str, Any]) -> bytes:
    """The bytes of a statement; the same statement, the same bytes."""
    return json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def to_sign(payload: bytes) -> bytes:
    """What is signed for a payload: type and content, each with its length before it (PAE)."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def key_id(public: str) -> str:
    """How an envelope names the signing key: SHA-256, hex, of its SubjectPublicKeyInfo.

    Args:
        public: base64 of the SubjectPublicKeyInfo.
    """
    return hashlib.sha256(base64.b64decode(public)).hexdigest()


def envelope(payload: bytes, public: str, signature: bytes) -> bytes:
    """The envelope as a file."""
    content = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key_id(public), "sig": base64.b64encode(signature).decode()}],
    }
    return f"{json.dumps(content, indent=2)}\n".encode()

"""Columns of other data that were written against the judgement: random parts of the sizes of nonces, tags and keys."""

import base64
import hashlib
import json
import pickle
import random
import struct
import zlib
from collections.abc import Callable

import jwt

from keyrotation_pipeline_tests.unit.scan.other_data import (
    BASE58,
    BASE62,
    b64,
    b64url,
    document,
    letters,
    line,
    png,
    point,
    prose,
)

UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def varied(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(29, 90))


def hyperloglog(rng: random.Random) -> bytes:
    """A sketch of postgresql-hll: version and type, register width, flags, then registers; see its STORAGE.md."""
    kind = rng.choice((2, 3))
    head = bytes([0x10 | kind, 0x8B, 0x7F])
    if kind == 2:
        return head + b"".join(sorted(rng.randbytes(8) for _ in range(rng.randrange(4, 40))))
    return head + b"".join(rng.getrandbits(16).to_bytes(2, "big") for _ in range(rng.randrange(30, 200)))


def tsvector(rng: random.Random) -> str:
    return " ".join(f"'{word.lower()}':{at}" for at, word in enumerate(sorted(prose(rng, 9).split()), 1))


def vector(rng: random.Random) -> bytes:
    return struct.pack(">HH", 32, 0) + struct.pack(">32f", *(rng.gauss(0, 0.2) for _ in range(32)))


def roaring(rng: random.Random) -> bytes:
    keys = sorted(rng.sample(range(1 << 16), rng.randrange(10, 60)))
    head = struct.pack("<IIHHI", 12346, 1, 0, len(keys) - 1, 16)
    return head + b"".join(struct.pack("<H", key) for key in keys)


def ewkb(rng: random.Random) -> str:
    return point(rng).hex().upper()


def of_protobuf(rng: random.Random) -> bytes:
    key = rng.randbytes(rng.choice((16, 24, 32)))
    return b"\x0a" + bytes([len(key)]) + key + b"\x10" + bytes([rng.randrange(128)])


def packed(rng: random.Random) -> bytes:
    note = prose(rng, 4).encode()
    return b"\x83\xa2id\xc4\x10" + rng.randbytes(16) + b"\xa1n\xd9" + bytes([len(note)]) + note + b"\xa1v\x01"


def snappy(rng: random.Random) -> bytes:
    return b"\xff\x06\x00\x00sNaPpY" + zlib.compress(document(rng), wbits=-15)


def s3_key(rng: random.Random) -> str:
    return f"uploads/{rng.randbytes(16).hex()}/{letters(rng, BASE62, 24)}.pdf"


def presigned(rng: random.Random) -> str:
    return f"https://bucket.s3.example/{letters(rng, BASE62, 12)}?X-Amz-Signature={rng.randbytes(32).hex()}"


def jws_in_json(rng: random.Random) -> str:
    return json.dumps({"payload": b64url(document(rng)), "signature": b64url(rng.randbytes(64))})


def with_checksum(rng: random.Random) -> str:
    body = letters(rng, BASE62, 30)
    return f"{letters(rng, BASE62, 3).lower()}_{body}{zlib.crc32(body.encode()):08x}"


def envelope(rng: random.Random) -> bytes:
    return struct.pack(">BIQ", 1, rng.randrange(1 << 20), rng.randrange(1 << 40)) + document(rng)


COLUMNS: dict[str, Callable[[random.Random], str | bytes]] = {
    "v1 and base62": lambda rng: f"v1:{letters(rng, BASE62, 16)}:{letters(rng, BASE62, 40)}",
    "v2 and base62 of whole groups": lambda rng: (
        f"v2:{letters(rng, BASE62, 16)}:{letters(rng, BASE62, 4 * rng.randrange(7, 15))}"
    ),
    "magento's shape in base62": lambda rng: f"0:3:{letters(rng, BASE62, 4 * rng.randrange(10, 15))}",
    "vault's shape in base62": lambda rng: f"vault-v1-{letters(rng, BASE62, 44)}",
    "rails' shape in base62": lambda rng: f"{letters(rng, BASE62, 32)}--{letters(rng, BASE62, 16)}",
    "random bytes of any length": varied,
    "random bytes of many lengths": lambda rng: rng.randbytes(rng.randrange(16, 400)),
    "random hex of any length": lambda rng: varied(rng).hex(),
    "random upper hex of any length": lambda rng: varied(rng).hex().upper(),
    "random hex behind 0x": lambda rng: "0x" + varied(rng).hex(),
    "random bytes of blocks": lambda rng: rng.randbytes(16 * rng.randrange(1, 7)),
    "random hex of blocks": lambda rng: rng.randbytes(16 * rng.randrange(1, 7)).hex(),
    "random bytes after a version": lambda rng: b"\x01" + varied(rng),
    "random bytes after a magic": lambda rng: b"DATA" + varied(rng),
    "random hex after a version": lambda rng: (b"\x02\x00" + varied(rng)).hex(),
    "random base64 of one length": lambda rng: b64(rng.randbytes(45)),
    "random base64url of one length": lambda rng: b64url(rng.randbytes(43)),
    "random bytes of one length": lambda rng: rng.randbytes(47),
    "hyperloglog": hyperloglog,
    "hyperloglog in hex": lambda rng: "\\x" + hyperloglog(rng).hex(),
    "hyperloglog in base64": lambda rng: b64(hyperloglog(rng)),
    "hyperloglog of redis": lambda rng: b"HYLL\x01\0\0\0" + rng.randbytes(8) + rng.randbytes(rng.randrange(60, 200)),
    "roaring bitmap": roaring,
    "tsvector": tsvector,
    "vector": vector,
    "vector in hex": lambda rng: vector(rng).hex(),
    "ewkb point in hex": ewkb,
    "wkb line in base64": lambda rng: b64(line(rng)),
    "protobuf of keys": of_protobuf,
    "protobuf of keys in base64": lambda rng: b64(of_protobuf(rng)),
    "msgpack of ids": packed,
    "msgpack of ids in base64": lambda rng: b64(packed(rng)),
    "snappy": snappy,
    "lz4 block of text": lambda rng: struct.pack("<I", rng.randrange(200, 400)) + document(rng),
    "raw deflate in hex": lambda rng: zlib.compress(document(rng), wbits=-15).hex(),
    "pickle of protocol 2": lambda rng: pickle.dumps({"a": rng.randrange(10**9)}, protocol=2),
    "pickle of bytes": lambda rng: pickle.dumps(varied(rng)),
    "png of one size in hex": lambda rng: png(rng).hex(),
    "s3 key": s3_key,
    "presigned url": presigned,
    "s3 version": lambda rng: letters(rng, BASE62 + "._", 32),
    "etag of parts": lambda rng: f'"{rng.randbytes(16).hex()}-{rng.randrange(2, 90)}"',
    "jws in json": jws_in_json,
    "jwt of many lengths": lambda rng: jwt.encode({"sub": prose(rng, rng.randrange(1, 30))}, "k" * 32),
    "jwks thumbprints": lambda rng: f"{b64url(rng.randbytes(32))}.{b64url(rng.randbytes(32))}",
    "oauth code": lambda rng: f"{rng.randrange(10)}/{letters(rng, BASE62 + '_-', 40)}",
    "refresh token": lambda rng: f"1//0{letters(rng, BASE62, 1)}{b64url(rng.randbytes(73))}",
    "npm token": lambda rng: "npm_" + letters(rng, BASE62, 36),
    "token with a checksum": with_checksum,
    "two uuids": lambda rng: f"{rng.randbytes(16).hex()}:{rng.randbytes(16).hex()}",
    "three digests in hex": lambda rng: ":".join(rng.randbytes(16).hex() for _ in range(3)),
    "traceparent": lambda rng: f"00-{rng.randbytes(16).hex()}-{rng.randbytes(8).hex()}-01",
    "salt and digest in base64": lambda rng: f"{b64(rng.randbytes(12))}:{b64(rng.randbytes(32))}",
    "salt and digest, versioned": lambda rng: f"v1:{b64(rng.randbytes(16))}:{b64(rng.randbytes(32))}",
    "digest with a size": lambda rng: f"sha256~{b64url(rng.randbytes(32))}",
    "base58 of one length": lambda rng: letters(rng, BASE58, 44),
    "base32 of one length": lambda rng: letters(rng, UPPER, 56),
    "integers": lambda rng: rng.randrange(1 << 256).to_bytes(32, "big"),
    "decimal numbers of many lengths": lambda rng: str(rng.randrange(10 ** rng.randrange(22, 90))),
    "phone": lambda rng: "+1" + letters(rng, "0123456789", 10),
    "version and counter": envelope,
    "id, then random": lambda rng: struct.pack(">Q", rng.randrange(10**6)) + rng.randbytes(rng.randrange(20, 60)),
    "time, then random": lambda rng: struct.pack(">I", 1_760_000_000 + rng.randrange(10**6)) + rng.randbytes(28),
    "block hash and height": lambda rng: rng.randbytes(32) + struct.pack(">I", rng.randrange(10**6)),
    "ascii85 of many lengths": lambda rng: base64.b85encode(varied(rng)).decode(),
    "digest of a password": lambda rng: b64(hashlib.scrypt(rng.randbytes(8), salt=b"salt", n=2, r=1, p=1, dklen=45)),
}

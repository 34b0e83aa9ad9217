"""More columns of data that look random and are not encrypted.

These were written after the judgement, which was not tuned on them. Its first result: of 92 columns none certain, one
likely (random bytes of random length), two possible.
"""

import base64
import bz2
import hashlib
import io
import ipaddress
import json
import pickle
import random
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from keyrotation_pipeline_tests.unit.scan.other_data import (
    BASE58,
    BASE62,
    b64,
    b64url,
    certificate,
    document,
    ec_key,
    letters,
    line,
    prose,
)

BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
CRYPT = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
AMINO = "ACDEFGHIKLMNPQRSTVWY"


def xml(rng: random.Random) -> bytes:
    name = rng.randbytes(16).hex()
    return f'<saml:Assertion ID="_{name}"><saml:Subject>{prose(rng, 6)}</saml:Subject></saml:Assertion>'.encode()


def archive(rng: random.Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("word/document.xml", xml(rng) * 3)
    return out.getvalue()


def tarball(rng: random.Random) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as made:
        made.addfile(tarfile.TarInfo("note.txt"), io.BytesIO(prose(rng, 30).encode()))
    return out.getvalue()


def database(rng: random.Random) -> bytes:
    with sqlite3.connect(":memory:") as made:
        made.execute("CREATE TABLE t (a)")
        made.execute("INSERT INTO t VALUES (?)", (rng.randbytes(40),))
        return made.serialize()


def request(rng: random.Random) -> x509.CertificateSigningRequest:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, letters(rng, BASE62, rng.randrange(5, 30)))])
    return x509.CertificateSigningRequestBuilder().subject_name(name).sign(ec_key(rng), hashes.SHA256())


def private_pem(rng: random.Random) -> str:
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return ec_key(rng).private_bytes(serialization.Encoding.PEM, form, none).decode()


def point_of_curve(rng: random.Random) -> bytes:
    form = serialization.PublicFormat.UncompressedPoint
    return ec_key(rng).public_key().public_bytes(serialization.Encoding.X962, form)


def armored(kind: str, rng: random.Random) -> str:
    body = b64(b"\x98\x33\x04" + rng.randbytes(rng.randrange(100, 400)))
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return f"-----BEGIN PGP {kind}-----\n\n{lines}\n=AbCd\n-----END PGP {kind}-----\n"


def avro(rng: random.Random) -> bytes:
    schema = hashlib.new("md5", b"schema", usedforsecurity=False).digest()[:8]
    return b"\xc3\x01" + schema + bytes([2 * 20]) + rng.randbytes(20) + prose(rng, 4).encode()


def bson(rng: random.Random) -> bytes:
    note = prose(rng, 5).encode() + b"\0"
    body = b"\x07_id\0" + rng.randbytes(12) + b"\x02note\0" + struct.pack("<I", len(note)) + note + b"\0"
    return struct.pack("<I", len(body) + 4) + body


def cwt(rng: random.Random) -> bytes:
    claims = b"\xa2\x01\x78" + bytes([20]) + letters(rng, BASE62, 20).encode() + b"\x06\x1a" + rng.randbytes(4)
    return b"\xd2\x84\x43\xa1\x01\x26\xa0\x58" + bytes([len(claims)]) + claims + b"\x58\x40" + rng.randbytes(64)


def transaction(rng: random.Random) -> str:
    body = b"\x02\0\0\0\x01" + rng.randbytes(32) + struct.pack("<I", rng.randrange(4)) + b"\0" + b"\xff" * 4
    outputs = rng.randrange(1, 4)
    scripts = b"".join(
        struct.pack("<Q", rng.randrange(10**8)) + b"\x16\x00\x14" + rng.randbytes(20) for _ in range(outputs)
    )
    return (body + bytes([outputs]) + scripts + bytes(4)).hex()


def calldata(rng: random.Random) -> str:
    words = b"".join(
        bytes(12) + rng.randbytes(20) + rng.randrange(10**18).to_bytes(32, "big") for _ in range(rng.randrange(1, 4))
    )
    return "0x" + (rng.choice((b"\xa9\x05\x9c\xbb", b"\x09\x5e\xa7\xb3")) + words).hex()


def pcm(rng: random.Random) -> bytes:
    return struct.pack("<200h", *(int(rng.gauss(0, 2000)) for _ in range(200)))


def mp3(rng: random.Random) -> bytes:
    return b"".join(b"\xff\xfb\x90\x64" + rng.randbytes(413) for _ in range(rng.randrange(1, 4)))


def gif(rng: random.Random) -> bytes:
    return b"GIF89a" + rng.randbytes(rng.randrange(100, 500)) + b"\0;"


def pdf(rng: random.Random) -> bytes:
    return (
        b"%PDF-1.7\n1 0 obj<</Filter/FlateDecode>>stream\n"
        + zlib.compress(prose(rng, 50).encode())
        + b"\nendstream endobj"
    )


def polygon(rng: random.Random) -> str:
    return (b"\x01\x03\x00\x00\x20\xe6\x10\x00\x00\x01\x00\x00\x00" + line(rng)[5:]).hex().upper()


def bloom(rng: random.Random) -> bytes:
    return bytes(sum((rng.random() < 0.3) << bit for bit in range(8)) for _ in range(rng.randrange(64, 128)))


def series(rng: random.Random) -> bytes:
    return b"".join(
        bytes([value & 0x7F | 0x80, value >> 7])
        for value in (abs(int(rng.gauss(300, 90))) for _ in range(rng.randrange(20, 90)))
    )


def viewstate(rng: random.Random) -> str:
    return b64(
        b"\xff\x01\x0f\x0f\x05"
        + bytes([10])
        + letters(rng, "0123456789", 10).encode()
        + document(rng)
        + rng.randbytes(20)
    )


def java(rng: random.Random) -> str:
    return b64(b"\xac\xed\x00\x05sr\x00\x11java.util.HashMap" + rng.randbytes(8) + document(rng))


def signed_license(rng: random.Random) -> str:
    return b64(document(rng) + rng.randbytes(256))


def colons(rng: random.Random) -> str:
    return ":".join(f"{byte:02X}" for byte in rng.randbytes(32))


def erlang(rng: random.Random) -> bytes:
    note = prose(rng, 5).encode()
    return b"\x83h\x03d\x00\x04userb" + rng.randbytes(4) + b"m" + struct.pack(">I", len(note)) + note


def half_floats(rng: random.Random) -> bytes:
    return struct.pack("<128e", *(rng.gauss(0, 0.08) for _ in range(128)))


def quantised(rng: random.Random) -> bytes:
    return bytes(max(-128, min(127, int(rng.gauss(0, 40)))) & 0xFF for _ in range(384))


def raw_deflate(rng: random.Random) -> str:
    return b64(zlib.compress(xml(rng), wbits=-15))


def phoenix(rng: random.Random) -> str:
    return f"SFMyNTY.{b64url(erlang(rng))}.{b64url(rng.randbytes(32))}"


def postgres_scram(rng: random.Random) -> str:
    return f"SCRAM-SHA-256$4096:{b64(rng.randbytes(16))}${b64(rng.randbytes(32))}:{b64(rng.randbytes(32))}"


COLUMNS: dict[str, Callable[[random.Random], str | bytes]] = {
    "ksuid": lambda rng: letters(rng, BASE62, 27),
    "cuid": lambda rng: "c" + letters(rng, BASE36, 24),
    "object id": lambda rng: rng.randbytes(12).hex(),
    "snowflake": lambda rng: str(rng.randrange(10**18, 10**19)),
    "sha1 in base64": lambda rng: b64(rng.randbytes(20)),
    "sri": lambda rng: "sha384-" + b64(rng.randbytes(48)),
    "docker digest": lambda rng: "sha256:" + rng.randbytes(32).hex(),
    "versioned digest": lambda rng: "v1:" + rng.randbytes(32).hex(),
    "md5 crypt": lambda rng: f"$1${letters(rng, CRYPT, 8)}${letters(rng, CRYPT, 22)}",
    "sha512 crypt": lambda rng: f"$6${letters(rng, CRYPT, 16)}${letters(rng, CRYPT, 86)}",
    "phpass": lambda rng: "$P$B" + letters(rng, CRYPT, 30),
    "mysql native": lambda rng: "*" + rng.randbytes(20).hex().upper(),
    "postgres scram": postgres_scram,
    "salt and pbkdf2 in base64": lambda rng: f"{b64(rng.randbytes(16))}:{b64(rng.randbytes(32))}",
    "iterations, salt, digest": lambda rng: f"10000:{b64(rng.randbytes(24))}:{b64(rng.randbytes(24))}",
    "scrypt of node": lambda rng: f"{rng.randbytes(64).hex()}.{rng.randbytes(8).hex()}",
    "salt$sha512": lambda rng: f"{rng.randbytes(16).hex()}${rng.randbytes(64).hex()}",
    "devise token": lambda rng: letters(rng, BASE62 + "_-", 20),
    "google access token": lambda rng: "ya29.a0" + b64url(rng.randbytes(rng.randrange(120, 160))),
    "slack token": lambda rng: f"xoxb-{letters(rng, '0123456789', 12)}-{letters(rng, BASE62, 24)}",
    "fcm token": lambda rng: f"{letters(rng, BASE62, 22)}:APA91b{b64url(rng.randbytes(100))}",
    "sendgrid key": lambda rng: f"SG.{b64url(rng.randbytes(16))}.{b64url(rng.randbytes(32))}",
    "webhook secret": lambda rng: "whsec_" + b64(rng.randbytes(rng.choice((24, 32)))),
    "express cookie": lambda rng: f"s:{letters(rng, BASE62 + '_-', 32)}.{b64(rng.randbytes(32)).rstrip('=')}",
    "stripe signature": lambda rng: f"t={rng.randrange(10**9)},v1={rng.randbytes(32).hex()}",
    "phoenix token": phoenix,
    "jwt, es256": lambda rng: jwt.encode({"sub": prose(rng, 1)}, ec_key(rng), "ES256"),
    "detached jws": lambda rng: "eyJhbGciOiJFUzI1NiIsImI2NCI6ZmFsc2V9.." + b64url(rng.randbytes(64)),
    "saml in base64": lambda rng: b64(xml(rng)),
    "saml request, deflated": raw_deflate,
    "cwt": cwt,
    "bz2 in base64": lambda rng: b64(bz2.compress(document(rng))),
    "pickle": lambda rng: pickle.dumps({"id": rng.randrange(10**9), "key": rng.randbytes(20)}),
    "pickle in base64": lambda rng: b64(pickle.dumps({"id": rng.randrange(10**9), "note": prose(rng, 5)})),
    "php serialized": lambda rng: f'a:1:{{s:4:"note";s:9:"{letters(rng, BASE62, 9)}";}}',
    "java serialized": java,
    "viewstate": viewstate,
    "avro": avro,
    "bson": bson,
    "erlang term": erlang,
    "sqlite file": database,
    "zip": archive,
    "tar.gz in base64": lambda rng: b64(tarball(rng)),
    "pdf": pdf,
    "mp3": mp3,
    "pcm": pcm,
    "gif in base64": lambda rng: b64(gif(rng)),
    "thumbhash": lambda rng: b64(
        bytes([rng.randrange(256), rng.randrange(256), rng.randrange(64)]) + rng.randbytes(21)
    ),
    "perceptual hash": lambda rng: rng.randbytes(32).hex(),
    "minhash": lambda rng: struct.pack("<64I", *sorted(rng.randrange(1 << 32) >> 4 for _ in range(64))),
    "bloom filter": bloom,
    "time series": series,
    "half floats": half_floats,
    "half floats in base64": lambda rng: b64(half_floats(rng)),
    "quantised embedding": quantised,
    "polygon": polygon,
    "geohash": lambda rng: letters(rng, "0123456789bcdefghjkmnpqrstuvwxyz", 12),
    "private key pem": private_pem,
    "signing request pem": lambda rng: request(rng).public_bytes(serialization.Encoding.PEM).decode(),
    "signing request der": lambda rng: request(rng).public_bytes(serialization.Encoding.DER),
    "certificate der in hex": lambda rng: certificate(rng).public_bytes(serialization.Encoding.DER).hex(),
    "certificate fingerprint": colons,
    "pgp public key": lambda rng: armored("PUBLIC KEY BLOCK", rng),
    "pgp signature": lambda rng: armored("SIGNATURE", rng),
    "wireguard key": lambda rng: b64(rng.randbytes(32)),
    "ssh fingerprint": lambda rng: "SHA256:" + b64(rng.randbytes(32)).rstrip("="),
    "age recipient": lambda rng: "age1" + letters(rng, BECH32, 58),
    "web push key": lambda rng: b64url(point_of_curve(rng)),
    "curve point": point_of_curve,
    "bitcoin transaction": transaction,
    "bitcoin wif": lambda rng: rng.choice("KL") + letters(rng, BASE58, 51),
    "extended public key": lambda rng: "xpub661MyMwAqRbc" + letters(rng, BASE58, 95),
    "bech32 address": lambda rng: "bc1q" + letters(rng, BECH32, 38),
    "ethereum signature": lambda rng: "0x" + (rng.randbytes(64) + bytes([27 + rng.randrange(2)])).hex(),
    "ethereum calldata": calldata,
    "solana signature": lambda rng: letters(rng, BASE58, rng.choice((87, 88))),
    "peer id": lambda rng: "12D3KooW" + letters(rng, BASE58, 44),
    "azure storage key": lambda rng: b64(rng.randbytes(64)),
    "signed license": signed_license,
    "cursor": lambda rng: b64(json.dumps({"after": rng.randrange(10**9), "id": letters(rng, BASE62, 9)}).encode()),
    "telegram file id": lambda rng: "AgACAgIAAxkBAA" + b64url(rng.randbytes(rng.randrange(40, 60))),
    "amino acids": lambda rng: letters(rng, AMINO, rng.randrange(40, 200)),
    "smiles": lambda rng: letters(rng, "CNOcn()=123", rng.randrange(20, 60)),
    "iban": lambda rng: "DE" + letters(rng, "0123456789", 20),
    "ipv6": lambda rng: str(ipaddress.IPv6Address(rng.randbytes(16))),
    "ascii85": lambda rng: base64.a85encode(rng.randbytes(rng.randrange(30, 60))).decode(),
    "base32 of many lengths": lambda rng: base64.b32encode(rng.randbytes(rng.randrange(20, 60))).decode(),
    "base58 of many lengths": lambda rng: letters(rng, BASE58, rng.randrange(30, 90)),
    "covid certificate": lambda rng: "HC1:" + letters(rng, UPPER + "$%*+-./:", rng.randrange(300, 500)),
    "recovery codes": lambda rng: " ".join(letters(rng, BASE36, 8) for _ in range(8)),
    "random bytes of random length": lambda rng: rng.randbytes(rng.randrange(30, 90)),
}

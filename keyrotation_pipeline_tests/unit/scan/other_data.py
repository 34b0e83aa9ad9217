"""Columns of data that look random and are not encrypted, made by the real algorithms.

The judgement was tuned on these; `more_other_data` was written afterwards.
"""

import base64
import datetime as dt
import gzip
import hashlib
import hmac
import json
import lzma
import random
import struct
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence

import bcrypt
import jwt
import nacl.pwhash.argon2id
import nacl.signing
import werkzeug.security
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from itsdangerous import URLSafeTimedSerializer

Values = Sequence[str | bytes]
ROWS = 120
WORDS = (
    "patient", "visit", "monday", "clinic", "doctor", "followup", "insurance", "therapy", "session", "notes",
    "allergy", "medication", "report", "summary", "billing", "address", "phone", "street", "number", "city",
    "emergency", "contact", "relation", "consent", "signed", "archive", "transfer", "hospital", "laboratory",
    "result",
)  # fmt: skip


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def prose(rng: random.Random, words: int = 12) -> str:
    return " ".join(rng.choices(WORDS, k=words)).capitalize() + "."


def letters(rng: random.Random, alphabet: str, size: int) -> str:
    return "".join(rng.choices(alphabet, k=size))


BASE62 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def digest(rng: random.Random, algorithm: str) -> str:
    return hashlib.new(algorithm, rng.randbytes(9)).hexdigest()


def document(rng: random.Random) -> bytes:
    return json.dumps(
        {"id": rng.randrange(10**9), "name": prose(rng, 2), "note": prose(rng, rng.randrange(3, 40))}
    ).encode()


def protobuf(rng: random.Random) -> bytes:
    name = prose(rng, 3).encode()
    return b"\x08" + bytes([rng.randrange(128)]) + b"\x12" + bytes([len(name)]) + name + b"\x1d" + rng.randbytes(4)


def msgpack(rng: random.Random) -> bytes:
    note = prose(rng, 8).encode()
    return b"\x82\xa2id\xce" + rng.randbytes(4) + b"\xa4note\xd9" + bytes([len(note)]) + note


def png(rng: random.Random) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    side = rng.randrange(4, 12)
    rows = b"".join(b"\0" + rng.randbytes(3 * side) for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def jpeg(rng: random.Random) -> bytes:
    return b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01" + rng.randbytes(rng.randrange(300, 900)) + b"\xff\xd9"


def webp(rng: random.Random) -> bytes:
    body = b"WEBPVP8 " + rng.randbytes(rng.randrange(200, 800))
    return b"RIFF" + struct.pack("<I", len(body)) + body


def point(rng: random.Random) -> bytes:
    return struct.pack("<BIIdd", 1, 0x20000001, 4326, rng.uniform(-180, 180), rng.uniform(-90, 90))


def line(rng: random.Random) -> bytes:
    n = rng.randrange(2, 20)
    return struct.pack("<BII", 1, 2, n) + b"".join(struct.pack("<dd", rng.random(), rng.random()) for _ in range(n))


def ec_key(rng: random.Random) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(rng.randrange(1, 1 << 255), ec.SECP256R1())


def ecdsa_signature(rng: random.Random) -> bytes:
    return ec_key(rng).sign(rng.randbytes(20), ec.ECDSA(hashes.SHA256()))


def certificate(rng: random.Random) -> x509.Certificate:
    key = ec_key(rng)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, letters(rng, BASE62, 12))])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), rng.getrandbits(100) + 1, start, start.replace(year=2027)
    )
    return builder.sign(key, hashes.SHA256())


def public_pem(rng: random.Random) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return ec_key(rng).public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def ssh_key(rng: random.Random) -> str:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)).public_key()
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode() + " ana@laptop"


def rails_cookie(rng: random.Random) -> str:
    message = b64(document(rng))
    return f"{message}--{hmac.new(b'secret', message.encode(), 'sha1').hexdigest()}"


def salted(rng: random.Random, algorithm: str, salt_bytes: int = 16) -> str:
    salt = rng.randbytes(salt_bytes)
    return f"{salt.hex()}:{hashlib.new(algorithm, salt + rng.randbytes(8)).hexdigest()}"


def django_hash(rng: random.Random) -> str:
    digest = hashlib.pbkdf2_hmac("sha256", rng.randbytes(8), b"salt", 10)
    return f"pbkdf2_sha256$870000${letters(rng, BASE62, 22)}${b64(digest)}"


def phc_scrypt(rng: random.Random) -> str:
    return f"$scrypt$ln=16,r=8,p=1${b64(rng.randbytes(16)).rstrip('=')}${b64(rng.randbytes(32)).rstrip('=')}"


def argon2(rng: random.Random) -> str:
    return nacl.pwhash.argon2id.str(rng.randbytes(8), 1, 8192).decode().rstrip("\0")


def identity_v3(rng: random.Random) -> str:
    return b64(b"\x01" + struct.pack(">III", 1, 10_000, 16) + rng.randbytes(48))


def license_key(rng: random.Random) -> str:
    return "-".join(letters(rng, CROCKFORD, 5) for _ in range(5))


def fen(rng: random.Random) -> str:
    ranks = "/".join(letters(rng, "rnbqkpRNBQKP", 8) for _ in range(8))
    return f"{ranks} w KQkq - {rng.randrange(50)} {rng.randrange(1, 90)}"


def git_object(rng: random.Random) -> bytes:
    text = prose(rng, 30).encode()
    return zlib.compress(b"blob %d\0" % len(text) + text)


def embedding(rng: random.Random) -> bytes:
    return struct.pack("<64f", *(rng.gauss(0, 0.1) for _ in range(64)))


def macaroon(rng: random.Random) -> str:
    def packet(text: bytes) -> bytes:
        return b"%04x" % (len(text) + 5) + text + b"\n"

    parts = packet(b"location https://api.example") + packet(
        b"identifier " + letters(rng, BASE62, rng.randrange(8, 20)).encode()
    )
    return b64url(parts + packet(b"signature " + rng.randbytes(32)))


def sealed_bitcoin(rng: random.Random) -> str:
    return "1" + letters(rng, BASE58, rng.choice((32, 33)))


COLUMNS: dict[str, Callable[[random.Random], str | bytes]] = {
    "uuid": lambda rng: str(uuid.UUID(bytes=rng.randbytes(16), version=4)),
    "uuid as bytes": lambda rng: uuid.UUID(bytes=rng.randbytes(16), version=4).bytes,
    "uuid in base64": lambda rng: b64(rng.randbytes(16)),
    "md5": lambda rng: digest(rng, "md5"),
    "sha256 as bytes": lambda rng: hashlib.sha256(rng.randbytes(9)).digest(),
    "sha512 in base64": lambda rng: b64(hashlib.sha512(rng.randbytes(9)).digest()),
    "digests of several kinds": lambda rng: hashlib.new(
        rng.choice(("md5", "sha1", "sha256", "sha512")), rng.randbytes(9)
    ).hexdigest(),
    "token of 32 bytes": lambda rng: b64url(rng.randbytes(32)),
    "tokens of three lengths": lambda rng: b64url(rng.randbytes(rng.choice((16, 24, 32)))),
    "base62 tokens": lambda rng: letters(rng, BASE62, rng.randrange(24, 60)),
    "base62 tokens of whole groups": lambda rng: letters(rng, BASE62, 4 * rng.randrange(6, 16)),
    "nanoid": lambda rng: letters(rng, BASE62 + "_-", 21),
    "ulid": lambda rng: letters(rng, CROCKFORD, 26),
    "totp secret": lambda rng: base64.b32encode(rng.randbytes(rng.choice((10, 20, 32)))).decode(),
    "stripe id": lambda rng: "cus_" + letters(rng, BASE62, 14),
    "stripe key": lambda rng: "sk_live_" + letters(rng, BASE62, rng.choice((24, 99))),
    "github token": lambda rng: "ghp_" + letters(rng, BASE62, 36),
    "aws secret key": lambda rng: b64(rng.randbytes(30)),
    "bcrypt": lambda rng: bcrypt.hashpw(prose(rng, 1).encode(), bcrypt.gensalt(4)).decode(),
    "argon2": argon2,
    "scrypt": phc_scrypt,
    "django pbkdf2": django_hash,
    "werkzeug": lambda rng: werkzeug.security.generate_password_hash(prose(rng, 1), "pbkdf2:sha256:10"),
    "asp.net identity": identity_v3,
    "ldap ssha": lambda rng: "{SSHA}" + b64(rng.randbytes(20 + rng.choice((4, 8, 16)))),
    "salt and md5": lambda rng: salted(rng, "md5"),
    "salt and sha1": lambda rng: salted(rng, "sha1"),
    "salt and sha256": lambda rng: salted(rng, "sha256"),
    "jwt": lambda rng: jwt.encode({"sub": prose(rng, 1), "exp": rng.randrange(10**9)}, "k" * 32),
    "itsdangerous": lambda rng: URLSafeTimedSerializer("key").dumps(
        {"user": rng.randrange(10**6), "note": prose(rng, 4)}
    ),
    "rails signed cookie": rails_cookie,
    "django session": lambda rng: (
        f".{b64url(zlib.compress(document(rng)))}:1t{letters(rng, BASE62, 4)}:{b64url(rng.randbytes(32))}"
    ),
    "macaroon": macaroon,
    "paseto public": lambda rng: "v4.public." + b64url(document(rng) + rng.randbytes(64)),
    "png": png,
    "png in base64": lambda rng: b64(png(rng)),
    "pictures of all kinds": lambda rng: rng.choice((png, jpeg, webp))(rng),
    "pictures in base64": lambda rng: b64(rng.choice((png, jpeg, webp))(rng)),
    "gzip of json": lambda rng: gzip.compress(document(rng), mtime=0),
    "zlib of json in base64": lambda rng: b64(zlib.compress(document(rng))),
    "raw deflate of json": lambda rng: zlib.compress(document(rng), wbits=-15),
    "xz of json": lambda rng: lzma.compress(document(rng)),
    "json in base64": lambda rng: b64(document(rng)),
    "protobuf": protobuf,
    "protobuf in base64": lambda rng: b64(protobuf(rng)),
    "msgpack": msgpack,
    "wkb point": point,
    "wkb line": line,
    "wkb line in hex": lambda rng: line(rng).hex().upper(),
    "embedding": embedding,
    "ed25519 key": lambda rng: nacl.signing.SigningKey(rng.randbytes(32)).verify_key.encode(),
    "ed25519 signature in base64": lambda rng: b64(nacl.signing.SigningKey(rng.randbytes(32)).sign(b"text").signature),
    "ecdsa signature": ecdsa_signature,
    "ecdsa signature in base64": lambda rng: b64(ecdsa_signature(rng)),
    "rsa-sized signature": lambda rng: b64(rng.randbytes(256)),
    "x.509 der": lambda rng: certificate(rng).public_bytes(serialization.Encoding.DER),
    "x.509 der in base64": lambda rng: b64(certificate(rng).public_bytes(serialization.Encoding.DER)),
    "x.509 pem": lambda rng: certificate(rng).public_bytes(serialization.Encoding.PEM).decode(),
    "public key pem": public_pem,
    "ssh key": ssh_key,
    "license key": license_key,
    "ean barcode": lambda rng: letters(rng, "0123456789", 13),
    "long numbers": lambda rng: letters(rng, "0123456789", rng.choice((24, 26, 32, 40))),
    "dna": lambda rng: letters(rng, "ACGT", 4 * rng.randrange(8, 40)),
    "phone": lambda rng: "+49" + letters(rng, "0123456789", rng.randrange(8, 12)),
    "chess position": fen,
    "git object": git_object,
    "commit id": lambda rng: digest(rng, "sha1"),
    "ipfs v0": lambda rng: "Qm" + letters(rng, BASE58, 44),
    "ipfs v1": lambda rng: "b" + base64.b32encode(b"\x01\x70\x12\x20" + rng.randbytes(32)).decode().lower().rstrip("="),
    "bitcoin address": sealed_bitcoin,
    "ethereum address": lambda rng: "0x" + rng.randbytes(20).hex(),
    "webauthn id": lambda rng: b64url(rng.randbytes(rng.choice((16, 20, 32, 64)))),
    "slug": lambda rng: "-".join(rng.choices(WORDS, k=rng.randrange(3, 7))),
    "url": lambda rng: f"https://cdn.example/{rng.randbytes(16).hex()}/{letters(rng, BASE62, 22)}.jpg",
    "data uri": lambda rng: "data:image/png;base64," + b64(png(rng)),
    "prose": lambda rng: prose(rng, 20),
    "camel words": lambda rng: "".join(word.capitalize() for word in rng.choices(WORDS, k=rng.randrange(3, 6))),
}


def rows(columns: Mapping[str, Callable[[random.Random], str | bytes]], name: str, seed: int = 0) -> Values:
    """Makes the values of one column, the same in every run where the algorithm lets it."""
    rng = random.Random(f"{name} {seed}")
    return [columns[name](rng) for _ in range(ROWS)]

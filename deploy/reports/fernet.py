"""The reports of an application with Fernet keys: see docs/guides/fernet.md."""

import atexit
import base64
import contextlib
import hashlib
import hmac
import json
import logging
import os
import secrets
import socket
import threading

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def report(cursor, instance, keys, sign_off=False):
    cursor.execute("SELECT nonce, at FROM keyrotation.report_nonce")
    nonce, at = cursor.fetchone()
    held = [base64.urlsafe_b64decode(key) for key in keys]
    names = [hashlib.sha256(b"keyrotation-key-fingerprint-v1" + key).hexdigest() for key in held]
    text = json.dumps(
        {"nonce": nonce, "at": at, "reads": names, "writes": names[0], "names_primary": True, "farewell": sign_off}
    )
    proofs = []
    for name, key in zip(names, held):
        derived = HKDF(SHA256(), 32, None, b"keyrotation-possession-v1").derive(key)
        proof = hmac.new(derived, f"{name}\n{instance}\n{text}".encode(), "sha256")
        proofs.append(f"{name}={proof.hexdigest()}")
    cursor.execute(
        "INSERT INTO keyrotation.instance_reports (instance, report, proofs) VALUES (%s, %s, %s)",
        (instance, text, " ".join(proofs)),
    )


def keep_reporting(connect, keys):
    instance = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}"
    ended = threading.Event()

    def work():
        last = False
        while not last:
            last = ended.is_set()
            try:
                with contextlib.closing(connect()) as connection:
                    report(connection.cursor(), instance, keys, sign_off=last)
                    connection.commit()
            except Exception:
                logging.exception("the instance could not report itself")
            last or ended.wait(15)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    atexit.register(lambda: (ended.set(), thread.join(5)))

"""Verifies signatures by SSH keys, FIDO2 ones included, by the program ssh-keygen (``-Y sign``, PROTOCOL.sshsig).

A signature counts only in the namespace of this project, so that nothing that an officer signs with the same key for
git or for a login is an approval. It says no time.
"""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keyrotation_pipeline.adapters.process import die_with_parent
from keyrotation_pipeline.errors import ApprovalError, OpenSSHError
from keyrotation_pipeline.model.approval import SSH_KEY_FORM, SSH_NAMESPACE, ssh_fingerprint
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.regular_files import opened

_LARGEST_KEY_BYTES = _LARGEST_SIGNATURE_BYTES = 16 * 1024
# One armored signature and nothing around it: ssh-keygen itself ignores what follows the first.
_ARMORED = re.compile(rb"-----BEGIN SSH SIGNATURE-----\r?\n[A-Za-z0-9+/=\r\n]+-----END SSH SIGNATURE-----")
_LISTED = re.compile(r"(?P<bits>[0-9]+) (?P<fingerprint>SHA256:[A-Za-z0-9+/]{43}) .*\((?P<kind>[A-Z0-9-]+)\)")
_LEAST_RSA_BITS = 3072
# What ssh-keygen says, at its second level of detail, of a signature by a security key that it has verified.
_FLAGS = re.compile(r"^debug2: .*signature details: counter = [0-9]+, flags = 0x([0-9a-f]+)\r?$", re.MULTILINE)
_USER_PRESENT = 0x01
_SIGN_AGAIN = f"sign what `--text` prints with `ssh-keygen -Y sign -n {SSH_NAMESPACE}`"
# The beginning of each message, by versions 8.2 to 10.
_REFUSALS = (
    ("incorrect signature", f"the signature is not over exactly this text; {_SIGN_AGAIN}"),
    ("namespace does not match", f"the signature is made for another purpose than this; {_SIGN_AGAIN}"),
)


@dataclass(frozen=True, slots=True)
class SshKey:
    """One public key.

    Args:
        line: its type and its base64, without options and comment.
        fingerprint: ``SHA256:`` and 43 characters.
    """

    line: str
    fingerprint: str


def raw_key_of(line: str) -> str:
    """Returns in hex what tells the pair of a public key in any format: the modulus of RSA, the point of a curve.

    Args:
        line: its type and its base64 (RFC 4253, 6.6; RFC 5656, 3.1; PROTOCOL.u2f).
    """
    kind, _, encoded = line.partition(" ")
    rest, fields = b64decode(encoded), list[bytes]()
    while rest:
        size = int.from_bytes(rest[:4])
        fields.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    place = 1 if kind.endswith("ssh-ed25519") or "ssh-ed25519@" in kind else 2
    return fields[place].hex() if place == 1 else fields[place].hex().lstrip("0")


def read_ssh_key(path: Path) -> SshKey:
    """Reads one public key in a file, as ``ssh-keygen -t`` writes it.

    Raises:
        OpenSSHError: no such file, not exactly one public key, a private one, a certificate, options before the key,
            a type that is not accepted, RSA under 3072 bits, or ssh-keygen is missing.
    """
    try:
        with opened(path) as file:
            content = file.read(_LARGEST_KEY_BYTES + 1)
    except OSError:
        raise OpenSSHError(f"SSH key {path} cannot be read; put the officer's public key (id_….pub) there") from None
    if b"PRIVATE KEY" in content:
        raise OpenSSHError(f"{path} holds a private key; remove it, and put the public one (the file .pub) there")
    lines = [line for line in content.decode(errors="replace").splitlines() if line.strip()]
    if len(lines) != 1:
        raise OpenSSHError(f"{path} holds {counted(len(lines), 'line')}; give it one public key in one line")
    line = " ".join(lines[0].split(maxsplit=2)[:2])
    if not SSH_KEY_FORM.fullmatch(line):
        raise OpenSSHError(
            f"{path} is not a plain public key that an officer may have (ed25519, ECDSA, RSA or FIDO2); make one with "
            "`ssh-keygen -t ed25519-sk`"
        )
    return _checked(path, line)


def _checked(path: Path, line: str) -> SshKey:
    with tempfile.TemporaryDirectory(prefix="keyrotation-ssh-") as directory:
        file = Path(directory) / "key.pub"
        file.write_text(f"{line}\n", encoding="ascii")
        listed = _run(Path(directory), "-l", "-E", "sha256", "-f", str(file))
    found = _LISTED.fullmatch(listed.stdout.decode(errors="replace").rstrip("\n"))
    if listed.returncode or found is None or found["fingerprint"] != ssh_fingerprint(line):
        raise OpenSSHError(f"{path} is not a whole public key; copy the officer's file .pub again")
    if found["kind"] == "RSA" and int(found["bits"]) < _LEAST_RSA_BITS:
        raise OpenSSHError(
            f"{path} is an RSA key of {found['bits']} bits, which is too weak; make one with `ssh-keygen -t ed25519`"
        )
    if line.startswith("sk-") and not _application(line).startswith(b"ssh:"):
        raise OpenSSHError(f"{path} is a security key's for a web site; make one with `ssh-keygen -t ed25519-sk`")
    return SshKey(line, found["fingerprint"])


def _application(line: str) -> bytes:
    """What a security key signs for: the last part of a public key that ssh-keygen has accepted."""
    rest, last = b64decode(line.partition(" ")[2]), b""
    while rest:
        end = 4 + int.from_bytes(rest[:4], "big")
        last, rest = rest[4:end], rest[end:]
    return last


def signer_of(text: bytes, signature: bytes, keys: Sequence[str]) -> str:
    """Has ssh-keygen verify one detached signature over exactly a text; returns the fingerprint of its key.

    Args:
        keys: the lines of the keys that may sign.

    Raises:
        ApprovalError: it does not count, with a sentence for each reason.
        OpenSSHError: ssh-keygen is missing, or cannot work.
    """
    if len(signature) > _LARGEST_SIGNATURE_BYTES or not _ARMORED.fullmatch(signature.strip()):
        raise ApprovalError(f"the input is not one SSH signature and nothing else; {_SIGN_AGAIN}")
    known = {ssh_fingerprint(line): line for line in keys if SSH_KEY_FORM.fullmatch(line)}
    with tempfile.TemporaryDirectory(prefix="keyrotation-ssh-") as name:
        directory = Path(name)
        signed, allowed = directory / "signature", directory / "allowed_signers"
        signed.write_bytes(signature.strip() + b"\n")
        # The principal is the key itself, so that no name decides; never `cert-authority`: a certificate is no key.
        lines = (f'{fingerprint} namespaces="{SSH_NAMESPACE}" {line}\n' for fingerprint, line in known.items())
        allowed.write_text("".join(lines), encoding="ascii")
        files = "-s", str(signed), "-f", str(allowed)
        found = _run(directory, "-Y", "find-principals", *files).stdout.decode(errors="replace").rstrip("\n")
        if found not in known:
            raise ApprovalError(
                "no officer of the roster has the SSH key of this signature; sign with the key whose public part is "
                "in the roster"
            )
        verified = _run(directory, "-vv", "-Y", "verify", *files, "-n", SSH_NAMESPACE, "-I", found, stdin=text)
    said = verified.stderr.decode(errors="replace")
    if verified.returncode:
        messages = (message for words, message in _REFUSALS if words in said)
        raise ApprovalError(next(messages, f"ssh-keygen does not accept the signature; {_SIGN_AGAIN}"))
    if known[found].startswith("sk-"):
        _require_touch(said)
    return found


def _require_touch(said: str) -> None:
    """Refuses a signature for which nobody touched the security key, which ssh-keygen itself accepts."""
    flags = [int(each, 16) for each in _FLAGS.findall(said)]
    if len(flags) != 1 or not flags[0] & _USER_PRESENT:
        raise ApprovalError(
            "the signature was made without a touch of the security key; sign with a key made by `ssh-keygen -t "
            "ed25519-sk`, which asks for one"
        )


def _run(directory: Path, *arguments: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    if (binary := shutil.which("ssh-keygen")) is None:
        raise OpenSSHError(
            "ssh-keygen is not installed; install OpenSSH 8.2 or later (on Debian: apt install openssh-client)"
        )
    command, environment = die_with_parent([binary, *arguments]), {"LC_ALL": "C", **_name_of_user(directory)}
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, env=environment, check=False)  # noqa: S603
    except OSError as error:
        raise OpenSSHError(f"ssh-keygen cannot be started ({error.strerror}); fix that and run this again") from None
    if done.returncode and done.stderr.startswith(b"No user exists for uid"):
        raise OpenSSHError(
            f"ssh-keygen refuses user id {os.getuid()}, which has no name here; run this as one that has (in our image "
            "`runAsUser: 10001`), or install libnss-wrapper"
        )
    if b"Unsupported operation for -Y" in done.stderr or b"unknown option" in done.stderr:
        raise OpenSSHError("ssh-keygen is too old to verify signatures; install OpenSSH 8.2 or later")
    return done


def _name_of_user(directory: Path) -> Mapping[str, str]:
    """An environment in which this process's user has a name, as in a Pod under a user id that a cluster has chosen."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        library = next(Path("/usr/lib").glob("*/libnss_wrapper.so"), None)
        if library is None:
            return {}
        users, groups = directory / "passwd", directory / "group"
        users.write_text(f"keyrotation:x:{os.getuid()}:{os.getgid()}::/:/bin/false\n", encoding="ascii")
        groups.write_text(f"keyrotation:x:{os.getgid()}:\n", encoding="ascii")
        return {"LD_PRELOAD": str(library), "NSS_WRAPPER_PASSWD": str(users), "NSS_WRAPPER_GROUP": str(groups)}
    return {}

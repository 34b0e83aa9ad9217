"""Builds the `keyrotation.toml` that `init` writes: what was found, and what to fill in."""

import json
import textwrap
from collections.abc import Iterator
from itertools import chain

from keyrotation_pipeline.assembly.home import Found
from keyrotation_pipeline.fieldcrypto.formats.registry import SPECS
from keyrotation_pipeline.model.tables import Place
from keyrotation_pipeline.scan.report import Finding, name_of, share_of
from keyrotation_pipeline.settings import DATABASE_VARIABLE

_WIDTH = 114

_HEAD = """\
# Written by `keyrotation init` from what is in {database}.
# Relative paths are relative to this file. Secrets are never in it: {{ env = "NAME" }} or {{ file = "PATH" }} is.

[database]
{url}

[keys]
store = "file"                    # or "aws-secrets-manager", "kubernetes-secret": see `keyrotation docs settings`
# activated_at = 2026-01-31        # when the key that `init` imports came into use; else its age is unknown
# [keys.file]
# directory = "keys"              # default: keys in the home, .keyrotation next to this file

{format}# Every column that the application encrypts. {values}
"""
_NATIVE_VALUES = """\
Values look like v1:<nonce>:<ciphertext>. Of tables over 64 MiB only a
# part was read: check that no column is missing. `keyrotation inventory` reads everything, and so does each request.\
"""
_OTHER_VALUES = "Only a sample was read: check that no column is missing."
_ATTEST, _CONFIRM = 'mode = "attest"\n', 'mode = "confirm"\n'
_NO_TABLE = """\
# None was found. Fill in:
# [[tables]]
# name = "clients"                # or "schema.name"; no quoting
# columns = ["first_name", "email"]

"""
_TAIL = """\
[reencryption]
shards = 4                        # per table; a shard is one Dagster partition
max_rows_per_second = 0           # 0 = no cap
max_replica_lag_seconds = 5
# parallel_shards = 2             # shards that Dagster takes at a time; an emergency takes at least 4
# workers = 1                     # per shard; several are processes
# duty_cycle = 0.35               # share of the time that a routine rotation works; the rest is left to the application
# hours = "22:00-06:00"           # default: at any hour

# [verification]
# every_days = 90                 # every value is decrypted once in this many days, a part each day; 1: all, daily

[rollout]
# Before anything is written under a new key, every application instance must read it. How that is checked:
#   "attest"   each instance reports itself; the rotation waits for all, and until one does. In the application:
#                  from keyrotation_pipeline.encrypted_type import attest
#                  attest(engine, key_ring)   # once a process, with its SQLAlchemy engine and EncryptedType's key ring
#   "kubernetes"  workloads in Kubernetes get new Pods; see `keyrotation docs kubernetes`
#   "confirm"  after each rollout an officer signs what `keyrotation confirm ID --text` prints
#   "none"     nothing checks it, and an application that does not read the new key in time fails; officers sign that
mode = "attest"
instance_ttl_seconds = 60         # an instance that does not report for longer may have stopped, or not
timeout_seconds = 600             # how long `rotate` waits for instances

[approvals]
required = 2                      # signatures of different officers

# Fill in the officers, each with the public certificate that `gpg --export --armor FINGERPRINT` gives, or with an SSH
# key (`ssh-keygen -t ed25519-sk`, on hardware), or both. With one more than required, one may be lost: the key of the
# third can lie sealed in a safe (`keyrotation docs officers`).
# [[approvals.officers]]
# name = "Security Officer"
# certificate = "officers/security.asc"
# [[approvals.officers]]
# name = "Privacy Officer"
# ssh_key = "officers/privacy.pub"
# [[approvals.officers]]
# name = "Sealed Officer"
# certificate = "officers/sealed.asc"

# [backup]
# directory = "backups"           # default: backups in the home
# recipients = ["officers/recovery.asc"]    # default: the officers' certificates; with SSH keys alone:
#     gpg --quick-generate-key Recovery default default 5y && gpg --armor --export Recovery > officers/recovery.asc
# keep_local_days = 7
# [backup.s3]
# bucket = "pazpaz-key-backups"   # versioned; credentials come from boto3's usual places

# [alerts]                        # who is alerted to incidents, failures and what is overdue
# sns_topic_arn = "arn:aws:sns:us-east-1:123456789012:security-team"
# webhook_url = { env = "ALERT_WEBHOOK" }
# [[contacts]]                    # on-call, devops-lead, security-officer, compliance-officer, officer
# role = "on-call"
# name = "On-Call Engineer"
# phone = "+1 555 0100"

# [audit]                         # an RFC 3161 authority that time-stamps the audit
# timestamp_url = "https://tsa.example.org/tsr"
# timestamp_certificates = ["tsa/root.pem"]

# [report]                        # whose the compliance report is
# organisation = "Example Clinic, Springfield"

# [recovery]
# secret_key = { file = "/media/recovery/recovery.sec.asc" }      # can only decrypt; default: an officer brings one
"""


_OTHERS = """\
# Encrypted in another way, and not part of this configuration, which is one list of keys in one format: do not declare
# these columns here.
"""


def configuration(found: Found, *, embedded: bool) -> str:
    """The text of the file."""
    url = f'url = {{ env = "{DATABASE_VARIABLE}" }}'
    spec = SPECS[found.format]
    head = _HEAD.format(
        database=found.name,
        url=f"# {url}   # absent: the embedded PostgreSQL" if embedded else url,
        format=spec.template,
        values=_NATIVE_VALUES if spec.names_versions else _OTHER_VALUES,
    )
    declared = "".join(
        f"[[tables]]\nname = {_text(str(table.name))}\n"
        f"columns = [{', '.join(_place(table.place(column)) for column in table.columns)}]\n\n"
        for table in found.tables
    )
    tail = _TAIL if spec.names_versions else _TAIL.replace(_ATTEST, _CONFIRM)
    rest = "".join(
        f"# Not declared: {json.dumps(f'{each.relation}.{each.column}')}, {each.reason}\n" for each in found.rest
    )
    others = "".join(chain.from_iterable(map(_other, found.others)))
    comments = f"{rest}{_OTHERS if others else ''}{others}"
    return f"{head}{declared or _NO_TABLE}{comments}{chr(10) if comments else ''}{tail}"


def _other(finding: Finding) -> Iterator[str]:
    """A place in another format, and what to do about it, as comments."""
    tier = "" if finding.tier == "certain" else f"{finding.tier} "
    yield f"# {json.dumps(name_of(finding.place))}: {tier}{finding.format}, {share_of(finding)} values\n"
    for message in (finding.next, *finding.notes):
        yield from (f"#     {line}\n" for line in textwrap.wrap(message, _WIDTH))


def _place(place: Place) -> str:
    """An entry of `columns`."""
    return f"{{ column = {_text(place.column)}, elements = true }}" if place.elements else _text(place.column)


def _text(value: str) -> str:
    """A TOML basic string."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

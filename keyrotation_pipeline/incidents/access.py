"""The access audit: who read the key and the records during an incident, unusual readers first.

Source: the source procedure, section 5.3, step 1.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keyrotation_pipeline.model.breach import carried_by
from keyrotation_pipeline.model.incidents import Incident, KeyRead, KeyReadsBy, RecordReads
from keyrotation_pipeline.model.requests import Request, Step, Walk

# Secrets Manager logs one GetSecretValue for each secret in a batch, in addition to the batch itself.
READING = frozenset({"GetSecretValue", "BatchGetSecretValue"})
BAR_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class AccessAudit:
    """What was found in a period; None: no log is configured."""

    since: datetime
    until: datetime
    key_reads: tuple[KeyRead, ...] | None
    record_reads: tuple[RecordReads, ...] | None


def span_of(incident: Incident, requests: Sequence[Request], now: datetime) -> tuple[datetime, datetime]:
    """From discovery until the applications no longer had the compromised key; until now, if they may still have it.

    The key store no longer gives it some time before that.
    """
    carrier = carried_by(incident, requests)
    gone = carrier.done(Step.ARCHIVED_KEY) if isinstance(carrier, Walk) else None
    return incident.discovered_at, gone.finished_at if gone is not None else now


def key_reads(
    records: Iterable[Mapping[str, Any]], secret_ids: Sequence[str], since: datetime, until: datetime
) -> tuple[KeyRead, ...]:
    """Reads of these secrets, each event once; rare readers first.

    Args:
        secret_ids: names of secrets; a name that ends with ``-`` means every secret that begins with it.
    """
    found: dict[str, KeyRead] = {}
    for record in records:
        for read in _reads_in(record):
            if since <= read.at <= until and any(_names(read.secret, each) for each in secret_ids):
                found.setdefault(f"{read.event_id}/{read.secret}", read)
    often = Counter((read.who, read.address) for read in found.values())
    return tuple(sorted(found.values(), key=lambda read: (often[read.who, read.address], read.at, read.event_id)))


def reads_by(reads: Iterable[KeyRead]) -> tuple[KeyReadsBy, ...]:
    """Reads of the key, counted by reader and origin; rare readers first."""
    found: dict[tuple[str, str], list[KeyRead]] = {}
    for read in reads:
        found.setdefault((read.who, read.address), []).append(read)
    summed = (
        KeyReadsBy(
            who=who,
            address=address,
            reads=len(each),
            refused=sum(read.refused is not None for read in each),
            first_at=min(read.at for read in each),
            last_at=max(read.at for read in each),
        )
        for (who, address), each in found.items()
    )
    return tuple(sorted(summed, key=lambda each: (each.reads, each.first_at, each.who, each.address)))


def bars(audit: AccessAudit) -> Iterator[str]:
    """A text chart of reads of the key by hour."""
    hours = Counter(read.at.astimezone(UTC).strftime("%Y-%m-%d %H:00") for read in audit.key_reads or ())
    most = max(hours.values(), default=1)
    for hour, reads in sorted(hours.items()):
        yield f"{hour}  {'█' * max(1, round(BAR_CHARACTERS * reads / most))} {reads}"


def _reads_in(record: Mapping[str, Any]) -> Iterator[KeyRead]:
    """The reads in a record; none if it is of another kind, or not in CloudTrail's form."""
    try:
        if record["eventSource"] != "secretsmanager.amazonaws.com" or record["eventName"] not in READING:
            return
        asked = record.get("requestParameters") or {}
        secrets = [asked["secretId"]] if "secretId" in asked else list(asked.get("secretIdList") or ())
        for secret in secrets:
            yield KeyRead(
                event_id=str(record["eventID"]),
                at=_time(str(record["eventTime"])),
                who=_who(record.get("userIdentity") or {}),
                address=str(record.get("sourceIPAddress", "unknown")),
                event=str(record["eventName"]),
                secret=str(secret),
                agent=str(record.get("userAgent", "unknown")),
                refused=None if record.get("errorCode") is None else str(record["errorCode"]),
            )
    except (KeyError, TypeError, ValueError, AttributeError):
        return


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(text)
    return at


def _who(identity: Mapping[str, Any]) -> str:
    for name in ("arn", "principalId", "invokedBy", "userName", "accountId", "type"):
        if identity.get(name):
            return str(identity[name])
    return "unknown"


def _names(asked: str, secret_id: str) -> bool:
    """Whether a request names a secret: by its name, or by its ARN, which ends with six characters that AWS adds."""
    name = asked.partition(":secret:")[2] or asked
    if secret_id.endswith("-"):
        return name.startswith(secret_id)
    return name == secret_id or (":secret:" in asked and name.rpartition("-")[0] == secret_id)

"""Polls flags and opens incidents. Neither changes a key: that takes officers' signatures on the request."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from keyrotation_pipeline.audit.divergence import require_consistent
from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.errors import IncidentError, KeyRotationError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.incidents.report import kept_report
from keyrotation_pipeline.model.audit_state import Incidents
from keyrotation_pipeline.model.incident_events import EmergencyPrepared, FlagRepeated, FlagSetAside, IncidentOpened
from keyrotation_pipeline.model.incidents import Flag, Incident, Reported, checked
from keyrotation_pipeline.model.keys import KeyState, active_version
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline.ports.incidents import FlagSource
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.control import cancel, take_lock
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.requests.takeover import cannot_start, held_compromised, out_of_use
from keyrotation_pipeline.rotation.rotate import open_request

LOCK = "incidents"
PATIENCE_SECONDS = 20.0
_LIVE = frozenset({KeyState.PRE_ACTIVATION, KeyState.ACTIVE, KeyState.DEACTIVATED})
_UNKNOWN = frozenset({KeyState.DESTROYED})


@dataclass(frozen=True, slots=True)
class Taken:
    """The result of one flag: the incident that it opened or repeats, or why it was rejected."""

    flag: str
    incident: str | None
    set_aside: str | None = None
    repeated: bool = False


def open_incident(pipeline: Pipeline, flag: Flag) -> Incident:
    """Opens an incident that somebody reports at the command line; its request has yet to be prepared.

    Args:
        flag: its key is not used.

    Raises:
        IncidentError: a part of it is missing or wrong, or an incident was opened for the same before.
    """
    try:
        reported = checked(flag, pipeline.clock.now())
    except IncidentError as error:
        raise IncidentError(f"no incident was opened: {error}") from None
    with _alone(pipeline):
        known = incidents(pipeline.ledger)
        if (same := known.news.get(flag.news)) is not None:
            raise IncidentError(f"{same} was opened for exactly this already; see `keyrotation incident show {same}`")
        return _open(pipeline, known, reported, news=flag.news, flag=None)


def take_flags(pipeline: Pipeline, flags: Iterable[Flag]) -> tuple[Taken, ...]:
    """Takes each flag exactly once: one event each, which a crash either leaves or not."""
    with _alone(pipeline):
        return tuple(taken for flag in flags if (taken := _take(pipeline, flag)) is not None)


def prepare_requests(pipeline: Pipeline, requested_by: str) -> tuple[str, ...]:
    """Prepares missing emergency requests; returns a sentence for each that cannot be prepared now."""
    messages = []
    requests = {each.id: each for each in pipeline.ledger.requests()}
    for incident in incidents(pipeline.ledger).unfinished:
        prepared = requests.get(incident.request or "")
        if prepared is not None and cannot_start(Situation(pipeline), prepared) is None:
            continue
        try:
            prepare(pipeline, incident, requested_by)
        except KeyRotationError as error:
            messages.append(f"no emergency request could be prepared for {incident.id}: {error}")
            if not isinstance(error, IncidentError):
                break  # it stops the others too, and each attempt is expensive for the database
    return tuple(messages)


def prepare(pipeline: Pipeline, incident: Incident, requested_by: str) -> Walk:
    """The emergency request of an incident, with everything filled in for officers to sign; the same one each time.

    An open request of another incident is reused, if it names the same versions as compromised.

    Raises:
        IncidentError: nothing that is in use is compromised.
        KeyRotationError: it cannot be opened now; see `open_request`.
    """
    if incident.request is not None:
        prepared = pipeline.ledger.walk(incident.request)
        if cannot_start(Situation(pipeline), prepared) is None:
            return prepared
        # It may only seem so, by a late answer of the key store or in a restored database.
        require_consistent(pipeline, pipeline.keys.read())
        if cannot_start(Situation(pipeline), prepared) is None:
            return prepared
        cancel(pipeline, prepared)
    if (serving := _serving(pipeline, incident)) is not None:
        pipeline.ledger.append(EmergencyPrepared(incident.id, serving.id), serving.id)
        return serving
    require_consistent(pipeline, pipeline.keys.read())  # else what is in use is not known
    _require_in_use(pipeline, incident)
    try:
        return open_request(pipeline, reason=incident.reason, requested_by=requested_by, incident=incident.id)
    except RequestError:
        # The sensor or somebody's command may have prepared it meanwhile.
        if (serving := _serving(pipeline, incident)) is None:
            raise
        return serving


def _take(pipeline: Pipeline, flag: Flag) -> Taken | None:
    """What became of a flag; None: it was taken before."""
    known = incidents(pipeline.ledger)
    if flag.key in known.flags:
        return None
    if (same := known.news.get(flag.news)) is not None:
        pipeline.ledger.append(FlagRepeated(flag.key, same))
        return Taken(flag.key, same, repeated=True)
    try:
        incident = _open(pipeline, known, checked(flag, pipeline.clock.now()), news=flag.news, flag=flag.key)
    except IncidentError as error:
        pipeline.ledger.append(FlagSetAside(flag.key, str(error)))
        return Taken(flag.key, None, str(error))
    return Taken(flag.key, incident.id)


def _open(pipeline: Pipeline, known: Incidents, reported: Reported, *, news: str, flag: str | None) -> Incident:
    now = pipeline.clock.now()
    versions = reported.versions or _suspected(pipeline, reported)
    _require_registered(pipeline.ledger, versions)
    year = f"INC-{now:%Y}-"
    number = 1 + max((int(name.removeprefix(year)) for name in known.by_id if name.startswith(year)), default=0)
    fact = IncidentOpened(
        id=f"{year}{number:03d}",
        type=reported.type,
        description=reported.description,
        discovered_at=reported.discovered_at,
        opened_at=now,
        reported_by=reported.source,
        versions=versions,
        scope=reported.scope,
        impact=reported.impact,
        flag=flag,
        news=news,
    )
    pipeline.ledger.append(fact)
    return incidents(pipeline.ledger).by_id[fact.id]


def _suspected(pipeline: Pipeline, reported: Reported) -> tuple[KeyVersion, ...]:
    """The default versions: the key that is in use or being rotated out; every live one, where all were reachable."""
    registered, walk = pipeline.ledger.keys(), pipeline.ledger.current()
    live = tuple(each.version for each in registered if each.state in _LIVE)
    if reported.type.reaches_every_key and live:
        return live
    active = active_version(registered)
    if active is None and pipeline.keys.read().primary == PLAINTEXT:
        raise IncidentError("nothing is encrypted yet, so no key is at risk; name the versions if one was made")
    if walk is not None and not reported.type.reaches_every_key and active in {None, walk.source, walk.target}:
        return (walk.source,)
    in_use = active or pipeline.keys.read().primary
    if in_use is None:
        raise IncidentError("no key is in use yet; run `keyrotation init`")
    return (in_use,)


def _require_registered(ledger: Ledger, versions: Iterable[KeyVersion]) -> None:
    known = {each.version for each in ledger.keys() if each.state not in _UNKNOWN}
    for version in versions:
        if version not in known:
            raise IncidentError(f"{version} is not a registered key; `keyrotation status` shows the registered ones")


def _serving(pipeline: Pipeline, incident: Incident) -> Walk | None:
    """An open emergency request that names every compromised version of this incident."""
    for each in pipeline.ledger.requests():
        if not isinstance(each, Walk) or not each.is_emergency or each.is_over:
            continue
        if (
            set(incident.versions) <= set(held_compromised(pipeline.ledger, each))
            and cannot_start(Situation(pipeline), each) is None
        ):
            return each
    return None


def _require_in_use(pipeline: Pipeline, incident: Incident) -> None:
    if (message := out_of_use(pipeline, incident)) is not None:
        raise IncidentError(message)


@contextmanager
def _alone(pipeline: Pipeline) -> Iterator[None]:
    """Serialise opening incidents, so that two never get the same id.

    Raises:
        BlockedError: another process holds the lock for longer than that takes.
    """
    with ExitStack() as held:
        take_lock(pipeline, held, LOCK, pipeline.clock.monotonic() + PATIENCE_SECONDS)
        yield


# A flood of flags keeps one poll busy for at most this long.
ROUNDS = 10
REPORTING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class FlagIntake:
    """The flags that one poll took, and a sentence for each problem."""

    taken: tuple[Taken, ...]
    trouble: tuple[str, ...]

    def __str__(self) -> str:
        opened = [each.incident for each in self.taken if each.incident is not None and not each.repeated]
        aside = sum(each.set_aside is not None for each in self.taken)
        repeated = sum(each.repeated for each in self.taken)
        parts = [f"opened {', '.join(filter(None, opened))}"] if opened else []
        parts += [f"{repeated} repeated"] if repeated else []
        parts += [f"{aside} rejected"] if aside else []
        return "; ".join((*parts, *self.trouble)) or "no new flag was raised"


def poll_flags(pipeline: Pipeline, sources: Sequence[FlagSource], requested_by: str) -> FlagIntake:
    """Takes all raised flags; stores new report versions. A source that does not answer does not stop the others."""
    taken: list[Taken] = []
    trouble: list[str] = []
    for _ in range(ROUNDS):
        with pipeline.ledger.reading():
            known = incidents(pipeline.ledger)
            rows = pipeline.ledger.raised_flags(known.flags)
        if not rows:
            break
        taken += take_flags(pipeline, rows)
    for source in sources:
        try:
            taken += take_flags(pipeline, source.raised())
        except KeyRotationError as error:
            trouble.append(str(error))
    if not taken and not known.unfinished:
        return FlagIntake((), tuple(trouble))
    trouble += prepare_requests(pipeline, requested_by)
    try:
        until = pipeline.clock.monotonic() + REPORTING_SECONDS
        for incident in _from_another_each_time(pipeline.clock, incidents(pipeline.ledger).unfinished):
            if pipeline.clock.monotonic() > until:
                break  # a flood of flags must not starve the next poll
            kept_report(pipeline, incident.id)
    except KeyRotationError as error:
        trouble.append(f"no version of a report could be stored: {error}")
    return FlagIntake(tuple(taken), tuple(trouble))


def _from_another_each_time(clock: Clock, unfinished: Sequence[Incident]) -> Sequence[Incident]:
    """All of them, starting at a different one each minute, so that the last ones get their turn too."""
    first = int(clock.now().timestamp() // 60) % max(len(unfinished), 1)
    return (*unfinished[first:], *unfinished[:first])

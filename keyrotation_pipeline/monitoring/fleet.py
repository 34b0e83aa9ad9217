"""The fleet: the key versions that each application instance reads and writes, and late decryptions."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from keyrotation_pipeline.backups.key_loss import lost_keys
from keyrotation_pipeline.errors import KeyStoreDamagedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import instant, names, utc_minute
from keyrotation_pipeline.model.fleet import Instance, failing_minutes
from keyrotation_pipeline.model.keys import KeyState, StoredKeys
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import takeover
from keyrotation_pipeline.requests.conductor import phase_of
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import runner

NEWS_FOR = timedelta(days=1)
MOST_NAMED = 3


def fleet(pipeline: Pipeline) -> dict[str, Any]:
    """The object of `rollout --json`; `attention` has a sentence for each instance with a key that it must not have."""
    situation, walk = Situation(pipeline), takeover.current_or_next(pipeline)
    stored, waiting, instances = situation.stored, pipeline.rollout.waiting(), situation.instances
    reason = runner.pending(situation, walk) if walk else None
    return {
        "generated_at": instant(pipeline.clock.now()),
        "database": pipeline.environment.identity().name,
        "mode": str(pipeline.rollout.mode),
        "primary": str(stored.primary) if stored.primary else None,
        "instances": [_document(instance) for instance in instances],
        "workloads": {each: waiting.get(each) for each in pipeline.rollout.workloads},
        "waiting_for": None if reason is None else str(reason),
        "attention": [
            *lost_keys(pipeline.ledger, stored, pipeline.ledger.keys()),
            *returned(pipeline, stored, walk, instances),
            *failing(instances, pipeline.clock.now()),
            *uncounted(pipeline, stored, instances),
        ],
    }


def failing(instances: Iterable[Instance], now: datetime) -> list[str]:
    """A sentence for the worst minute in which applications failed to decrypt too many values, if any."""
    return [str(max(minutes, key=lambda each: each.values))] if (minutes := failing_minutes(instances, now)) else []


def uncounted(pipeline: Pipeline, stored: StoredKeys | None, instances: Iterable[Instance]) -> list[str]:
    """A sentence for each instance with a report that does not count; one for all of them if somebody floods us.

    Args:
        stored: where it lacks a key, or holds another in its place, no report can be judged by it: the key comes first.
    """
    if stored is not None and not _holds_registered(pipeline.ledger, stored):
        return []
    now = pipeline.clock.now()
    found = [each for each in instances if each.problem is not None and not _is_old(each, now)]
    advice = "compare its keys with the key store; if it did not write that row, revoke INSERT from the role that did"
    if len(found) > MOST_NAMED:
        return [f"{len(found)} instances have reports that do not count (`keyrotation rollout` names them); {advice}"]
    return [f"instance {each.name}: {each.problem}; {advice}" for each in found]


def _is_old(instance: Instance, now: datetime) -> bool:
    """Whether it fell silent so long ago that it is no news; a rotation waits for it all the same."""
    return instance.silent and instance.reported_at < now - NEWS_FOR


def returned(pipeline: Pipeline, stored: StoredKeys, walk: Walk | None, instances: Iterable[Instance]) -> list[str]:
    """A sentence for each instance with a key that was taken from the applications, or that writes under an old one.

    While a rotation moves instances from one key to the next, it reports itself whom it waits for. Once every instance
    was seen without a key, a silent one counts too: it came back with that key, and may come again.

    Args:
        walk: the unfinished one, if any.
    """
    primary, registered = stored.primary, pipeline.ledger.keys()
    if primary is None or (walk is not None and phase_of(walk) in {Step.PRIMARY_KEY_ROLLOUT, Step.ARCHIVED_KEY}):
        return []
    named_otherwise = [each for each in registered if each.state is KeyState.ACTIVE and each.version != primary]
    if named_otherwise or not _holds_registered(pipeline.ledger, stored):
        return []  # it is the key store that has what it must not have
    withdrawn = frozenset(record.version for record in registered if record.version not in stored.live)
    allowed = _Allowed(primary, withdrawn, _withdrawals(pipeline.ledger), pipeline.clock.now())
    return [message for instance in instances for message in allowed.problems(instance)]


def _holds_registered(ledger: Ledger, stored: StoredKeys) -> bool:
    """Whether the key store has every registered key, live or archived, in its place."""
    for record in ledger.keys():
        if record.state is not KeyState.DESTROYED:
            try:
                stored.registered(record)
            except KeyStoreDamagedError:
                return False
    return True


def _withdrawals(ledger: Ledger) -> dict[KeyVersion, datetime]:
    """When every instance was last seen, or confirmed, to be without a version."""
    walks = (each for each in ledger.requests() if isinstance(each, Walk))
    ends = ((walk.source, record.finished_at) for walk in walks if (record := walk.done(Step.ARCHIVED_KEY)))
    gone_at: dict[KeyVersion, datetime] = {}
    for version, at in ends:
        gone_at[version] = max(at, gone_at.get(version, at))
    return gone_at


@dataclass(frozen=True, slots=True)
class _Allowed:
    """What instances may have.

    Args:
        withdrawn: versions that the applications no longer get.
        gone_at: see `_withdrawals`.
        now: see `_is_old`.
    """

    primary: KeyVersion
    withdrawn: frozenset[KeyVersion]
    gone_at: Mapping[KeyVersion, datetime]
    now: datetime

    def problems(self, instance: Instance) -> Iterator[str]:
        """What is wrong with one instance. Without later counts and times: each would be alerted as news."""
        if _is_old(instance, self.now):
            return
        if instance.silent:
            yield from self._came_and_went(instance)
        elif instance.writes is not None:
            yield from self._runs(instance)
        for each in instance.decrypted:
            if each.version in self.withdrawn and self._since_then(each.version, each.last_at):
                yield (
                    f"instance {instance.name} decrypted values of {each.version} after every instance had been "
                    f"seen without it, {utc_minute(self.gone_at[each.version])}; restart it with the present "
                    "keys, and find where it still reads such values (an export, a cache, a restored copy)"
                )

    def _runs(self, instance: Instance) -> Iterator[str]:
        if instance.writes != self.primary:
            yield (
                f"instance {instance.name} writes {instance.writes} while {self.primary} is the primary, so its "
                "writes are refused or rotated again; restart it with the present keys"
            )
        elif held := sorted(self.withdrawn.intersection({*instance.reads, *instance.unproven})):
            yield (
                f"instance {instance.name} still holds {', '.join(map(str, held))}, which was taken from the "
                "applications; restart it with the present keys"
            )

    def _came_and_went(self, instance: Instance) -> Iterator[str]:
        had = self.withdrawn.intersection({*instance.reads, instance.writes, *instance.unproven})
        if held := sorted(each for each in had if self._since_then(each, instance.reported_at)):
            yield (
                f"instance {instance.name} came back with {', '.join(map(str, held))} after every instance had "
                f"been seen without it, {utc_minute(self.gone_at[held[0]])}, and is silent now; see that it does "
                "not start again with old keys"
            )

    def _since_then(self, version: KeyVersion, at: datetime) -> bool:
        return version in self.gone_at and at > self.gone_at[version]


def _document(instance: Instance) -> dict[str, Any]:
    return {
        "instance": instance.name,
        "reads": names(instance.reads),
        "writes": None if instance.writes is None else str(instance.writes),
        "unproven": names(instance.unproven),
        "names_primary": instance.names_primary,
        "reported_at": instant(instance.reported_at),
        "silent": instance.silent,
        "problem": instance.problem,
        "decrypted": {
            str(each.version): {"values": each.values, "last_at": instant(each.last_at)} for each in instance.decrypted
        },
        "failed": {each.version: {"values": each.values, "last_at": instant(each.last_at)} for each in instance.failed},
    }

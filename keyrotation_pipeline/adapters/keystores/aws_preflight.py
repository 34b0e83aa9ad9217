"""Checks a live secret in AWS before a rotation: what AWS itself does to it, its replicas and its quota."""

from collections.abc import Iterator
from datetime import timedelta

from keyrotation_pipeline.adapters.keystores.secrets_manager import SecretsManager
from keyrotation_pipeline.model.surroundings import Problem
from keyrotation_pipeline.ports.clock import Clock

# AWS keeps about so many versions of a secret, and drops none on its first day; a rotation puts fewer than so many.
_MOST_VERSIONS, _VERSIONS_OF_A_ROTATION, _KEPT_FOR = 100, 20, timedelta(days=1)
_IN_SYNC = frozenset({"InSync", "InProgress"})


def live_problems(aws: SecretsManager, secret_id: str, clock: Clock) -> Iterator[Problem]:
    """Yields what would stop a change of the secret, or undo it."""
    facts, secret = aws.describe(secret_id), f"secret {secret_id}"
    if facts.rotated_by_aws:
        yield Problem(
            f"AWS rotates {secret} by itself, and would replace its keys; run "
            f"`aws secretsmanager cancel-rotate-secret --secret-id {secret_id}`",
            fatal=True,
            check="key_store_is_not_rotated_by_aws",
        )
    if facts.replicas:
        named = ", ".join(f"{region} ({status or 'unknown'})" for region, status in sorted(facts.replicas.items()))
        broken = [region for region, status in sorted(facts.replicas.items()) if status not in _IN_SYNC]
        do = (
            f"repair that, or run `aws secretsmanager remove-regions-from-replication --secret-id {secret_id} "
            f"--remove-replica-regions {' '.join(broken)}`"
            if broken
            else "applications there get a change later, so see that each reports: `keyrotation rollout`"
        )
        yield Problem(
            f"{secret} has replicas in {named}, and archives have none; {do}",
            fatal=bool(broken),
            check="key_store_replicas_are_in_sync",
        )
    put = aws.versions_since(secret_id, clock.now() - _KEPT_FOR)
    if put > _MOST_VERSIONS - _VERSIONS_OF_A_ROTATION:
        yield Problem(
            f"{secret} got {put} versions within a day, and AWS refuses more than about {_MOST_VERSIONS}; find out "
            "what puts them, and run `keyrotation preflight` tomorrow",
            fatal=True,
            check="key_store_takes_new_versions",
        )

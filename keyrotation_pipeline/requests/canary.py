"""A key that encrypts nothing, under the wrapping key: each instance opens it before its own keys are sealed so."""

from collections.abc import Iterator

from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.fleet import Instance
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.ports.pipeline import Pipeline

_CHECK = "applications_open_sealed_keys"


def offer_canary(keys: KeyStore, stored: StoredKeys) -> StoredKeys:
    """Has the store hold a canary under its wrapping key, if it names one; repeating it changes nothing."""
    if not stored.sealed_by or stored.canary is not None:
        return stored
    return keys.offer_canary(KeyMaterial.generate(), stored.revision)


def unopened(pipeline: Pipeline) -> Iterator[Problem]:
    """Yields that instances have not shown to open keys under the wrapping key; nothing where there is none."""
    if (
        pipeline.keys.sealed_by
        and (stored := pipeline.keys.read()).canary is not None
        and (unable := lacking(pipeline.rollout.instances()))
    ):
        yield Problem(sentence(unable, stored), fatal=True, check=_CHECK)


def lacking(instances: tuple[Instance, ...]) -> list[str]:
    """The instances that report, without a proof that they opened the canary."""
    return [each.name for each in instances if each.nonce is not None and not each.silent and not each.opens_sealed]


def sentence(unable: list[str], stored: StoredKeys) -> str:
    """What to do about instances that did not open the canary."""
    more = f" and {len(unable) - 1} more" if len(unable) > 1 else ""
    return (
        f"instance {unable[0]}{more} has not opened the canary under {stored.sealed_by}; give its role the right to "
        "decrypt, restart it, and see its log"
    )

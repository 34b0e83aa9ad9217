"""Partitions: a key version (added as versions come), and for rows also a shard."""

import dagster as dg

from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion

KEY_VERSION = "key_version"
SHARD = "shard"


def key_versions(naming: Naming) -> dg.DynamicPartitionsDefinition:
    """Every key version that a rotation led to."""
    return dg.DynamicPartitionsDefinition(name=naming.name(KEY_VERSION))


def missing_versions(
    instance: dg.DagsterInstance, naming: Naming, versions: list[KeyVersion]
) -> list[dg.AddDynamicPartitionsRequest]:
    """What a sensor asks for, so that each of these versions is a partition."""
    name = naming.name(KEY_VERSION)
    missing = [str(each) for each in versions if not instance.has_dynamic_partition(name, str(each))]
    return [key_versions(naming).build_add_request(missing)] if missing else []


def shard_name(index: int) -> str:
    """Of shard 0 ``00``."""
    return f"{index:02d}"


def row_partitions(naming: Naming, shards: int) -> dg.MultiPartitionsDefinition:
    """Key version × shard, `shards` of them a table."""
    names = [shard_name(index) for index in range(shards)]
    return dg.MultiPartitionsDefinition(
        {KEY_VERSION: key_versions(naming), SHARD: dg.StaticPartitionsDefinition(names)}
    )


def row_partition(version: KeyVersion, shard: int) -> dg.MultiPartitionKey:
    """The partition of one shard."""
    return dg.MultiPartitionKey({KEY_VERSION: str(version), SHARD: shard_name(shard)})


def version_and_shard(context: dg.AssetExecutionContext) -> tuple[KeyVersion, int | None]:
    """What a run is for."""
    key = context.partition_key
    if isinstance(key, dg.MultiPartitionKey):
        parts = key.keys_by_dimension
        return KeyVersion.parse(parts[KEY_VERSION]), int(parts[SHARD])
    return KeyVersion.parse(key), None

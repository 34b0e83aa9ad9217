"""Partitions: a key version (added as versions come), and for rows also a shard."""

import dagster as dg

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion

KEY_VERSION = "key_version"
SHARD = "shard"

KEY_VERSIONS = dg.DynamicPartitionsDefinition(name=KEY_VERSION)


def shard_name(index: int) -> str:
    """Of shard 0 ``00``."""
    return f"{index:02d}"


def row_partitions(shards: int) -> dg.MultiPartitionsDefinition:
    """Key version × shard, `shards` of them a table."""
    names = [shard_name(index) for index in range(shards)]
    return dg.MultiPartitionsDefinition({KEY_VERSION: KEY_VERSIONS, SHARD: dg.StaticPartitionsDefinition(names)})


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

"""Opens the rollout from settings: how applications get the keys."""

from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.rollouts.reported import ReportedInstances
from keyrotation_pipeline.adapters.rollouts.templates import Workload
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.ports.rollout import Rollout
from keyrotation_pipeline.settings import Settings


def open_rollout(settings: Settings, connection: Connection, keys: KeyStore, clock: Clock) -> Rollout:
    """Returns the rollout of `[rollout]`; connects to no cluster yet."""
    declared, secret = settings.rollout, settings.keys.kubernetes
    reported = ReportedInstances(
        connection, declared.mode, declared.instance_ttl_seconds, declared.timeout_seconds, clock
    )
    if not declared.workloads or secret is None:
        return reported
    from keyrotation_pipeline.adapters.cluster import Access, Cluster  # noqa: PLC0415  takes a second to import
    from keyrotation_pipeline.adapters.rollouts.kubernetes import Fleet, KubernetesRollout  # noqa: PLC0415

    workloads = tuple(Workload(each.kind, each.name, each.container) for each in declared.workloads)
    fleet = Fleet(secret.namespace, secret.name, workloads)
    cluster = Cluster(Access(secret.kubeconfig, secret.context))
    return KubernetesRollout(cluster, fleet, keys, reported, declared.timeout_seconds, clock)

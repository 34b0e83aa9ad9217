"""Compares the hosts of the configuration with those that officers signed.

`init` pins them, as it pins the roster. From then on they stand in every text that officers sign, so the last request
that began says which ones were signed; `policy` has a change signed on its own.
"""

from collections.abc import Iterator

from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.request_events import HostsPinned
from keyrotation_pipeline.ports.pipeline import Pipeline


def pin_hosts(pipeline: Pipeline) -> None:
    """Pins the configured hosts, if none are pinned or signed yet."""
    if signed_hosts(pipeline) is None:
        pipeline.ledger.append(HostsPinned(pipeline.hosts), None)


def signed_hosts(pipeline: Pipeline) -> tuple[str, ...] | None:
    """The hosts in the text of the last request that began, else those that `init` pinned; None: it pinned none."""
    return pipeline.ledger.replayed().hosts


def changed_hosts(pipeline: Pipeline) -> Iterator[str]:
    """One sentence if the configuration names other hosts than officers signed."""
    gone, new = difference(pipeline)
    if gone or new:
        named = ", ".join((*(f"{each} is new" for each in new), *(f"{each} is gone" for each in gone)))
        yield (
            f"keyrotation.toml names other hosts than officers signed ({named}); restore them there, or have the "
            "change signed with `keyrotation policy --reason TEXT`"
        )


def difference(pipeline: Pipeline) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The signed hosts that the configuration no longer names, and those that it names and nobody signed."""
    signed = signed_hosts(pipeline)
    if signed is None:
        return (), ()
    gone = tuple(each for each in signed if each not in pipeline.hosts)
    return gone, tuple(each for each in pipeline.hosts if each not in signed)


def require_signed_key_store(pipeline: Pipeline) -> None:
    """Refuses to send keys to a key store on a host that officers have not signed.

    Raises:
        ApprovalError: it is on another one than they signed, or `init` pinned.
    """
    signed = signed_hosts(pipeline)
    if signed is None:
        return
    if unsigned := [each for each in pipeline.hosts if each.startswith("keys ") and each not in signed]:
        raise ApprovalError(
            f"keys would go to {unsigned[0].removeprefix('keys ')}, which officers have not signed; restore [keys] in "
            "keyrotation.toml, or have the change signed with `keyrotation policy --reason TEXT`"
        )

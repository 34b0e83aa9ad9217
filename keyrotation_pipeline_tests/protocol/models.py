"""The bounds: focused models that share all code, each explored exhaustively.

One product of everything would not end. Each model has the actors that belong to its question, and the others rest.
"""

from dataclasses import dataclass, replace

ROUTINE, ROLLBACK, EMERGENCY, POLICY, RECONCILE, DESTROY = (
    "routine", "rollback", "emergency", "policy", "reconcile", "destroy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """What may happen, and how often.

    Args:
        asks: the kinds of request that are opened.
        requests: how many, of all kinds.
        versions: no request leads to a higher version.
        views: how many snapshots and lagging standbys there are at once.
        controls: what the operator does besides: `pause`, `cancel`, `time`, `out of order`; with `expire` one of three
            officers' keys expires at any moment; with `lock` and `damage` somebody locks a row, or damages its value;
            with `copy` home and database are copied, and each copy goes on.
        fleet: what instances do besides reading keys, writing and reporting: `start`, `exit`, `die`.
        names: instances name their primary; else they write the newest key that they hold.
        dies: every process of the pipeline may die before every write.
        store: what the key store may do wrong: answer `late`, not at all (`silent`), or `unheard`, after a change.
        inside: what others do while a step runs: `write`, `report`, `rewrite`, `signs`, `pause`, `cancel`; with
            `request` instead while a command reads before it opens a request or destroys a key: what else they type.
        prefix: how the labels of the first transitions begin; the search starts after them.
    """

    name: str
    about: str
    asks: tuple[str, ...] = (ROUTINE,)
    requests: int = 1
    versions: int = 2
    instances: int = 2
    rows: int = 2
    views: int = 0
    controls: frozenset[str] = frozenset()
    fleet: frozenset[str] = frozenset()
    names: bool = True
    dies: bool = True
    store: frozenset[str] = frozenset()
    inside: frozenset[str] = frozenset()
    prefix: tuple[str, ...] = ()


def _set(*names: str) -> frozenset[str]:
    return frozenset(names)


MODELS = {
    each.name: each
    for each in (
        Model(
            "walk", "one rotation; instances start and end, snapshots too; cancelled and paused at any moment",
            views=2, controls=_set("cancel", "pause"), fleet=_set("start", "exit"),
        ),
        Model(
            "silence", "instances fall silent and die, officers confirm; signatures expire, another request takes over",
            requests=2, rows=1, controls=_set("time", "confirm"), fleet=_set("die"), dies=False,
        ),
        Model("rollback", "a rotation and its rollback at any moment", (ROUTINE, ROLLBACK), 2, instances=1, rows=1,
              dies=False),
        Model("emergency", "an emergency against a rotation and its rollback", (ROUTINE, ROLLBACK, EMERGENCY), 3,
              instances=1, rows=1, dies=False),
        Model("quorum", "officers change while a rotation waits or runs", (ROUTINE, POLICY), 2, instances=1, rows=1,
              controls=_set("cancel", "pause"), dies=False),
        Model("expiry", "the key of one of three officers expires between any two steps of a rotation or an emergency",
              (ROUTINE, EMERGENCY), 2, instances=1, rows=1, controls=_set("cancel", "expire"), dies=False),
        Model("restore", "the database is put back to an earlier dump at any moment, and reconciled",
              (ROUTINE, RECONCILE), 2, instances=1, rows=1, controls=_set("restore"), dies=False),
        Model("copies", "home and database are copied at any moment, and both copies go on with one key store",
              (ROUTINE, RECONCILE), 1, instances=1, rows=1, controls=_set("copy"), dies=False),
        Model("destroy", "a key is destroyed while dumps and rows may need it", (ROUTINE, ROLLBACK, DESTROY), 2,
              instances=1, rows=1, controls=_set("dump"), dies=False),
        Model("store", "the key store answers late, answers one call not at all, or loses its answer to one change",
              instances=1, rows=1, store=_set("late", "silent", "unheard"), dies=False),
        Model(
            "meanwhile", "an instance writes or reports, or an officer signs, between any two writes of a step",
            (ROUTINE, EMERGENCY), 2, instances=1, rows=1, inside=_set("write", "report", "signs"), dies=False,
        ),
        Model(
            "rewritten", "a value is damaged, and the table rewritten between a snapshot and the reading of it",
            instances=1, rows=1, controls=_set("damage"), inside=_set("rewrite"), dies=False,
        ),
    )
}  # fmt: skip
# Of these only so many states are visited, breadth first.
MOST_STATES = {"silence": 10_000}
# In the normal run these have smaller bounds or visit so many states; the extended one explores them whole.
NORMALLY = {"silence": 3_000, "quorum": 2_000, "expiry": 1_500, "restore": 1_200, "copies": 2_000}
SMALLER = {
    "walk": replace(MODELS["walk"], instances=1, rows=1, views=1),
    "emergency": replace(MODELS["emergency"], requests=2),
    "expiry": replace(MODELS["expiry"], controls=_set("expire")),
    "meanwhile": replace(MODELS["meanwhile"], asks=(ROUTINE,), requests=1),
}
# The same questions with wider bounds: some are not explored to the end in the time that they get.
LARGER = {
    "walk": replace(MODELS["walk"], instances=5, rows=3),
    "silence": replace(MODELS["silence"], fleet=_set("die", "start"), dies=True),
    **{name: replace(MODELS[name], instances=2, rows=2, views=1, dies=True) for name in ("rollback", "emergency")},
    **{name: replace(MODELS[name], dies=True) for name in ("quorum", "restore", "destroy")},
    "rollback with deaths": replace(MODELS["rollback"], dies=True),
    "store": replace(MODELS["store"], asks=(ROUTINE, ROLLBACK), requests=2, controls=_set("cancel"), dies=True),
    "meanwhile": replace(
        MODELS["meanwhile"],
        asks=(ROUTINE, ROLLBACK, EMERGENCY),
        requests=3,
        controls=_set("cancel", "pause"),
        inside=_set("write", "report", "signs", "cancel", "pause"),
    ),
    "crossing": Model(
        "crossing",
        "after a rotation: a request, a rollback and a destruction, each while another command reads",
        (ROUTINE, ROLLBACK, DESTROY),
        3,
        3,
        instances=1,
        rows=1,
        inside=_set("request"),
        dies=False,
        prefix=(
            "request a rotation",
            "Ada",
            "Ben",
            "run what is due",
            "instance 0 reads",
            "instance 0 reports",
            "run what is due",
            "run what is due",
            "instance 0 reads",
            "instance 0 reports",
            *["run what is due"] * 5,
            "instance 0 reads",
            "instance 0 reports",
            *["run what is due"] * 3,
        ),
    ),
}

"""Summaries of finished steps for their pages in the UI: what is true now, the evidence, and what comes next.

Dagster shows Markdown of up to 1,000 characters on the page itself, longer Markdown only after a click.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from textwrap import wrap
from typing import Any
from urllib.parse import quote

import dagster as dg

from keyrotation_pipeline.defs.partitions import ROTATION_TAG, Naming, database_name
from keyrotation_pipeline.model.audit import counted, utc_minute
from keyrotation_pipeline.model.fleet import Instance
from keyrotation_pipeline.model.key_events import KeyRetired
from keyrotation_pipeline.model.keys import KeyMade
from keyrotation_pipeline.model.progress import TableProgress, duration
from keyrotation_pipeline.model.proof import Proven
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.model.requests import WALK, Step, StepRecord, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.model.visible_text import is_hidden, visible

SHOWN_WITHOUT_A_CLICK_CHARS = 999
WIDTH_CHARS = 32  # at 1280 pixels Dagster's table of metadata cuts a longer line off
SHOWN_FINGERPRINT_CHARS = 16
Facts = Mapping[str, Any]


def asset_link(key: dg.AssetKey) -> str:
    """The page of an asset, as Markdown."""
    return f"[{'/'.join(key.path)}](/assets/{'/'.join(quote(part, safe='') for part in key.path)})"


def runs_link(rotation: Walk) -> str:
    """The runs of a rotation, as Markdown."""
    return f"[its runs](/runs?q%5B0%5D=tag%3A{quote(ROTATION_TAG, safe='')}%3D{rotation.id})"


def next_step(naming: Naming, rotation: Walk, step: Step, tables: Sequence[EncryptedTable]) -> str:
    """What follows a step and who does it, with links."""
    if step is WALK[-1]:
        return (
            "Nothing is left to do. For an auditor: `keyrotation report --format pack --output DIR`. "
            f"The key of {rotation.source} stays archived until no backup needs it (`keyrotation destroy`)."
        )
    following = WALK[WALK.index(step) + 1]
    if following is Step.ROWS and tables:
        links = ", ".join(dict.fromkeys(asset_link(naming.rows(table.name)) for table in tables))
    else:
        links = asset_link(naming.step(following if tables or following is not Step.ROWS else Step.ZERO_OLD_ROWS_PROOF))
    if rotation.manual:
        return f"{links}: materialize it, partition {rotation.target}. The conductor leaves this rotation to people."
    return f"{links}: by `rotation_conductor` if that is switched on, else by `keyrotation rotate {rotation.id[:8]}`."


def summary(rotation: Walk, record: StepRecord, names: "Names") -> str:
    """What is true now that the step is done, in a few sentences of Markdown."""
    facts, new, old = record.facts, f"**{rotation.target}**", f"**{rotation.source}**"
    messages: Mapping[Step, Callable[[], str]] = {
        Step.KEY_VERSION: lambda: _key(read(KeyMade, facts), names),
        Step.DUAL_KEY_ROLLOUT: lambda: f"{_instances(facts)}: reading {new} in addition to {old}. {_early(facts, new)}",
        Step.PRIMARY_KEY_ROLLOUT: lambda: f"{new} is the primary. {_instances(facts)}: writing {new}, reading {old}.",
        Step.ZERO_OLD_ROWS_PROOF: lambda: _proof(read(Proven, facts)),
        Step.RETIRED_KEY: lambda: _retired(read(KeyRetired, facts)),
        Step.ARCHIVED_KEY: lambda: _archived(facts, old),
        Step.KEY_ROTATION_AUDIT: lambda: _audited(facts, old, new),
    }
    return messages.get(record.step, lambda: _report(rotation, facts))()


def rows_summary(record: StepRecord, table: TableProgress) -> str:
    """The outcome of one shard, or of a table in a database of a fleet, and the progress of that table."""
    facts = record.facts
    trouble = ""
    if facts.get("quarantined"):
        trouble = (
            f" **{facts['quarantined']:,} values do not decrypt and block the retirement**: `keyrotation inventory` "
            "lists them."
        )
    skipped = facts.get("skipped", 0)
    left = f" {skipped:,} rows moved meanwhile; the sweep of the proof rewrites them." if skipped else ""
    whole = "Every shard is done." if table.shards_done == table.shards else ""
    what = f"In {database_name(TableName.parse(table.table))}" if record.shard is None else f"Shard {record.shard:02d}"
    return (f"{what}: {facts.get('rows', 0):,} rows rewritten.{left}{trouble} The table: **{table}**. {whole}").rstrip()


def instance_table(instances: Iterable[Instance], now: datetime) -> dg.MetadataValue:
    """What each instance reads and writes, and when it last reported; a warning if none reports."""
    records = [
        dg.TableRecord(
            {
                "name": visible(each.name),
                "reads": ", ".join(map(str, each.reads)) or "not known",
                "writes": str(each.writes or "not known"),
                "heard": f"{duration((now - each.reported_at).total_seconds())} ago" + (", SILENT" * each.silent),
            }
        )
        for each in instances
    ]
    if not records:
        return dg.MetadataValue.md(
            "**No application instance reports itself.** Have each call `attest(engine, key_ring)` "
            "(`keyrotation docs applications`)."
        )
    columns = [dg.TableColumn(name, "string") for name in ("name", "reads", "writes", "heard")]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


class Names:
    """Names of officers; a certificate that is not on the roster is shown by its whole fingerprint."""

    def __init__(self, known: dict[str, str]) -> None:
        self._known = known

    def of(self, fingerprints: Iterable[str]) -> str:
        """``Security Officer, Privacy Officer``."""
        return ", ".join(self._known.get(each, f"certificate `{each}`") for each in fingerprints) or "nobody"


def _key(made: KeyMade, names: Names) -> str:
    how = "came back from the archive and reads back" if made.from_archive else "was generated, stored and read back"
    shown = made.fingerprint[:SHOWN_FINGERPRINT_CHARS]
    return (
        f"**{made.version}** {how}, fingerprint `{shown}` (as `keyrotation status` shows it). Its backup "
        f"`{made.backup}` was read back; it opens with the key of {names.of(made.recipients)}. "
        "No application uses it yet."
    )


def _instances(facts: Facts) -> str:
    number, named = facts.get("instances", 0), ", ".join(map(str, facts.get("names", ())))
    if not number:
        return "**No instance was seen**: this rests on an officer's signature or on `[rollout] mode`"
    proven = facts.get("proven", 0)
    evidence = "each proved" if proven == number else f"{proven} proved" if proven else "none proved"
    return f"{number} instance{'s' * (number > 1)} ({plain(named)}; {evidence} which keys it holds)"


def _early(facts: Facts, new: str) -> str:
    """Whether anything was seen to write under a key that is not the primary yet."""
    if unsearched := facts.get("not_looked_through"):
        some = ", ".join(unsearched[:3]) + (f" and {len(unsearched) - 3} more" if len(unsearched) > 3 else "")  # noqa: PLR2004
        return f"No value under {new} was seen; the search did not reach the end of {plain(some)}."
    return f"Nothing writes {new} yet."


def _archived(facts: Facts, old: str) -> str:
    kept = "; ".join(f"**{each['version']}** (backup `{each['backup']}`)" for each in facts.get("archived", ()))
    cleared = facts.get("search_indexes_cleared")
    indexes = (
        "" if cleared is None else f" Search indexes under it were cleared in {counted(sum(cleared.values()), 'row')}."
    )
    return f"{_instances(facts)}: working without {kept or old}, which is in the archive, out of their reach.{indexes}"


def _audited(facts: Facts, old: str, new: str) -> str:
    return (
        f"`key_rotation_audit` has its row: {old} to {new}, {facts.get('rotation_type')}, "
        f"{facts.get('records_reencrypted', 0):,} records, authorised by {plain(str(facts.get('initiated_by')))}. "
        f"The audit chain was verified up to event {facts.get('audit', {}).get('seq')}."
    )


def _proof(proof: Proven) -> str:
    old = ", ".join(map(str, proof.retired))
    swept = sum(proof.swept_rows.values())
    return (
        f"**Nothing under {old} is left.** The count found {proof.old_values:,} values under it"
        f"{proof.identified_by.remark}; all "
        f"{proof.values_decrypted:,} values of {len(proof.swept_rows)} tables were decrypted; the last sweeps rewrote "
        f"{swept:,} rows; and from transaction {proof.moment.xid} (WAL {proof.moment.lsn}) on, the database itself "
        f"refuses {proof.identified_by.refused(old)}."
    )


def _retired(done: KeyRetired) -> str:
    taken = ", ".join(map(str, done.taken_from_applications)) or str(done.version)
    unseen = "; ".join((*done.not_searched, *done.not_seen))
    unread = f" {done.unread[0].upper()}{done.unread[1:]}." if done.unread else ""
    limits = f"{unread} Not searched: {unseen}." if unseen else unread
    return (
        f"**{taken} left the applications.** In the retiring transaction, at {utc_minute(done.proven_at)}: "
        f"{done.old_values:,} of {done.values:,} values under {done.version}{done.identified_by.remark}, fences on "
        f"{len(done.tables)} tables "
        f"validated, both signatures verified again, and {done.target} backed up in `{done.target_backup}`.{limits}"
    )


def _report(rotation: Walk, facts: Facts) -> str:
    audit = facts.get("audit", {})
    what = "undone" if rotation.action.goes_back else "finished"
    kind = rotation.kind.capitalize() if rotation.action.goes_back else f"{rotation.type.capitalize()} rotation"
    return (
        f"{kind} {rotation.source} to {rotation.target} is **{what}**: "
        f"{facts.get('records_reencrypted', 0):,} records re-encrypted. Reason: {plain(rotation.reason)}. "
        f"Anchored at event {audit.get('seq')} of the audit, hash `{str(audit.get('hash'))[:SHOWN_FINGERPRINT_CHARS]}`."
    )


_WORD = re.compile(r"(?:\[[^\]]*\]\([^)]*\)|`[^`]*`|\S)+")


def markdown(text: str) -> dg.MetadataValue:
    """Sentences of Markdown in lines that the page does not cut off, and without a click."""
    lines = [""]
    for word in (part for each in _WORD.findall(text) for part in _parts(each)):
        longer = f"{lines[-1]} {word}".strip()
        if len(_seen(longer)) <= WIDTH_CHARS:
            lines[-1] = longer
        else:
            lines.append(word)
    shown = "  \n".join(each for each in lines if each)
    return dg.MetadataValue.md(
        shown if len(shown) <= SHOWN_WITHOUT_A_CLICK_CHARS else f"{shown[: SHOWN_WITHOUT_A_CLICK_CHARS - 1]}…"
    )


def _seen(shown: str) -> str:
    return re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`\\]", r"\1", shown)


def _parts(word: str) -> list[str]:
    """A command that is longer than a line, in pieces."""
    if len(_seen(word)) <= WIDTH_CHARS or "`" not in word:
        return [word]
    before, command, after = word.split("`", 2)
    pieces = [f"`{each}`" for each in wrap(command, WIDTH_CHARS, break_on_hyphens=False)]
    return [*pieces[:-1], pieces[-1] + after] if not before else [before + pieces[0], *pieces[1:-1], pieces[-1] + after]


def plain(text: str) -> str:
    """Escapes text that people wrote, so that Markdown shows it as it is."""
    return "".join(f"\\{each}" if each in "\\`*_[]<>|#" else each for each in text if not is_hidden(each))

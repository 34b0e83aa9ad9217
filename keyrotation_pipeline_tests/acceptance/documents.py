"""The fields of what each command prints with `--json`, and the form of a refusal; a changed one is a new schema."""

import json
from typing import Any

GROUPS = ("audit", "incident")
# Options by which a command prints something else.
OPTIONS = ("--announcement", "--compare", "--dry-run", "--list")
GUIDES = ("approve", "confirm")
LISTS = {"requests", "history", "incident list", "audit log"}  # whose elements have no schema of their own
_INCIDENT = (
    "id type status discovered_at request versions phase description scope impact reported_by opened_at "
    "acknowledged_at acknowledged_by closed_at closed_by actions root_cause remediation prevention "
    "lessons notices_sent values_compared"
)
_GUIDE = "database id text required signed_by missing how_to_sign next"
FIELDS = {
    "approve": _GUIDE,
    "approve --signature": "id officer approvals approvals_required",
    "audit log": "seq at actor event request facts counts",
    "audit verify": "database verified seq head unusable timestamps timestamps_verified witnesses",
    "audit witness": "database key witnesses failed",
    "backup": "database set made_at keys files size_bytes recipients dump dump_needs places uploaded_later "
    "removed warnings audit_fault backup_signer",
    "backup --list": "database sets unknown silent",
    "cancel": "database id phase action type from to before",
    "confirm": _GUIDE,
    "confirm --signature": "id officer rollout",
    "docs": "pages",
    "docs --copy": "copied into",
    "docs PAGE": "name section title text",
    "demo": "id from to holds old_values old_value_refused archived application seconds_by_phase",
    "destroy": "database id destroyed version fingerprint files held",
    "history": "id action type from to started_at finished_at seconds rows outcome",
    "incident access": "since until key_reads record_reads",
    "incident ack": _INCIDENT,
    "incident amend": _INCIDENT,
    "incident assess": "database id signed breach",
    "incident close": _INCIDENT,
    "incident compare": "database incident by at backup made_at place tables not_compared passed_over audited limits "
    "differences",
    "incident list": "id type status discovered_at request versions",
    "incident notice": _INCIDENT,
    "incident open": "database id request versions",
    "incident report": "incident number written format text",
    "incident show": f"{_INCIDENT} stages pace breach",
    "init": "configuration written database key_versions primary tables officers approvals_required "
    "values_tried values_opened backup_signer signer_named",
    "inventory": "database tables undeclared quarantine unindexed_rows other_formats not_searched not_seen "
    "plaintext_outside_rows replicas_declared_gone",
    "metrics": "database generated_at metrics",
    "pace": "database id pace",
    "pause": "database id status",
    "policy": "database id pinned from to",
    "preflight": "database generated_at ready checks",
    "reconcile": "database id reconciled found primary values_under states refused ends",
    "recover": "database set made_at place rejected versions not_examined rows values_decrypted undecryptable "
    "unencrypted failures left_out undumped for_superuser keys put_back not_registered written kept to_provide "
    "reconcile backup_signer role_statements roles_to_decide next",
    "recovery-test": "database passed place recovery_key set sha256 scratch_server versions keys newest older rekeyed "
    "rto_seconds rpo_seconds objectives missed",
    "rehearse": "database request source target dump made_at server dump_rows rows_now seconds findings "
    "predicted_seconds predicted_total_seconds not_rehearsed",
    "replace-key": "database id version fingerprint done",
    "reseal": "database wrapping_key sealed",
    "request": "database id from to rollout warnings",
    "requests": "id action type from to reason incident signed_by missing required status not_before manual "
    "start_by finish_by",
    "requests --announcement": "id subject text",
    "restore-database": "beside database dump made_at place rows values_decrypted undecryptable unencrypted failures "
    "left_out undumped for_superuser",
    "restore-key": "database keys tables database_backups problems",
    "resume": "database id status",
    "rollback": "database id undoes from to",
    "rollout": "generated_at database mode primary instances workloads waiting_for attention",
    "rotate": "database id phase from to phases backup",
    "rotate --dry-run": "id due later rollout waiting_for",
    "probe": "database place values fits",
    "scan": "database places not_looked_at",
    "scan --compare": "database places not_looked_at new gone",
    "status": "generated_at database key_versions primary tables rotation last_backup last_backup_versions "
    "backup_signer last_recovery_test recovery_test_failed last_rehearsal incidents_open incidents "
    "requests contacts audit next_rotation_due attention warnings",
    "verify": "database tables failures missed_by_searches not_examined",
}


def named(words: str) -> str:
    """The command of a line, with the option that changes what it prints."""
    typed = words.split()
    if typed[0] in GUIDES and "--signature" in typed:
        return f"{typed[0]} --signature"
    return " ".join([*typed[: 2 if typed[0] in GROUPS else 1], *(each for each in typed if each in OPTIONS)])


def documented(words: str, printed: str) -> Any:  # noqa: ANN401  what JSON is
    """The value that a command printed, whose fields are those above."""
    name, value = named(words), json.loads(printed)
    assert isinstance(value, list) == (name in LISTS), name
    expected = set(FIELDS[name].split())
    for each in value if isinstance(value, list) else [value]:
        assert set(each) == (expected if isinstance(value, list) else expected | {"schema"}), name
    if isinstance(value, dict):
        assert value["schema"] == 1
        assert next(iter(value)) == "schema"
    return value


def refusal(complaint: str) -> str:
    """The sentence of a refusal, which is the last line of stderr."""
    refused = json.loads(complaint.splitlines()[-1])
    assert set(refused) == {"schema", "error"}
    assert refused["schema"] == 1
    return str(refused["error"])

"""Fixtures of the whole suite: one embedded server a session, one fresh database a test."""

import base64
import gc
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline_tests.api_server import api_server  # noqa: F401
from keyrotation_pipeline_tests.archives_in_aws import new_split_secrets  # noqa: F401
from keyrotation_pipeline_tests.aws_secrets import key_list, new_secret  # noqa: F401
from keyrotation_pipeline_tests.buckets import bucket, locking_bucket, s3_url  # noqa: F401
from keyrotation_pipeline_tests.clusters import cluster, new_key_secrets  # noqa: F401
from keyrotation_pipeline_tests.officers import (  # noqa: F401
    privacy_officer,
    recovery_officer,
    sealed_officer,
    security_officer,
)
from keyrotation_pipeline_tests.protocol.traces_check import audits_follow_the_protocol  # noqa: F401
from keyrotation_pipeline_tests.servers import DIRECTORY, Server, copy_of, discard, start_server
from keyrotation_pipeline_tests.stale_secrets import new_stale_secret  # noqa: F401
from keyrotation_pipeline_tests.tokens import tokens  # noqa: F401
from keyrotation_pipeline_tests.wrapping_keys import kms, kms_stub  # noqa: F401

_BASE = pytest.StashKey[Path]()
# Functions and files of tests: those of the normal run, and all that were collected.
NORMAL, COLLECTED = pytest.StashKey[set[str]](), pytest.StashKey[set[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep `tmp_path` in a directory of this session's own.

    In pytest's default directory every session of one user shuts the others' out: as root, an embedded server that runs
    as another user could then no longer reach its files.
    """
    if config.option.basetemp is None and not hasattr(config, "workerinput"):
        config.stash[_BASE] = Path(tempfile.mkdtemp(prefix=f"krtest-{os.getpid()}-", dir=DIRECTORY))
        config.option.basetemp = config.stash[_BASE]


# What is long and in part shown by a shorter test: `pytest -m extended` runs it, before a release.
EXTENDED = (
    "acceptance/disasters/test_disasters.py::test_the_keys_are_lost",
    "acceptance/disasters/test_worst_days.py::test_a_forged_set",
    "acceptance/disasters/test_worst_days.py::test_the_database_is_lost",
    "acceptance/test_absence.py::test_a_key_that_was_found_in_use_after_its_retirement",
    "acceptance/test_absence.py::test_a_rotation_without_a_backup_after_it",
    "acceptance/test_absence.py::test_what_was_not_read_again",
    "acceptance/test_aes_gcm.py::test_a_rotation_by_the_commands_beside_the_application[Laravel]",
    "acceptance/test_aes_gcm.py::test_a_rotation_by_the_commands_beside_the_application[hex]",
    "acceptance/test_aes_gcm.py::test_a_rotation_by_the_commands_beside_the_application[sqlalchemy-utils]",
    "acceptance/test_aws.py",
    "acceptance/test_blind_indexes.py",
    "acceptance/test_browser.py",
    "acceptance/test_browser_by_hand.py",
    "acceptance/test_certificate.py::test_a_pack_says_by_whose_choice",
    "acceptance/test_cli.py::test_a_finished_rotation_is_followed",
    "acceptance/test_cli.py::test_a_rotation_of_empty_tables",
    "acceptance/test_cli.py::test_cancel_withdraws",
    "acceptance/test_cli.py::test_gpg_is_started_for",
    "acceptance/test_cli.py::test_monitoring_gets",
    "acceptance/test_cli.py::test_of_two_requests_at_once",
    "acceptance/test_cli.py::test_status_waits_for_no_slow_library",
    "acceptance/test_cli.py::test_two_rotates_at_once",
    "acceptance/test_cli.py::test_values_within_values",
    "acceptance/test_companions.py",
    "acceptance/test_crossings.py::test_a_change_of_officers",
    "acceptance/test_crossings.py::test_a_rollback_is_under_way",
    "acceptance/test_crossings.py::test_a_routine_rotation_is_under_way",
    "acceptance/test_crossings.py::test_another_incident",
    "acceptance/test_crossings.py::test_the_database_is_restored",
    "acceptance/test_dagster_dev.py::test_a_fresh_clone",
    "acceptance/test_decryption.py::test_a_column_goes_back",
    "acceptance/test_decryption.py::test_nothing_is_decrypted",
    "acceptance/test_demo.py::test_a_fernet_demo_proves",
    "acceptance/test_demo.py::test_status_works_as_printed",
    "acceptance/test_destroy.py",
    "acceptance/test_disaster.py::test_everything_comes_back",
    "acceptance/test_disaster.py::test_everything_is_lost",
    "acceptance/test_disaster.py::test_only_the_database_is_lost",
    "acceptance/test_disaster.py::test_recovery_test_and_restore_key",
    "acceptance/test_disaster.py::test_while_s3_is_down",
    "acceptance/test_failover.py",
    "acceptance/test_fernet.py::test_a_request_is_cancelled",
    "acceptance/test_fernet_applications.py",
    "acceptance/test_fernet_stores.py",
    "acceptance/test_fleet_formats.py::test_each_database_binds",
    "acceptance/test_fleet_formats.py::test_each_database_refuses_the_old_key_of_another_library",
    "acceptance/test_fleet_logins.py::test_what_the_old_key",
    "acceptance/test_fleet_plaintext.py",
    "acceptance/test_fleet_rules.py",
    "acceptance/test_hidden_backups.py::test_a_missing_right",
    "acceptance/test_incident.py::test_the_form",
    "acceptance/test_kill.py",
    "acceptance/test_kubernetes.py",
    "acceptance/test_marked_formats.py::test_a_key_that_was_imported",
    "acceptance/test_marked_formats.py::test_a_rotation_by_the_commands_beside_the_application[47ng]",
    "acceptance/test_marked_formats.py::test_a_rotation_by_the_commands_beside_the_application[rails, envelopes]",
    "acceptance/test_marked_formats.py::test_values_of_rails_from_before",
    "acceptance/test_next_steps.py::test_the_page_types",
    "acceptance/test_places.py::test_every_place",
    "acceptance/test_places.py::test_one_element",
    "acceptance/test_plaintext.py::test_no_old_instance",
    "acceptance/test_plaintext.py::test_without_the_gate",
    "acceptance/test_planned.py::test_a_planned_rotation_waits",
    "acceptance/test_planned.py::test_the_page_plans",
    "acceptance/test_policy.py",
    "acceptance/test_reconcile.py",
    "acceptance/test_recover.py::test_a_key_store_in_a_cloud",
    "acceptance/test_recover.py::test_a_rekeyed_set",
    "acceptance/test_recover.py::test_a_set_of_an_earlier_version",
    "acceptance/test_recover.py::test_only_the_database_is_lost",
    "acceptance/test_recover.py::test_the_line_of_a_finished",
    "acceptance/test_rollback.py::test_a_rollback_under_load_loses_no_write_and_leaves_no_value_behind[rows are",
    "acceptance/test_rollback.py::test_a_rollback_under_load_loses_no_write_and_leaves_no_value_behind[the key is made",
    "acceptance/test_rollback.py::test_a_rollback_under_load_loses_no_write_and_leaves_no_value_behind[the old version",
    "acceptance/test_rollback.py::test_a_rollback_under_load_loses_no_write_and_leaves_no_value_behind[the rotation is",
    "acceptance/test_rollback.py::test_a_rollback_under_load_loses_no_write_and_leaves_no_value_behind[writes have",
    "acceptance/test_rollback.py::test_a_rotation_is_paused",
    "acceptance/test_rollback.py::test_half_walked",
    "acceptance/test_rollout.py",
    "acceptance/test_scan.py::test_the_variants_of_the_guide",
    "acceptance/test_sealed_keys.py",
    "acceptance/test_search_indexes.py",
    "acceptance/test_second_generation.py",
    "acceptance/test_sources.py",
    "acceptance/test_ssh_officers.py::test_the_page_leads_an_officer_from",
    "acceptance/test_starting_states.py::test_a_home_that_took",
    "acceptance/test_store_owner.py::test_a_copy_that_is_made_in_the_middle",
    "acceptance/test_store_owner.py::test_a_store_of_before",
    "acceptance/test_store_owner.py::test_two_homes",
    "acceptance/test_up.py::test_up_without",
    "acceptance/test_vault.py::test_a_rotation_by_the_commands",
    "acceptance/test_vault.py::test_a_rotation_that_dies",
    "acceptance/test_vault.py::test_a_server_that_goes_away",
    "acceptance/test_wrong_key.py::test_a_death_in_the_middle",
    "acceptance/test_wrong_key.py::test_a_replacement_whose_signatures_expired",
    "acceptance/test_wrong_key.py::test_a_rotation_that_stuck",
    "acceptance/test_wrong_key.py::test_the_page_says_how",
    "acceptance/test_wrong_key.py::test_two_officers_replace",
    "contract/test_admission.py::test_the_lines_of_the_page",
    "contract/test_aws_key_store.py::TestAwsKeyStore::test_after_a_death",
    "contract/test_aws_key_store.py::TestAwsKeyStore::test_of_writers_that_race",
    "contract/test_aws_key_store.py::test_a_change_whose_answers_are_lost",
    "contract/test_file_key_store.py::test_after_a_death",
    "contract/test_kubernetes_archive_in_aws.py::TestKubernetesKeyStoreWithItsArchiveInAws",
    "contract/test_kubernetes_key_store.py::TestKubernetesKeyStore::test_after_a_death",
    "contract/test_monitoring_template.py::test_the_template_is_valid",
    "contract/test_remote_key_stores.py::TestAwsIsLate::test_a_change_decided_from_a_late_answer_is_refused_and_takes_nothing_away[add",
    "contract/test_remote_key_stores.py::TestAwsIsLate::test_a_change_decided_from_a_late_answer_is_refused_and_takes_nothing_away[p",
    "contract/test_remote_key_stores.py::TestAwsIsLate::test_a_change_decided_from_a_late_answer_is_refused_and_takes_nothing_away[restore",
    "contract/test_remote_key_stores.py::TestAwsIsLate::test_whoever",
    "contract/test_sealed_keys.py::test_keys_are_opened_in_a_child",
    "contract/test_stale_answers.py::test_a_walk_is_refused_nowhere",
    "contract/test_stale_answers.py::test_no_label_leads_to_a_destroyed",
    "defs/test_access.py::test_a_console",
    "defs/test_access.py::test_a_mutation",
    "defs/test_access.py::test_a_page_of_another_origin_reads",
    "defs/test_access.py::test_a_websocket",
    "defs/test_access.py::test_behind",
    "defs/test_access.py::test_dagsters",
    "defs/test_access.py::test_no_metrics",
    "defs/test_access.py::test_no_mutation",
    "defs/test_access.py::test_nothing_is_reported",
    "defs/test_access.py::test_read_only",
    "defs/test_access.py::test_the_",
    "defs/test_backup_schedules.py::test_after_downtime",
    "defs/test_definitions.py::test_dg_check_defs_passes",
    "defs/test_launch_configuration.py::test_no_launch_with_a_configuration_is_taken_over_graphql[backup]",
    "defs/test_launch_configuration.py::test_no_launch_with_a_configuration_is_taken_over_graphql[evidence]",
    "defs/test_launch_configuration.py::test_no_launch_with_a_configuration_is_taken_over_graphql[introduce_key]",
    "defs/test_launch_configuration.py::test_no_launch_with_a_configuration_is_taken_over_graphql[recovery_drill]",
    "defs/test_launch_configuration.py::test_no_launch_with_a_configuration_is_taken_over_graphql[retire_key]",
    "defs/test_outside_reports.py::test_a_report_that_an_earlier_release",
    "defs/test_outside_reports.py::test_nothing_is_corrected",
    "defs/test_prefix.py::test_our_evidence",
    "defs/test_proxy.py",
    "fuzzing/test_rounds.py::test_a_few_rounds",
    "integration/test_audit_verify.py::test_a_change_while",
    "integration/test_backup_assets.py::test_a_key_that_can_sign_must_not_stay_on_a_machine",
    "integration/test_backup_assets.py::test_a_key_that_decrypts_with_what",
    "integration/test_backup_assets.py::test_a_wrong_passphrase",
    "integration/test_backups.py::test_one_manifest_in_an_archive",
    "integration/test_backups.py::test_what_was_made_while",
    "integration/test_comparison.py::test_a_key_that_was_archived",
    "integration/test_comparison.py::test_the_applications_audit",
    "integration/test_comparison.py::test_the_command_shows",
    "integration/test_deterministic_values.py::test_a_query_for_both",
    "integration/test_dump_comparison.py::test_a_reloaded_database_differs_in_nothing[debian_server-1]",
    "integration/test_dump_comparison.py::test_a_reloaded_database_differs_in_nothing[server-1]",
    "integration/test_embedded.py::test_as_root_processes",
    "integration/test_engine_concurrency.py::test_no_write_is_lost_and_no_value_changes_rows_while_the_relation_is_rewritten[16",
    "integration/test_engine_concurrency.py::test_no_write_is_lost_and_no_value_changes_rows_while_the_relation_is_rewritten[18]",
    "integration/test_engine_concurrency.py::test_no_write_is_lost_and_no_value_changes_rows_while_the_relation_is_rewritten[debian-locks",
    "integration/test_engine_interleaving.py::test_a_table_locked_for_long",
    "integration/test_engine_interleaving.py::test_two_processes_that_walk_one_shard_at_once_do_no_harm",
    "integration/test_engine_throttles.py::test_a_standby_that_lags",
    "integration/test_engine_throttles.py::test_an_old_snapshot",
    "integration/test_engine_throttles.py::test_the_end_is_foreseen",
    "integration/test_engine_workers.py::test_a_worker_that_cannot_save",
    "integration/test_engine_workers.py::test_memory_is_bounded",
    "integration/test_evidence_pack.py::test_a_key_that_no_signed_text",
    "integration/test_evidence_pack.py::test_a_pack_says_what_the_text_of_an_emergency",
    "integration/test_evidence_pack.py::test_a_pack_says_whether_each_roster",
    "integration/test_evidence_pack.py::test_assessments",
    "integration/test_evidence_pack.py::test_what_was_signed_before",
    "integration/test_forged_histories.py::test_a_destruction_with_garbage",
    "integration/test_forged_histories.py::test_a_destruction_with_text",
    "integration/test_handover.py::test_a_role_that_may_create",
    "integration/test_handover.py::test_owners_privileges",
    "integration/test_handover.py::test_what_needs_power_is_named_and_the_file_for_a_superuser_restores_it[debian]",
    "integration/test_hostile_buckets.py::test_officers_may_vouch",
    "integration/test_hostile_buckets.py::test_other_things",
    "integration/test_idle.py",
    "integration/test_lockbox_rotation.py::test_the_walk_writes",
    "integration/test_random_schemas.py",
    "integration/test_recovery_keys.py::test_the_agents_passphrase",
    "integration/test_recovery_test.py::test_a_damaged_newest_manifest",
    "integration/test_recovery_test.py::test_a_place_that_takes_no_record",
    "integration/test_recovery_test.py::test_a_set_that_never_reached",
    "integration/test_recovery_test.py::test_an_older_dump",
    "integration/test_recovery_test.py::test_the_newest_set_is_missed",
    "integration/test_rehearsal.py::test_nothing_of_a_killed",
    "integration/test_rehearsal.py::test_the_rotation_after",
    "integration/test_rehearsal.py::test_values",
    "integration/test_rehearsal.py::test_what",
    "integration/test_rekey.py::test_a_set_of_several_versions",
    "integration/test_rekey.py::test_the_compromised_key",
    "integration/test_rekey.py::test_the_key_of_rows",
    "integration/test_rekey.py::test_what_the_engine_did_not_do",
    "integration/test_rolling_search.py::test_a_relation_that_cannot_be_read",
    "integration/test_row_binding_engine.py::test_kills_at_random",
    "integration/test_same_database.py::test_bounds",
    "integration/test_same_database.py::test_bytes",
    "integration/test_same_database.py::test_rows_of_partitions",
    "integration/test_scratch_servers.py::test_a_dump_of",
    "integration/test_scratch_servers.py::test_an_index",
    "integration/test_scratch_servers.py::test_without_a_server",
    "integration/test_undumped.py",
    "integration/test_whereabouts.py::test_the_embedded_server",
    "integration/test_witness.py::test_a_restored_audit",
    "integration/test_witness.py::test_a_witness_that_lies",
    "unit/adapters/test_hardening.py::test_where_locked_memory_is_limited_nothing_is_locked_and_nothing_is_refused[root",
    "unit/cli/test_start.py::test_each_command_can_be",
    "unit/reporting/test_offline_judge.py",
    "upgrades/test_next_version.py::test_the_way_back",
)

# One mechanism at many points: of each parametrized test here one of five variants is run, and the others are extended.
# They are shuffled before, so that each run takes others.
THINNED = (
    "acceptance/test_certificate.py::test_a_key_that_the_world",
    "acceptance/test_cli.py::test_one_approval",
    "acceptance/test_hidden_backups.py",
    "acceptance/test_marked_formats.py::test_a_rotation_by_the_commands",
    "acceptance/test_own_format.py",
    "acceptance/test_pack.py",
    "acceptance/test_pack.py::test_a_report_written_alone",
    "acceptance/test_pack.py::test_an_edited_pack",
    "acceptance/test_pack.py::test_what_the_audit_says",
    "acceptance/test_recover.py",
    "acceptance/test_ssh_officers.py",
    "acceptance/test_starting_states.py::test_init_adopts",
    "acceptance/test_store_owner.py",
    "acceptance/test_wrong_key.py",
    "contract/test_access_logs.py",
    "contract/test_aws_key_store.py",
    "contract/test_aws_preflight.py",
    "contract/test_aws_walk.py",
    "contract/test_exec.py",
    "contract/test_key_lists.py",
    "contract/test_kubernetes_key_store.py",
    "contract/test_kubernetes_reverts.py",
    "contract/test_kubernetes_rights.py",
    "contract/test_kubernetes_rollout.py",
    "contract/test_kubernetes_walk.py",
    "contract/test_remote_key_stores.py::TestAwsLosesAnswers",
    "contract/test_remote_key_stores.py::TestKubernetesLosesAnswers",
    "contract/test_sealed_keys.py",
    "contract/test_secrets_manager_ring.py",
    "contract/test_stale_answers.py",
    "defs/test_alert_kinds.py",
    "defs/test_automation.py",
    "defs/test_conductor.py::test_a_damaged_key_store",
    "defs/test_daily_round.py",
    "defs/test_launch_refusals.py",
    "defs/test_outside_reports.py",
    "defs/test_partitions.py",
    "defs/test_prefix.py",
    "integration/scan/test_types.py::test_wide",
    "integration/test_attestation.py::test_a_database_that_does_not_answer",
    "integration/test_attestation.py::test_a_process_that_a_signal",
    "integration/test_attestation.py::test_the_child_of_a_fork",
    "integration/test_audit_verify.py",
    "integration/test_backups.py",
    "integration/test_catalogue_changes.py",
    "integration/test_comparison.py",
    "integration/test_comparison.py::test_a_newer_backup",
    "integration/test_configured_secrets.py",
    "integration/test_connection_refusals.py",
    "integration/test_database_owner.py",
    "integration/test_discovery.py::test_of_a_large_table",
    "integration/test_embedded.py::test_as_root",
    "integration/test_engine_contention.py",
    "integration/test_engine_interleaving.py",
    "integration/test_engine_model.py",
    "integration/test_engine_quarantine.py",
    "integration/test_engine_tables.py",
    "integration/test_engine_throttles.py",
    "integration/test_engine_workers.py",
    "integration/test_fence.py::test_a_column_that_held_plaintext",
    "integration/test_forged_histories.py",
    "integration/test_hostile_buckets.py",
    "integration/test_hostile_reports.py::test_what_no_fleet",
    "integration/test_incident_flags.py",
    "integration/test_places_fence.py::test_a_fence_reads_back",
    "integration/test_places_interleaving.py",
    "integration/test_places_rotation.py::test_a_rotation",
    "integration/test_plaintext_attacks.py::test_a_thousand",
    "integration/test_poolers.py",
    "integration/test_preflight.py::test_the_preflight",
    "integration/test_preflight.py::test_the_width",
    "integration/test_proof.py::test_of_more",
    "integration/test_recovery_test.py",
    "integration/test_restore_database.py",
    "integration/test_rewritten_relations.py",
    "integration/test_row_binding_engine.py",
    "integration/test_same_database.py",
    "integration/test_scratch_servers.py",
    "integration/test_session_settings.py",
    "integration/test_source_engine.py::test_values_that_a_library",
    "integration/test_unsigned_events.py",
    "integration/test_unusual_tables.py",
    "protocol/test_protocol.py::test_a_ledger_stands",
    "unit/adapters/test_hardening.py::test_where_locked",
    "unit/backups/test_key_loss.py::test_a_rollback",
    "unit/fieldcrypto/test_native.py::test_both_codecs_agree",
    "unit/fieldcrypto/test_native.py::test_freed",
    "unit/fieldcrypto/test_native.py::test_packed",
    "unit/fieldcrypto/test_nonce_runs.py",
    "unit/incidents/test_crossing_stages.py",
    "unit/incidents/test_crossings.py",
    "unit/monitoring/test_members.py::test_a_look",
    "unit/monitoring/test_members.py::test_a_page_of_a_thousand",
    "unit/reporting/test_conclusions.py::test_what_is_wrong",
    "unit/reporting/test_oscal.py",
    "unit/rotation/test_reconcile.py::test_a_reconciliation_that_dies",
    "unit/rotation/test_rollback.py::test_a_rollback_that_dies",
    "unit/rotation/test_runner.py::test_a_clock_that_jumps",
    "upgrades/test_kept_homes.py",
    "vectors/test_possession.py",
)


_ALL_EXTENDED = re.compile(r"(?m)^pytestmark = .*pytest\.mark\.extended")

# Files that share one web server of Dagster, whose start takes more than their tests: one worker has them all.
SERVED = ("defs/test_access.py", "defs/test_launch_configuration.py", "defs/test_ui_permissions.py")


class Together(LoadFileScheduling):  # type: ignore[misc]
    """Gives a worker whole files, and those that share a server as one."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return SERVED[0] if file.endswith(SERVED) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Together | None:
    """Replace the scheduler of `--dist=loadfile`."""
    return Together(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file all of whose tests are extended, where these are left out and the file is not named."""
    if config.option.markexpr != "not extended" or not collection_path.name.startswith("test_"):
        return None
    if any(each.partition("::")[0].endswith(collection_path.name) for each in config.args):
        return None
    listed = collection_path.as_posix().endswith(tuple(f"/{each}" for each in EXTENDED if each.endswith(".py")))
    return True if listed or _ALL_EXTENDED.search(collection_path.read_text()) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what `EXTENDED` and `THINNED` name, before marks choose, and order the files.

    First come those that share the API server, which then ends, then those with a slow test, last those of many short
    ones: at the end nobody waits for a test of two minutes that had been shuffled there.
    """
    variants, slow, served = Counter[tuple[str, bool]](), set[Path](), set[Path]()
    normal, collected = config.stash[NORMAL], config.stash[COLLECTED] = set[str](), set[str]()
    for item in items:
        name = item.nodeid.removeprefix("keyrotation_pipeline_tests/")
        function, bracket, _ = name.partition("[")
        if item.get_closest_marker("extended") is None:
            variants[function, on_debian := _is_on_debian(item)] += 1
            number = variants[function, on_debian]
            is_thinned = bracket and name.startswith(THINNED) and number % 5 != 1
            if is_thinned or (on_debian and number > 1) or name.startswith(EXTENDED):
                item.add_marker("extended")
        file, *_, test = function.split("::")
        collected |= {file, test}
        if item.get_closest_marker("extended") is None:
            normal |= {file, test}
            if item.get_closest_marker("slow") is not None:
                slow.add(item.path)
            if "api_server" in getattr(item, "fixturenames", ()):
                served.add(item.path)
    items.sort(key=lambda item: (item.path not in served, item.path not in slow, "unit" in item.path.parts))


def _is_on_debian(item: pytest.Item) -> bool:
    """Whether a test is repeated on the other server (`either`): of several variants only one is, unless extended."""
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("either") == "debian"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without garbage collection, which would look through thirteen thousand tests again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remove that directory, unless something in it tells of a failure."""
    base = session.config.stash.get(_BASE, None)
    if base is not None and exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running embedded PostgreSQL 18."""
    running = start_server()
    yield running
    discard(running)


@pytest.fixture(scope="session")
def template(server: Server) -> str:
    """The name of a database with the schema `keyrotation`: migrated once by the product, copied by each test."""
    name = f"template_{os.getpid()}"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    migrate(server.url(name))
    return name


@pytest.fixture
def already_migrated(template: str) -> str:
    """Whoever asks for this gets, as `database_url`, a copy of the template instead of an empty database."""
    return template


@pytest.fixture
def database_url(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh database of the test's own: empty, or already migrated."""
    copied = request.getfixturevalue("already_migrated") if "already_migrated" in request.fixturenames else "template1"
    with copy_of(server, copied) as url:
        yield url


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    """Our own kind of connection to a fresh database."""
    with connect(database_url) as opened:
        yield opened


@pytest.fixture
def migrated(already_migrated: str, connection: Connection) -> Connection:
    """A connection to a database that has the schema `keyrotation`."""
    return connection


@pytest.fixture
def keyring_of() -> Callable[..., KeyRing]:
    """`keyring_of(1, 2, primary=2)`: a ring of random keys."""

    def build(*numbers: int, primary: int) -> KeyRing:
        return KeyRing({KeyVersion(number): KeyMaterial.generate() for number in numbers}, KeyVersion(primary))

    return build


@pytest.fixture
def seal() -> Callable[[KeyRing, int, str], str]:
    """`seal(ring, 1, "text")`: a stored value, made without the project's own cipher code."""

    def build(ring: KeyRing, version: int, plaintext: str) -> str:
        nonce = os.urandom(12)
        body = AESGCM(raw_of(ring.material(KeyVersion(version)))).encrypt(nonce, plaintext.encode(), None)
        return f"v{version}:{base64.b64encode(nonce).decode()}:{base64.b64encode(body).decode()}"

    return build

"""Dagster: a file a step of the procedure (asset and checks), and what starts them. Nothing else imports Dagster."""

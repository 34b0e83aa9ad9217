"""The Dagster code location: assets, checks, jobs, schedules and sensors. Only this package imports Dagster."""

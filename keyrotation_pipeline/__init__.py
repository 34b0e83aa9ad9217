"""Rotate application-level encryption keys in PostgreSQL with zero downtime, and prove it.

Applications import `keyrotation_pipeline.encrypted_type`; everything else is the pipeline (extra ``pipeline``).
"""

"""The PostgreSQL adapter: encrypted columns, their fences and proofs, the ledger, the embedded server."""

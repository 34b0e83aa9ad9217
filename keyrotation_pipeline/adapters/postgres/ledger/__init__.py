"""The ledger: the schema `keyrotation` in the application's database."""

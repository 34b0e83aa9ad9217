"""The pipeline's own memory: the schema `keyrotation` in the application's database."""

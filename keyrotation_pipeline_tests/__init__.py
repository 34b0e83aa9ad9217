"""The suite: unit, contract (a port each), integration (real PostgreSQL and gpg), acceptance (the command), defs."""

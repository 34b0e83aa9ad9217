"""The protocol of a rotation, explored exhaustively over the real code.

Read in this order: `state` (what a state is), `model_ports` and `machine` (how the real code runs on a state),
`commands` and `actors` (who does what), `invariants` and `liveness` (what must hold), `search` (how states are found),
`models` (the bounds), `guards` (what each guard prevents). `python -m keyrotation_pipeline_tests.protocol --help` runs
larger explorations.
"""

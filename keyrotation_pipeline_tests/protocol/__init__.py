"""The protocol of a rotation, explored exhaustively over the real code.

Read in this order: `state` (what a state is), `machine` (how the real code runs on a state), `actors` (who does what),
`invariants` (what must hold), `search` (how states are found), `models` (the bounds), `guards` (what each guard
prevents). `python -m keyrotation_pipeline_tests.protocol --help` runs larger explorations.
"""

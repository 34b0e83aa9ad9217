"""The protocols through which the procedure reaches the outside world, one per question.

Each adapter passes the suite of its port in `keyrotation_pipeline_tests/contract/`.
"""

"""What the procedure needs of the world, as protocols: a file per question.

Each adapter passes the suite of its port in `keyrotation_pipeline_tests/contract/`.
"""

"""The pages of docs/reference, made from the code: `python -m keyrotation_pipeline_tests.reference` writes them."""

"""The compliance report, its formats, and the evidence pack with its verifier."""

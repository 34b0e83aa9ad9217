"""The compliance report, its rendering, and the evidence pack with its verifier."""

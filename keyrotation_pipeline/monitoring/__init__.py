"""Status, readiness, progress and rolling verification: what an operator watches."""

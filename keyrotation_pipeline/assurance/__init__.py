"""What is shown to auditors: the compliance report."""

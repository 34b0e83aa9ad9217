"""Opens ports from settings: the only place that knows which adapter implements which port."""

"""A stand-in for a Kubernetes API server: few kinds, the rules that we lean on, and a controller that is driven."""

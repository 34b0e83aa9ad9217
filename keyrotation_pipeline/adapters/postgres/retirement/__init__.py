"""The parts of a retirement: fences, the proof, and the list of sessions and replicas that could show an old value."""

"""What a retirement stands on: fences, the proof, and who could still show an old value."""

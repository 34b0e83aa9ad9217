"""What a retirement needs: fences, the proof, and the list of those who could still show an old value."""

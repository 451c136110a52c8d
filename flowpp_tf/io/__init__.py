"""Files: those from outside through one gate, weights, digests, and writing that leaves no half-written file."""

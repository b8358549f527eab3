"""Jobs: entries of a stream that carries work, and what became of each."""

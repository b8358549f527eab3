"""Dead letters: how they are written, listed, grouped by cause, replayed and dropped in the end."""

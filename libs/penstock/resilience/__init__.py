"""What keeps work going when things fail: retry policy, checkpoints, dead letters."""

"""What a run keeps on disk: checkpoints without code, and the folder they lie in."""

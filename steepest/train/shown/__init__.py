"""What a person sees of a run: opening, progress, summary, picture, advice, loggers."""

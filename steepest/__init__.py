"""steepest trains PyTorch models: an optimizer is a formula, the loop is in the open."""

__version__ = "0.1.0"

"""What is measured of a run, and what that decides."""

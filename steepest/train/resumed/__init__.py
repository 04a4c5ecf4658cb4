"""How a run goes on bit for bit: what is compared, and every random state."""

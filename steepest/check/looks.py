"""When a rule that takes its time looks: closely at first, then at two in a row now and then."""

FIRST = 20  # updates
RARELY = 64  # updates between two pairs


def is_due(step: int) -> bool:
    """Tell whether a rule looks at the update after `step` others."""
    return step < FIRST or step % RARELY < 2


def is_first_of_pair(step: int) -> bool:
    """Tell whether the update before is too old to compare with."""
    return step == 0 or (step >= FIRST and step % RARELY == 0)

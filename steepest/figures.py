"""Numbers as people read them."""

ABSENT, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def short(value: float | None) -> str:
    """Return a number in four digits; a dash for none."""
    if value is None:
        return ABSENT
    if abs(value) < 1e7 and (value == int(value) or abs(value) >= 1000):
        return f"{value:,.0f}"
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def counted(count: float, one: str, several: str | None = None) -> str:
    """Return "1 row", "1,250 rows"; `several` where an s does not do."""
    return f"{count:,.0f} {one if count == 1 else several or one + 's'}"


def duration(seconds: float | None) -> str:
    """Return seconds as people say them."""
    if seconds is None:
        return ABSENT
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count: float) -> str:
    """Return bytes as people say them."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"

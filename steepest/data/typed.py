"""A column of texts -> whole numbers, numbers, booleans or dates, where all its values are."""

from collections.abc import Callable

import polars as pl

# What people write for "no value"; an empty field means the same.
MISSING = ("", "?", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None")
DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f", "%+")
FIRST = 256  # values that are tried before a whole column is

GROUPED = r"^[+-]?(\d+|[1-9]\d{0,2}(,\d{3})+)(\.\d*)?$"
# A decimal point, or a second comma: only then are the commas no decimal commas.
CERTAIN = r"\.|,\d{3},"
COMMAS = r"^[+-]?(\d+|\d{1,3}(\.\d{3})+|\d{1,3}(,\d{3})+)([.,]\d+)?$"

Conversion = Callable[[pl.Series], pl.Series]


def cleaned(column: pl.Series) -> pl.Series:
    """Return the texts without spaces around them, null where they say that a value is missing."""
    text = column.str.strip_chars()
    return text.set(text.is_in(MISSING), None)


def typed(column: pl.Series) -> pl.Series:
    """Return a column of texts in the first type that holds all its values, else as it is."""
    for convert in (whole_numbers, decimals, booleans, dates):
        values = converted(column, convert)
        if values is not None:
            return values
    return column


def converted(column: pl.Series, convert: Conversion) -> pl.Series | None:
    """Return a column of texts in another type if that holds all its values."""
    for part in (column.drop_nulls().head(FIRST), column):
        values = convert(part)
        if values.null_count() > part.null_count():
            return None
    return values


def whole_numbers(text: pl.Series) -> pl.Series:
    """Return the texts that are whole numbers, null where one is none."""
    return text.cast(pl.Int64, strict=False)


def decimals(text: pl.Series) -> pl.Series:
    """Return the texts that are numbers, null where one is none."""
    return text.cast(pl.Float64, strict=False)


def booleans(text: pl.Series) -> pl.Series:
    """Return the texts that are true or false in any case, null where one is neither."""
    return text.str.to_lowercase().replace_strict(
        {"true": True, "false": False}, default=None, return_dtype=pl.Boolean
    )


def dates(text: pl.Series) -> pl.Series:
    """Return the texts that are ISO dates with or without a time, null where one is none."""
    spaced = text.str.replace("T", " ", literal=True)
    tried = [
        (text if form == "%+" else spaced).str.to_datetime(form, strict=False) for form in DATES
    ]
    return min(tried, key=pl.Series.null_count)


def grouped(text: pl.Series) -> pl.Series:
    """Return the texts that are numbers, thousands set off by commas, null where one is none."""
    numbers = text.str.replace_all(",", "", literal=True).cast(pl.Float64, strict=False)
    return numbers.set(~text.str.contains(GROUPED), None)


def has_grouped(text: pl.Series) -> bool:
    """Say whether a column holds nothing but numbers, some with commas that can only be thousands.

    "1,234" may be 1.234 where the comma is the decimal sign; 1,234.5 and 1,234,567 may not.
    """
    if converted(text, grouped) is None:
        return False
    commas = text.str.contains(",", literal=True)
    return bool(commas.any() and text.str.contains(CERTAIN).any())


def comma_number(text: pl.Series) -> str | None:
    """Return a value with a comma in a column of nothing but numbers, some of them with commas."""
    for part in (text.drop_nulls().head(FIRST), text):
        if not part.str.contains(COMMAS).all():
            return None
    found = text.filter(text.str.contains(",", literal=True))
    return found[0] if len(found) else None

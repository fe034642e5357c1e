"""Numbers and texts of a JSON schema that a grammar can keep exactly.

llguidance keeps numbers as doubles, reads long decimals with an error in the last bit, and writes large ones with zeros
for digits. A validator compares what was written with what the schema says.
"""

import math
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

from .schema_patterns import unwritten
from .schema_references import printable

EXACT = 2**53  # integers up to here are exact in a double
N_DIGITS = 15  # a decimal of so many digits is read without rounding
SMALLEST = Decimal("1e-15")  # of bounds other than 0


def value_problem(value: Any) -> str:
    """Why the value of a "const" or "enum" can't be written exactly, "" where it can."""
    if isinstance(value, str):
        never = next(filter(unwritten, value), None)
        return f"the character U+{ord(never):04X} is never written" if never else ""
    if isinstance(value, (bool, list, dict, type(None))):
        return ""
    if isinstance(value, int):
        exact = abs(value) < 2**63 and float(value) == value
    elif value.is_integer():
        exact = abs(value) < EXACT
    else:
        _, digits, exponent = Decimal(repr(value)).as_tuple()
        exact = len(digits) <= N_DIGITS and isinstance(exponent, int) and exponent >= -22
    return "" if exact else f"{printable(str(value))} has more digits than are kept exactly"


def narrowed_bound(value: float, is_open: bool, upper: bool, whole: bool) -> float | None:
    """A bound that can be kept exactly, the same or a little narrower. None where there is none."""
    sign = -1 if upper else 1  # as lower bounds of x or of -x
    low = sign * Decimal(repr(value))
    if whole:
        least = math.ceil(low) + (is_open and low == math.ceil(low))
        if abs(least) > EXACT:
            exact = int(float(least))
            least = max(exact if exact >= least else int(math.nextafter(float(least), math.inf)), 1024 - 2**63)
        return None if least >= 2**63 else sign * least
    if low >= EXACT:
        return None
    digits = Context(prec=N_DIGITS, rounding=ROUND_CEILING)
    bound = max(digits.plus(low), Decimal(-EXACT))
    if is_open and bound == low:
        bound = bound + SMALLEST if bound == 0 else digits.next_plus(bound)
    if 0 < abs(bound) < SMALLEST:
        bound = SMALLEST if bound > 0 else Decimal(0)
    return sign * (int(bound) if bound == int(bound) else float(bound))

"""Bytes, seconds and counts to words: the only place where numbers become text with a unit.

GiB is 2**30 bytes, GB is 10**9; both are always written out. Unknown (None) becomes "unknown".
"""

KIB = 2**10
MIB = 2**20
GIB = 2**30
UNKNOWN = "unknown"


def format_gib(num_bytes: float | None, digits: int | None = None) -> str:
    """Bytes as GiB without the unit: two digits below 1 GiB, one below 100, none above."""
    if num_bytes is None:
        return UNKNOWN
    gib = num_bytes / GIB
    if digits is None:
        digits = 2 if abs(gib) < 1 else 1 if abs(gib) < 100 else 0
    return f"{gib:,.{digits}f}"


def format_in_gib(num_bytes: float | None) -> str:
    """Bytes as GiB with the unit, for numbers that stand beside each other."""
    if num_bytes is None:
        return UNKNOWN
    if 0 < num_bytes < 0.005 * GIB:
        return "< 0.01 GiB"
    return f"{format_gib(num_bytes)} GiB"


def format_bytes(num_bytes: float | None) -> str:
    """Bytes with the binary unit that leaves one to three digits before the point."""
    if num_bytes is None:
        return UNKNOWN
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(num_bytes) >= size:
            value = num_bytes / size
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{num_bytes:,.0f} B"


def format_count(number: float | None) -> str:
    """A count in words a person reads at once: 950, 43,200, 596 M, 8.0 B."""
    if number is None:
        return UNKNOWN
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if abs(number) >= size:
            value = number / size
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{number:,.0f}"


def format_learning_rate(value: float | None) -> str:
    """5e-5, 2.8e-4: at most two significant digits, no zero in the exponent."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"

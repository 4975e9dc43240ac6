"""What `cdvqa check` printed."""

import re


def row(output: str, what: str) -> list[str]:
    """The cells of a line of the table."""
    line = next(line for line in output.splitlines() if line.startswith(f"{what} "))
    return re.split(r"\s{2,}", line.strip())

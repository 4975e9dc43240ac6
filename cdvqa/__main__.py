"""`python -m cdvqa` is `cdvqa`."""

import sys

from cdvqa.cli import main


def entry() -> None:
    """The installed command."""
    sys.exit(main())


if __name__ == "__main__":
    entry()

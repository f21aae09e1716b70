"""`gesso`, and `python -m gesso` where no console script is on the path."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The console script. Ctrl-C while the command line itself is imported ends it without a traceback, too."""
    try:
        from gesso.cli.main import main as run
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()

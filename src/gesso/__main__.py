"""`python -m gesso`: the command line, where no console script is on the path."""

from gesso.cli.main import main

if __name__ == "__main__":
    main()

"""The exit codes of all commands beside 0. 1 is also that of `replay` where another picture comes out."""

EXIT_FAILED, EXIT_WRONG_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143

"""Errors that a user can act on.

The command line prints a `GessoError` on one line, without a traceback, and ends with exit code 2. A wrong argument
from code is a `ValueError`, and what cannot happen is an `assert`; neither belongs here.
"""


class GessoError(Exception):
    """Something outside the program is wrong, and the user can put it right.

    The message says where, what was found, what was expected and what to do next:

        v2-1.safetensors: attn2.to_k.weight is [320, 1024], family 'sd15' expects [320, 768]. Try: --family sd21
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def one_line(self) -> str:
        """The message on a single line, control characters made visible.

        File names and tensor names come from outside: they may neither break the line nor reach the terminal as
        escape sequences.
        """
        line = " ".join(self.message.split())
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)

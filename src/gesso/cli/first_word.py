"""What `gesso` does where the first word is no command: greet, draw, or say what was meant. Imports next to nothing."""

import os
import shlex
from collections.abc import Sequence

from gesso.errors import GessoError

GREETING = """\
gesso draws pictures from words. Try:

  gesso generate "a red car and a blue bird"    draw it; prints the file's name
  gesso generate "a red car" --seed 7 -n 4      four pictures, the same each time
  gesso models list                             the models you have
  gesso metadata show picture.png               the settings stored in a picture

Commands and options: gesso --help, gesso generate --help"""


def understood(words: Sequence[str], commands: Sequence[str]) -> list[str]:
    """The command line that is meant by one that begins with no command. Raises GessoError with what to type.

    A prompt alone is drawn: words with a space between them, in quotes or not, can hardly be meant as anything else.
    One word may be a slip of the fingers, and a picture takes seconds and a file; so it is answered with what to type,
    and so are several whose first is nearly a command.
    """
    first = words[0]
    following = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))
    typed = shlex.join(["gesso", "generate", " ".join(words[:following]), *words[following:]])
    draw = typed if len(typed) <= 100 else "gesso generate PROMPT"
    if first == "help" and (len(words) == 1 or words[1] in commands):
        return [*words[1:], "--help"]
    if first == "version":
        return ["--version"]
    if " " in first.strip() or not first.strip():
        return ["generate", *words]
    from gesso.cli.near import nearest_commands

    if near := nearest_commands(first, commands):
        raise GessoError(f"no command {first[:60]!r}. Did you mean gesso {near[0]}? To draw it: {draw}")
    if following > 1:
        return ["generate", *words]
    if _is_file(first):
        name = shlex.quote(first)
        raise GessoError(
            f"no command {first[:60]!r}, but a file. `gesso metadata show {name}` shows the settings in a picture; "
            f'`gesso generate "a red car" --image {name}` draws from it'
        )
    raise GessoError(f"no command {first[:60]!r}. To draw it: {draw}. All commands: gesso --help")


def _is_file(name: str) -> bool:
    return "\0" not in name and os.path.isfile(name)

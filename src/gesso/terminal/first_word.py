"""What `gesso` does where the first word is no command: greet, draw, or say what was meant. Imports next to nothing."""

import os
import shlex
from collections.abc import Sequence

GREETING = """\
gesso draws pictures from words. Try:

  gesso generate "a red car and a blue bird"   draw it and print the file name
  gesso generate "a red car" --seed 7 -n 4     four pictures, the same each time
  gesso models list                            the models you have
  gesso metadata show picture.png              the settings in a picture

All commands: gesso --help. All options of one: gesso generate --help"""
LONGEST = 100  # characters of a command line in a message


def understood(words: Sequence[str], commands: Sequence[str]) -> list[str]:
    """The command line that is meant by one that begins with no command. Raises GessoError with what to type.

    A prompt alone is drawn: several words, in quotes or not, can hardly be meant as anything else. One word may be a
    slip of the fingers, and a picture takes seconds and leaves a file; so it is answered with what to type, and so are
    several words whose first is nearly a command.
    """
    first = words[0]
    if first == "help" and (len(words) == 1 or words[1] in commands):
        return [*words[1:], "--help"]
    if first == "version" and len(words) == 1:
        return ["--version"]
    if " " in first.strip() or not first.strip():
        return ["generate", *words]
    from gesso.terminal.near import nearest_commands, usage_error

    prompt = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))  # words before any option
    draw = f"`{_line('generate', ' '.join(words[:prompt]), words[prompt:])}`"
    if near := nearest_commands(first, commands):
        meant = f"`{_line(near[0], ' '.join(words[1:prompt]), words[prompt:])}`"
        rest = "" if near[0] == "generate" else f" To draw it: {draw}"
        raise usage_error(f"no command {first[:60]!r}. Did you mean {meant}?{rest}")
    if prompt > 1:
        return ["generate", *words]
    if "\0" not in first and os.path.isfile(first):
        name = shlex.quote(first)
        raise usage_error(
            f"no command {first[:60]!r}, but a file. `gesso metadata show {name}` shows the settings in a picture, "
            f'`gesso generate "a red car" --image {name}` draws from it'
        )
    raise usage_error(f"no command {first[:60]!r}. To draw it: {draw}. All commands: `gesso --help`")


def _line(command: str, prompt: str, options: Sequence[str]) -> str:
    """A command line to type; the prompt in quotes."""
    plain = prompt and not set(prompt) & set('"\\$`!') and prompt.isprintable()
    quoted = [f'"{prompt}"' if plain and command == "generate" else prompt if plain else shlex.quote(prompt)]
    line = " ".join(["gesso", command, *(quoted if prompt else []), *map(shlex.quote, options)])
    return line if len(line) <= LONGEST else f"gesso {command} ..."

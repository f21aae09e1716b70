"""Completion in bash, zsh and fish: what the Tab key offers, and the scripts that ask for it.

typer's own completion would build every command, or none, and its scripts run names of files through `eval`, which a
stranger's model must not reach. Here a script runs `gesso` with the words of the line, and gets one word a line: data
that no shell reads as code. Nothing is drawn, loaded or downloaded; whatever goes wrong, the answer is empty.
"""

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from gesso.cli.commands import COMMANDS, NAMES
from gesso.errors import GessoError

FILES = "files"  # the first line of an answer: if no word fits, the shell offers files
WORDS = "words"  # and this one: it does not
MAX_HELP = 60  # characters of a description
_BREAKS = "=:"  # where bash begins a new word
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.,+@%/:=")

SCRIPTS: Mapping[str, str] = MappingProxyType(
    {
        "bash": """\
# Completion of gesso for bash.
_gesso() {
    local word mode=
    COMPREPLY=()
    while IFS= read -r word; do
        if [ -z "$mode" ]; then mode=$word; else COMPREPLY+=("$word"); fi
    done < <(_GESSO_COMPLETE=bash _GESSO_LINE="${COMP_LINE:0:COMP_POINT}" "$1" 2>/dev/null)
    if [ "$mode" = words ]; then compopt +o bashdefault +o default 2>/dev/null; fi
    case ${COMPREPLY[0]-} in *=) compopt -o nospace 2>/dev/null ;; esac
}
complete -o bashdefault -o default -F _gesso gesso
""",
        "zsh": """\
#compdef gesso
# Completion of gesso for zsh.
_gesso() {
    local word help mode=
    local -a values lines
    while IFS=$'\\t' read -r word help; do
        if [[ -z $mode ]]; then mode=$word; else values+=("$word"); lines+=("$word${help:+  -- $help}"); fi
    done < <(_GESSO_COMPLETE=zsh "${(Q)words[1]}" "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    [[ $words[CURRENT] == --*=* ]] && compset -P '*='
    if (( $#values )); then
        if [[ $values[1] == *= ]]; then compadd -S '' -a values; else compadd -l -d lines -a values; fi
    elif [[ $mode == files ]]; then
        _files
    fi
}
if [[ $funcstack[1] == _gesso ]]; then
    _gesso "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _gesso gesso
fi
""",
        "fish": """\
# Completion of gesso for fish.
function __gesso_complete
    set -l words (commandline -opc)
    set -l answer (_GESSO_COMPLETE=fish $words[1] $words[2..-1] (commandline -ct) 2>/dev/null)
    if test (count $answer) -gt 1
        printf '%s\\n' $answer[2..-1]
    else if test "$answer[1]" = files
        __fish_complete_path (commandline -ct)
    end
end
complete -c gesso -f -a '(__gesso_complete)'
""",
    }
)


class Word(NamedTuple):
    """What may be typed, and what it is."""

    value: str
    help: str = ""


# ---- the shell asks --------------------------------------------------------------------------------------------------


def answer(shell: str, argv: Sequence[str]) -> int:
    """Print what the shell offers: FILES or WORDS, then a word a line. Never fails."""
    import logging

    logging.getLogger("gesso").setLevel(logging.CRITICAL)  # whatever is logged would land in the user's command line
    try:
        line = os.environ.get("_GESSO_LINE", "")
        words = (_words(line) if shell == "bash" else list(argv)) or [""]
        if shell != "bash" and words[-1][:1] in ("'", '"'):  # a quote that is still open
            words[-1] = words[-1][1:]
        mode, found = complete(words)
        lines = [_in_shell(shell, one, words[-1], line) for one in found]
    except Exception:  # a broken library, a plug-in that fails: nothing to offer
        mode, lines = FILES, []
    print("\n".join([mode, *(line for line in lines if line.replace("\t", " ").isprintable())]))
    return 0


def _in_shell(shell: str, word: Word, current: str, line: str) -> str:
    """A word as the script of a shell reads it."""
    if shell == "bash":
        return _in_bash(word.value, line)
    name, sign, _ = current.partition("=")
    before = f"{name}=" if shell == "fish" and sign and name.startswith("--") else ""  # it replaces the whole word
    return f"{before}{word.value}\t{word.help}" if word.help else f"{before}{word.value}"


def _words(line: str) -> list[str]:
    """The words of bash's line after `gesso`; the last one is being typed, and is "" after a space."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError:  # an open quote: what stands behind it is the last word
        return _open_quote(line)[1:]
    if line[-1:].isspace() and not line.endswith("\\ "):
        words.append("")
    return words[1:]


def _open_quote(line: str) -> list[str]:
    for quote in ('"', "'", ""):
        try:
            return shlex.split(f"{line}{quote}" if quote else f"{line}\\")
        except ValueError:
            continue
    return line.split()


def _in_bash(value: str, line: str) -> str:
    """A word as bash puts it into the line: without what stands before the last "=" or ":", and quoted."""
    typed = line[max(line.rfind(" "), line.rfind("\t")) + 1 :]
    if (quote := typed[:1]) in ("'", '"'):
        return value.replace("\\", "\\\\").replace('"', '\\"') if quote == '"' else value
    cut = max(typed.rfind(mark) for mark in _BREAKS) + 1
    if cut and not typed.startswith("--") and value.startswith(typed[:cut]):
        value = value[cut:]
    return "".join(char if char in _PLAIN or char.isalnum() else f"\\{char}" for char in value)


def complete(words: Sequence[str]) -> tuple[str, list[Word]]:
    """FILES or WORDS, and what the last of the words can become.

    words  of the line after `gesso`; the last one is being typed
    """
    *before, current = words
    before = [word for word in before if word != "--debug"]
    if not before and not current.startswith("-"):
        return WORDS, _fitting(current, (Word(name, line) for name, _, line in COMMANDS))
    if before and not before[0].startswith("-") and before[0] not in NAMES:
        before = ["generate", *before]  # `gesso "a red car" --steps 4`
    from typer.main import get_command

    from gesso.cli.app import build_app

    chosen = before[0] if before and before[0] in NAMES else None
    command: Any = get_command(build_app(chosen))
    rest = list(before)
    while hasattr(command, "commands"):
        name = next((word for word in rest if not word.startswith("-")), None)
        if name is None or name not in command.commands:
            below = (Word(name, one.get_short_help_str(MAX_HELP)) for name, one in command.commands.items())
            return WORDS, _options(command, current, rest) if current.startswith("-") else _fitting(current, below)
        rest, command = rest[rest.index(name) + 1 :], command.commands[name]
    return _in_command(command, rest, current)


def _in_command(command: Any, before: Sequence[str], current: str) -> tuple[str, list[Word]]:
    options = {name: param for param in command.params if param.param_type_name == "option" for name in param.opts}
    given = _given(before, options)
    pending = options.get(before[-1]) if before and given.pending else None
    if pending is not None:
        return _values(pending, current, given)
    if current.startswith("--") and "=" in current:
        name, _, value = current.partition("=")
        return _values(options[name], value, given) if name in options else (WORDS, [])
    if current.startswith("-") and "--" not in before:
        return WORDS, _options(command, current, before)
    params = [param for param in command.params if param.param_type_name == "argument"]
    place = min(len(given.arguments), len(params) - 1)
    if not params or (len(given.arguments) >= len(params) and params[-1].nargs == 1):
        return WORDS, []
    return _values(params[place], current, given)


class Given(NamedTuple):
    """The words before the one that is typed: arguments, values by option, and whether an option lacks its value."""

    arguments: list[str]
    values: dict[str, str]
    pending: bool


def _given(before: Sequence[str], options: Mapping[str, Any]) -> Given:
    given, pending, plain = Given([], {}, False), None, False
    for word in before:
        if pending is not None:
            given.values[pending.name] = word
            pending = None
        elif plain or not word.startswith("-") or word == "-":
            given.arguments.append(word)
        elif word == "--":
            plain = True
        elif (param := options.get(word.partition("=")[0])) is not None and not param.is_flag:
            if "=" in word:
                given.values[param.name] = word.partition("=")[2]
            else:
                pending = param
    return given._replace(pending=pending is not None)


def _options(command: Any, current: str, before: Sequence[str]) -> list[Word]:
    """Options by the names that the help shows; those that were given once, and cannot be twice, are left out."""
    words = []
    for param in command.params:
        if param.param_type_name != "option" or getattr(param, "hidden", False):
            continue
        if not getattr(param, "multiple", False) and set(before) & {*param.opts, *param.secondary_opts}:
            continue
        shown = [*getattr(param, "shown", param.opts), *param.secondary_opts]
        words += [Word(name, _brief(param.help or "")) for name in shown if name.startswith("--") or name == current]
    return _fitting(current, [*words, Word("--help", "Show the help.")])


def _brief(text: str) -> str:
    first = text.partition(". ")[0].removesuffix(".")
    return first if len(first) <= MAX_HELP else f"{first[: MAX_HELP - 3]}..."


def _fitting(current: str, words: Iterable[Word]) -> list[Word]:
    """Those that begin with what is typed; case does not count where nothing else fits."""
    found = list(words)
    exact = [word for word in found if word.value.startswith(current)]
    return exact or [word for word in found if word.value.casefold().startswith(current.casefold())]


# ---- values ----------------------------------------------------------------------------------------------------------


def _values(param: Any, current: str, given: Given) -> tuple[str, list[Word]]:
    """What an option or argument takes."""
    from gesso.terminal.near import option_of, row_of

    is_option, metavar = param.param_type_name == "option", param.metavar or ""
    if metavar in _PATHS or _is_path(param):
        return FILES, []
    name = option_of(param) if is_option else param.name
    table = _VALUES if is_option else _ARGUMENTS
    if (entry := table.get(f"{name} {metavar}") or table.get(name)) is not None:
        mode, words = entry
        return mode, _fitting(current, words(given))
    row = row_of(name)
    if row is not None and (values := row.values or tuple(row.field.means)):
        return WORDS, _fitting(current, (Word(value, row.field.means.get(value, "")) for value in values))
    return WORDS, []


_PATHS = ("FILE", "FOLDER", "PATH", "PICTURE", "OUT", "TARGET", "FROM", "TO", "FILE_OR_FOLDER")


def _is_path(param: Any) -> bool:
    """Whether typer was told that the values are paths."""
    return "path" in str(getattr(param, "type_descriptor", getattr(param, "type", ""))).lower()


def _samplers(given: Given) -> Iterator[Word]:
    from gesso.diffusion.sampler_table import SAMPLERS

    return (Word(name, row.label) for name, row in SAMPLERS.items())


def _schedules(given: Given) -> Iterator[Word]:
    from gesso.diffusion.schedule_table import SCHEDULES

    return (Word(name, row.label) for name, row in SCHEDULES.items())


def _models(*kinds: str) -> Callable[[Given], Iterator[Word]]:
    def names(given: Given) -> Iterator[Word]:
        from gesso.studio.home import open_library

        for name, _, kind in open_library().glance():
            if not kinds or kind in (None, *kinds):
                yield Word(name, kind or "")

    return names


def _extras(kind: Any) -> Callable[[Given], Iterator[Word]]:
    """The names that a request knows, which are those of the files without their ending."""

    def names(given: Given) -> Iterator[Word]:
        from gesso.library.finder import LIBRARY_KINDS
        from gesso.request.embedded import embedded_extras
        from gesso.studio.home import open_library

        kinds = (None, *LIBRARY_KINDS[kind])
        files = (path.stem for name, path, of in open_library().glance() if of in kinds)
        return (Word(name) for name in sorted({*embedded_extras(kind), *files}))

    return names


def _controls(given: Given) -> Iterator[Word]:
    return (Word(f"{word.value},image=") for word in _extras("control")(given))


def _upscalers(given: Given) -> Iterator[Word]:
    from gesso.request.hires import LATENT_UPSCALERS

    yield from (Word(name) for name in ("lanczos", "bicubic", "nearest", *LATENT_UPSCALERS))
    yield from _extras("upscaler")(given)


def _styles(given: Given) -> Iterator[Word]:
    from gesso.frontends.front_end import read_styles
    from gesso.studio.home import styles_file

    file = given.values.get("styles")
    return (Word(name) for name in read_styles(Path(file).expanduser() if file else styles_file()))


def _preprocessors(given: Given) -> Iterator[Word]:
    from gesso.cli.preprocess import POSE
    from gesso.hints.registry import PREPROCESSORS

    yield from (Word(name, _brief(row.help)) for name, row in PREPROCESSORS.items())
    yield Word(POSE)


def _fields(given: Given) -> Iterator[Word]:
    """The axes of a grid, and what --set takes for many pictures."""
    from gesso.request.axes import axis_names

    return (Word(f"{name}=") for name in axis_names())


def _conventions(given: Given) -> Iterator[Word]:
    from gesso.request.request import PRESET_ROWS

    return (Word(f"{row.names[0]}=", row.field.help) for _, row in PRESET_ROWS if row.path.startswith("conventions."))


def _fixed(*words: str) -> Callable[[Given], Iterator[Word]]:
    return lambda given: (Word(word) for word in words)


def _kinds(given: Given) -> Iterator[Word]:
    from gesso.library.entry import KINDS

    return (Word(kind) for kind in KINDS)


_CHECKPOINTS = _models("checkpoint")
_LORAS = _extras("lora")
_TRAINED_STYLES = _fixed("comic", "line-art", "woodcut")
_DEVICES = _fixed("auto", "cpu", "cuda", "mps")
_DTYPES = _fixed("auto", "float32", "bfloat16", "float16", "int8")
# By an option's name, if need be with its placeholder.
_VALUES: Mapping[str, tuple[str, Callable[[Given], Iterable[Word]]]] = MappingProxyType(
    {
        "sampler": (WORDS, _samplers),
        "hires-sampler": (WORDS, _samplers),
        "schedule": (WORDS, _schedules),
        "hires-schedule": (WORDS, _schedules),
        "syntax": (WORDS, _fixed("a1111", "comfyui", "compel", "plain", "midjourney")),
        "style": (WORDS, _styles),
        "style STYLE": (WORDS, _TRAINED_STYLES),
        "lora": (FILES, _LORAS),
        "control": (FILES, _controls),
        "model": (FILES, _CHECKPOINTS),
        "model UPSCALER": (FILES, _upscalers),
        "refiner": (FILES, _CHECKPOINTS),
        "into": (FILES, _CHECKPOINTS),
        "unet": (FILES, _models("unet", "checkpoint")),
        "vae": (FILES, _models("vae", "taesd", "checkpoint")),
        "preview-model": (FILES, _models("taesd")),
        "hires-upscaler": (FILES, _upscalers),
        "x": (WORDS, _fields),
        "y": (WORDS, _fields),
        "z": (WORDS, _fields),
        "set": (WORDS, _conventions),
        "set FIELD=VALUE": (WORDS, _fields),
        "set NAME=NUMBER": (WORDS, _fixed()),
        "device": (WORDS, _DEVICES),
        "dtype": (WORDS, _DTYPES),
        "dtype DTYPE": (WORDS, _fixed("fp32", "fp16", "bf16")),
        "prediction": (WORDS, _fixed("eps", "v")),
        "kind": (WORDS, _kinds),
        "layout": (WORDS, _fixed("auto", "a1111", "comfyui", "plain")),
        "to LAYOUT": (WORDS, _fixed("ldm", "diffusers", "native", "safetensors")),
        "to FORMAT": (WORDS, _fixed("kohya", "peft")),
        "recipe": (WORDS, _fixed("cpu", "gpu")),
        "fit": (WORDS, _fixed("auto", "cpu", "8gb", "12gb", "24gb")),
        "optimizer": (WORDS, _fixed("adamw", "muon", "adafactor", "lion", "prodigy", "schedulefree", "adamw8bit")),
        "timesteps": (WORDS, _fixed("uniform", "sigmoid", "logit-normal")),
        "precision": (WORDS, _fixed("auto", "float32", "bfloat16")),
        "base": (WORDS, _fixed("auto", "float32", "bfloat16")),
        "stage": (WORDS, _fixed("autoencoder", "grounding", "denoising", "upscaling")),
        "objects": (WORDS, _fixed("default", "full")),
    }
)
# By the parameter and placeholder of an argument.
_ARGUMENTS: Mapping[str, tuple[str, Callable[[Given], Iterable[Word]]]] = MappingProxyType(
    {
        "style STYLE": (WORDS, _TRAINED_STYLES),
        "preprocessor NAME": (WORDS, _preprocessors),
        "names NAME": (FILES, _models()),
        "model MODEL": (FILES, _models()),
        "source SOURCE": (FILES, _models()),
        "base BASE": (FILES, _CHECKPOINTS),
        "tuned TUNED": (FILES, _CHECKPOINTS),
        "file LORA": (FILES, _LORAS),
        "files LORA": (FILES, _LORAS),
    }
)


# ---- to set it up ----------------------------------------------------------------------------------------------------


def set_up(*, install: bool, shell: str | None, environ: Mapping[str, str] = os.environ) -> int:
    """Print the script of a shell, or put it where the shell reads it. Raises GessoError for a shell that has none."""
    name = shell or Path(environ.get("SHELL", "")).name
    if name not in SCRIPTS:
        option = "--install-completion" if install else "--show-completion"
        found = f"no completion for {name[:40]!r}" if name else "the shell is not known"
        raise GessoError(
            f"{found}. Name one of {', '.join(SCRIPTS)}, for example: gesso {option} bash", code="invalid_value"
        )
    if not install:
        print(SCRIPTS[name], end="")
        return 0
    for path in _install(name, environ):
        print(f"written: {path}")
    print(f"Open a new {name} to use it: gesso <Tab>")
    return 0


def _install(shell: str, environ: Mapping[str, str]) -> Iterator[Path]:
    """Writes the script, and for bash and zsh a line in the file that they read at the start. Yields what is new."""
    home = Path.home()
    if shell == "fish":
        script = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish" / "completions" / "gesso.fish"
    else:
        script = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "gesso" / f"completion.{shell}"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(SCRIPTS[shell], encoding="utf-8")
    yield script
    if shell == "fish":
        return
    started = home / ".bashrc" if shell == "bash" else Path(environ.get("ZDOTDIR") or home) / ".zshrc"
    line = f"source {shlex.quote(str(script))}"
    before = started.read_text(encoding="utf-8", errors="surrogateescape") if started.exists() else ""
    if line not in before.splitlines():
        gap = "" if before.endswith("\n") or not before else "\n"
        with open(started, "a", encoding="utf-8") as file:
            file.write(f"{gap}{line}\n")
        yield started

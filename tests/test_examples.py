"""Every example in README and docs/ does what it says: Python is run as it stands, `gesso ...` is parsed and, where no
file of the user's own is needed, run with the built-in model.

Two things are changed before an example runs, both here and nowhere in gesso: pictures take two steps, and a run has at
most two of them. Files that examples take for granted (`photo.jpg`, `mask.png`, ...) are made by `FILES`.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin
from sybil import Example, Sybil
from sybil.document import Document
from sybil.parsers.markdown import CodeBlockParser

from gesso.cli.app import build_app
from gesso.cli.commands import COMMANDS, NAMES
from gesso.cli.main import run
from gesso.pipelines import text_to_image
from gesso.pipelines.defaults import defaults_for
from gesso.terminal.first_word import understood
from tiny_models import save_tiny_mini

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("src/gesso/data/*.md"),
    ]
)
LANGUAGES = {"python", "sh", "toml", "text", "json"}  # those of code blocks; all but the first two are only shown

STEPS = 2
FEW_STEPS = {
    "generate": ("--steps", str(STEPS), "--force"),  # a tiny model with three words stands in for the others
    "grid": ("--set", f"steps={STEPS}"),
    "batch": ("--set", f"steps={STEPS}"),
}

# Commands that are parsed and not run, by a part of the line, and why.
PARSED_ONLY = {
    "gesso train ": "hours of training",
    "gesso serve": "runs until it is stopped; tests/serving/test_command.py does, with the examples of its page",
    "gesso backup ": "needs a server with a queue; tests/serving/test_backup.py has one",
    "gesso evaluate ": "draws and judges hundreds of pictures",
    "~/stable-diffusion-webui": "a folder of another tool",
    "--syntax bang": "needs the example plug-in, which tests/test_plugins.py installs",
    "old.ckpt": "a file of the user's own",
    "my.safetensors": "a LoRA of the user's own pictures",
    "microscope.safetensors": "a LoRA of the user's own pictures",
    "my-dog.safetensors": "an embedding of the user's own pictures",
    "mine.safetensors": "a model that was trained on the user's own pictures",
    "convert sd15.safetensors": "a model of Stable Diffusion",
    "<lora:ink:0.8>": "a LoRA in the user's library",
    "--lora grain": "a LoRA in the user's library",
    "--control canny.safetensors": "a ControlNet for Stable Diffusion",
    "--control lines.safetensors": "a ControlNet of the user's own",
    "--lora fast.safetensors": "a LoRA that was trained from the user's own model",
    "--control edges.safetensors": "a ControlNet of the user's own",
    "ip-adapter_sd15.safetensors": "an IP-Adapter and its image encoder",
    "4x-UltraSharp": "an upscaler network of the user's own",
    "RealESRGAN_x4plus.pth": "an upscaler network of the user's own",
    "4x_Sharp": "an upscaler network of the user's own",
}
# Blocks with these take more than two seconds.
SLOW = ("gesso grid", "--hires", "--tile 512", "--mask", "--outpaint", "--tiling", "--variation-strength")


# ---- the examples ----------------------------------------------------------------------------------------------------


def quick(source: str) -> str:
    """Python with few pictures."""
    return re.sub(r"num_images=(\d+)", lambda count: f"num_images={min(int(count[1]), 2)}", source)


def run_python(example: Example) -> None:
    """Run a block in the namespace of its page; a traceback names the line of the page."""
    line = example.line + example.parsed.line_offset
    exec(compile("\n" * line + quick(str(example.parsed)), example.path, "exec"), example.namespace)


def leave(example: Example) -> None:
    """Blocks that are not Python; commands have tests of their own."""


PARSERS = [
    CodeBlockParser("python", run_python),
    *(CodeBlockParser(name, leave) for name in sorted(LANGUAGES - {"python"})),
]


def parsed(page: Path) -> Document:
    return Sybil(parsers=PARSERS, path=str(page.parent), filenames=[page.name]).parse(page)


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """Line and text of each block of a language."""
    for start, name, body in code_blocks(page.read_text(encoding="utf-8")):
        if name == language:
            yield start, body


def code_blocks(text: str) -> Iterator[tuple[int, str, str]]:
    for match in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, match.start()) + 1, match[1], match[2]


def commands(block: str) -> list[list[str]]:
    """The words behind `gesso` of each line of a block that runs it, without comments."""
    lines = (shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines())
    return [words[1:] for words in lines if words and words[0] in {"gesso", "scripts/gesso", ".venv/bin/gesso"}]


def where(page: Path, line: int) -> str:
    return f"{page.relative_to(ROOT)}:{line}"


SHELL = [(where(page, line), block) for page in PAGES for line, block in blocks(page, "sh") if commands(block)]
# Their Python runs in tests/serving: test_command.py, test_openai.py, test_a1111.py, test_comfy_clients.py.
NEED_A_SERVER = [
    ROOT / "docs" / name for name in ("serving.md", "serving-openai.md", "serving-a1111.md", "serving-comfy.md")
]
PYTHON = [page for page in PAGES if any(blocks(page, "python")) and page not in NEED_A_SERVER]


def test_there_are_examples():
    assert len(PYTHON) >= 4
    assert len(SHELL) >= 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_names_its_language(page):
    """A block without one would be an example that nobody runs."""
    text = page.read_text(encoding="utf-8")
    assert [(line, name) for line, name, _ in code_blocks(text) if name not in LANGUAGES] == []
    assert len(re.findall(r"^\s*```", text, re.MULTILINE)) == 2 * len(list(code_blocks(text))), "a block is not closed"


# ---- files that examples take for granted ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of the built-in model, with its recipe."""
    path = tmp_path_factory.mktemp("drawn") / "car.png"
    assert run(["generate", "a red car", "--steps", str(STEPS), "--seed", "3", "-o", str(path), "-q"]) == 0
    return path


def photo(size: tuple[int, int]) -> Callable[[Path, Path], None]:
    return lambda path, _drawn: Image.linear_gradient("L").resize(size).convert("RGB").save(path)


def mask(path: Path, _drawn: Path) -> None:
    picture = Image.new("L", (256, 256))
    picture.paste(255, (96, 96, 192, 192))
    picture.save(path)


def of_another_tool(path: Path, _drawn: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a red car\nSteps: 2, Sampler: Euler, CFG scale: 4, Seed: 5, Size: 256x256")
    Image.new("RGB", (256, 256)).save(path, pnginfo=info)


def converted(path: Path, drawn: Path) -> None:
    assert run(["metadata", "copy", str(drawn), str(path)]) == 0 if path.exists() else shutil.copy(drawn, path)


def tiny(path: Path, _drawn: Path) -> None:
    save_tiny_mini(path)


def prompts(path: Path, _drawn: Path) -> None:
    path.write_text('a red car\n--prompt "a blue car" --steps 2\n', encoding="utf-8")


def wildcards(path: Path, _drawn: Path) -> None:
    path.mkdir()
    (path / "animal.txt").write_text("cat\nturtle\n", encoding="utf-8")


def copy_of(original: Path) -> Callable[[Path, Path], None]:
    return lambda path, _drawn: shutil.copy(original, path)


FILES: dict[str, Callable[[Path, Path], object]] = {
    "car.png": lambda path, drawn: shutil.copy(drawn, path),
    "photo.png": photo((256, 256)),
    "photo.jpg": photo((256, 192)),
    "holiday.jpg": photo((64, 64)),
    "edited.png": photo((256, 256)),
    "wide.png": photo((512, 256)),
    "large.png": photo((512, 512)),
    "other.png": of_another_tool,
    "mask.png": mask,
    "pose.json": copy_of(ROOT / "docs" / "pose.json"),
    "prompts.txt": prompts,
    "wildcards": wildcards,
    "files/ink.safetensors": copy_of(ROOT / "src/gesso/data/woodcut.safetensors"),
    "sd15.safetensors": tiny,
    "mini.safetensors": tiny,
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: Path) -> Callable[[str], None]:
    """Makes a file of FILES in the folder where the example runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GESSO_HOME", str(tmp_path / "home"))  # `gesso config set` writes there
    monkeypatch.delenv("GESSO_DEBUG", raising=False)

    def make(name: str) -> None:
        Path(name).parent.mkdir(exist_ok=True)
        if not Path(name).exists():
            FILES[name](Path(name), drawn)

    return make


# ---- Python ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What leaves the number of steps open, such as a prompt alone, takes few."""
    monkeypatch.setattr(
        text_to_image, "defaults_for", lambda *args, **more: replace(defaults_for(*args, **more), num_steps=STEPS)
    )


@pytest.mark.usefixtures("_few_steps")
@pytest.mark.parametrize(
    "page",
    [
        # The tour of all that Python can do draws more than the other pages together.
        pytest.param(page, id=name, marks=[pytest.mark.slow] * (name == "docs/python.md"))
        for page in PYTHON
        for name in [str(page.relative_to(ROOT))]
    ],
)
def test_python_runs_when_pasted(page, place):
    document = parsed(page)
    for name in FILES:
        if any(f'"{name}"' in block for _, block in blocks(page, "python")):
            place(name)
    ran = 0
    for example in document.examples():
        example.evaluate()
        ran += 1
    assert ran == len(list(code_blocks(page.read_text(encoding="utf-8"))))


# ---- the command line ------------------------------------------------------------------------------------------------


def meant(words: list[str]) -> list[str]:
    """The command line with its command: `gesso "a red car"` is short for `gesso generate "a red car"`."""
    return words if words[0] in NAMES or words[0].startswith("-") else understood(words, NAMES)


def parse(words: list[str]) -> None:
    """As the command line does, up to the point where the command would run. Raises what typer raises."""
    import typer

    words = meant(words)
    command = typer.main.get_command(build_app(next(word for word in words if not word.startswith("-"))))
    context, rest = None, words
    while True:
        context = command.make_context("gesso", list(rest), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        _, command, rest = command.resolve_command(context, rest)


LINES = [(f"{place}-{index}", words) for place, block in SHELL for index, words in enumerate(commands(block))]


@pytest.mark.parametrize(("_where", "words"), LINES, ids=[name for name, _ in LINES])
def test_commands_parse(_where, words):
    if words != ["--help"]:
        parse(words)


def test_parsing_finds_what_is_wrong():
    for wrong in (["generate", "a", "--stepz", "3"], ["generate", "--steps", "many"], ["models", "lend"], ["paint"]):
        with pytest.raises(Exception, match=r"no option|expected|no command"):
            parse(wrong)


def runs(words: list[str]) -> bool:
    line = " ".join(["gesso", *words])
    return not any(part in line for part in PARSED_ONLY)


def inputs(lines: list[list[str]]) -> set[str]:
    """The files of FILES that the lines read before they write them."""
    read, written = set(), set()
    for words in lines:
        for before, word in zip(["", *words], words, strict=False):
            for name in set(re.split("[=,:]", word)) | {word}:
                if name in FILES and before not in {"-o", "--output"} and name not in written:
                    read.add(name)
        written |= {word for before, word in pairwise(words) if before in {"-o", "--output"}}
    return read


RUN = [(name, [words for words in commands(block) if runs(words)]) for name, block in SHELL]
RUN = [(name, lines) for name, lines in RUN if lines]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(
            lines,
            id=name,
            marks=[pytest.mark.slow] * any(part in " ".join(["gesso", *words]) for words in lines for part in SLOW),
        )
        for name, lines in RUN
    ],
)
@pytest.mark.sampled(2)
def test_commands_run(lines, place, capsys):
    for name in sorted(inputs(lines)):
        place(name)
    for words in map(meant, lines):
        line = [*words, *FEW_STEPS.get(words[0], ())]
        if "--memory" in line:  # a budget is for the whole process, and this one holds what other tests imported
            done = subprocess.run([sys.executable, "-m", "gesso", *line], capture_output=True, text=True, check=False)
            code, said = done.returncode, done.stderr
        else:
            code, said = run(line), capsys.readouterr().err
        assert code == 0, f"gesso {shlex.join(words)}\n{said}"


def test_each_reason_not_to_run_is_needed():
    lines = [" ".join(["gesso", *words]) for words in chain.from_iterable(commands(block) for _, block in SHELL)]
    assert [part for part in PARSED_ONLY if not any(part in line for line in lines)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_named_in_a_sentence_exist(page):
    """`gesso models list` between backquotes: the command, the one below it, and every option."""
    import typer

    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    wrong = []
    for line in re.findall(r"(?<!`)`(gesso [^`]+)`(?!`)", text):
        words = re.findall(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""", line)[1:]
        name = next((word for word in words if not word.startswith("-")), None)
        if name not in {row.name for row in COMMANDS}:
            wrong += [line] if name is not None and name != "..." else []
            continue
        command = typer.main.get_command(build_app(name)).commands[name]
        if hasattr(command, "commands") and words[1:] and re.fullmatch("[a-z-]+", words[1]):
            command = command.commands.get(words[1])
        options = {option for parameter in command.params for option in parameter.opts} if command else set()
        given = {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)}
        wrong += [line] if command is None or given - options - {"--help", "-h", "--debug"} else []
    assert wrong == []

"""What the Tab key offers in bash, zsh and fish, with names that a stranger chose."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gesso.cli import completion
from gesso.cli.app import command_named
from gesso.cli.commands import COMMANDS, NAMES
from gesso.cli.completion import FILES, SCRIPTS, WORDS, complete, set_up
from gesso.cli.main import run
from gesso.diffusion.sampler_table import SAMPLERS
from gesso.errors import GessoError
from gesso.terminal.near import option_of

ODD = [
    "my model",
    "it's",
    'a"b',
    "$(touch pwned)",
    "`touch pwned`",
    "back\\slash",
    "semi;colon",
    "ü",
    "a:b",
    "-dash",
    "*",
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GESSO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def offered(line: str) -> tuple[str, list[str]]:
    """For a line after `gesso`, up to the cursor."""
    words = shlex.split(line) + ([""] if line[-1:] in ("", " ") else [])
    mode, found = complete(words)
    return mode, [one.value for one in found]


def adapters(home: Path, names: list[str]) -> None:
    """Files in the library that are LoRA by their place."""
    folder = home / "models" / "loras"
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.safetensors").write_bytes(b"")


@pytest.mark.parametrize(
    ("line", "mode", "words"),
    [
        ("", WORDS, [row.name for row in COMMANDS]),
        ("gen", WORDS, ["generate"]),
        ("GEN", WORDS, ["generate"]),
        ("xyz", WORDS, []),
        ("--ver", WORDS, ["--version"]),
        ("--debug gen", WORDS, ["generate"]),
        ("models ", WORDS, ["list", "import", "add-folder", "remove", "verify", "convert", "info"]),
        ("models con", WORDS, ["convert"]),
        ("generate cat --see", WORDS, ["--seed", "--seed-size"]),
        ("generate cat --seed 3 --see", WORDS, ["--seed-size"]),
        ("generate cat --lora a --lo", WORDS, ["--lora"]),  # repeatable
        ("generate --sampler dpmpp_2m", WORDS, [name for name in SAMPLERS if name.startswith("dpmpp_2m")]),
        ("generate --sampler=eul", WORDS, ["euler", "euler_ancestral"]),
        ("generate --hires-sampler heu", WORDS, ["heun"]),
        ("generate --sampler_name heu", WORDS, ["heun"]),
        ("generate --schedule kar", WORDS, ["karras"]),
        ("generate --preset ", WORDS, ["gesso", "a1111", "diffusers"]),
        ("generate --mask-area ", WORDS, ["whole", "masked"]),
        ("generate --tiling ", WORDS, ["x", "y", "xy"]),
        ("generate --noise n", WORDS, ["nv"]),
        ("generate --set lev", WORDS, ["levels="]),
        ("generate --steps ", WORDS, []),
        ("generate ", WORDS, []),  # a prompt
        ("generate --image ", FILES, []),
        ("generate --image=", FILES, []),
        ("generate -o ", FILES, []),
        ("generate --model ", FILES, ["gesso-mini"]),
        ("generate -m ges", FILES, ["gesso-mini"]),
        ("generate --lora ", FILES, ["comic", "few-steps", "woodcut"]),
        ("generate --control ", FILES, ["gesso-edges,image="]),
        ("generate --device c", WORDS, ["cpu", "cuda"]),
        ("'a red car' --stre", WORDS, ["--strength"]),
        ("grid cat -x guid", WORDS, ["guidance=", "guidance_rescale=", "guidance_until="]),
        ("grid cat --set steps", WORDS, ["steps="]),
        ("batch ", FILES, []),
        ("preprocess can", WORDS, ["canny"]),
        ("preprocess canny ", FILES, []),
        ("upscale -m la", FILES, ["lanczos", "latent_nearest", "latent_nearest_exact", "latent_bilinear"]),
        ("upscale ", FILES, []),
        ("models info ", FILES, ["gesso-mini"]),
        ("models list --kind up", WORDS, ["upscaler"]),
        ("models convert a b --to ", WORDS, ["ldm", "diffusers", "native", "safetensors"]),
        ("models convert a b --dtype ", WORDS, ["fp32", "fp16", "bf16"]),
        ("lora convert a b --to ", WORDS, ["kohya", "peft"]),
        ("lora info ", FILES, ["comic", "few-steps", "woodcut"]),
        ("evaluate style ", WORDS, ["comic", "line-art", "woodcut"]),
        ("train default-model --stage d", WORDS, ["denoising"]),
        ("metadata copy a ", FILES, []),
        ("metadata copy a b ", WORDS, []),
        ("replay --lora ", FILES, []),
        ("models nothing ", WORDS, ["list", "import", "add-folder", "remove", "verify", "convert", "info"]),
        ("generate --bogus ", WORDS, []),
        ("generate -- --st", WORDS, []),
    ],
)
def test_what_is_offered(line: str, mode: str, words: list[str]):
    got, found = offered(line)
    assert got == mode
    assert found[: len(words)] == words if line.startswith("upscale -m") else found == words


def test_every_value_that_is_offered_is_one_that_exists():
    """Lists that stand here so that nothing heavy is imported."""
    from gesso.adapters.rewriting import DIALECTS
    from gesso.cli.train import STAGES
    from gesso.library.converting import DTYPES, LAYOUTS
    from gesso.library.folders import LAYOUTS as FOLDERS
    from gesso.mini.recipes import RECIPES
    from gesso.request.hires import LATENT_UPSCALERS
    from gesso.scenes.styles import STYLES
    from gesso.scenes.vocabulary import TABLES
    from gesso.text import dialects
    from gesso.tuning.objective import TIMESTEPS
    from gesso.tuning.settings import BASES, OPTIMIZERS, PRECISIONS, PRESETS

    def values(key: str) -> set[str]:
        return {word.value for word in completion._VALUES[key][1](completion.Given([], {}, False))}

    assert values("to FORMAT") == set(DIALECTS)
    assert values("to LAYOUT") == set(LAYOUTS)
    assert values("dtype DTYPE") == set(DTYPES)
    assert values("layout") == set(FOLDERS)
    assert values("stage") == set(STAGES)
    assert values("recipe") == set(RECIPES)
    assert values("style STYLE") == set(STYLES)
    assert values("objects") == set(TABLES)
    assert values("fit") == {"auto", *PRESETS}
    assert values("optimizer") == set(OPTIMIZERS)
    assert values("timesteps") == set(TIMESTEPS)
    assert values("precision") == set(PRECISIONS)
    assert values("base") == set(BASES)
    assert values("syntax") == {*dialects.DIALECTS, "midjourney"}
    assert values("model UPSCALER") >= set(LATENT_UPSCALERS)
    params = [param for name in NAMES for param in _params(command_named(name))]
    options = [(option_of(param), param.metavar) for param in params if param.param_type_name == "option"]
    arguments = [f"{param.name} {param.metavar}" for param in params if param.param_type_name == "argument"]
    assert completion._VALUES.keys() <= {key for name, metavar in options for key in (name, f"{name} {metavar}")}
    assert completion._ARGUMENTS.keys() <= set(arguments)


def _params(command: Any) -> list[Any]:
    return [*command.params, *(one for below in getattr(command, "commands", {}).values() for one in _params(below))]


def test_an_option_offers_models_of_its_kind_alone(home: Path):
    adapters(home, ["ink"])
    for line in (
        "generate -m ",
        "grid cat -m ",
        "replay x.png --refiner ",
        "lora merge ink --into ",
        "lora info ink -m ",
    ):
        assert offered(line) == (FILES, ["gesso-mini"]), line
    for line in ("models info ", "models verify "):
        assert set(offered(line)[1]) >= {"gesso-mini", "ink"}, line
    for line in ("config get ", "config set "):  # a setting is no preprocessor
        assert offered(line) == (WORDS, [])


def test_styles_are_those_of_the_file_in_the_line(tmp_path: Path):
    (tmp_path / "mine.csv").write_text("name,prompt,negative_prompt\nink,{prompt} in ink,\nwet oil,oil,\n")
    assert offered("generate --styles mine.csv --style ") == (WORDS, ["ink", "wet oil"])
    assert completed(["generate", "--style", ""]) == [FILES]  # no file of styles, so nothing is known


# ---- the shell's side ------------------------------------------------------------------------------------------------


def completed(words: list[str], shell: str = "zsh", **environ: str) -> list[str]:
    """The lines of `gesso` as a shell's script calls it."""
    code = "import sys; from gesso.cli.main import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"_GESSO_COMPLETE": shell} | environ,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_broken_library_and_odd_input_offer_nothing(home: Path):
    (home / "models").mkdir(parents=True)
    (home / "models" / "index.sqlite3").write_bytes(b"no database")
    assert completed(["generate", "--model", ""])[0] == FILES
    assert completed(["\udcff", "\x1b[31m", ""], shell="fish", GESSO_LOG="debug")[0] in (WORDS, FILES)
    assert completed([], "bash", _GESSO_LINE="gesso generate 'a b")[0] == WORDS
    assert completed([], "bash")[0] == WORDS


def test_completing_needs_no_torch_and_names_of_commands_no_typer():
    probe = (
        "import json, os, sys, time; os.environ['_GESSO_COMPLETE'] = 'zsh'; from gesso.cli.main import run;"
        "run(json.loads(sys.argv[1]));"
        "print(json.dumps([time.process_time(), [n for n in ('torch', 'typer', 'numpy', 'rich') if n in sys.modules]]))"
    )
    for words, loaded in ((["ge"], []), (["generate", "--model", ""], ["typer"]), (["generate", "--sam"], ["typer"])):
        done = subprocess.run(
            [sys.executable, "-c", probe, json.dumps(words)], capture_output=True, text=True, check=True
        )
        seconds, modules = json.loads(done.stdout.splitlines()[-1])
        assert modules == loaded
        assert seconds < 0.5  # 0.05 and 0.2 were measured


def wrapper(folder: Path) -> Path:
    """A `gesso` on the path."""
    (folder / "bin").mkdir()
    path = folder / "bin" / "gesso"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m gesso "$@"\n')
    path.chmod(0o755)
    return path.parent


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@needs_bash
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gesso gen", ["generate"]),
        ("gesso generate --sampler=heu", ["heun"]),
        ("gesso generate --lora a:", ["a:b"]),
        pytest.param("gesso generate --lora m", ["my model"], marks=pytest.mark.slow),
        pytest.param("gesso generate --lora '", ["it's"], marks=pytest.mark.slow),
        pytest.param("gesso generate --image ", [], marks=pytest.mark.slow),
    ],
)
def test_bash_puts_words_into_the_line(line: str, expected: list[str], home: Path, tmp_path: Path):
    adapters(home, ["my model", "a:b"])
    script = f"""
        PATH={shlex.quote(str(wrapper(tmp_path)))}:$PATH
        eval "$(gesso --show-completion bash)"
        COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}
        _gesso gesso
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found = [word for word in done.stdout.splitlines() if word]
    if expected == ["it's"]:
        assert "my model" in found  # an open quote: as it stands
    elif expected == ["a:b"]:
        assert found == ["b"]  # bash begins a new word behind the colon
    else:
        assert [shlex.split(word)[0] for word in found] == expected


@needs_bash
def test_names_of_strangers_are_words_and_never_run(home: Path, tmp_path: Path):
    adapters(home, ODD)
    script = f"""
        PATH={shlex.quote(str(wrapper(tmp_path)))}:$PATH
        eval "$(gesso --show-completion bash)"
        COMP_LINE='gesso generate --lora ' COMP_POINT=22
        _gesso gesso
        for word in "${{COMPREPLY[@]}}"; do eval "printf '%s\\n' $word"; done  # as if typed
    """
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert set(done.stdout.splitlines()) == {*ODD, "comic", "few-steps", "woodcut"}
    assert not list(tmp_path.rglob("pwned"))


def test_an_open_quote_is_no_part_of_a_name(home: Path):
    adapters(home, ["my model"])
    for shell in ("zsh", "fish"):
        quote = "'" if shell == "zsh" else '"'
        assert completed(["generate", "--lora", f"{quote}my"], shell) == [FILES, "my model"]


def test_a_name_with_a_line_break_is_left_out(home: Path):
    adapters(home, ["two\nlines", "esc\x1b[31m", "plain"])
    assert sorted(completed(["generate", "--lora", ""])[1:]) == ["comic", "few-steps", "plain", "woodcut"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_can_be_read(shell: str, tmp_path: Path):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    (tmp_path / "script").write_text(SCRIPTS[shell])
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, capture_output=True)


def test_fish_gets_words_with_their_meaning(tmp_path: Path):
    if shutil.which("fish") is None:
        pytest.skip("needs fish")
    (tmp_path / "script").write_text(SCRIPTS["fish"])
    start = f"source script; set PATH {shlex.quote(str(wrapper(tmp_path)))} $PATH; complete -C "
    for line, answer in (
        ("gesso generate --sa", "--sampler\tSampler: euler"),
        ("gesso generate --sampler=heu", "--sampler=heun\tHeun"),
    ):
        command = ["fish", "--no-config", "-c", start + shlex.quote(line)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(answer)


# ---- to set it up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_script_is_shown(shell: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    assert run(["--show-completion", shell]) == 0
    assert capsys.readouterr().out == SCRIPTS[shell]
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    assert run(["--show-completion"]) == 0
    assert capsys.readouterr().out == SCRIPTS[shell]
    assert "eval" not in SCRIPTS[shell]


def test_it_is_installed_once_and_keeps_what_was_there(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    user = tmp_path / "user"
    user.mkdir()
    (user / ".bashrc").write_bytes(b"alias ll='ls -l' # \xff")  # no line break at its end, and no UTF-8
    script = user / ".local/share/gesso/completion.bash"
    for _ in range(2):
        assert run(["--install-completion", "bash"]) == 0
        out = capsys.readouterr().out
        assert str(script) in out and "Open a new bash" in out
    assert script.read_text() == SCRIPTS["bash"]
    assert (user / ".bashrc").read_bytes() == b"alias ll='ls -l' # \xff\n" + f"source {script}\n".encode()


@pytest.mark.parametrize(
    ("shell", "files"),
    [
        ("zsh", {".local/share/gesso/completion.zsh", ".zshrc"}),
        ("fish", {".config/fish/completions/gesso.fish"}),
    ],
)
def test_where_other_shells_find_it(shell: str, files: set[str], tmp_path: Path):
    assert set_up(install=True, shell=shell, environ={}) == 0
    found = {str(path.relative_to(tmp_path / "user")) for path in (tmp_path / "user").rglob("*") if path.is_file()}
    assert found == files


@pytest.mark.parametrize(("shell", "environ"), [("tcsh", {}), (None, {}), (None, {"SHELL": "/bin/tcsh"})])
def test_a_shell_that_has_none(shell: str | None, environ: dict[str, str]):
    with pytest.raises(GessoError, match="Name one of bash, zsh, fish, for example: gesso --show-completion bash"):
        set_up(install=False, shell=shell, environ=environ)

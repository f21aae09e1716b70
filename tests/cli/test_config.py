"""Defaults of options from the environment and from config files, and `gesso config`."""

import json
from pathlib import Path
from typing import Any

import pytest

from gesso.cli.app import command_named
from gesso.cli.commands import NAMES
from gesso.cli.main import run
from gesso.pictures.picture_file import read_recipe
from gesso.studio.home import config_file
from gesso.terminal.running import defaults_of
from gesso.terminal.settings import DRAWING, leaf_of, leaves, options_of, read, shared_options
from tiny_models import save_tiny_mini


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_mini(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("GESSO_HOME", str(folder))
    monkeypatch.delenv("GESSO_DEBUG", raising=False)
    return folder


def written(folder: Path, text: str) -> Path:
    path = folder / "gesso.toml"
    path.write_text(text, encoding="utf-8")
    return path


def taken(argv: list[str], table: tuple[str, ...] = ("generate",)) -> dict[str, Any]:
    """The defaults of a command line, by the names of their options."""
    defaults = defaults_of(leaf_of(command_named, table), argv, table, command_named, NAMES)
    found = {one.option.name: one.value for one in defaults.settings.values()}
    return found | ({"set": list(defaults.before)} if defaults.before else {})


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = run(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


# ---- what wins -------------------------------------------------------------------------------------------------------


def test_flags_win_over_the_environment_over_the_folder_over_the_users_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    written(home, "steps = 1\nguidance = 1\nsampler = 'euler'\neta = 0.1\n[generate]\nsteps = 2\n")
    assert taken(["a cat"]) == {"steps": 2, "guidance": 1, "sampler": "euler", "eta": 0.1}
    written(Path(), "steps = 3\n[generate]\nguidance = 3\n")
    assert taken(["a cat"]) == {"steps": 3, "guidance": 3, "sampler": "euler", "eta": 0.1}
    monkeypatch.setenv("GESSO_STEPS", "4")
    assert taken(["a cat"])["steps"] == 4
    monkeypatch.setenv("GESSO_GENERATE_STEPS", "5")
    assert taken(["a cat"])["steps"] == 5
    assert taken(["a cat"], ("prompt",)) == {"steps": 4}  # not GESSO_GENERATE_STEPS; a prompt has no guidance
    assert "steps" not in taken(["a cat", "--steps", "6"])
    assert "guidance" not in taken(["a cat", "--cfg-scale=6"])  # by another name


@pytest.mark.parametrize(
    ("text", "typed", "kept"),
    [
        ("size = 512", ["--width", "64"], {}),
        ("width = 512\nheight = 512", ["--size", "64"], {}),
        ("sigmas = '5,1,0'", ["--steps", "4"], {}),
        ("steps = 4\nschedule = 'karras'\neta = 0", ["--sigmas", "5,1,0"], {"eta": 0}),
        ("tile = 64\ntile-overlap = 8", ["--tiling", "xy"], {}),
        ("hires-steps = 4\nhires-strength = 0.5", [], {}),
        ("hires-steps = 4\nhires-strength = 0.5", ["--hires", "2"], {"hires-steps": 4, "hires-strength": 0.5}),
        ("strength = 0.5\nmask-blur = 4", ["--image", "x.png"], {"strength": 0.5}),
        ("strength = 0.5\nmask-blur = 4", ["-i", "x.png", "--mask", "m.png"], {"strength": 0.5, "mask-blur": 4}),
        ("[generate]\nstyles = 'x.csv'", [], {}),
        ("[generate]\nstyles = 'x.csv'", ["--style", "ink"], {"styles": "x.csv"}),
        ("preview-model = 'taesd'", [], {}),
        ("variation-seed = 3", [], {}),
        ("variation-seed = 3\nvariation-strength = 0.1", [], {"variation-seed": 3, "variation-strength": 0.1}),
    ],
)
def test_defaults_that_do_not_fit_what_is_typed_stay_out(home: Path, text: str, typed: list[str], kept: dict[str, Any]):
    written(home, text)
    assert taken(["a cat", *typed]) == kept


def test_a_size_in_the_environment_keeps_out_the_width_of_a_file(home: Path, monkeypatch: pytest.MonkeyPatch):
    written(home, "width = 64\n")
    monkeypatch.setenv("GESSO_SIZE", "96")
    assert taken(["a cat"]) == {"size": "96"}


def test_a_table_of_the_command_keeps_out_the_top_of_its_file(home: Path):
    written(home, "size = 512\nsteps = 3\n[generate]\nwidth = 64\nsteps = 4\n")
    assert taken(["a cat"]) == {"width": 64, "steps": 4}


def test_a_flag_that_is_on_can_be_switched_off(capsys: pytest.CaptureFixture[str], model: str, home: Path):
    written(home, f"quiet = true\njson = true\nsteps = 1\n[generate]\nmodel = {model!r}\n")
    code, out, err = said(capsys, "generate", "a red cat")
    assert (code, err) == (0, "")
    assert json.loads(out)["model"]
    code, out, err = said(capsys, "generate", "a red cat", "--no-json", "--no-quiet")
    assert (code, out.startswith("outputs/"), "1 picture" in err) == (0, True, True)
    said(capsys, "generate", "a red cat", "--no-json", "--no-quiet", "--size", "64")  # also beside other options


def test_a_list_that_is_typed_takes_the_place_of_the_files(home: Path):
    written(home, "[generate]\nlora = ['a:0.5', 'b']\nset = ['levels=truncate']\n")
    assert taken(["a cat"]) == {"lora": ["a:0.5", "b"], "set": ["--set", "levels=truncate"]}
    typed = taken(["a cat", "--lora", "c", "--set", "levels=round"])
    assert typed == {"set": ["--set", "levels=truncate"]}  # before those that are typed, which win


def test_a_grid_has_a_folder_of_its_own(home: Path):
    written(home, "output = 'pictures/'\nquiet = true\n")
    assert taken(["a cat"]) == {"output": "pictures/", "quiet": True}
    assert taken(["a cat"], ("grid",)) == {"quiet": True}
    written(home, "[grid]\noutput = 'grids/'\n")
    assert taken(["a cat"], ("grid",)) == {"output": "grids/"}


def test_grids_and_batches_take_fields_by_set(capsys: pytest.CaptureFixture[str], model: str, home: Path):
    written(home, f"model = {model!r}\nsteps = 3\nnegative-prompt = 'a, \"b\"'\nnumber = 4\n[grid]\ncell = 64\n")
    code, out, _ = said(capsys, "grid", "a red cat", "--x", "guidance=1,2", "--set", "eta=0")
    assert (code, out) == (0, "outputs/grid/grid.png\n")
    request = read_recipe(Path("outputs/grid/z01-y01-x02.png")).request
    assert (request.num_steps, request.guidance_scale, request.negative_prompt) == (3, 2, 'a, "b"')
    settings = json.loads(Path("outputs/grid/run.json").read_text())["what"]["set"]
    assert settings == ["steps=3", 'negative-prompt="a, ""b"""', "eta=0"]  # a run is resumed with what it began with
    Path("lines.txt").write_text("a cat\n--prompt 'a cat' --steps 2\n")
    assert said(capsys, "batch", "lines.txt")[0] == 0
    steps = [read_recipe(Path(f"outputs/batch/000{line}-1.png")).request.num_steps for line in (1, 2)]
    assert steps == [3, 2]


# ---- pictures that were drawn stay as they are -----------------------------------------------------------------------


def test_from_and_replay_take_nothing_that_decides_a_picture(
    capsys: pytest.CaptureFixture[str], model: str, home: Path, monkeypatch: pytest.MonkeyPatch
):
    options = ["--seed", "3", "--steps", "2", "--guidance", "2", "-m", model, "-q"]
    assert said(capsys, "generate", "a red cat", *options, "-o", "x.png")[0] == 0
    written(home, "steps = 9\nguidance = 7\nseed = 8\nnumber = 2\nsize = 96\npreset = 'a1111'\nquiet = true\n")
    monkeypatch.setenv("GESSO_SAMPLER", "euler")
    monkeypatch.setenv("GESSO_GENERATE_NEGATIVE_PROMPT", "blue")
    assert said(capsys, "generate", "--from", "x.png", "-m", model, "-o", "y.png")[0] == 0
    assert Path("y.png").read_bytes() == Path("x.png").read_bytes()
    assert said(capsys, "replay", "x.png", "-m", model, "-q", "-o", "z.png")[0] == 0
    assert Path("z.png").read_bytes() == Path("x.png").read_bytes()
    assert set(taken(["--from", "x.png"])) == {"quiet"}


@pytest.mark.parametrize("key", ["threads = 1", "dtype = 'bfloat16'", "device = 'cpu'", "model = 'x'", "tolerance = 9"])
def test_replay_has_no_setting_that_changes_it(capsys: pytest.CaptureFixture[str], home: Path, key: str):
    written(home, f"[replay]\n{key}\n")
    code, _, err = said(capsys, "replay", "x.png")
    assert code == 2
    assert f"`gesso replay` has no option --{key.partition(' ')[0]}" in err


def test_a_recipe_has_the_values_that_were_used(capsys: pytest.CaptureFixture[str], model: str, home: Path):
    written(home, "steps = 3\nseed = 5\n")
    assert said(capsys, "generate", "a red cat", "-m", model, "-q", "-o", "x.png")[0] == 0
    request = read_recipe(Path("x.png")).request
    assert (request.num_steps, request.seed) == (3, 5)
    assert said(capsys, "generate", "a red cat", "-m", model, "-q", "--seed", "-1", "--json")[0] == 0


# ---- a folder of someone else ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("model = 'hf:evil/model'", "model = '/tmp/x.safetensors'", "output = '/etc/x.png'", "overwrite = true"),
        *(
            "device = 'cpu'",
            "threads = 1",
            "quiet = true",
            "image = 'x.png'",
            "hires-upscaler = 'x'",
            "wildcards = '/'",
        ),
        *("open = true", "preview = 'x.png'", "styles = '/x'", "offline = false", "memory = 1"),
        *("[generate]\nlora = ['x']", "[generate]\nvae = 'x'", "[generate]\ncontrol = ['x,image=y']"),
    ],
)
def test_a_project_sets_no_file_no_place_and_no_device(capsys: pytest.CaptureFixture[str], text: str):
    written(Path(), text)
    code, out, err = said(capsys, "generate", "a cat")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is not taken from the current folder" in err
    assert "gesso config set" in err


def test_a_project_sets_what_describes_a_picture_and_says_so(capsys: pytest.CaptureFixture[str]):
    text = "steps = 2\nsize = '64'\nnegative-prompt = 'x'\nhires = 2\nhires-steps = 3\npreset = 'a1111'\ntiling = 'x'"
    written(Path(), f"{text}\nsampler = 'Euler a'\nset = ['levels=round']\n")
    assert len(taken(["a cat"])) == 9
    code, _, err = said(capsys, "prompt", "a cat", "--model", "gesso-mini")
    assert (code, err) == (0, "note: gesso.toml in this folder sets steps, negative-prompt, preset, set\n")
    assert "sets size" not in said(capsys, "upscale", "absent.png")[2]
    for flag, told in (("-q", False), ("--quiet", False), ("--no-quiet", True)):
        assert ("note: gesso.toml" in said(capsys, "generate", "a cat", flag, "-m", "absent.safetensors")[2]) is told


def test_the_users_file_in_the_current_folder_is_the_users(home: Path, monkeypatch: pytest.MonkeyPatch):
    written(home, "threads = 1\n")
    monkeypatch.chdir(home)
    assert taken(["a cat"]) == {"threads": 1}


def test_config_files_can_be_moved_and_switched_off(
    capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    written(home, "steps = 2\n")
    written(Path(), "guidance = 2\n")
    other = tmp_path / "other.toml"
    other.write_text("steps = 5\n")
    monkeypatch.setenv("GESSO_CONFIG", str(other))
    assert taken(["a cat"]) == {"steps": 5, "guidance": 2}
    monkeypatch.setenv("GESSO_CONFIG", "none")
    assert taken(["a cat"]) == {}
    monkeypatch.setenv("GESSO_CONFIG", str(tmp_path / "absent.toml"))
    for words in (("generate", "a cat"), ("config",), ("config", "get", "steps"), ("config", "get", "grid.cell")):
        code, _, err = said(capsys, *words)
        assert (code, "no such file. Correct GESSO_CONFIG" in err) == (2, True), words


@pytest.mark.parametrize(
    ("platform", "environ", "path"),
    [
        ("linux", {}, ".config/gesso/gesso.toml"),
        ("linux", {"XDG_CONFIG_HOME": "relative"}, ".config/gesso/gesso.toml"),
        ("darwin", {}, "Library/Application Support/gesso/gesso.toml"),
        ("win32", {}, "AppData/Roaming/gesso/gesso.toml"),
    ],
)
def test_the_place_of_the_file(platform: str, environ: dict[str, str], path: str):
    assert config_file(environ, platform) == Path.home() / path
    assert config_file(environ | {"GESSO_HOME": "/x"}, platform) == Path("/x/gesso.toml")


def test_the_place_of_the_file_by_the_standard_of_freedesktop():
    assert config_file({"XDG_CONFIG_HOME": "/y"}, "linux") == Path("/y/gesso/gesso.toml")


# ---- what is wrong in a file -----------------------------------------------------------------------------------------

WRONG = [
    ("steps = '20'", "line 1: steps is '20', expected a whole number, such as steps = 20"),
    ("\nsteps = 2.5", "line 2: steps is 2.5, expected a whole number"),
    ("steps = true", "line 1: steps is True, expected a whole number"),
    ("steps = 0", "line 1: steps is 0, expected 1 to 1000"),
    ("guidance = nan", "line 1: guidance is nan, expected a number"),
    ("guidance = '7'", "such as guidance = 7"),
    ("quiet = 1", "line 1: quiet is 1, expected true or false"),
    ("size = [1]", "line 1: size is [1], expected text or a number"),
    ("threads = 5000", "line 1: threads is 5000, expected 1 to 1024"),
    ("batch = 1000", "[generate] batch = ..."),
    ("sampler = 'eulr'", "line 1: unknown sampler 'eulr' (did you mean 'euler'?)"),
    ("tiling = 'z'", "line 1: unknown tiling 'z'"),
    ("sampler = euler", 'Put text in quotes: sampler = "euler"'),
    ("stesp = 2", "line 1: the commands that draw have no option --stesp (did you mean 'steps'?)"),
    ("guidance = 2\ncfg-scale = 3", "line 2: cfg-scale and guidance are the same option; leave one out"),
    ("[generate]\nstesp = 2", "line 2: `gesso generate` has no option --stesp (did you mean 'steps'?)"),
    ("[genrate]\nsteps = 2", "line 1: no command 'genrate' (did you mean 'generate'?)"),
    ("[generate.x]\nsteps = 2", "no command 'x' that has settings"),
    ("[generate.steps]\nx = 2", "generate.steps is a table, expected a whole number"),
    ("generate = 2", "line 1: generate is 2, expected a table [generate]"),
    ("lora = ['x']", "[generate] lora = ..."),
    ("[doctor]\njson = true", "`gesso doctor` takes no settings"),
    ("from = 'x.png'", "the commands that draw have no option --from"),
    ("[generate]\nexplain-memory = true", "has no option --explain-memory"),
    ("a", "not valid TOML"),
]


@pytest.mark.parametrize(("text", "words"), WRONG, ids=[text for text, _ in WRONG])
@pytest.mark.sampled(2)
def test_what_is_wrong_is_told_with_its_place(capsys: pytest.CaptureFixture[str], home: Path, text: str, words: str):
    path = written(home, text)
    code, out, err = said(capsys, "generate", "a cat")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {path}")
    assert words in err
    code, out, err = said(capsys, "config")
    assert code == 2
    assert words in err
    assert said(capsys, "config", "path") == (0, f"{path}\n", "")  # works whatever the file says
    assert said(capsys, "generate", "--help")[0] == 0
    assert said(capsys, "--version")[0] == 0


def test_a_file_that_cannot_be_read_is_told(capsys: pytest.CaptureFixture[str], home: Path):
    path = home / "gesso.toml"
    path.write_bytes(b"steps = '\xff'")
    assert "not UTF-8 text" in said(capsys, "generate", "a cat")[2]
    path.write_bytes("\ufeffsteps = 2".encode())
    assert taken(["a cat"]) == {"steps": 2}  # an editor of Windows
    path.unlink()
    path.mkdir()
    assert "cannot be read" in said(capsys, "generate", "a cat")[2]
    path.rmdir()
    path.symlink_to("nowhere")
    assert "cannot be read" in said(capsys, "generate", "a cat")[2]
    path.unlink()
    path.write_text("#" * 1_000_001)
    assert "expected at most 1000000" in said(capsys, "generate", "a cat")[2]


def test_a_fault_in_one_command_leaves_the_others_alone(capsys: pytest.CaptureFixture[str], home: Path):
    written(home, "[upscale]\nscale = 'big'\n")
    assert taken(["a cat"]) == {}
    assert "scale is 'big'" in said(capsys, "upscale", "x.png")[2]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("GESSO_STEPS", "abc", "GESSO_STEPS is 'abc', expected a whole number"),
        ("GESSO_STEPS", "2.5", "GESSO_STEPS is '2.5', expected a whole number"),
        ("GESSO_QUIET", "maybe", "GESSO_QUIET is 'maybe', expected true or false"),
        ("GESSO_GENERATE_BATCH", "0", "GESSO_GENERATE_BATCH: batch is 0, expected 1 to 256"),
        ("GESSO_SAMPLER", "eulr", "GESSO_SAMPLER: unknown sampler 'eulr'"),
    ],
)
def test_a_wrong_variable_is_told_by_its_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
):
    monkeypatch.setenv(name, value)
    code, out, err = said(capsys, "generate", "a cat")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {words}")


def test_an_error_about_a_default_says_where_it_is_set(
    capsys: pytest.CaptureFixture[str], model: str, home: Path, monkeypatch: pytest.MonkeyPatch
):
    path = written(home, "\neta = 0.5\n")
    command = ["generate", "a cat", "-m", model, "--sampler", "euler"]
    assert f"leave it out (--eta comes from {path}, line 2)" in said(capsys, *command)[2]
    monkeypatch.setenv("GESSO_ETA", "0.2")
    assert "(--eta comes from GESSO_ETA)" in said(capsys, *command)[2]
    code, _, err = said(capsys, *command, "--eta", "0.3")
    assert (code, "comes from" in err) == (2, False)


def test_gessos_other_variables_are_no_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for name, value in (("GESSO_DEBUG", "0"), ("GESSO_LOG", "error"), ("GESSO_PLUGINS", "0"), ("GESSO_STPES", "9")):
        monkeypatch.setenv(name, value)
    assert taken(["a cat"]) == {}
    assert "GESSO" not in said(capsys, "prompt", "a cat")[2]  # an unknown one is told by `gesso config` alone
    code, _, err = said(capsys, "config")
    assert (code, err) == (0, "note: gesso knows no variable GESSO_STPES (did you mean GESSO_STEPS?)\n")


# ---- gesso config ----------------------------------------------------------------------------------------------------


def test_config_shows_each_setting_and_where_it_comes_from(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
):
    path = written(home, "# mine\nsteps = 3\n[grid]\ncell = 64\n[models.list]\nkind = 'lora'\n")
    monkeypatch.setenv("GESSO_STEPS", "9")
    code, out, err = said(capsys, "config")
    assert (code, err) == (0, "")
    rows = [line.split(maxsplit=2) for line in out.splitlines() if line.startswith(("steps", "grid", "models"))]
    assert rows == [
        ["steps", "9", "GESSO_STEPS"],
        ["grid.cell", "64", f"{path}, line 4"],
        ["models.list.kind", "lora", f"{path}, line 6"],
        ["steps", "3", f"{path}, line 2 (overridden)"],
    ]
    told = json.loads(said(capsys, "config", "--json")[1])
    assert [(one["name"], one["value"], one["level"], one["line"], one["active"]) for one in told["settings"]] == [
        ("steps", 9, "environment", None, True),
        ("grid.cell", 64, "user", 4, True),
        ("models.list.kind", "lora", "user", 6, True),
        ("steps", 3, "user", 2, False),
    ]
    assert told["files"] == {"user": str(path), "project": None}
    everything = json.loads(said(capsys, "config", "--all", "--json")[1])["options"]
    values = {one["name"]: (one["value"], one["from"]) for one in everything}
    assert values["generate.steps"] == (9, "GESSO_STEPS")
    assert values["generate.number"] == (1, "default")
    assert values["upscale.model"] == ("lanczos", "default")


@pytest.mark.parametrize("argv", [["config"], ["config", "--all"]])
def test_config_says_what_to_do_where_nothing_is_set(capsys: pytest.CaptureFixture[str], argv: list[str], home: Path):
    code, out, err = said(capsys, *argv)
    assert (code, err) == (0, "")
    assert out.startswith(f"your config file: {home / 'gesso.toml'} (does not exist yet)\n")
    assert ("gesso config set steps 20" in out) == (len(argv) == 1)


def test_config_get(capsys: pytest.CaptureFixture[str], home: Path):
    written(home, "steps = 3\nquiet = true\n[grid]\ncell = 64\n")
    assert said(capsys, "config", "get", "steps")[:2] == (0, "3\n")
    assert said(capsys, "config", "get", "generate.steps")[:2] == (0, "3\n")
    assert said(capsys, "config", "get", "quiet")[:2] == (0, "true\n")
    assert json.loads(said(capsys, "config", "get", "grid.cell", "--json")[1])["value"] == 64
    assert said(capsys, "config", "get", "sampler") == (1, "", "sampler is not set\n")
    code, _, err = said(capsys, "config", "get", "smpler")
    assert (code, "did you mean 'sampler'?" in err) == (2, True)
    code, _, err = said(capsys, "config", "get", "grdi.cell")
    assert (code, "did you mean 'grid'?" in err) == (2, True)


def test_config_set_keeps_comments_and_order(capsys: pytest.CaptureFixture[str], home: Path):
    path = written(home, "# mine\ncfg_scale = 3 # low\n\n[grid]\n# big\ncell = 64\n")
    for words in (
        *(["guidance", "5"], ["grid.cell", "100"], ["steps", "20"], ["seed", "--", "-1"], ["quiet", "yes"]),
        *(["styles", "~/x.csv"], ["generate.lora", "a:0.8", "b"], ["models.list.kind", "lora"], ["size", "512x768"]),
    ):
        assert said(capsys, "config", "set", *words)[0] == 0, words
    assert path.read_text() == (
        '# mine\ncfg_scale = 5.0 # low\nsteps = 20\nseed = -1\nquiet = true\nstyles = "~/x.csv"\nsize = "512x768"\n\n'
        '[grid]\n# big\ncell = 100\n\n[generate]\nlora = ["a:0.8", "b"]\n\n[models.list]\nkind = "lora"\n'
    )
    assert taken(["a cat"])["guidance"] == 5
    assert said(capsys, "config", "unset", "cfg-scale")[0] == 0
    assert said(capsys, "config", "unset", "models.list.kind")[0] == 0
    assert "cfg_scale" not in path.read_text()
    assert said(capsys, "config", "unset", "cfg-scale")[0] == 1


def test_config_set_writes_only_what_would_be_taken(capsys: pytest.CaptureFixture[str], home: Path):
    for words, told in (
        (["steps", "many"], "steps is 'many', expected a whole number"),
        (["steps", "0"], "expected 1 to 1000"),
        (["sampler", "eulr"], "did you mean 'euler'?"),
        (["generate", "x"], "generate.OPTION"),
        (["replay.threads", "2"], "no option --threads of `gesso replay`"),
        (["seed", "1", "2"], "seed takes one value, but 2 are given"),
        (["--project", "threads", "2"], "cannot be set for a folder"),
        (["yes", "true"], "no option --yes"),
        (["lora", "a"], "Set it for one command: generate.lora"),  # [lora] is a table
        (["--project", "batch", "4"], "Set it for one command: generate.batch"),
        (["generate.prompt", "a cat"], "no option --prompt"),  # which is there for those who come from other tools
    ):
        code, _, err = said(capsys, "config", "set", *words)
        assert (code, told in err) == (2, True), err
    assert not (home / "gesso.toml").exists()
    assert said(capsys, "config", "set", "--project", "cfg-scale", "3")[0] == 0
    assert Path("gesso.toml").read_text() == "guidance = 3.0\n"
    written(home, "steps = \n")
    code, _, err = said(capsys, "config", "set", "steps", "3")
    assert (code, "not valid TOML" in err) == (2, True)
    assert (home / "gesso.toml").read_text() == "steps = \n"


def test_config_set_follows_a_link(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path):
    real = tmp_path / "dotfiles.toml"
    real.write_text("steps = 2\n")
    (home / "gesso.toml").symlink_to(real)
    assert said(capsys, "config", "set", "steps", "4")[0] == 0
    assert (real.read_text(), (home / "gesso.toml").is_symlink()) == ("steps = 4\n", True)


# ---- the table of options --------------------------------------------------------------------------------------------


def test_every_option_can_be_set_and_read_back():
    """Each has a type that a file and a variable can hold, and a name that stands for one option of its command."""
    assert set(shared_options(command_named)) >= {"steps", "size", "model", "device", "styles", "quiet", "json"}
    texts = {int: "3", float: "0.5", bool: "1"}
    for table in leaves(command_named, NAMES):
        for key, option in options_of(leaf_of(command_named, table), table).items():
            assert option.kind in (int, float, bool, str, Path), (table, key)
            text = f"{option.low:g}" if option.low else texts.get(option.kind, "x")
            if option.row is None:
                assert read(option, text, key) is not None


def test_no_option_that_answers_a_question_has_a_default():
    for table in leaves(command_named, NAMES):
        options = options_of(leaf_of(command_named, table), table)
        assert not {"yes", "from", "explain_memory", "accept", "help"} & options.keys()


def test_the_commands_that_draw_share_options_of_one_kind():
    """steps = 3 at the top of a file means the same to each of them."""
    shared = shared_options(command_named)
    for name in DRAWING:
        for key, option in options_of(command_named(name), (name,)).items():
            if key in shared and option.name != "output":  # of a grid or a batch it is a folder for that run alone
                assert (option.kind, option.is_list) == (shared[key].kind, shared[key].is_list), (name, key)

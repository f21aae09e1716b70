"""Options and commands that are nearly right: by the names of other tools, by their beginning, or misspelled."""

import re
from typing import Any

import pytest

import gesso.terminal.near as near
from gesso.cli.app import build_app
from gesso.cli.commands import COMMANDS
from gesso.cli.main import run
from gesso.request.request import ROWS
from gesso.terminal.near import names_elsewhere, nearest_commands, nearest_options


def command(name: str) -> Any:
    import typer

    return typer.main.get_command(build_app(name)).commands[name]


GENERATE = command("generate")


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[:7]) == ("", 1, "error: ")
    return err[7:-1]


# ---- names of other tools --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "path", "value"),
    [
        ("--cfg 3", "fields.guidance_scale", 3.0),
        ("--cfg_scale 3", "fields.guidance_scale", 3.0),
        ("--guidance-scale 3", "fields.guidance_scale", 3.0),
        ("--guidance_scale 3", "fields.guidance_scale", 3.0),
        ("--num_inference_steps 4", "fields.num_steps", 4),
        ("--num-steps 4", "fields.num_steps", 4),
        ("--negative dog", "fields.negative_prompt", "dog"),
        ("--negative_prompt dog", "fields.negative_prompt", "dog"),
        ("--sampler_name euler", "fields.sampler", "euler"),
        ("--scheduler karras", "fields.schedule", "karras"),
        ("--denoise 0.3", "fields.source.strength", 0.3),
        ("--denoising-strength 0.3", "fields.source.strength", 0.3),
        ("--clip_skip 2", "fields.clip_skip", 2),
        ("--stop_at_clip_layer 2", "fields.clip_skip", 2),
        ("--n_iter 2", "fields.num_images", 2),
        ("--num_images_per_prompt 2", "fields.num_images", 2),
        ("--hr_second_pass_steps 5", "fields.hires.num_steps", 5),
        ("--subseed 5", "fields.variation.seed", 5),
        ("--ckpt a.safetensors", "model", "a.safetensors"),
        ("--checkpoint=a.safetensors", "model", "a.safetensors"),
        ("--sd_model a", "model", "a"),
        ("--outdir out", "output", "out"),
        ("--torch_dtype float16", "dtype", "float16"),
        ("--prompt dog", "prompt_text", "dog"),
        ("--dynamic_prompts", "dynamic_prompts", True),
    ],
)
def test_names_of_other_tools_are_taken(typed: str, path: str, value: object):
    context = GENERATE.make_context("generate", typed.split())
    name = path.removeprefix("fields.").replace(".", "__")
    assert context.params[name] == value


def test_no_name_of_another_tool_is_an_option_of_its_own():
    """What a command calls by that name comes first, and no two options have one name."""
    for row in COMMANDS:
        for params in (one.params for one in (command(row.name), *getattr(command(row.name), "commands", {}).values())):
            names = [name for param in params for name in (*param.opts, *param.secondary_opts)]
            assert len(names) == len(set(names))
    options = {name for row in ROWS.values() for name in row.field.options}
    for option, names in names_elsewhere().items():
        assert len(names) == len(set(names))
        assert not {name for name in names if name in options and not _is_alias(option, name)}, option


def _is_alias(option: str, name: str) -> bool:
    return any({option, name} <= set(row.field.options) for row in ROWS.values())


def test_what_is_said_of_foreign_names_names_options_that_exist():
    drawing, training = ({name for p in _params(command(name)) for name in p.opts} for name in ("generate", "train"))
    for word, words in near._SAY.items():
        named = set(re.findall(r"--[a-z-]+", words))
        assert named <= drawing or named <= training, word
        assert f"--{word}" not in drawing & training or word in ("prompt", "force"), word
    for name in near._OTHER_NAMES:
        assert any(f"--{name}" in param.opts for row in COMMANDS for param in _params(command(row.name))), name
    assert {meant.split()[0] for meant in near._COMMANDS.values()} <= {row.name for row in COMMANDS}


def test_a_name_of_another_tool_is_no_other_option_anywhere():
    """Or it would mean one thing in one command and another in the next. `lora merge` calls its output --out."""
    first = {near.option_of(param) for row in COMMANDS for param in _params(command(row.name)) if param.opts}
    for option, names in near.names_elsewhere().items():
        assert not set(names) & first - {"out"}, option


def _params(one: Any) -> list[Any]:
    return [*one.params, *(param for inner in getattr(one, "commands", {}).values() for param in _params(inner))]


# ---- options that do not exist ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("--neg", "--negative-prompt"),
        ("--neg-prompt", "--negative-prompt"),
        ("--negativ-promt", "--negative-prompt"),
        ("--Steps", "--steps"),
        ("--step", "--steps"),
        ("--stps", "--steps"),
        ("--sede", "--seed"),
        ("--samp", "--sampler"),
        ("--sampler-index", "--sampler"),
        ("--guidence", "--guidance"),
        ("--hires-step", "--hires-steps"),
        ("--mask-pad", "--mask-padding"),
        ("--controlnets", "--control"),
        ("--tile-size", "--tile"),
        ("--W", "-W"),
        ("-w", "-W"),
        ("--hlep", "--help"),
        ("--exlpain-memory", "--explain-memory"),
        ("--bogus", None),
        ("--q", "-q"),
        ("--zz", None),
    ],
)
def test_an_option_that_does_not_exist(typed: str, expected: str | None, capsys: pytest.CaptureFixture[str]):
    err = refused(["generate", "cat", typed, "3"], capsys)
    assert err.startswith(f"no option {typed}")
    if expected is None:
        assert err.endswith("`gesso generate --help` lists the options")
    else:
        assert f"Did you mean {expected}" in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["generate", "cat", "--batch_size", "2"], "--number says how many pictures, --batch how many"),
        (["generate", "cat", "--fp16"], "that is --dtype float16"),
        (["generate", "cat", "--lowvram"], "that is --memory auto"),
        (["generate", "cat", "--plms"], "that is --sampler plms"),
        (["generate", "cat", "--scale", "7"], "--guidance is the CFG scale"),
        (["grid", "--prompt", "cat"], 'write the prompt without it: gesso grid "a red car"'),
        (["generate", "cat", "--levels", "truncate"], "Set this field with --set levels=VALUE"),
        (["batch", "a.txt", "--steps", "4"], "Set this field with --set steps=VALUE"),
        (["grid", "cat", "--cfg_scale", "4"], "Set this field with --set cfg_scale=VALUE"),
        (["preprocess", "canny", "a.png", "--width", "4"], "`gesso preprocess --help` lists the options"),
        (["--steps", "4", "a cat"], "Options follow a command: gesso generate PROMPT --steps"),
        (["models", "list", "--kidn", "lora"], "Did you mean --kind?"),
        (["models", "lst"], "`gesso models` has no command 'lst'. Did you mean `gesso models list`?"),
        (["train", "foo"], "Commands: default-model, export, lora, full, dreambooth, embedding, controlnet, distil"),
        (["generate", "cat", "--sampler"], "--sampler needs a value: --sampler NAME"),
        (["generate", "cat", "--json=1"], "--json takes no value"),
        (["generate", "cat", "--threads", "0"], "--threads is 0, expected 1 to 1024"),
        (["generate", "cat", "--threads=many"], "--threads is 'many', expected a whole number, 1 to 1024"),
        (["generate", "cat", "-s1.5"], "--steps is '1.5', expected a whole number"),
        (["generate", "cat", "--steps", "4", "-s", "x"], "--steps is 'x', expected a whole number"),  # the last counts
        (["generate", "--threads", "x", "--", "--threads", "4"], "--threads is 'x', expected a whole number"),
        (["upscale", "a.png", "--scale", "x"], "--scale is 'x', expected a number"),
        (["replay"], "PICTURE is missing. For example: gesso replay picture.png"),
        (["lora", "merge", "a"], "--output is missing"),
        (["evaluate", "composition", "--steps", "0"], "--steps is 0, expected 1 to 1000"),
        (["grid", "cat", "-x", "steps=0,4"], "steps is 0, expected 1 to 1000"),
        (["grid", "cat", "-x", "seed=1", "--set", "cfg=200"], "cfg is 200.0, expected 0 to 100"),
        (["generate", "cat", "--prompt", "dog"], "the prompt is given twice"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_say_what_to_type(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert words in refused(argv, capsys)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["generate", "cat", "--mask-blur", "4"], "--mask-blur needs a mask"),
        (["grid", "cat", "-x", "seed=1,2", "--set", "mask-blur=4"], "--mask-blur needs a mask"),
        (["generate", "cat", "--preview-model", "x"], "--preview-model needs a preview"),
        (["generate", "cat", "--hires-steps", "4"], "--hires-steps needs hires fix"),
        (["generate", "cat", "--styles", "x.csv"], "choose styles with --style"),
        (["upscale", "a.png", "--tile", "64"], "--tile needs an upscaler network"),
        (["upscale", "a.png", "--rim", "8", "-m", "bicubic"], "--rim needs an upscaler network"),
        (["models", "import", "a.safetensors", "--update"], "--update needs a model of the hub"),
        (["lora", "merge", "comic", "--into", "x", "-m", "y", "-o", "o.safetensors"], "leave out --model"),
        (["models", "convert", "gesso-mini", "o.safetensors", "--family", "sd15"], "--family has no effect"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_without_the_one_that_it_goes_with(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert words in refused(argv, capsys)


def test_likeness_prefers_beginnings_to_spelling():
    options = {"--negative-prompt": "--negative-prompt", "--tile": "--tile", "--number": "--number", "-n": "--number"}
    assert nearest_options("--negative", options) == ["--negative-prompt"]
    assert nearest_options("--n", options) == ["-n"]
    assert nearest_options("--til", options) == ["--tile"]
    assert nearest_options("--qqqq", options) == []
    assert nearest_options("--", options) == []


def test_likeness_of_commands():
    names = ["generate", "grid", "models", "metadata"]
    assert nearest_commands("m", names) == []
    assert nearest_commands("me", names) == ["metadata"]
    assert nearest_commands("MODEL", names) == ["models"]
    assert nearest_commands("gird", names) == ["grid"]
    assert nearest_commands("", names) == []


# ---- words that are too many, or empty -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["models", "add-folder", ""], "FOLDER"),
        (["metadata", "show", "a.png", ""], "FILE..."),
        (["upscale", ""], "FILE..."),
        (["replay", ""], "PICTURE"),
        (["batch", ""], "FILE"),
        (["generate", "a car", "--image", ""], "--image"),
        (["generate", "a car", "--image="], "--image"),
        (["generate", "a car", "--image", "a.png", "--image", ""], "--image"),
        (["replay", "a.png", "--hint", "", "--hint", "b.png"], "--hint"),  # each counts
        (["generate", "--from", ""], "--from"),
        (["upscale", "a.png", "-o", ""], "--output"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(argv: list[str], name: str, capsys: pytest.CaptureFixture[str]):
    assert refused(argv, capsys) == f"{name} is empty, expected a path"


@pytest.mark.parametrize(
    ("argv", "extra"),
    [(["doctor", "x"], "'x'"), (["config", "path", "x", "y"], "'x y'"), (["config", "get", "steps", "(a)"], "'(a)'")],
)
def test_words_that_are_too_many(argv: list[str], extra: str, capsys: pytest.CaptureFixture[str]):
    message = refused(argv, capsys)
    assert message.startswith(f"unexpected argument {extra}. `gesso {argv[0]}") and "--help` shows" in message


@pytest.mark.parametrize(
    ("setting", "option"),
    [("steps=3", "--steps"), ("num-steps=3", "--steps"), ("seed=1", "--seed"), ("image=x.png", "--image")],
)
def test_a_setting_that_has_an_option_names_it(setting: str, option: str, capsys: pytest.CaptureFixture[str]):
    name = setting.partition("=")[0].replace("-", "_")
    assert refused(["generate", "a car", "--set", setting], capsys) == f"--set {name}: use {option} VALUE"

"""`gesso generate` and `gesso replay` with pictures that go in, presets, a refiner and a memory limit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gesso.cli.main import run
from gesso.pictures.picture_file import read_picture
from tiny_models import save_tiny_mini
from tiny_sd import TINY_REFINER, TINY_SD, TINY_SDXL, save_tiny_folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("models")
    found = {"mini": save_tiny_mini(base / "tiny.safetensors")}
    for name, family in (("sd", TINY_SD), ("xl", TINY_SDXL), ("refiner", TINY_REFINER)):
        found[name] = save_tiny_folder(base / name, family)
    return {name: str(path) for name, path in found.items()}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GESSO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GESSO_DEBUG", raising=False)
    levels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(levels).save("photo.png")
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, :32] = 255
    Image.fromarray(mask).save("mask.png")
    Path("text.png").write_text("no picture")


def opened(path: str) -> tuple[bytes, str]:
    """Pixels, and A1111's text."""
    with Image.open(path) as image:
        return image.convert("RGB").tobytes(), str(image.info.get("parameters", ""))


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = run(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def test_a_mask_of_another_size_is_told_of(capsys: pytest.CaptureFixture[str], models: dict[str, str]):
    Image.new("L", (32, 48), 255).save("small.png")
    start = ("--image", "photo.png", "--mask", "small.png", "-m", models["mini"])
    code, _, err = said(capsys, "generate", "a red cat", *start, "-n", "2", "-o", "x-{index}.png")
    assert code == 0
    assert err.count("note: the mask is 32x48, the picture 64x64: ") == 1


def test_a_damaged_profile_is_told_of_and_recorded(capsys: pytest.CaptureFixture[str], models: dict[str, str]):
    bad = "a\udcffb.png"  # as Python spells a name that is no Unicode
    with Image.open("photo.png") as image:
        image.save(bad, icc_profile=b"damaged")
    notice = "a\\udcffb.png: colour profile ignored (damaged, or not for RGB); "
    code, _, err = said(capsys, "generate", "a red cat", "--image", bad, "-m", models["mini"], "-o", "x.png")
    assert code == 0
    assert f"note: {notice}" in err
    assert [told.startswith(notice) for told in read_picture(Path("x.png"))[1].notices] == [True]
    for command in (("preprocess", "invert"), ("upscale", "--scale", "2")):
        code, _, err = said(capsys, *command, bad)
        assert (code, notice in err) == (0, True)


def test_inpainting_keeps_what_is_not_masked_and_replays(capsys: pytest.CaptureFixture[str], models: dict[str, str]):
    code, out, err = said(
        capsys,
        *("generate", "a red cat", "--image", "photo.png", "--mask", "mask.png", "--strength", "0.6", "--seed", "3"),
        *("--preset", "a1111", "--sampler", "Euler a", "--set", "mask-blur=0", "--set", "levels=round"),
        *("-m", models["mini"], "-o", "x.png", "-q"),
    )
    assert (code, err) == (0, "")
    image, recipe = read_picture(Path("x.png"))
    request = recipe.request
    assert (request.preset, request.noise, request.source.strength) == ("a1111", "nv", 0.6)
    assert request.conventions.levels == "round"
    before = np.frombuffer(opened("photo.png")[0], np.uint8).reshape(64, 64, 3)
    assert (np.asarray(image)[:, 32:] == before[:, 32:]).all()
    text = opened("x.png")[1]
    for pair in ("Sampler: Euler a", "Denoising strength: 0.6", "Init image hash: ", "RNG: NV", "Preset: a1111"):
        assert pair in text
    code, out, _ = said(
        capsys, "replay", "x.png", "-m", models["mini"], "--image", "photo.png", "--mask", "mask.png", "-q"
    )
    assert (code, out) == (0, "identical\n")
    code, _, err = said(capsys, "replay", "x.png", "-m", models["mini"], "-q")
    assert code == 2
    assert "drawn from the image" in err
    code, _, err = said(
        capsys, "replay", "x.png", "-m", models["mini"], "--image", "mask.png", "--mask", "mask.png", "-q"
    )
    assert code == 2
    assert "... was given" in err


def test_a_refiner_finishes_what_the_base_began(capsys: pytest.CaptureFixture[str], models: dict[str, str]):
    argv = ("generate", "a cat", "--seed", "1", "--steps", "4", "-m", models["xl"], "-q", "--size", "64")
    code, _, err = said(
        capsys, *argv, "--refiner", models["refiner"], "--refiner-switch-at", "0.5", "-o", "refined.png"
    )
    assert (code, err) == (0, "")
    recipe = read_picture(Path("refined.png"))[1]
    assert (recipe.refiner, recipe.request.refiner_switch_at) == ("refiner", 0.5)
    text = opened("refined.png")[1]
    assert f"Refiner: refiner [{recipe.refiner_hash}], Refiner switch at: 0.5" in text
    assert said(capsys, *argv, "-o", "alone.png")[0] == 0
    assert opened("alone.png")[0] != opened("refined.png")[0]
    code, out, _ = said(capsys, "replay", "refined.png", "-m", models["xl"], "--refiner", models["refiner"], "-q")
    assert (code, out) == (0, "identical\n")


def test_memory_is_explained_and_kept(capsys: pytest.CaptureFixture[str], models: dict[str, str]):
    code, out, _ = said(capsys, "generate", "a cat", "-m", models["sd"], "--size", "64", "--explain-memory", "-q")
    assert code == 0
    assert "sd:" in out
    assert not list(Path().glob("outputs/*"))
    argv = ("generate", "a cat", "-m", models["sd"], "--size", "64", "--steps", "2", "--seed", "1", "-q")
    assert said(capsys, *argv, "-o", "free.png")[0] == 0
    assert said(capsys, *argv, "-o", "bound.png", "--memory", "8GiB")[0] == 0
    assert opened("free.png")[0] == opened("bound.png")[0]
    code, _, err = said(capsys, "generate", "a cat", "-m", models["mini"], "--memory", "1MiB", "-q")
    assert code == 2
    assert err.count("\n") == 1


def test_a_prediction_that_was_forced_is_replayed(capsys: pytest.CaptureFixture[str], models: dict[str, str]):
    argv = ("generate", "a cat", "-m", models["sd"], "--size", "64", "--steps", "2", "--seed", "1", "-q")
    assert said(capsys, *argv, "-o", "x.png", "--prediction", "v")[0] == 0
    assert read_picture(Path("x.png"))[1].prediction == "v"
    code, out, _ = said(capsys, "replay", "x.png", "-m", models["sd"], "-q")
    assert (code, out) == (0, "identical\n")


def test_a_preview_shows_the_picture_while_it_is_drawn(capsys: pytest.CaptureFixture[str], models: dict[str, str]):
    argv = ("generate", "a cat", "-m", models["sd"], "--size", "64", "--steps", "2", "--seed", "1", "-q")
    assert said(capsys, *argv, "-o", "x.png", "--preview", "now.png")[0] == 0
    # After the last step, what the network took for the clean picture is the picture.
    gap = np.frombuffer(opened("now.png")[0], np.uint8).astype(int) - np.frombuffer(opened("x.png")[0], np.uint8)
    assert abs(gap).max() <= 1
    assert said(capsys, *argv, "-o", "y.png", "--preview", "now.jpg")[0] == 2


WRONG: list[tuple[list[str], str]] = [
    (["--image", "missing.png"], "no such file"),
    (["--image", "text.png"], "not a readable picture"),
    (["--mask", "mask.png"], "needs a picture"),
    (["--strength", "0.5"], "needs a picture"),
    (["--image", "photo.png", "--strength", "2"], "strength is 2"),
    (["--preset", "comfy"], "Known: a1111"),
    (["--sigmas", "1,2,x"], "expected numbers"),
    (["--sigmas", "1,2"], "must decrease"),
    (["--sigmas", "2,1", "--steps", "5"], "expected 1 for 2 sigmas"),
    (["--set", "levels"], "NAME=VALUE"),
    (["--set", "level=round"], "did you mean 'levels'"),
    (["--set", "levels=up"], "Known: round, truncate"),
    (["--set", "paste_back=maybe"], "true or false"),
    (["--set", "ensd=x"], "expected a whole number"),
    (["--refiner-switch-at", "0.5"], "needs a refiner"),
    (["--noise-level", "20"], "models that upscale"),
    (["--image-guidance", "2"], "edit by instruction"),
    (["--prediction", "velocity"], "Known: eps"),
    (["--memory", "much"], "6GiB"),
    (["--sampler", "DPM++ 9M Karras"], "unknown sampler"),
    (["--preset", "diffusers", "--set", "timestep_spacing=trailing", "--sampler", "restart"], "diffusers has no"),
]


@pytest.mark.parametrize(("argv", "words"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_wrong_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], models: dict[str, str], argv: list[str], words: str
):
    code, out, err = said(capsys, "generate", "cat", "-m", models["mini"], *argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert not Path("outputs").exists() or not list(Path("outputs").iterdir())


def test_own_sigmas_and_json(capsys: pytest.CaptureFixture[str], models: dict[str, str]):
    code, out, _ = said(
        capsys, "generate", "a cat", "--sigmas", "10 3,1, 0", "-m", models["mini"], "--json", "-q", "--seed", "2"
    )
    assert code == 0
    line: dict[str, Any] = json.loads(out)
    request = read_picture(Path(line["path"]))[1].request
    assert (request.sigmas, request.schedule, request.num_steps) == ((10.0, 3.0, 1.0, 0.0), "own", 3)


def test_a_fast_picture_says_so_and_is_replayed(capsys: pytest.CaptureFixture[str], models: dict[str, str]):
    plain = ("generate", "a red cat", "-m", models["mini"], "-S", "1", "--steps", "4")
    assert said(capsys, *plain, "-o", "plain.png")[0] == 0
    assert said(capsys, *plain, "--fast", "-o", "fast.png")[0] == 0
    assert said(capsys, *plain, "--fast", "--deep-cache", "2", "--guidance-until", "0.5", "-o", "own.png")[0] == 0
    requests = [read_picture(Path(f"{name}.png"))[1].request for name in ("plain", "fast", "own")]
    assert [(request.deep_cache, request.guidance_until) for request in requests] == [(None, None), (3, None), (2, 0.5)]
    assert len({opened(f"{name}.png")[0] for name in ("plain", "fast", "own")}) == 3
    assert "Deep cache: 2" in opened("own.png")[1]
    assert "Guidance until: 0.5" in opened("own.png")[1]
    assert said(capsys, "replay", "own.png", "-m", models["mini"], "-o", "again.png")[0] == 0
    assert opened("again.png")[0] == opened("own.png")[0]


SMALL = ("generate", "a red cat", "-S", "1", "-q")
FEW_STEPS = {"num_steps": 4, "guidance_scale": 1.0, "sampler": "euler", "schedule": "sgm_uniform"}


def request_of(path: str) -> Any:
    return read_picture(Path(path))[1].request


def test_fast_draws_the_default_model_in_four_steps(capsys: pytest.CaptureFixture[str]):
    assert said(capsys, *SMALL, "--fast", "-o", "fast.png")[0] == 0
    request = request_of("fast.png")
    assert {name: getattr(request, name) for name in FEW_STEPS} == FEW_STEPS
    assert [lora.name for lora in request.loras] == ["few-steps"]
    assert (request.deep_cache, request.conventions.lora_mode) == (None, "merged")
    by_hand = ("--lora", "few-steps", "--steps", "4", "--guidance", "1", "--sampler", "euler")
    by_hand += ("--set", "lora_mode=merged")
    assert said(capsys, *SMALL, *by_hand, "-o", "hand.png")[0] == 0
    assert opened("hand.png")[0] == opened("fast.png")[0]
    assert said(capsys, "replay", "fast.png", "-q")[:2] == (0, "identical\n")


@pytest.mark.slow
def test_fast_with_a_style_and_what_it_already_says(capsys: pytest.CaptureFixture[str]):
    more = ("--lora", "comic:0.5", "--steps", "4", "--set", "lora_mode=run")
    assert said(capsys, *SMALL, "--fast", *more, "-o", "styled.png")[0] == 0
    request = request_of("styled.png")
    assert [(lora.name, lora.weight) for lora in request.loras] == [("few-steps", 1.0), ("comic", 0.5)]
    assert request.conventions.lora_mode == "run"
    assert said(capsys, *SMALL, "--fast", "--lora", "few-steps:0.9", "-o", "own.png")[0] == 0
    assert [(lora.name, lora.weight) for lora in request_of("own.png").loras] == [("few-steps", 0.9)]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--steps", "2"), "--steps"),
        (("--guidance", "3", "--steps", "2"), "--steps, --guidance"),
        (("--negative-prompt", "a dog", "--sampler", "heun"), "--sampler, --negative-prompt"),
        (("--sigmas", "10 3 0"), "--sigmas"),
    ],
)
@pytest.mark.sampled(2)
def test_fast_with_other_settings_is_deep_cache_and_says_so(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], named: str
):
    code, _, err = said(capsys, *SMALL[:-1], "--fast", *options, "-o", "fast.png")
    assert code == 0
    assert f"note: --fast draws by --deep-cache 3: the four steps do not go with {named}\n" in err
    request = request_of("fast.png")
    assert (request.deep_cache, request.loras) == (3, ())


def test_fast_from_a_picture_keeps_its_steps(capsys: pytest.CaptureFixture[str]):
    assert said(capsys, *SMALL, "--steps", "2", "-o", "plain.png")[0] == 0
    assert said(capsys, "generate", "--from", "plain.png", "--fast", "-q", "-o", "fast.png")[0] == 0
    request = request_of("fast.png")
    assert (request.num_steps, request.deep_cache, request.loras) == (2, 3, ())

"""The whole way: prompts, pictures, judge, report, contact sheet, command line."""

import json

import numpy as np
import pytest
from PIL import Image

from gesso.cli.main import run
from gesso.mini.judging.composition import CATEGORIES, CompositionReport, evaluate_composition, prompt_set
from gesso.mini.judging.detector import load_detector
from gesso.mini.judging.model_pictures import ModelPictures
from gesso.mini.judging.sheet import contact_sheet
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine
from gesso.scenes.glyphs import FONT_PLACES, render_glyphs
from gesso.scenes.render import Renderer
from gesso.scenes.vocabulary import things
from tiny_models import save_tiny_mini

needs_font = pytest.mark.skipif(
    not any(place.is_file() for place in FONT_PLACES), reason="no Noto Color Emoji font on this machine"
)
NUM_PROMPTS, SEED = 140, 11


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(render_glyphs([thing.glyph for thing in things()]))


def evaluated(generate, renderer=None, **changes) -> CompositionReport:
    settings = {"num_prompts": NUM_PROMPTS, "seed": SEED, "every_object": False, "judge_pictures": 20} | changes
    return evaluate_composition(generate, load_detector(things()), things=things(), renderer=renderer, **settings)


@needs_font
@pytest.mark.slow
def test_the_compositor_itself_is_nearly_perfect_and_other_objects_score_nothing(renderer):
    scenes = {one.text: one.scene for one in prompt_set(things(), NUM_PROMPTS, SEED, every_object=False)}
    asked: list[int] = []

    def perfect(prompts: list[str], seeds: list[int]) -> np.ndarray:
        asked.extend(seeds)
        return np.stack([renderer(scenes[prompt], 128) for prompt in prompts])

    def wrong(prompts: list[str], seeds: list[int]) -> np.ndarray:
        """The picture of another prompt of the same category, most often."""
        return np.roll(perfect(prompts, seeds), 1, axis=0)

    report = evaluated(perfect, renderer, batch_size=20)
    assert asked == list(range(SEED, SEED + NUM_PROMPTS))
    for score in report.scores:
        assert score.total == 20
        assert score.score >= 0.85, report.text()  # 17 of 20: at 0.97 fewer would be a chance of 1 in 400
        assert score.judge_total == 20
        assert score.judge_accuracy >= 0.85
    assert sum(score.right for score in report.scores) >= 0.95 * NUM_PROMPTS, report.text()
    none = evaluated(wrong, batch_size=20)
    assert sum(score.right for score in none.scores) <= 2, none.text()
    assert [score.judge_total for score in none.scores] == [None] * 7  # without a font: the file's figures
    assert {score.category: score.judge_accuracy for score in none.scores} == load_detector(things()).accuracy

    sheet = contact_sheet(none, failures=3, successes=2)
    assert sheet.mode == "RGB"
    assert sheet.height > 7 * 180
    assert contact_sheet(report).size != sheet.size


def test_empty_pictures_score_nothing():
    report = evaluated(lambda prompts, seeds: np.full((len(prompts), 64, 64, 3), 255, np.uint8), num_prompts=14)
    assert [score.right for score in report.scores] == [0] * 7
    assert {row["seen"] for row in report.to_dict()["pictures"]} == {"nothing on white"}


def test_a_generator_that_gives_too_few_pictures_is_refused():
    with pytest.raises(ValueError, match="1 pictures for 14 prompts"):
        evaluated(lambda prompts, seeds: np.zeros((1, 64, 64, 3), np.uint8), num_prompts=14)


# ---- a model ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return save_tiny_mini(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_a_batch_of_prompts_gives_what_each_prompt_gives_alone(model_file, guidance):
    """Within a level or two: a convolution sums in another order in a batch."""
    engine = Engine("cpu", "float32")
    model = engine.load(model_file)
    request = TextToImageRequest(prompt="-", guidance_scale=guidance, seed=0)
    generate = ModelPictures(engine, model, request)
    prompts, seeds = ["a red cat", "two turtle", "cat on blue"], [5, 6, 7]
    together = generate(prompts, seeds)
    assert np.array_equal(together, generate(prompts, seeds))
    for prompt, seed, picture in zip(prompts, seeds, together, strict=True):
        (alone,) = TextToImage(engine, model)(TextToImageRequest(prompt=prompt, guidance_scale=guidance, seed=seed))
        assert np.abs(np.asarray(alone.image).astype(int) - picture.astype(int)).max() <= 2
    assert not np.array_equal(together[0], together[2])


def test_the_command_line_writes_report_and_sheet(model_file, tmp_path, capsys):
    report, sheet = tmp_path / "report.json", tmp_path / "sheet.png"
    words = ["evaluate", "composition", "--model", str(model_file), "--prompts", "14", "--steps", "2", "--quiet"]
    words += ["--judge-pictures", "20", "--output", str(report), "--sheet", str(sheet)]
    assert run(words) == 0
    printed = capsys.readouterr()
    for word in ("colour attribution", "95 % interval", "judge right", "mean of what counts"):
        assert word in printed.out
    assert printed.err == ""
    data = json.loads(report.read_text())
    assert [row["category"] for row in data["scores"]] == list(CATEGORIES)
    assert len(data["pictures"]) == 14
    assert data["settings"]["num_steps"] == 2
    assert data["settings"]["model"] == model_file.name
    with Image.open(sheet) as image:
        assert image.format == "PNG"
    assert run(words) == 2  # nothing is overwritten
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompts", "3"], "--prompts"),
        (["--sampler", "eulr"], "eulr"),
        (["--judge", "nothing.safetensors"], "no such file"),
        (["--model", "nothing.safetensors"], "nothing.safetensors"),
        (["--output", "no/such/folder/report.json"], "does not exist"),
        (["--font", "nothing.ttf"], "No colour emoji font"),
        (["--objects", "all"], "expected one of default, full"),
        (["--objects", "full"], "another object table"),
    ],
)
def test_wrong_input_is_one_line(words, message, model_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = [] if "--model" in words else ["--model", str(model_file)]
    assert run(["evaluate", "composition", "--quiet", *model, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

"""What a server, a bot or a notebook does with the studio: from names and files to pictures, runs and replays."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from asking import changed
from gesso.errors import GessoError
from gesso.frontends.front_end import FrontEnd
from gesso.library import Library
from gesso.pictures.picture_file import read_picture
from gesso.pipelines.hint_pictures import hint_digest
from gesso.request.axes import parse_axis
from gesso.request.checks import RequestError
from gesso.request.parts import ControlUse, LoraUse
from gesso.request.prompt_file import PromptLine
from gesso.request.request import TextToImageRequest
from gesso.runtime.cancel import CancelledError, CancelToken
from gesso.studio.drawing import Order, draw, memory_plans, save_drawn
from gesso.studio.events import Event, FinalSize, Loading, Noticed, Sampling
from gesso.studio.files import add_file, recipe_files
from gesso.studio.many import Grid, Run, RunSummary, draw_grid, line_jobs, with_settings
from gesso.studio.output_names import plan
from gesso.studio.prompts import read_prompts
from gesso.studio.replay import replay
from gesso.studio.run_folder import open_run
from gesso.studio.sources import Sources, check_sources, read_sources
from gesso.studio.starting_point import start_from
from gesso.studio.studio import EngineOptions, ModelChoice, RecipePlaces, Studio
from library import shelf
from made_recipes import make_recipe
from tiny_sd import save_tiny_folder

REQUEST = TextToImageRequest(prompt="a cat", num_steps=2, seed=5)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """A library that knows a model by the name "cats", in a folder of the user's."""
    shelf.checkpoint(tmp_path / "webui" / "models" / "Stable-diffusion" / "cats.safetensors")
    library = shelf.library_at(tmp_path)
    library.add_folder(tmp_path / "webui")
    return library


@pytest.fixture
def studio(library: Library) -> Studio:
    return Studio(library=library, offline=True)


def test_a_model_by_its_name_draws_into_files(studio: Studio, tmp_path: Path):
    events: list[Event] = []
    pipeline = studio.open(ModelChoice(model="cats"), on_event=events.append)
    order = Order(request=replace(REQUEST, num_images=2))
    names = plan(str(tmp_path / "out" / "{seed}-{index}.png"), num_images=order.num_images)
    saved = list(save_drawn(pipeline, order, names, quality=90, on_event=events.append))
    assert [each.path.name for each in saved] == ["5-0.png", "5-1.png"]
    assert all(each.seconds > 0 for each in saved)
    for each in saved:
        image, recipe = read_picture(each.path)
        assert image.tobytes() == each.picture.image.tobytes()
        assert recipe == each.picture.recipe
    assert events[0] == Loading(model="cats")
    steps = [(e.number, e.total, e.progress.step) for e in events if isinstance(e, Sampling)]
    assert steps == [(1, 2, 0), (1, 2, 1), (1, 2, 2), (2, 2, 0), (2, 2, 1), (2, 2, 2)]
    assert studio.open(ModelChoice(model="cats")).model is pipeline.model  # it stays loaded


def test_pictures_are_counted_through_all_requests_of_a_front_end(studio: Studio):
    """Each picture has a prompt of its own; a notice that two of them share is reported once."""
    events: list[Event] = []
    pipeline = studio.open(ModelChoice(model="cats"))
    front = FrontEnd(lists={"animal": ("cat", "turtle")})
    order = Order(request=replace(REQUEST, prompt="a __animal__ zebra", num_images=3), front=front)
    pictures = list(draw(pipeline, order, events.append))
    assert [picture.index for picture in pictures] == [0, 1, 2]
    assert all(any("was generated from: a __animal__ zebra" in line for line in each.notices) for each in pictures)
    assert [e.number for e in events if isinstance(e, Sampling) and e.progress.step == 0] == [1, 2, 3]
    notices = [event.notice for event in events if isinstance(event, Noticed)]
    assert len(notices) == len(set(notices))
    assert sum("zebra" in notice for notice in notices) >= 1


def test_another_finished_size_is_reported_before_the_first_step(studio: Studio, tmp_path: Path):
    events: list[Event] = []
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    sources = read_sources(tmp_path / "red.png")
    request = changed(REQUEST, strength=0.5, outpaint=(0, 0, 32, 0))
    pipeline = studio.open(ModelChoice(model="cats"))
    (picture,) = draw(pipeline, Order(request=request, sources=sources), events.append)
    assert events[0] == FinalSize(width=96, height=64)
    assert picture.image.size == (96, 64)


def test_drawing_is_cancelled_from_a_callback_and_a_run_goes_on_later(studio: Studio, tmp_path: Path):
    cancel = CancelToken()

    def stop(event: Event) -> None:
        if isinstance(event, Sampling) and (event.number, event.progress.step) == (2, 1):
            cancel.cancel()

    jobs = line_jobs([PromptLine(1, {"prompt": "a cat", "num_images": 2})], REQUEST, "cats")
    folder = tmp_path / "run"

    def pictures(token: CancelToken | None) -> list[str]:
        run = Run(folder=open_run(folder, {}, 5), jobs=jobs)
        drawn = run.pictures(lambda name: studio.open(ModelChoice(model=name)), stop, cancel=token)
        return [path.name for _, path, _ in drawn]

    with pytest.raises(CancelledError):
        pictures(cancel)
    assert sorted(path.name for path in folder.glob("*.png")) == ["0001-1.png"]
    assert pictures(None) == ["0001-1.png", "0001-2.png"]
    with pytest.raises(CancelledError):
        list(draw(studio.open(ModelChoice(model="cats")), Order(request=REQUEST), cancel=cancel))


def test_memory_is_planned_without_drawing(studio: Studio):
    (needs,) = memory_plans(studio.open(ModelChoice(model="cats")), Order(request=REQUEST)).values()
    assert needs.peak > 0


def test_a_refiner_and_its_base_stay_loaded_together(studio: Studio, tmp_path: Path):
    shelf.checkpoint(tmp_path / "other.safetensors", seed=1)
    choice = ModelChoice(model="cats", refiner=tmp_path / "other.safetensors")
    first, second = studio.open(choice), studio.open(choice)
    assert second.model is first.model
    assert second.refiner is first.refiner is not first.model


def test_unknown_names_are_refused_before_there_is_an_engine(library: Library):
    studio = Studio(EngineOptions(device="cuda:77"), library=library, offline=True)
    with pytest.raises(GessoError, match="Did you mean 'cats'"):
        studio.open(ModelChoice(model="cat"))
    with pytest.raises(GessoError, match="cuda:77"):
        studio.open(ModelChoice(model="cats"))


def test_previews_are_written_while_it_is_drawn(studio: Studio, tmp_path: Path):
    pipeline = studio.open(ModelChoice(model="cats"))
    preview = studio.preview(pipeline, tmp_path / "preview.png")
    list(draw(pipeline, Order(request=REQUEST), preview.on_event))
    with Image.open(tmp_path / "preview.png") as image:
        assert image.size == (32, 32)  # before the model's own upscaler


# ---- replay ----------------------------------------------------------------------------------------------------------


def save_one(studio: Studio, path: Path, request: TextToImageRequest, choice: ModelChoice) -> Path:
    (saved,) = save_drawn(studio.open(choice), Order(request=request), plan(str(path), num_images=1), quality=90)
    return saved.path


def test_a_picture_replays_with_a_model_that_was_renamed_and_moved(studio: Studio, library: Library, tmp_path: Path):
    path = save_one(studio, tmp_path / "a.png", REQUEST, ModelChoice(model="cats"))
    folder = tmp_path / "webui" / "models" / "Stable-diffusion"
    (folder / "sub").mkdir()
    shutil.move(folder / "cats.safetensors", folder / "sub" / "dogs.safetensors")
    with pytest.raises(GessoError, match="Give it with `model`") as caught:
        replay(path, library=library)
    digest = read_picture(path)[1].model_hash
    assert (caught.value.code, caught.value.field) == ("recipe_model_missing", "model")
    assert caught.value.data == {"name": "cats.safetensors", "sha256": digest}
    moved = str(folder / "sub" / "dogs.safetensors")
    assert replay(path, places=RecipePlaces(model=moved), library=library)[0].kind == "identical"
    library.hashed(next(entry for entry in library.entries() if entry.path == Path(moved)))
    verdict, again = replay(path, library=library)
    assert (verdict.kind, verdict.changed) == ("identical", ())
    assert again.recipe.request == read_picture(path)[1].request


def test_a_picture_drawn_as_another_prediction_is_replayed_as_that(studio: Studio, library: Library, tmp_path: Path):
    """The folder looks like one that predicts noise; the recipe says how it was taken."""
    choice = ModelChoice(model=save_tiny_folder(tmp_path / "sd"), prediction="v")
    path = save_one(studio, tmp_path / "a.png", REQUEST, choice)
    verdict, again = replay(path, library=library)
    assert (verdict.kind, again.recipe.prediction) == ("identical", "v")
    plain = studio.open(tmp_path / "sd")
    assert plain.model.family.prediction == "eps"


def test_the_options_of_a_recipe_are_those_that_this_machine_has():
    recipe = make_recipe()
    environment = replace(recipe.environment, device="cuda NVIDIA H200", dtype="float16", threads=10_000)
    options = EngineOptions.of_recipe(replace(recipe, environment=environment), device="cpu")
    assert (options.device, options.dtype) == ("cpu", "float32")
    assert 1 <= (options.threads or 0) < 10_000
    chosen = EngineOptions.of_recipe(recipe, device="cpu", dtype="bfloat16", threads=3)
    assert (chosen.dtype, chosen.threads) == ("bfloat16", 3)


def test_files_of_a_recipe_are_those_and_no_others(studio: Studio, tmp_path: Path):
    lora = shelf.lora(tmp_path / "ink.safetensors")
    from gesso.request.recipe import ExtraFile

    recipe = replace(make_recipe(), extras=(ExtraFile(kind="lora", name="ink", sha256="0" * 64),))
    files = recipe_files(recipe, studio.finder({"lora": {"ink": lora, "other": lora}}))
    assert files.find("lora", "ink") == lora
    with pytest.raises(GessoError, match="no LoRA named 'other'"):
        files.find("lora", "other")
    with pytest.raises(GessoError, match="with `loras`") as caught:
        recipe_files(recipe, studio.finder(), "a.png")
    assert caught.value.data == {"kind": "lora", "name": "ink", "sha256": "0" * 64}


def test_sources_that_a_recipe_needs_are_named():
    image = Image.new("RGB", (8, 8))
    request = make_recipe().request
    plain, drawn = make_recipe(), replace(make_recipe(), request=changed(request, image="a" * 64))
    check_sources(drawn, image, None, (), "a.png")
    with pytest.raises(GessoError, match="Give it with `image`") as caught:
        check_sources(drawn, None, None, (), "a.png")
    assert (caught.value.code, caught.value.field, caught.value.data) == (
        "source_missing",
        "image",
        {"sha256": "a" * 64},
    )
    with pytest.raises(GessoError, match="leave `mask` out") as caught:
        check_sources(plain, None, image, (), "a.png")
    assert caught.value.code == "source_not_needed"
    use = ControlUse(model="edges", image=hint_digest(image))
    steered = replace(plain, request=replace(request, controls=(use, replace(use, weight=0.5))))
    check_sources(steered, None, None, (image,), "a.png")  # one picture serves both
    with pytest.raises(GessoError, match="Give each with `hints`"):
        check_sources(steered, None, None, (), "a.png")


def test_an_inverted_mask_needs_a_mask(tmp_path: Path):
    Image.new("L", (8, 8), 10).save(tmp_path / "mask.png")
    mask = read_sources(mask=tmp_path / "mask.png", invert_mask=True).mask
    assert mask is not None
    assert mask.getpixel((0, 0)) == 245
    with pytest.raises(GessoError, match="`mask_invert` needs a mask"):
        read_sources(invert_mask=True)


def test_a_picture_is_a_starting_point(studio: Studio, library: Library, tmp_path: Path):
    path = save_one(studio, tmp_path / "a.png", REQUEST, ModelChoice(model="cats"))
    model = tmp_path / "webui" / "models" / "Stable-diffusion" / "cats.safetensors"
    library.hashed(next(entry for entry in library.entries() if entry.path == model))
    over = TextToImageRequest(prompt="", num_steps=3)
    point = start_from(path, over, with_image=False, library=library)
    assert (point.request.prompt, point.request.num_steps, point.request.seed) == ("a cat", 3, 5)
    assert point.model == str(model)
    assert start_from(path, over, with_image=False, find_model=False).model is None
    model.unlink()
    with pytest.raises(GessoError, match="Give a model with `model`"):
        start_from(path, over, with_image=False, library=library)


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_draws_what_is_missing_and_nothing_else(studio: Studio, tmp_path: Path):
    lines = [PromptLine(1, {"prompt": "a cat"}), PromptLine(4, {"prompt": "a turtle", "num_images": 2, "seed": 9})]
    jobs = line_jobs(lines, TextToImageRequest(prompt="", num_steps=1), "cats")
    assert [job.file for job in jobs] == ["0001-1.png", "0004-1.png", "0004-2.png"]

    def run() -> tuple[Run, list[Event], dict[str, bytes]]:
        events: list[Event] = []
        run = Run(folder=open_run(tmp_path / "run", {"lines": 2}, 5), jobs=jobs)
        drawn = run.pictures(lambda name: studio.open(ModelChoice(model=name)), events.append)
        return run, events, {path.name: image.tobytes() for _, path, image in drawn}

    first, events, pictures = run()
    assert first.summary == RunSummary(total=3, drawn=3, seed=5)
    assert [e.number for e in events if isinstance(e, Sampling) and e.progress.step == 0] == [1, 2, 3]
    assert [read_picture(tmp_path / "run" / job.file)[1].request.seed for job in jobs] == [5, 9, 9]
    (tmp_path / "run" / "0004-1.png").unlink()
    second, events, again = run()
    assert second.summary == RunSummary(total=3, drawn=1, seed=5)
    assert [e.number for e in events if isinstance(e, Sampling) and e.progress.step == 0] == [2]
    assert again == pictures


def test_a_grid_opens_each_model_once(studio: Studio, tmp_path: Path):
    other = shelf.checkpoint(tmp_path / "other.safetensors", seed=1)
    opened: list[str] = []

    def open_model(name: str):
        opened.append(name)
        return studio.open(ModelChoice(model=name))

    axis = parse_axis(f"model=cats,{other}")
    grid = Grid(base=REQUEST, model="cats", x=axis, y=parse_axis("steps=1,2"))
    run = Run(folder=open_run(tmp_path / "grid", {"x": "models"}, None), jobs=grid.jobs())
    (sheet,) = draw_grid(grid, run, open_model, cell=32)
    assert sheet.name == "grid.png"
    assert opened == ["cats", str(other)]
    steps = [read_picture(tmp_path / "grid" / f"z01-y{y:02}-x02.png")[1].request.num_steps for y in (1, 2)]
    assert steps == [1, 2]


def test_settings_are_single_values_of_fields():
    assert with_settings(REQUEST, ["steps=7", "guidance=2"]).num_steps == 7
    for setting in ("steps=1,2", "model=a", "prompt=cat"):
        with pytest.raises(RequestError, match="expected one field"):
            with_settings(REQUEST, [setting])


# ---- prompts ---------------------------------------------------------------------------------------------------------


def test_prompts_are_read_as_a_model_reads_them(studio: Studio):
    front = FrontEnd(lists={"animal": ("cat", "turtle")})
    request = replace(REQUEST, prompt="a (__animal__:1.2)", num_images=2)
    readings = list(read_prompts(studio, request, model="cats", front=front))
    assert len(readings) == 2
    for each in readings:
        (text,) = each.reading.fields[0].texts
        assert text.pieces[1][0] in ("cat", "turtle")
        assert text.pieces[1][1] == pytest.approx(1.2)
        assert "was generated from" in each.notices[0]
        json.dumps(each.reading.to_dict())


def test_two_files_of_one_name_are_told_apart(tmp_path: Path):
    files: dict[str, Path] = {}
    assert add_file(files, tmp_path / "a" / "ink.safetensors", "loras") == "ink"
    assert add_file(files, tmp_path / "a" / "ink.safetensors", "loras") == "ink"
    with pytest.raises(GessoError, match="has the same name") as caught:
        add_file(files, tmp_path / "b" / "ink.safetensors", "loras")
    assert caught.value.code == "file_name_twice"


def test_a_lora_of_the_studio_is_found_by_name(studio: Studio, tmp_path: Path):
    """The finder of an opened pipeline knows what gesso carries, too."""
    pipeline = studio.open()
    (picture,) = draw(pipeline, Order(request=replace(REQUEST, num_steps=1, loras=(LoraUse(name="comic"),))))
    assert [extra.name for extra in picture.recipe.extras] == ["comic"]


def test_sources_are_the_arguments_of_a_pipeline():
    image = Image.new("RGB", (8, 8))
    assert Sources(image=image, hints=(image,)).arguments == {"image": image, "mask": None, "hints": (image,)}

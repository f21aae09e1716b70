"""IP-Adapters of a request: the picture of diffusers, their place in recipe and replay, what is refused."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from asking import ask
from gesso.checkpoints.errors import ModelFileError
from gesso.cli.control_options import parse_controls
from gesso.cli.main import run
from gesso.errors import GessoError
from gesso.families.ip_adapter import is_ip_adapter_file
from gesso.pipelines.hint_pictures import hint_digest
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.checks import RequestError
from gesso.request.finder import NamedFiles
from gesso.request.parts import ControlUse
from gesso.request.request import TextToImageRequest
from gesso.runtime import adapter_cache
from gesso.runtime.engine import Engine
from gesso.runtime.ip_adapter import clip_pixels
from gesso.studio.sources import control_files, read_controls
from models.test_ip_adapter import VISION, image_prompt_file, nested, randomise, saved
from tiny_sd import TINY_SD, save_tiny_folder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection


def picture(width: int = 50, height: int = 40) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 5, y * 6, (x * y) % 256], axis=2).astype(np.uint8))


@pytest.fixture(scope="module")
def encoder() -> Any:
    torch.manual_seed(0)
    return randomise(CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, encoder: Any) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("ip")
    found = {kind: saved(base / f"{kind}.safetensors", image_prompt_file(kind, TINY_SD)) for kind in ("base", "plus")}
    found["vit"] = saved(base / "vit.safetensors", encoder.state_dict())
    found["model"] = save_tiny_folder(base / "model", TINY_SD)
    return found


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine("cpu", "float32")


@pytest.fixture(scope="module")
def pipeline(files: dict[str, Path], engine: Engine) -> TextToImage:
    finder = NamedFiles(
        {"control": {kind: files[kind] for kind in ("base", "plus")}, "image_encoder": {"vit": files["vit"]}}
    )
    return TextToImage(engine, engine.load(files["model"]), finder=finder)


def request(*uses: ControlUse, **values: Any) -> TextToImageRequest:
    given = {"prompt": "a turtle", "width": 64, "height": 64, "num_steps": 4, "seed": 3, "guidance_scale": 5.0}
    return ask(**(given | values), controls=uses)


def use(model: str = "base", **values: Any) -> ControlUse:
    return ControlUse(model=model, image=hint_digest(picture()), **({"weight": 0.7} | values))


def test_pixels_as_clips_own_processor_makes_them() -> None:
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    for size in ((50, 40), (40, 50), (28, 28), (31, 90), (10, 10)):
        expected = processor(picture(*size), return_tensors="pt").pixel_values
        assert (clip_pixels(picture(*size), 28) - expected).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore")  # diffusers and transformers warn about themselves
@pytest.mark.parametrize("kind", ["base", "plus"])
@pytest.mark.sampled(2)
def test_same_picture_as_diffusers(files: dict[str, Path], pipeline: TextToImage, encoder: Any, kind: str) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    theirs = StableDiffusionPipeline.from_pretrained(
        files["model"], local_files_only=True, safety_checker=None, requires_safety_checker=False
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    theirs.register_modules(image_encoder=encoder, feature_extractor=processor)
    theirs.unet._load_ip_adapter_weights([nested(image_prompt_file(kind, TINY_SD))])
    theirs.set_ip_adapter_scale(0.7)
    theirs.set_progress_bar_config(disable=True)
    config = dict(theirs.scheduler.config) | {"set_alpha_to_one": False, "clip_sample": False}
    del config["timestep_spacing"]
    theirs.scheduler = DDIMScheduler.from_config(config)
    expected = theirs(
        "a turtle",
        negative_prompt="",
        ip_adapter_image=picture(),
        height=64,
        width=64,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images[0]
    asked = request(use(kind), preset="diffusers", sampler="ddim", schedule="uniform")
    pixels = pipeline.pixels(asked, hints=[picture()])
    without = pipeline.pixels(replace(asked, controls=()))
    found = (pixels[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
    assert expected.std() > 0.02
    gap = np.abs(found - expected).max()
    print(f"largest difference {gap:.1e}")
    assert gap < 1e-4
    assert (pixels - without).abs().max() > 1e-3


def test_nothing_is_left_on_the_model(pipeline: TextToImage) -> None:
    before = pipeline.pixels(request())
    pipeline.pixels(request(use()), hints=[picture()])
    iterator = pipeline(request(use(), num_images=3), hints=[picture()])
    next(iterator)
    iterator.close()
    assert torch.equal(pipeline.pixels(request()), before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.slow
def test_limited_memory_changes_no_picture(files: dict[str, Path], dtype: str) -> None:
    """The model rests while its picture is read, and is ready again when the UNet is called: two of each."""
    finder = NamedFiles({"control": {"plus": files["plus"]}, "image_encoder": {"vit": files["vit"]}})
    drawn = []
    for memory in (None, "8GiB"):
        engine = Engine("cpu", dtype, memory=memory)
        pipeline = TextToImage(engine, engine.load(files["model"]), finder=finder)
        drawn.append(pipeline.pixels(request(use("plus"), num_images=2), hints=[picture()]))
    assert torch.equal(*drawn)


def test_memory_is_counted(files: dict[str, Path], pipeline: TextToImage) -> None:
    """Beside the model where nothing is limited, alone where it rests."""
    asked = request(use("plus"))
    assert "image encoder" not in {phase.name for phase in pipeline.plans(request())["model"].phases}
    (free,) = pipeline.plans(asked, hints=[picture()]).values()
    counted = {phase.name: phase for phase in free.phases}
    assert list(counted) == ["text", "image encoder", "unet", "decode"]
    own = max(
        4 * sum(tensor.numel() for name, tensor in load_file(files[kind]).items() if not name.endswith("position_ids"))
        for kind in ("vit", "plus")
    )
    assert counted["image encoder"].weights == counted["text"].weights + own
    engine = Engine("cpu", "float32", memory="8GiB")
    limited = TextToImage(engine, engine.load(files["model"]), finder=pipeline.finder)
    (plan,) = limited.plans(asked, hints=[picture()]).values()
    assert {phase.name: phase.weights for phase in plan.phases}["image encoder"] == own


def test_weight_and_window(pipeline: TextToImage) -> None:
    plain = pipeline.pixels(request())
    off = pipeline.pixels(request(use(weight=0.0)), hints=[picture()])
    late = pipeline.pixels(request(use(start=0.6)), hints=[picture()])
    whole = pipeline.pixels(request(use()), hints=[picture()])
    assert torch.equal(off, plain)
    gaps = [(one - plain).abs().mean().item() for one in (late, whole)]
    assert 0 < gaps[0] < gaps[1]


def test_recipe_and_replay(pipeline: TextToImage, files: dict[str, Path]) -> None:
    (drawn,) = pipeline(request(use("plus")), hints=[picture()])
    kinds = {(extra.kind, extra.name) for extra in drawn.recipe.extras}
    assert kinds == {("control", "plus"), ("image_encoder", "vit")}
    (again,) = pipeline(drawn.recipe.request, hints=[picture()])
    assert again.image.tobytes() == drawn.image.tobytes()
    assert again.recipe.extras == drawn.recipe.extras


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"preprocessor": "canny"}, "remove preprocessor canny"),
        ({"mode": "prompt"}, "remove mode prompt"),
        ({"encoder": "nobody"}, "no image encoder named"),
    ],
)
def test_what_an_ip_adapter_does_not_take(pipeline: TextToImage, values: dict[str, Any], words: str) -> None:
    with pytest.raises(GessoError, match=words):
        pipeline(request(use(**values)), hints=[picture()])


def test_without_an_encoder_it_says_which_is_needed(engine: Engine, files: dict[str, Path]) -> None:
    lacking = TextToImage(engine, engine.load(files["model"]), finder=NamedFiles({"control": {"base": files["base"]}}))
    with pytest.raises(RequestError, match="needs a CLIP image encoder of width 48"):
        lacking(request(use()), hints=[picture()])
    odd = saved(files["base"].parent / "odd.safetensors", {"x": torch.zeros(2, 2)})
    other = NamedFiles({"control": {"base": files["base"]}, "image_encoder": {"odd": odd}})
    with pytest.raises(ModelFileError, match="not an image encoder"):
        TextToImage(engine, engine.load(files["model"]), finder=other)(request(use(encoder="odd")), hints=[picture()])


def test_a_named_encoder_of_another_width_is_refused(engine: Engine, files: dict[str, Path], tmp_path: Path) -> None:
    network = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION | {"projection_dim": 32}))
    small = saved(tmp_path / "small.safetensors", randomise(network).state_dict())
    finder = NamedFiles({"control": {"base": files["base"]}, "image_encoder": {"small": small, "vit": files["vit"]}})
    drawing = TextToImage(engine, engine.load(files["model"]), finder=finder)
    with pytest.raises(RequestError, match=r"needs an image encoder of width 48 \(projection\), which small is not"):
        drawing(request(use(encoder="small")), hints=[picture()])
    assert drawing.pixels(request(use()), hints=[picture()]).isfinite().all()  # unnamed, the one that fits is taken


def test_a_command_line_names_both_files(files: dict[str, Path], tmp_path: Path) -> None:
    picture().save(tmp_path / "cat.png")
    controls = parse_controls([f"{files['base']},image={tmp_path / 'cat.png'},encoder={files['vit']},weight=0.5"])
    uses, _ = read_controls(controls)
    assert (uses[0].model, uses[0].encoder, uses[0].weight) == ("base", "vit", 0.5)
    assert control_files(controls) == {"control": {"base": files["base"]}, "image_encoder": {"vit": files["vit"]}}


def test_what_a_file_is_is_looked_up_once_until_it_changes(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def look(path: Path) -> bool:
        seen.append(path)
        return is_ip_adapter_file(path)

    monkeypatch.setattr(adapter_cache, "is_ip_adapter_file", look)
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(files["base"].read_bytes())
    known = adapter_cache.AdapterCache()
    assert known.is_ip_adapter(path) and known.is_ip_adapter(path)
    assert seen == [path]
    path.write_bytes(files["vit"].read_bytes())
    assert not known.is_ip_adapter(path)
    assert seen == [path, path]


def test_the_command_line_there_and_back(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GESSO_HOME", str(tmp_path / "home"))
    picture().save("cat.png")
    model = ["-m", str(files["model"]), "-q"]
    control = f"{files['base']},image=cat.png,encoder={files['vit']}"
    size = ["--size", "64x64", "-s", "2", "--seed", "1"]
    assert run(["generate", "a turtle", *model, *size, "--control", control, "-o", "told.png"]) == 0
    capsys.readouterr()
    again = ["replay", "told.png", *model, "--hint", "cat.png", "--control", str(files["base"])]
    assert run(again) == 2
    assert "the image encoder 'vit'" in (err := capsys.readouterr().err) and "with --encoder" in err
    assert run([*again, "--encoder", str(files["vit"])]) == 0
    assert capsys.readouterr().out == "identical\n"

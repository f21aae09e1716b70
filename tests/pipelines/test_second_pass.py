"""A second, larger pass: its size, steps and noise, what it starts from, and the recipe."""

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from asking import changed
from gesso.diffusion.conventions import a1111_image_start
from gesso.errors import GessoError
from gesso.pipelines.defaults import defaults_for
from gesso.pipelines.picture import Picture, Progress
from gesso.pipelines.second_pass import UpscalerFile, enlarged_latents, enlarged_picture, second_request
from gesso.pipelines.steps import Steps, plan_steps
from gesso.pipelines.text_to_image import TextToImage
from gesso.pipelines.upscaling import RESAMPLERS
from gesso.request.checks import RequestError
from gesso.request.finder import NamedFiles
from gesso.request.hires import A1111_NAMES, LATENT_UPSCALERS, a1111_name, upscaler_name
from gesso.request.parts import HiresPass
from gesso.request.request import ResolvedRequest, TextToImageRequest
from gesso.runtime.engine import Engine
from gesso.runtime.plan import Workload
from gesso.studio.replay import replay_recipe
from tiny_models import save_tiny_mini
from tiny_sd import TINY_EDIT, TINY_INPAINT, TINY_SD, TINY_SDXL, save_tiny_folder
from upscaler_files import upscaler_weights

REQUEST = TextToImageRequest(prompt="a red cat", seed=7, num_steps=4, sampler="euler")


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextToImage]:
    base, engine = tmp_path_factory.mktemp("models"), Engine("cpu", max_models=8)
    families = {"sd": TINY_SD, "inpaint": TINY_INPAINT, "edit": TINY_EDIT, "sdxl": TINY_SDXL}
    found = {name: save_tiny_folder(base / name, family) for name, family in families.items()}
    found["mini"] = save_tiny_mini(base / "mini.safetensors")
    save_file(upscaler_weights("compact_x2"), base / "compact.safetensors")
    finder = NamedFiles({"upscaler": {"compact": base / "compact.safetensors"}})
    return {name: TextToImage(engine, engine.load(path), finder=finder) for name, path in found.items()}


def draw(pipeline: TextToImage, hires: HiresPass | None, image: Image.Image | None = None, **values: Any) -> Picture:
    (picture,) = pipeline(changed(REQUEST, hires=hires, **values), image=image)
    return picture


def steps_of(pipeline: TextToImage, hires: HiresPass, **values: Any) -> tuple[ResolvedRequest, Steps]:
    family = pipeline.model.family
    second = second_request(
        pipeline.resolve(changed(REQUEST, hires=hires, **values)), lambda asked: defaults_for(asked, family)
    )
    assert second is not None
    return second, plan_steps(second, family, again=True)


@pytest.mark.parametrize(
    ("hires", "size"),
    [
        (HiresPass(), (128, 192)),
        (HiresPass(scale=1.0), (64, 96)),
        (HiresPass(scale=1.6), (96, 152)),  # 102.4 and 153.6, rounded down
        (HiresPass(scale=1.62), (96, 152)),  # 103.68 and 155.52: down to a multiple, not to the nearest pixel before
        (HiresPass(width=128), (128, 192)),
        (HiresPass(height=128), (80, 128)),
        (HiresPass(width=128, height=128), (128, 128)),
    ],
)
@pytest.mark.parametrize(
    "upscaler", ["latent_bilinear", pytest.param("lanczos", marks=pytest.mark.slow)]
)  # draws; others below enlarge pictures
@pytest.mark.sampled(5)
def test_the_finished_size(pipelines: dict[str, TextToImage], hires: HiresPass, size: tuple[int, int], upscaler: str):
    """Told before anything is drawn, and kept."""
    hires = replace(hires, upscaler=upscaler, strength=0.5)
    request = pipelines["sd"].resolve(replace(REQUEST, hires=hires, width=64, height=96))
    assert request.hires is not None
    assert (request.hires.width, request.hires.height) == size
    assert pipelines["sd"].resolve(request) == request
    picture = draw(pipelines["sd"], hires, width=64, height=96)
    assert picture.image.size == size
    assert (picture.recipe.request.width, picture.recipe.request.height) == (64, 96)


@pytest.mark.parametrize(
    ("hires", "values", "words"),
    [
        (HiresPass(width=60), {}, "a multiple of"),
        (HiresPass(width=32), {}, "smaller than the first"),
        (HiresPass(scale=2.0, width=128, height=128), {}, "either a scale or a size"),
        (HiresPass(scale=16.0), {"width": 1024, "height": 1024}, "at most"),
        (HiresPass(width=2048, height=2048), {"width": 8, "height": 2048}, "changes the shape too much"),
        (HiresPass(sampler="eulr"), {}, "did you mean 'euler'"),
        (HiresPass(schedule="karas"), {}, "did you mean 'karras'"),
        (HiresPass(strength=0.001, num_steps=900), {"preset": "a1111"}, "at most 1000 are allowed"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_drawn(
    pipelines: dict[str, TextToImage], hires: HiresPass, values: dict[str, Any], words: str
):
    with pytest.raises(RequestError, match=words):
        pipelines["sd"](changed(REQUEST, hires=hires, **values))


def test_models_that_work_on_a_picture_and_masks_take_no_second_pass(pipelines: dict[str, TextToImage]):
    image = Image.new("RGB", (64, 64))
    with pytest.raises(RequestError, match="not for models that edit or upscale"):
        pipelines["edit"](replace(REQUEST, hires=HiresPass()), image=image)
    with pytest.raises(RequestError, match="takes no mask"):
        pipelines["sd"](replace(REQUEST, hires=HiresPass()), image=image, mask=Image.new("L", (64, 64), 255))


def test_an_upscaler_that_is_not_there_is_refused_with_those_that_are(pipelines: dict[str, TextToImage]):
    with pytest.raises(GessoError, match=r"no upscaler named 'compac'.*did you mean 'compact'"):
        pipelines["sd"](replace(REQUEST, hires=HiresPass(upscaler="compac")))
    for close in ("lanczo", "latent_bilinea"):
        with pytest.raises(GessoError, match=rf"no upscaler named '{close}' \(did you mean '{close}.'\?\)") as caught:
            pipelines["sd"](replace(REQUEST, hires=HiresPass(upscaler=close)))
        assert (caught.value.code, caught.value.field) == ("unknown_name", "hires.upscaler")
        assert {"compact", "lanczos", "nearest", "latent_bilinear"} <= set(caught.value.data["known"])
    with pytest.raises(GessoError, match="no upscaler named"):
        pipelines["sd"](replace(REQUEST, hires=HiresPass(upscaler="../../compact.safetensors")))


def test_names_of_a1111():
    ways = {upscaler_name(name) for name in A1111_NAMES if not name.startswith("R-ESRGAN")}
    assert ways <= {*LATENT_UPSCALERS, *RESAMPLERS}
    assert all(upscaler_name(a1111_name(name)) == name for name in (*LATENT_UPSCALERS, *RESAMPLERS, "4x-UltraSharp"))
    assert upscaler_name("Latent") == "latent_bilinear"
    assert upscaler_name("Latent (nearest-exact)") == "latent_nearest_exact"
    assert upscaler_name("latent nearest-exact") == "latent_nearest_exact"  # ComfyUI's method
    assert upscaler_name("R-ESRGAN 4x+") == "RealESRGAN_x4plus"
    assert a1111_name("RealESRGAN_x4plus") == "R-ESRGAN 4x+"


def test_a_second_pass_from_the_picture_is_image_to_image_of_it(pipelines: dict[str, TextToImage]):
    """By hand: draw small, make it larger, draw that. The noise is the next that the seed gives, not the same again;
    with a source that repeats another tool it is, as there, and then both ways give the same picture."""
    for name in ("sd", "mini", "sdxl"):
        pipeline = pipelines[name]
        values: dict[str, Any] = {"noise": "cpu", "width": 64, "height": 64}
        small = draw(pipeline, None, **values)
        large = enlarged_picture(small.image, 128, 128, "lanczos")
        by_hand = draw(pipeline, None, large, noise="cpu", strength=0.5)
        at_once = draw(pipeline, HiresPass(upscaler="lanczos", strength=0.5), **values)
        assert at_once.image.tobytes() == by_hand.image.tobytes()
        own = draw(pipeline, HiresPass(upscaler="lanczos", strength=0.5), width=64, height=64)
        again = draw(
            pipeline,
            None,
            enlarged_picture(draw(pipeline, None, width=64, height=64).image, 128, 128, "lanczos"),
            strength=0.5,
        )
        assert own.image.tobytes() != again.image.tobytes()


@pytest.mark.parametrize("name", sorted(LATENT_UPSCALERS))
def test_latents_are_interpolated_as_torch_does_and_cut_in_the_middle(name: str):
    latents = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    mode, antialias = LATENT_UPSCALERS[name]
    plain = F.interpolate(latents, (16, 12), mode=mode, antialias=antialias)
    assert torch.equal(enlarged_latents(latents, 16, 12, name), plain)
    assert torch.equal(enlarged_latents(latents, 12, 12, name), plain[..., 2:14, :])
    assert torch.equal(enlarged_latents(latents, 16, 8, name), plain[..., :, 2:10])


KINDS = ["latent_nearest_exact", "nearest", "compact"]


# Three drawings each: every upscaler once and every model once are quick.
@pytest.mark.parametrize(
    ("name", "model"),
    [
        pytest.param(name, model, marks=() if i == j else pytest.mark.slow)
        for i, name in enumerate(KINDS)
        for j, model in enumerate(("inpaint", "mini", "sd"))
    ],
)
@pytest.mark.sampled(3)
def test_every_kind_of_upscaler_and_the_recipe(pipelines: dict[str, TextToImage], name: str, model: str):
    hires = HiresPass(upscaler=name, strength=0.4, num_steps=5, sampler="DPM++ 2M Karras", prompt="a blue dog")
    picture = draw(pipelines[model], hires, width=64, height=64, variation_strength=0.2, variation_seed=3)
    request = picture.recipe.request
    assert picture.image.size == (128, 128)
    assert request.hires is not None
    assert (request.hires.sampler, request.hires.schedule) == ("dpmpp_2m", "karras")
    assert ResolvedRequest.from_json(request.to_json()) == request
    assert [file.name for file in picture.recipe.extras] == ([name] if name == "compact" else [])
    verdict, again = replay_recipe(pipelines[model], picture.image, picture.recipe)
    assert verdict.kind == "identical"
    assert again.recipe == picture.recipe
    other = draw(pipelines[model], replace(hires, prompt=None), width=64, height=64)
    assert other.image.tobytes() != picture.image.tobytes()


def test_a_picture_is_the_same_alone_and_in_a_run(pipelines: dict[str, TextToImage]):
    hires = HiresPass(upscaler="latent_bilinear", strength=0.6)
    pictures = list(pipelines["sd"](replace(REQUEST, hires=hires, num_images=3, sampler="euler_ancestral")))
    alone = draw(pipelines["sd"], hires, first_index=2, sampler="euler_ancestral")
    assert alone.image.tobytes() == pictures[2].image.tobytes()


def test_progress_counts_both_passes(pipelines: dict[str, TextToImage]):
    seen: list[Progress] = []
    list(pipelines["sd"](replace(REQUEST, hires=HiresPass(strength=0.5)), seen.append))
    assert [state.step for state in seen] == [0, 1, 2, 3, 4, 5, 6]
    assert {state.num_steps for state in seen} == {6}


def test_a1111_takes_as_many_steps_as_are_asked_for(pipelines: dict[str, TextToImage]):
    """Its second pass makes num_steps calls: the end of a schedule of num_steps / strength. Its sampler's own
    conventions go with another sampler."""
    second, steps = steps_of(pipelines["sd"], HiresPass(strength=0.4, num_steps=10), preset="a1111")
    assert (steps.num_planned, steps.num_steps) == (25, 10)
    assert a1111_image_start(10, 0.4, exact_steps=True).first == steps.first == 15
    assert second.source.strength == 0.4
    _, same = steps_of(pipelines["sd"], HiresPass(strength=0.4), preset="a1111")
    assert same.num_steps == 4
    _, own = steps_of(pipelines["sd"], HiresPass(strength=0.4, num_steps=10))
    assert (own.num_planned, own.num_steps) == (10, 4)
    sde, _ = steps_of(pipelines["sd"], HiresPass(sampler="dpmpp_3m_sde"), preset="a1111")
    assert sde.conventions.discard_penultimate_sigma
    ddim, steps = steps_of(pipelines["sd"], HiresPass(sampler="ddim", num_steps=8, strength=0.5), preset="a1111")
    assert (ddim.conventions.timestep_spacing, ddim.conventions.initial_noise) == ("a1111", "variance")
    assert steps.num_steps == 6  # of timesteps A1111 makes one call fewer than it keeps, and keeps one fewer
    back, _ = steps_of(pipelines["sd"], HiresPass(sampler="euler"), preset="a1111", sampler="ddim")
    assert (back.conventions.timestep_spacing, back.conventions.initial_noise) == ("schedule", "sigma")


@pytest.mark.slow
@pytest.mark.parametrize("presets", [("gesso",), pytest.param(("gesso", "a1111"), marks=pytest.mark.slow)])
def test_a_prompt_that_changes_goes_on_through_the_second_pass(
    pipelines: dict[str, TextToImage], presets: tuple[str, ...]
):
    """As A1111 has it: a share of 1.5 is the middle of the second pass, one of 0.5 is over by then."""

    @cache
    def second(prompt: str, preset: str = "gesso") -> bytes:
        hires = HiresPass(upscaler="latent_bilinear", strength=1.0, prompt=prompt)
        return draw(pipelines["sd"], hires, preset=preset).image.tobytes()

    for preset in presets:
        assert second("[cat:dog:0.5]", preset) == second("dog", preset)
        assert second("[cat:dog:1.0]", preset) == second("dog", preset)
        halves = second("[cat:dog:1.5]", preset)
        assert halves not in (second("dog", preset), second("cat", preset))


def test_other_tools_are_told_of_the_second_pass(pipelines: dict[str, TextToImage]):
    from gesso.metadata.a1111 import from_infotext
    from gesso.pictures.infotext import infotext
    from gesso.pictures.infotext_reading import read_infotext

    hires = HiresPass(scale=2.0, strength=0.4, num_steps=5, upscaler="latent_nearest_exact", prompt="a dog, large")
    recipe = draw(pipelines["sd"], hires, tiling="xy", variation_strength=0.25, variation_seed=9).recipe
    text = infotext(recipe)
    for part in ("Hires resize: 128x128", "Hires steps: 5", "Hires upscaler: Latent (nearest-exact)", "Tiling: True"):
        assert part in text
    assert "Denoising strength: 0.4" in text
    found = from_infotext(read_infotext(text)).request
    assert found.hires is not None
    assert (found.hires.width, found.hires.height, found.hires.strength) == (128, 128, 0.4)
    assert (found.hires.prompt, found.hires.num_steps) == ("a dog, large", 5)
    assert (found.variation.seed, found.variation.strength, found.tiling) == (9, 0.25, "xy")


def test_own_sigmas_are_those_of_the_first_pass(pipelines: dict[str, TextToImage]):
    second, steps = steps_of(pipelines["sd"], HiresPass(strength=1.0), num_steps=None, sigmas=(10.0, 3.0, 1.0, 0.0))
    assert (second.schedule, second.sigmas, steps.num_steps) == ("karras", None, 3)
    assert draw(pipelines["sd"], HiresPass(), num_steps=None, sigmas=(10.0, 3.0, 1.0, 0.0)).image.size == (128, 128)


@pytest.mark.slow
def test_memory_is_counted_for_the_larger_pass_and_bounded_by_tiles(pipelines: dict[str, TextToImage]):
    def unet(**values: Any) -> int:
        (plan,) = pipelines["sd"].plans(changed(REQUEST, **values)).values()
        return next(phase.activations for phase in plan.phases if phase.name == "unet")

    large = unet(width=512, height=512)
    assert unet(width=64, height=64, hires=HiresPass(scale=8.0)) == large
    assert unet(width=64, height=64, hires=HiresPass(scale=8.0), tile=64) < large / 8
    picture = draw(pipelines["sd"], HiresPass(scale=2.0, strength=0.5), width=64, height=64, tile=64, tile_overlap=32)
    assert picture.image.size == (128, 128)


def test_a_request_with_a_second_pass_keeps_within_the_engines_memory(tmp_path: Path):
    """Tiles of both kinds under a plan: the UNet's by the request, the autoencoder's by the budget."""
    path = save_tiny_mini(tmp_path / "tiny.safetensors")
    values: dict[str, Any] = {"hires": HiresPass(scale=2.0, strength=0.5), "width": 64, "height": 64}
    pictures = []
    for memory in (None, "auto"):
        engine = Engine("cpu", memory=memory)
        (picture,) = TextToImage(engine, engine.load(path))(changed(REQUEST, **values))
        pictures.append(np.asarray(picture.image, np.int16))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_memory_is_counted_for_the_network_between_the_passes(pipelines: dict[str, TextToImage]):
    """Beside everything else where nothing is limited, alone under a plan whose networks take turns."""
    hires = HiresPass(scale=2.0, upscaler="compact", strength=0.5)
    model, work = pipelines["sd"].model, replace(REQUEST, hires=hires, width=64, height=64)
    (free,) = pipelines["sd"].plans(work).values()
    counted = {phase.name: phase for phase in free.phases}
    assert "enlarge" not in {phase.name for phase in pipelines["sd"].plans(replace(work, hires=None))["sd"].phases}
    own = 4 * sum(tensor.numel() for tensor in upscaler_weights("compact_x2").values())
    assert counted["enlarge"].weights == counted["unet"].weights + own
    job = pipelines["sd"]._job(work, None, None, ())
    assert isinstance(job.upscaler, UpscalerFile)
    told = Workload(width=128, height=128, enlarging=job.upscaler.work((64, 64), (128, 128)))
    turns = model.footprint.phases(told, replace(free, stay="turns"))
    assert next(phase.weights for phase in turns if phase.name == "enlarge") == own
    small, large = (
        next(phase.activations for phase in model.footprint.phases(told, plan) if phase.name == "enlarge")
        for plan in (replace(free, network_tile=16), free)
    )
    assert small < large


_CHILD = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from safetensors.torch import save_file
from gesso.request.finder import NamedFiles
from gesso.request.request import TextToImageRequest
from gesso.request.parts import HiresPass
from gesso.pipelines.text_to_image import TextToImage
from gesso.runtime.engine import Engine
from gesso.runtime.plan import MIB, SLACK
from gesso.runtime.precision import memory_used
from tiny_models import save_tiny_mini
from upscaler_files import rrdb_shapes, weights

base = Path(sys.argv[2])
save_file(weights(rrdb_shapes("real", enlargements=2, channels=64, blocks=1)), base / "network.safetensors")
model = save_tiny_mini(base / "tiny.safetensors", upscale=False)
finder = NamedFiles({"upscaler": {"network": base / "network.safetensors"}})
request = TextToImageRequest(
    prompt="a red cat", seed=7, num_steps=1, width=160, height=160,
    hires=HiresPass(scale=2.0, upscaler="network", strength=0.01),
)
def peak_of(pipeline):
    (plan,) = pipeline.plans(request).values()
    list(pipeline(request))
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    return plan.network_tile, peak * 1024

engine = Engine("cpu", "float32")
free = TextToImage(engine, engine.load(model), finder=finder)
free.plans(request)  # what counting needs is imported
engine = Engine("cpu", "float32", memory=memory_used(torch.device("cpu")) + SLACK + 100 * MIB)
limited = TextToImage(engine, engine.load(model), finder=finder)
print(engine.memory, *peak_of(limited), *peak_of(free))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory where Linux shows it")
@pytest.mark.slow
def test_a_budget_is_kept_by_the_network_between_the_passes(tmp_path: Path):
    """ESRGAN of one block at its width, 160 x 160: in tiles where that is limited, else beyond the limit."""
    command = [sys.executable, "-c", _CHILD, str(Path(__file__).parents[1]), str(tmp_path)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    budget, tile, within, free_tile, beyond = (int(number) for number in child.stdout.split())
    print(f"budget {budget >> 20} MiB; tiles of {tile}: {within >> 20}, of {free_tile}: {beyond >> 20}")
    assert tile < free_tile == 192
    assert within <= budget < beyond

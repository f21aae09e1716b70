"""Control networks of a request, through the whole pipeline, beside the pipelines of diffusers."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from asking import changed
from families.test_control_network import theirs
from families.test_controlnet_union import their_union
from families.test_t2i_adapter import their_adapter
from gesso.checkpoints.hashing import hash_file
from gesso.diffusion.tiles import Tile
from gesso.errors import GessoError
from gesso.families.control_network import control_unet
from gesso.families.native_control import save_control
from gesso.hints.registry import preprocess
from gesso.models.controlnet import ControlNet, ControlNetConfig
from gesso.pipelines.controls import find_controls, is_on, strengths
from gesso.pipelines.hint_pictures import HintPicture, hint_digest
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.checks import RequestError
from gesso.request.finder import NamedFiles
from gesso.request.parts import ControlUse
from gesso.request.recipe import Recipe
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine
from gesso.studio.replay import replay_recipe
from pipelines.test_diffusers_parity import Case, scheduler
from tiny_models import save_tiny_mini, tiny_family
from tiny_sd import TINY_INPAINT, TINY_SD, TINY_SD21, TINY_SDXL, save_tiny_folder

FAMILIES = {"SD 1.5": TINY_SD, "SD 2.1": TINY_SD21, "SDXL": TINY_SDXL, "inpainting": TINY_INPAINT}
TOLERANCE = 1e-4  # what was asked for; of an image in 0..1


def picture(seed: int = 0, size: tuple[int, int] = (128, 64)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def use(hint: Image.Image, **changes: Any) -> ControlUse:
    return ControlUse(**({"model": "edges", "image": hint_digest(hint)} | changes))


REQUEST = TextToImageRequest(prompt="a cat", seed=1, num_steps=4, width=128, height=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    base = tmp_path_factory.mktemp("controls")

    def made(model: str) -> Path:
        target = base / model.replace(" ", "-")
        if not target.exists():
            save_tiny_folder(target, FAMILIES[model])
            for name, changes in CONTROLS.items():
                reference = theirs(replace(FAMILIES[model], unet=control_unet(FAMILIES[model])), **changes)
                if name == "other":
                    for param in reference.parameters():
                        param.mul_(0.9)
                reference.save_pretrained(target / name)
        return target

    return made


CONTROLS: dict[str, dict[str, Any]] = {"edges": {}, "other": {}, "pooled": {"global_pool_conditions": True}}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine("cpu", "float32", max_models=len(FAMILIES))


@pytest.fixture
def ours(engine: Engine, folder: Callable[[str], Path]) -> Callable[[str], TextToImage]:
    def build(model: str) -> TextToImage:
        path = folder(model)
        return TextToImage(
            engine, engine.load(path), finder=NamedFiles({"control": {name: path / name for name in CONTROLS}})
        )

    return build


@cache
def their_pipeline(path: Path) -> Any:
    """The folder in diffusers, from which `from_pipe` makes pipelines of other kinds around the same networks."""
    import diffusers

    xl = path.name == "SDXL"
    settings: dict[str, Any] = {"add_watermarker": False} if xl else {"safety_checker": None}
    kind = diffusers.StableDiffusionXLPipeline if xl else diffusers.StableDiffusionPipeline
    return kind.from_pretrained(path, local_files_only=True, **settings)


def expected(model: str, path: Path, names: list[str], hints: list[Image.Image], **call: Any) -> Tensor:
    """What the pipeline of diffusers draws, [B, 3, H, W] in 0..1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        nets = [diffusers.ControlNetModel.from_pretrained(path / name, local_files_only=True) for name in names]
        kind = "StableDiffusionXLControlNetPipeline" if model == "SDXL" else "StableDiffusionControlNetPipeline"
        pipe = getattr(diffusers, kind).from_pipe(their_pipeline(path), controlnet=nets if len(nets) > 1 else nets[0])
        pipe.scheduler = scheduler(diffusers, pipe, Case("ddim", "DDIMScheduler"))
        pipe.set_progress_bar_config(disable=True)
        found = pipe(
            "a cat",
            negative_prompt="blurry",
            image=hints if len(hints) > 1 else hints[0],
            width=128,
            height=128,
            num_inference_steps=4,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(1),
            output_type="pt",
            **call,
        ).images
    assert isinstance(found, Tensor)
    return found


def drawn(pipeline: TextToImage, uses: list[ControlUse], hints: list[Image.Image], **changes: Any) -> Tensor:
    request = changed(
        REQUEST,
        negative_prompt="blurry",
        guidance_scale=5.0,
        sampler="ddim",
        preset="diffusers",
        height=128,  # at 64 the coarsest level norms groups of two numbers, which are as good as signs
        controls=tuple(uses),
        **changes,
    )
    return (pipeline.pixels(request, hints=hints) / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize(
    ("model", "case"),
    [
        # Three drawings each; what the slow ones have, the quick ones have together.
        *(("SD 1.5", case) for case in ("guess", "window", "two", "shape", "pooled")),
        pytest.param("SD 1.5", "balanced", marks=pytest.mark.slow),
        ("SD 2.1", "guess"),
        pytest.param("SDXL", "guess", marks=pytest.mark.slow),
        ("SDXL", "two"),
    ],
)
@pytest.mark.sampled(7)
def test_pictures_beside_diffusers(model: str, case: str, folder: Any, ours: Any) -> None:
    hints = [picture(0, (48, 80) if case == "shape" else (128, 128))]
    names, uses, call = ["edges"], [use(hints[0], weight=0.8)], {"controlnet_conditioning_scale": 0.8}
    if case == "guess":
        uses, call = [use(hints[0], weight=0.8, mode="control")], call | {"guess_mode": True}
    elif case == "window":
        uses = [use(hints[0], weight=0.8, start=0.25, end=0.75)]
        call |= {"control_guidance_start": 0.25, "control_guidance_end": 0.75}
    elif case == "two":
        hints.append(picture(1, (128, 128)))
        names = ["edges", "other"]
        uses = [use(hints[0], weight=0.8), use(hints[1], model="other", weight=0.5, end=0.5)]
        call = {
            "controlnet_conditioning_scale": [0.8, 0.5],
            "control_guidance_start": [0.0, 0.0],
            "control_guidance_end": [1.0, 0.5],
        }
    elif case == "pooled":
        names, uses = ["pooled"], [use(hints[0], model="pooled", weight=0.8)]
    pipeline = ours(model)
    found = drawn(pipeline, uses, hints)
    wanted = expected(model, folder(model), names, hints, **call)
    gap = (found - wanted).abs().max().item()
    effect = (drawn(pipeline, [], []) - wanted).abs().mean().item()
    print(f"{model} {case}: largest difference {gap:.1e}; without the control {effect:.1e} on average")
    assert gap < TOLERANCE < effect


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    base = tmp_path_factory.mktemp("adapters")

    def made(model: str) -> Path:
        target = base / model.replace(" ", "-")
        if not target.exists():
            their_adapter(FAMILIES[model]).save_pretrained(target)
        return target

    return made


@pytest.mark.parametrize("model", ["SD 1.5", "SDXL"])
@pytest.mark.sampled(2)
def test_adapters_beside_diffusers(model: str, folder: Any, adapters: Any, engine: Engine) -> None:
    hint, path, xl = picture(0, (128, 128)), folder(model), model == "SDXL"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        pipe = getattr(diffusers, f"StableDiffusion{'XL' if xl else ''}AdapterPipeline").from_pipe(
            their_pipeline(path),
            adapter=diffusers.T2IAdapter.from_pretrained(adapters(model), local_files_only=True),
        )
        pipe.scheduler = scheduler(diffusers, pipe, Case("ddim", "DDIMScheduler"))
        pipe.set_progress_bar_config(disable=True)
        wanted = pipe(
            "a cat",
            negative_prompt="blurry",
            image=hint,
            width=128,
            height=128,
            num_inference_steps=4,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(1),
            output_type="np",
            adapter_conditioning_scale=0.8,
            **({"adapter_conditioning_factor": 0.5} if xl else {}),
        ).images
    wanted = torch.from_numpy(wanted).permute(0, 3, 1, 2)
    pipeline = TextToImage(engine, engine.load(path), finder=NamedFiles({"control": {"edges": adapters(model)}}))
    found = drawn(pipeline, [use(hint, weight=0.8, end=0.5 if xl else 1.0)], [hint])
    gap = (found - wanted).abs().max().item()
    effect = (drawn(pipeline, [], []) - wanted).abs().mean().item()
    print(f"{model} T2I-Adapter: largest difference {gap:.1e}; without it {effect:.1e} on average")
    assert gap < TOLERANCE < effect


def test_a_union_beside_diffusers(folder: Any, engine: Engine, tmp_path: Path) -> None:
    hint, path = picture(0, (128, 128)), folder("SDXL")
    their_union().save_pretrained(tmp_path / "union")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        pipe = diffusers.StableDiffusionXLControlNetUnionPipeline.from_pipe(
            their_pipeline(path),
            controlnet=diffusers.ControlNetUnionModel.from_pretrained(tmp_path / "union", local_files_only=True),
        )
        pipe.scheduler = scheduler(diffusers, pipe, Case("ddim", "DDIMScheduler"))
        pipe.set_progress_bar_config(disable=True)
        wanted = pipe(
            "a cat",
            negative_prompt="blurry",
            control_image=[hint],
            control_mode=[3],
            width=128,
            height=128,
            num_inference_steps=4,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(1),
            output_type="pt",
            controlnet_conditioning_scale=0.8,
        ).images
    pipeline = TextToImage(engine, engine.load(path), finder=NamedFiles({"control": {"edges": tmp_path / "union"}}))
    found = drawn(pipeline, [use(hint, weight=0.8, kind="canny")], [hint])
    gap = (found - wanted).abs().max().item()
    effect = (drawn(pipeline, [], []) - wanted).abs().mean().item()
    print(f"SDXL ControlNet Union: largest difference {gap:.1e}; without it {effect:.1e} on average")
    assert gap < TOLERANCE < effect
    (plan,) = pipeline.plans(replace(REQUEST, controls=(use(hint, kind="depth"),)), hints=[hint]).values()
    assert plan.fits
    for changes, message in (
        ({}, "needs kind=, the kind of hint"),
        ({"kind": "cany"}, "unknown kind of hint 'cany'"),
        ({"kind": "tile"}, "does not support hints of kind tile"),
        ({"preprocessor": "colour"}, "unknown kind of hint 'colour'"),
    ):
        with pytest.raises(RequestError, match=message):
            pipeline(replace(REQUEST, controls=(use(hint, **changes),)), hints=[hint])


def test_a_kind_is_for_unions(ours: Any) -> None:
    hint = picture()
    with pytest.raises(RequestError, match="not a ControlNet Union"):
        ours("SD 1.5")(replace(REQUEST, controls=(use(hint, kind="canny"),)), hints=[hint])


def test_an_adapter_leaves_the_unguided_half_alone_on_request(folder: Any, adapters: Any, engine: Engine) -> None:
    hint, path = picture(), folder("SD 1.5")
    pipeline = TextToImage(engine, engine.load(path), finder=NamedFiles({"control": {"edges": adapters("SD 1.5")}}))
    request = replace(REQUEST, guidance_scale=0.0)
    plain = pipeline.pixels(request)
    for mode, same in (("control", True), ("prompt", False), ("balanced", False)):
        found = pipeline.pixels(replace(request, controls=(use(hint, mode=mode),)), hints=[hint])
        assert torch.equal(found, plain) is same, mode
    (steered,) = pipeline.plans(replace(request, controls=(use(hint),)), hints=[hint]).values()
    (free,) = pipeline.plans(request).values()
    assert all(a.weights > b.weights for a, b in zip(steered.phases, free.phases, strict=True))


def test_an_adapter_of_sdxl_wants_whole_patches(folder: Any, adapters: Any, engine: Engine) -> None:
    hint, path = picture(), folder("SDXL")
    pipeline = TextToImage(engine, engine.load(path), finder=NamedFiles({"control": {"edges": adapters("SDXL")}}))
    with pytest.raises(RequestError, match="a multiple of 16"):
        pipeline(replace(REQUEST, width=136, controls=(use(hint),)), hints=[hint])


def test_each_mode_draws_something_else(ours: Any) -> None:
    hint, pipeline = picture(), ours("SD 1.5")
    found = [
        pipeline.pixels(replace(REQUEST, guidance_scale=3.0, controls=(use(hint, mode=mode),)), hints=[hint])
        for mode in ("balanced", "prompt", "control")
    ]
    assert not any(torch.equal(found[a], found[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_no_weight_and_no_step_is_no_control_bit_by_bit(ours: Any) -> None:
    hint, pipeline = picture(), ours("SD 1.5")
    plain = pipeline.pixels(REQUEST)
    for changes in ({"weight": 0.0}, {"start": 0.9, "end": 0.9}):
        found = pipeline.pixels(replace(REQUEST, controls=(use(hint, **changes),)), hints=[hint])
        assert torch.equal(found, plain)
    assert torch.equal(pipeline.pixels(REQUEST), plain)  # nothing is left behind


def test_strengths() -> None:
    """The numbers of the two programs, see their sources named in docs/control.md."""
    soft = strengths("control", "a1111", 13)
    assert soft == pytest.approx([0.825 ** (12 - i) for i in range(13)])
    assert strengths("prompt", "a1111", 10) == pytest.approx(soft[:10])  # SDXL takes the first ten
    small = strengths("prompt", "a1111", 7)  # the same range over what there is
    assert (small[0], small[-1]) == pytest.approx((soft[0], 1.0))
    assert strengths("control", "diffusers", 13) == pytest.approx(torch.logspace(-1, 0, 13).tolist())
    assert strengths("control", "diffusers", 13, pooled=True) == [1.0] * 13
    assert strengths("balanced", "a1111", 10) == [1.0] * 10


@pytest.mark.parametrize(
    ("rule", "steps"), [("a1111", [2, 3, 4, 5]), ("diffusers", [2, 3, 4])]
)  # the last: its end lies beyond
def test_the_steps_at_which_it_is_on(rule: str, steps: list[int]) -> None:
    part = ControlUse(model="m", image="0" * 64, start=0.2, end=0.5)
    assert [step for step in range(10) if is_on(part, step, 10, rule)] == steps


def test_the_unguided_half_is_left_alone_where_the_picture_is_more_important(ours: Any) -> None:
    """At guidance 0 the unguided half alone draws the picture."""
    hint, pipeline = picture(), ours("SD 1.5")
    request = replace(REQUEST, guidance_scale=0.0)
    plain = pipeline.pixels(request)
    for mode, same in (("control", True), ("prompt", False)):
        found = pipeline.pixels(replace(request, controls=(use(hint, mode=mode),)), hints=[hint])
        gap = (found - plain).abs().max().item()
        assert (gap < 1e-5) is same, (mode, gap)


def test_a_batch_gives_what_each_picture_alone_gives(folder: Any, ours: Any) -> None:
    hint = picture()
    request = replace(REQUEST, num_images=3, controls=(use(hint, mode="control"),))
    alone = ours("SD 1.5").pixels(request, hints=[hint])
    together = Engine("cpu", "float32", rows_per_call=3)
    path = folder("SD 1.5")
    pipeline = TextToImage(together, together.load(path), finder=NamedFiles({"control": {"edges": path / "edges"}}))
    found = torch.cat([torch.tensor(np.asarray(one.image)) for one in pipeline(request, hints=[hint])])
    wanted = torch.cat([torch.tensor(np.asarray(one.image)) for one in ours("SD 1.5")(request, hints=[hint])])
    assert (found.int() - wanted.int()).abs().max() <= 1
    assert torch.equal(ours("SD 1.5").pixels(replace(request, num_images=1), hints=[hint]), alone[:1])


def test_tiles_see_their_part_of_the_hint(ours: Any) -> None:
    pipeline = ours("SD 1.5")
    hint = picture(size=(192, 64))
    controls = find_controls(
        pipeline.resolve(replace(REQUEST, controls=(use(hint),))),
        [hint],
        None,
        engine=pipeline.engine,
        model=pipeline.model,
        finder=pipeline.finder,
    )
    whole = controls.at(8, 24, pipeline.model.device)
    assert whole is not None
    part = whole.part(Tile(top=0, left=8, height=8, width=16))
    assert torch.equal(part.controls[0].hint, whole.controls[0].hint[..., 64:])


def test_a_large_picture_is_steered_in_tiles(ours: Any) -> None:
    hint, pipeline = picture(size=(192, 64)), ours("SD 1.5")
    request = changed(REQUEST, width=192, tile=128, tile_overlap=64)
    plain = pipeline.pixels(request)
    assert not torch.equal(pipeline.pixels(replace(request, controls=(use(hint),)), hints=[hint]), plain)


def test_an_inpainting_model_is_steered_too(ours: Any) -> None:
    hint, source, mask = picture(), picture(3), Image.new("L", (128, 64), 255)
    request = changed(REQUEST, strength=1.0)
    pipeline = ours("inpainting")
    plain = pipeline.pixels(request, image=source, mask=mask)
    found = pipeline.pixels(replace(request, controls=(use(hint),)), image=source, mask=mask, hints=[hint])
    assert (found - plain).abs().max() > 1e-3


def test_the_recipe_names_file_and_hint_and_replays(folder: Any, ours: Any) -> None:
    hint, pipeline = picture(), ours("SD 1.5")
    (result,) = pipeline(replace(REQUEST, controls=(use(hint, weight=0.7, preprocessor="invert"),)), hints=[hint])
    recipe = Recipe.from_json(result.recipe.to_json())
    file = folder("SD 1.5") / "edges" / "diffusion_pytorch_model.safetensors"
    (extra,) = recipe.extras
    assert (extra.kind, extra.name, extra.sha256) == ("control", "edges", hash_file(file).sha256)
    assert recipe.request.controls[0].image == hint_digest(hint)
    verdict, _ = replay_recipe(pipeline, result.image, recipe, hints=[hint])
    assert verdict.kind == "identical"
    with pytest.raises(RequestError, match=r"edges: the hint .* is missing"):
        replay_recipe(pipeline, result.image, recipe)


def test_pictures_that_nobody_asked_for_are_refused(ours: Any) -> None:
    with pytest.raises(RequestError, match="is not used by any of"):
        ours("SD 1.5")(REQUEST, hints=[picture()])


def test_an_unknown_network_is_refused_at_once(ours: Any) -> None:
    hint = picture()
    with pytest.raises(RequestError, match=r"no ControlNet named 'edgse' \(did you mean 'edges'"):
        ours("SD 1.5")(replace(REQUEST, controls=(use(hint, model="edgse"),)), hints=[hint])


def test_a_network_for_another_model_is_refused_at_once(engine: Engine, tmp_path: Path, folder: Any) -> None:
    other = replace(TINY_SD, unet=replace(TINY_SD.unet, context_dim=2048))
    save_file(theirs(other).state_dict(), tmp_path / "xl.safetensors")
    hint = picture()
    pipeline = TextToImage(
        engine,
        engine.load(folder("SD 1.5")),
        finder=NamedFiles({"control": {"edges": tmp_path / "xl.safetensors"}}),
    )
    with pytest.raises(GessoError, match=r"for Stable Diffusion XL, the model is 'sd15'"):
        pipeline(replace(REQUEST, controls=(use(hint),)), hints=[hint])


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, pytest.param(2, marks=pytest.mark.slow)])  # counts memory, draws four times
def test_it_works_within_a_limit_of_memory_and_is_counted(folder: Any, ours: Any, rows: int) -> None:
    hint, path = picture(), folder("SD 1.5")
    request = replace(REQUEST, controls=(use(hint),))
    wanted = ours("SD 1.5").pixels(request, hints=[hint])
    engine = Engine("cpu", "float32", memory="64GiB", rows_per_call=rows)
    pipeline = TextToImage(engine, engine.load(path), finder=NamedFiles({"control": {"edges": path / "edges"}}))
    with_control, without = pipeline.plans(request, hints=[hint]), pipeline.plans(REQUEST)
    unet = [
        next(phase for phase in next(iter(plans.values())).phases if phase.name == "unet")
        for plans in (with_control, without)
    ]
    nbytes = sum(p.numel() * 4 for p in theirs(TINY_SD).parameters())
    assert unet[0].weights - unet[1].weights == nbytes
    assert unet[0].activations > unet[1].activations
    assert torch.equal(pipeline.pixels(request, hints=[hint]), wanted)
    for stay in ("turns", "stream"):
        engine.memory = None
        tight = replace(next(iter(with_control.values())), stay=stay)
        limited = TextToImage(engine, pipeline.model.with_plan(tight), finder=pipeline.finder)
        assert torch.equal(limited.pixels(request, hints=[hint]), wanted)
        pipeline.model.residency.offload_all()


def test_the_default_models_own_file(tmp_path: Path) -> None:
    family = tiny_family()
    save_tiny_mini(tmp_path / "mini.safetensors")
    side = family.vae.downscale * family.output_scale
    widths = (8, 16, 16, 16)[: 1 + (side.bit_length() - 1)]
    config = ControlNetConfig(unet=control_unet(family), hint_channels=widths, hint_patch=side >> (len(widths) - 1))
    torch.manual_seed(0)
    network = ControlNet(config)
    save_control(tmp_path / "edges.safetensors", network, family.name, "canny", {"title": "edges"})
    engine = Engine("cpu", "float32")
    pipeline = TextToImage(
        engine,
        engine.load(tmp_path / "mini.safetensors"),
        finder=NamedFiles({"control": {"edges": tmp_path / "edges.safetensors"}}),
    )
    hint = picture()
    request = TextToImageRequest(prompt="a red cat", seed=1, num_steps=2)
    plain = pipeline.pixels(request)
    assert not torch.equal(pipeline.pixels(replace(request, controls=(use(hint),)), hints=[hint]), plain)


# ------------------------------------------------------------------------------------------------------ hints alone


def made(image: Image.Image, mode: str = "crop", mask: Image.Image | None = None, **changes: Any) -> HintPicture:
    return HintPicture(use(image, **changes), image, mask, mode)


def test_a_hint_of_the_right_size_is_not_touched() -> None:
    image = picture(size=(64, 64))
    found = made(image).pixels((64, 64))
    assert torch.equal(found[0].permute(1, 2, 0), torch.tensor(np.asarray(image)) / 255)
    assert torch.equal(made(image).pixels((64, 64), swapped=True), found.flip(1))


@pytest.mark.parametrize(("mode", "left"), [("crop", 255), ("stretch", 0)])
@pytest.mark.parametrize("preprocessor", [None, "tile"])
def test_another_shape_is_cropped_or_stretched(mode: str, left: int, preprocessor: str | None) -> None:
    """Black at both ends of a wide picture, white in its middle."""
    image = Image.new("RGB", (128, 64))
    image.paste((255, 255, 255), (32, 0, 96, 64))
    found = np.asarray(made(image, mode, preprocessor=preprocessor).hint((64, 64)).convert("L"))
    assert abs(int(found[32, 4]) - left) < 16


def test_a_preprocessor_with_parameters_of_its_own() -> None:
    image = picture(size=(64, 64))
    found = made(image, preprocessor="canny", parameters=(("low", 900.0), ("high", 1200.0))).hint((64, 64))
    assert found.tobytes() == preprocess("canny", image, parameters={"low": 900, "high": 1200}).tobytes()
    assert found.tobytes() != preprocess("canny", image).tobytes()
    with pytest.raises(RequestError, match="canny: unknown parameter 'lwo'"):
        made(image, preprocessor="canny", parameters=(("lwo", 1.0),)).hint((64, 64))


@pytest.mark.parametrize("preprocessor", [None, "tile"])
def test_where_a_part_is_drawn_its_part_of_the_hint_is_seen(preprocessor: str | None) -> None:
    image = picture(size=(128, 64))
    part = HintPicture(use(image, preprocessor=preprocessor), image, None, "fill", (0.5, 0.0, 1.0, 1.0))
    assert torch.equal(part.pixels((64, 64)), made(image.crop((64, 0, 128, 64))).pixels((64, 64)))
    mask = Image.new("L", (128, 64))
    mask.paste(255, (64, 0, 96, 64))
    holed = HintPicture(use(image, preprocessor="inpaint"), image, mask, "fill", (0.5, 0.0, 1.0, 1.0))
    found = holed.pixels((64, 64))
    assert bool((found[..., :32] == -1).all())
    assert bool((found[..., 32:] >= 0).all())


def test_a_hint_goes_with_the_masked_part_that_is_drawn(ours: Any) -> None:
    """Of a hint that is blank outside of that part, nothing is seen but what a blank one shows elsewhere."""
    pipeline, source = ours("SD 1.5"), picture(3, (256, 64))
    mask = Image.new("L", (256, 64))
    mask.paste(255, (160, 0, 256, 64))
    request = changed(REQUEST, mask_area="masked", mask_padding=0, strength=0.7, mask_blur=0.0)
    hints = [Image.new("RGB", (256, 64)) for _ in range(3)]
    hints[1].paste((255, 255, 255), (0, 0, 64, 64))  # far from what is drawn
    hints[2].paste((255, 255, 255), (192, 0, 256, 64))
    found = [
        pipeline.pixels(replace(request, controls=(use(hint),)), image=source, mask=mask, hints=[hint])
        for hint in hints
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.slow
def test_image_to_image_beside_diffusers(folder: Any, ours: Any) -> None:
    """Shares are of the steps that are run."""
    hint, source, path = picture(0, (128, 128)), picture(3, (128, 128)), folder("SD 1.5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        pipe = diffusers.StableDiffusionControlNetImg2ImgPipeline.from_pipe(
            their_pipeline(path),
            controlnet=diffusers.ControlNetModel.from_pretrained(path / "edges", local_files_only=True),
        )
        pipe.scheduler = scheduler(diffusers, pipe, Case("ddim", "DDIMScheduler"))
        pipe.set_progress_bar_config(disable=True)
        wanted = pipe(
            "a cat",
            negative_prompt="blurry",
            image=source,
            control_image=hint,
            strength=0.6,
            num_inference_steps=10,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(1),
            output_type="pt",
            controlnet_conditioning_scale=0.8,
            control_guidance_start=0.2,
            control_guidance_end=0.5,
        ).images
    request = changed(
        REQUEST,
        negative_prompt="blurry",
        guidance_scale=5.0,
        sampler="ddim",
        preset="diffusers",
        num_steps=10,
        strength=0.6,
        height=128,
        controls=(use(hint, weight=0.8, start=0.2, end=0.5),),
    )
    found = (ours("SD 1.5").pixels(request, image=source, hints=[hint]) / 2 + 0.5).clamp(0, 1)
    gap = (found - wanted).abs().max().item()
    print(f"SD 1.5 image to image: largest difference {gap:.1e}")
    assert gap < TOLERANCE


def test_the_hole_of_an_inpainting_hint() -> None:
    image, mask = picture(size=(64, 64)), Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    found = made(image, mask=mask, preprocessor="inpaint").pixels((64, 64))
    assert bool((found[..., :32] == -1).all())
    assert torch.equal(found[..., 32:], made(image).pixels((64, 64))[..., 32:])
    clear = image.convert("RGBA")
    clear.putalpha(mask.point([255 - level for level in range(256)]))
    assert torch.equal(made(clear, preprocessor="inpaint").pixels((64, 64)), found)
    with pytest.raises(RequestError, match="needs a mask"):
        made(image, preprocessor="inpaint").pixels((64, 64))


def test_a_transparent_hint_lies_on_white_else() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert bool((made(clear).pixels((8, 8)) == 1).all())


def test_digests_tell_what_a_picture_alone_does_not_show() -> None:
    image = picture(size=(64, 64))
    clear = image.convert("RGBA")
    deep = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8))
    other = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) + 1)
    digests = [hint_digest(one) for one in (image, clear, deep, other, deep.rotate(90))]
    assert len(set(digests)) == 5
    assert hint_digest(image) == hint_digest(image.copy())


def test_an_unknown_preprocessor_is_the_requests_fault() -> None:
    with pytest.raises(RequestError, match=r"edges: .*did you mean 'canny'"):
        made(picture(size=(64, 64)), preprocessor="cany").pixels((64, 64))


# Four drawings each; "prompt" is "balanced" with other strengths.
@pytest.mark.parametrize("mode", ["balanced", pytest.param("prompt", marks=pytest.mark.slow), "control"])
@pytest.mark.sampled(2)
def test_prompts_that_change_and_guide_together_are_steered(mode: str, ours: Any) -> None:
    """Twice the same prompt at half the weight is the prompt, in every mode; so is a schedule that changes nothing."""
    pipeline, hint = ours("SD 1.5"), picture(0, (128, 128))
    uses = [use(hint, mode=mode)]
    plain = drawn(pipeline, uses, [hint], syntax="a1111")
    for prompt in ("a cat :0.5 AND a cat :0.5", "[a cat|a cat] :0.5 AND a [cat:cat:0.5] :0.5"):
        halves = drawn(pipeline, uses, [hint], syntax="a1111", prompt=prompt)
        assert (halves - plain).abs().mean() < 1e-4
    other = drawn(pipeline, uses, [hint], syntax="a1111", prompt="a [cat:dog:0.5] AND a house")
    assert (other - plain).abs().mean() > 1e-3

"""LoRA and embeddings of a request, through the whole pipeline."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from adapters.files import kohya, lora_parts, saved, target_of
from adapters.test_lora_parity import attention_only
from asking import changed
from gesso.adapters import attaching
from gesso.adapters.names import Target
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.hashing import hash_file
from gesso.families.base import Family
from gesso.pipelines.adapters import Adapters, embeddings_in_text, factor_at, find_adapters, read_adapters
from gesso.pipelines.parsed import ParsedTexts
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.checks import RequestError
from gesso.request.finder import NamedFiles
from gesso.request.parts import LoraUse
from gesso.request.recipe import Recipe, changes
from gesso.request.request import TextToImageRequest
from gesso.runtime import model as model_room
from gesso.runtime.adapter_cache import AdapterCache
from gesso.runtime.engine import Engine, LoadedModel
from gesso.runtime.precision import memory_used
from gesso.studio.replay import replay_recipe
from tiny_sd import TINY_REFINER, TINY_SD, TINY_SDXL, clip_tokenizer, save_tiny_folder


def test_what_is_shown_of_adapters_is_what_was_asked_for():
    assert repr(Adapters()) == "Adapters(loras=(), embeddings=(), notices=(), merged=False)"


REQUEST = TextToImageRequest(prompt="a cat", seed=1, num_steps=4, width=64, height=64)
STYLE = LoraUse(name="style", weight=0.5)
FAMILIES = {"sd": TINY_SD, "xl": TINY_SDXL, "refiner": TINY_REFINER}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine("cpu", "float32", max_models=len(FAMILIES))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {name: save_tiny_folder(base / name, family) for name, family in FAMILIES.items()}


@pytest.fixture(scope="module")
def models(engine: Engine, folders: dict[str, Path]) -> dict[str, LoadedModel]:
    return {name: engine.load(folder) for name, folder in folders.items()}


def lora_file(path: Path, target: Target, *, seed: int = 0, only: str = "") -> Path:
    torch.manual_seed(seed)
    tensors = kohya(target, lora_parts)
    return saved(path, {name: tensor for name, tensor in tensors.items() if only in name})


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> NamedFiles:
    base = tmp_path_factory.mktemp("files")
    sd, xl = target_of(TINY_SD), target_of(TINY_SDXL)
    loras = {
        "style": lora_file(base / "style.safetensors", sd),
        "other": lora_file(base / "other.safetensors", sd, seed=1),
        "unet": lora_file(base / "unet.safetensors", sd, only="lora_unet"),
        "text": lora_file(base / "text.safetensors", sd, only="lora_te"),
        "xl": lora_file(base / "xl.safetensors", xl),
    }
    half = load_file(loras["style"])
    loras["partial"] = saved(base / "partial.safetensors", half | {"lora_unet_nowhere.lora_up.weight": torch.ones(1)})
    torch.manual_seed(3)
    words = {
        "mystyle": saved(base / "mystyle.safetensors", {"emb_params": torch.randn(2, 32)}),
        "xlword": saved(base / "xlword.safetensors", {"clip_l": torch.randn(3, 32), "clip_g": torch.randn(3, 48)}),
    }
    bundled = {"bundle_emb.hisword.string_to_param.*": torch.randn(2, 32)}
    loras["bundled"] = saved(base / "bundled.safetensors", half | bundled)
    return NamedFiles({"lora": loras, "embedding": words})


@pytest.fixture(scope="module")
def before(models: dict[str, LoadedModel]) -> dict[str, dict[str, Tensor]]:
    """The weights of SD before any test."""
    networks = models["sd"].parts.networks
    return {name: {key: t.clone() for key, t in net.state_dict().items()} for name, net in networks.items()}


@pytest.fixture
def pipeline(
    engine: Engine, models: dict[str, LoadedModel], finder: NamedFiles, before: dict[str, dict[str, Tensor]]
) -> Iterator[TextToImage]:
    """SD; afterwards every bit must be as before, and no hook left."""
    model = models["sd"]
    yield TextToImage(engine, model, finder=finder)
    for name, net in model.parts.networks.items():
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
        for key, tensor in net.state_dict().items():
            assert torch.equal(tensor, before[name][key])


def test_a_lora_of_the_prompt_is_that_of_the_request(pipeline: TextToImage):
    plain = pipeline.pixels(REQUEST)
    found = pipeline.pixels(replace(REQUEST, prompt="a cat <lora:style:0.5>"))
    assert (found - plain).abs().mean() > 1e-2
    assert torch.equal(found, pipeline.pixels(replace(REQUEST, loras=(STYLE,))))
    assert torch.equal(found, pipeline.pixels(replace(REQUEST, prompt="a cat <lyco:style:te=0.5:unet=0.5>")))
    assert torch.equal(found, pipeline.pixels(changed(REQUEST, prompt="a cat withLora(style, 0.5)", syntax="compel")))
    assert torch.equal(pipeline.pixels(REQUEST), plain)
    assert torch.equal(pipeline.pixels(replace(REQUEST, prompt="a cat <lora:style:0>")), plain)


def test_text_and_unet_have_strengths_of_their_own(pipeline: TextToImage):
    both = replace(REQUEST, prompt="a cat <lora:style:0.3:0.5>")
    parts = replace(REQUEST, prompt="a cat <lora:text:0.3:0><lora:unet:0:0.5>")
    assert torch.equal(pipeline.pixels(both), pipeline.pixels(parts))
    assert torch.equal(
        pipeline.pixels(both),
        pipeline.pixels(replace(REQUEST, loras=(LoraUse(name="style", weight=0.5, text_weight=0.3),))),
    )


def test_several_at_once_in_any_order(pipeline: TextToImage):
    first = pipeline.pixels(replace(REQUEST, prompt="<lora:style:0.5>a cat<lora:other:-0.3>"))
    second = pipeline.pixels(replace(REQUEST, prompt="a cat<lora:other:-0.3><lora:style:0.5>"))
    assert (first - second).abs().mean() < 1e-4  # sums in another order
    twice = pipeline.pixels(
        replace(REQUEST, prompt="a cat <lora:style:0.2>", loras=(LoraUse(name="style", weight=0.3),))
    )
    once = pipeline.pixels(replace(REQUEST, prompt="a cat <lora:style:0.5>"))
    assert (twice - once).abs().mean() < 1e-4


@pytest.mark.parametrize("prompt", ["a cat <lora:style:0.5>", "a cat <lora:style:0.8@0,0.1@0.5><lora:other:0.2>"])
@pytest.mark.sampled(2)
def test_merged_or_at_run_time_makes_no_difference(pipeline: TextToImage, prompt: str):
    request = replace(REQUEST, prompt=prompt)
    run = pipeline.pixels(request)
    merged = pipeline.pixels(changed(request, lora_mode="merged"))
    assert (run - merged).abs().mean() < 1e-4  # float32 sums in another order, four steps of a random network
    assert (run - pipeline.pixels(REQUEST)).abs().mean() > 1e-2


def test_what_was_merged_for_a_picture_serves_the_next(pipeline: TextToImage, monkeypatch: pytest.MonkeyPatch):
    merged: list[str] = []
    summed = attaching._Layer._summed

    def counted(layer: Any, strengths: Any) -> Any:
        merged.append(layer.name)
        return summed(layer, strengths)

    monkeypatch.setattr(attaching._Layer, "_summed", counted)

    def drawn(weight: float) -> tuple[torch.Tensor, int]:
        before = len(merged)
        request = changed(replace(REQUEST, prompt=f"a cat <lora:style:{weight}>"), lora_mode="merged")
        return pipeline.pixels(request), len(merged) - before

    first, layers = drawn(0.45)  # which no other test has asked for
    again, more = drawn(0.45)
    assert layers > 0 and more == 0
    assert torch.equal(first, again)
    plain = pipeline.pixels(replace(REQUEST, prompt="a cat"))
    assert (plain - first).abs().mean() > 1e-3
    other, more = drawn(0.65)
    assert more == layers and not torch.equal(other, first)
    monkeypatch.setattr(model_room, "KEPT_MERGED", 0)  # too large to be kept
    assert [drawn(0.65)[1], drawn(0.65)[1]] == [layers, layers]
    assert torch.equal(drawn(0.65)[0], other)


def test_strength_changes_over_the_steps(pipeline: TextToImage):
    """On for the first half: the first two steps are those of the LoRA, the others those of the model."""
    model, seen = pipeline.model, []
    on = replace(REQUEST, prompt="a cat <lora:unet:0:1>", num_steps=4)
    half = replace(on, prompt="a cat", loras=(LoraUse(name="unet", text_weight=0.0, points=((0.49, 1.0), (0.5, 0.0))),))

    def record(request: TextToImageRequest) -> list[Tensor]:
        seen.clear()
        handle = model.parts.unet.register_forward_hook(lambda _, args, output: seen.append((args[0].clone(), output)))
        pipeline.pixels(request)
        handle.remove()
        return list(seen)

    changing, constant = record(half), record(on)
    for step in (0, 1):
        assert torch.equal(changing[step][1], constant[step][1])
    for step in (2, 3):
        z, output = changing[step]
        context = model.encode_prompt("a cat", clip_skip=1, width=64, height=64).context
        del z, context
        assert not torch.equal(output, constant[step][1])
    tag = replace(on, prompt="a cat <lora:unet:te=0:unet=1@0.49,0@0.5>")
    assert torch.equal(pipeline.pixels(tag), pipeline.pixels(half))


def test_factors_lie_on_straight_lines():
    points = ((0.2, 1.0), (0.6, 3.0), (0.8, 0.0))
    found = [factor_at(points, share) for share in (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 1.0)]
    assert found == pytest.approx([1.0, 1.0, 2.0, 3.0, 1.5, 0.0, 0.0])


def test_nothing_stays_after_an_error_or_a_picture_that_is_given_up(pipeline: TextToImage):
    request = replace(REQUEST, prompt="a cat <lora:style:0.5>", num_images=3)
    plain = pipeline.pixels(REQUEST)
    for mode in ("run", "merged"):
        pictures = pipeline(changed(request, lora_mode=mode))
        next(pictures)
        assert torch.equal(pipeline.pixels(REQUEST), plain)  # another request between two pictures
        next(pictures)
        pictures.close()
        assert torch.equal(pipeline.pixels(REQUEST), plain)

        def stop(progress: Any) -> None:
            if progress.step == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(pipeline(changed(request, lora_mode=mode), stop))
        assert torch.equal(pipeline.pixels(REQUEST), plain)


@pytest.mark.slow
def test_requests_that_take_turns_on_one_model_do_not_mix(pipeline: TextToImage):
    first = replace(REQUEST, prompt="a cat <lora:style:0.5>", num_images=2)
    second = replace(REQUEST, prompt="a dog <lora:other:0.5>", num_images=2)
    alone = [[np.asarray(picture.image) for picture in pipeline(request)] for request in (first, second)]
    turns = list(zip(pipeline(first), pipeline(second), strict=True))
    for index, pair in enumerate(turns):
        for picture, expected in zip(pair, alone, strict=True):
            assert np.array_equal(np.asarray(picture.image), expected[index])


def test_numbers_out_of_range_are_computed_again_with_the_adapter_on(
    models: dict[str, LoadedModel], folders: dict[str, Path], finder: NamedFiles, tmp_path: Path
):
    """In float16 a strong adapter overflows; the rescue in float32 has it on as well."""
    torch.manual_seed(0)
    tensors = kohya(target_of(TINY_SD), lora_parts)
    strong = {name: t * 60 if name.endswith("down.weight") and "proj_out" in name else t for name, t in tensors.items()}
    path = saved(tmp_path / "strong.safetensors", {n: t for n, t in strong.items() if "proj_out" in n})
    files = NamedFiles({"lora": {"strong": path}})
    request = replace(REQUEST, prompt="a cat <lora:strong:20>", num_steps=1)
    exact = TextToImage(Engine("cpu", "float32"), Engine("cpu", "float32").load(folders["sd"]), finder=files)
    half = Engine("cpu", "bfloat16")
    for mode in ("run", "merged"):
        expected = exact.pixels(changed(request, lora_mode=mode))
        found = TextToImage(half, half.load(folders["sd"]), finder=files).pixels(changed(request, lora_mode=mode))
        assert torch.isfinite(found).all()
        assert torch.isfinite(expected).all()


def test_what_fits_nothing_names_both_architectures(
    engine: Engine, models: dict[str, LoadedModel], finder: NamedFiles, pipeline: TextToImage
):
    with pytest.raises(ModelFileError, match=r"is made for .*, the model is 'sd15'") as error:
        list(pipeline(replace(REQUEST, prompt="a cat <lora:xl:1>")))
    assert error.value.reason == "architecture_mismatch"


def test_what_fits_in_part_is_counted(pipeline: TextToImage):
    (picture,) = pipeline(replace(REQUEST, prompt="a cat <lora:partial:0.5>"))
    assert any("1 do not exist in the model" in notice for notice in picture.notices)


@pytest.mark.parametrize(
    "name", ["nosuch", "../../etc/passwd", "/etc/passwd", "C:\\x", "style.safetensors", "", " ", "a\nb", "x" * 500, "*"]
)
def test_a_name_is_looked_up_and_never_opened(pipeline: TextToImage, name: str, monkeypatch: pytest.MonkeyPatch):
    opened: list[Any] = []
    monkeypatch.setattr("gesso.runtime.adapter_cache.open_weights", lambda path: opened.append(path))
    with pytest.raises((RequestError, ValueError)):
        pipeline(
            replace(REQUEST, prompt=f"a cat <lora:{name}:1>") if name else replace(REQUEST, loras=(LoraUse(name=""),))
        )
    assert not opened


def test_weights_that_are_none_are_refused(pipeline: TextToImage):
    for weight in ("nan", "inf", "1e999", "1000", "x", "1@2", "1@0,2@0", "1@-1", "1@nan"):
        with pytest.raises(ValueError, match=r"style|loras"):
            pipeline(replace(REQUEST, prompt=f"a cat <lora:style:{weight}>"))


def test_no_more_than_so_many(pipeline: TextToImage):
    with pytest.raises(RequestError, match="at most 32"):
        pipeline(replace(REQUEST, prompt="a cat" + "<lora:style:0.1>" * 16, loras=(STYLE,) * 17))
    with pytest.raises(ValueError, match="at most 16"):
        pipeline(replace(REQUEST, prompt="a cat" + "<lora:style:0.1>" * 1000))


def test_learned_words_stand_in_the_prompt_and_in_the_negative_prompt(pipeline: TextToImage):
    plain, taught = (pipeline.pixels(replace(REQUEST, prompt=f"a cat in {word}")) for word in ("style", "mystyle"))
    assert not torch.equal(plain, taught)
    without = TextToImage(pipeline.engine, pipeline.model)
    for values in ({"prompt": "a (mystyle:1.2)"}, {"negative_prompt": "mystyle"}, {"prompt": "a [cat:MyStyle:0.5]"}):
        request = changed(REQUEST, **values)
        assert not torch.equal(pipeline.pixels(request), without.pixels(request))
    spelled_out = replace(REQUEST, prompt="a cat in embedding:mystyle")
    assert torch.equal(pipeline.pixels(spelled_out), taught)


def test_a_word_of_another_model_is_text_and_told(pipeline: TextToImage):
    request = replace(REQUEST, prompt="a cat, xlword")
    (picture,) = pipeline(request)
    assert any("xlword: read as plain text" in notice for notice in picture.notices)
    assert torch.equal(pipeline.pixels(request), TextToImage(pipeline.engine, pipeline.model).pixels(request))


def test_a_lora_brings_its_words(pipeline: TextToImage):
    with_word = replace(REQUEST, prompt="a hisword <lora:bundled:0>")
    assert not torch.equal(pipeline.pixels(with_word), pipeline.pixels(replace(with_word, prompt="a hisword")))


def test_names_are_found_token_for_token():
    tokenizer = clip_tokenizer()
    names = ["cat", "easynegative", "Bad-Hands", "a", ""]
    assert embeddings_in_text(names, ["A cats' bad-hands"], tokenizer) == ["Bad-Hands", "a"]
    assert embeddings_in_text(names, ["(cat:1.2)", "EasyNegative"], tokenizer) == ["easynegative", "cat"]
    assert embeddings_in_text(["<my-dog>"], ["a photo,<My-Dog>, red"], tokenizer) == ["<my-dog>"]
    assert embeddings_in_text(names, [""], tokenizer) == []


def test_sdxl_and_its_refiner(engine: Engine, models: dict[str, LoadedModel], finder: NamedFiles):
    pipeline = TextToImage(engine, models["xl"], refiner=models["refiner"], finder=finder)
    request = replace(REQUEST, refiner_switch_at=0.5)
    plain = pipeline.pixels(request)
    asked = replace(request, prompt="a cat xlword <lora:xl:0.5>")
    (picture,) = pipeline(asked)
    assert not torch.equal(pipeline.pixels(asked), plain)
    assert torch.equal(pipeline.pixels(request), plain)
    assert all(extra.kind in ("lora", "embedding") for extra in picture.recipe.extras)
    assert {extra.name for extra in picture.recipe.extras} == {"xl", "xlword"}


def test_the_recipe_names_every_file_by_its_hash(pipeline: TextToImage, finder: NamedFiles):
    request = replace(REQUEST, prompt="a mystyle cat <lora:style:0.5><lora:style:0.1>", loras=(LoraUse(name="other"),))
    (picture,) = pipeline(request)
    extras = picture.recipe.extras
    assert [(extra.kind, extra.name) for extra in extras] == [
        ("lora", "other"),
        ("lora", "style"),
        ("embedding", "mystyle"),
    ]
    for extra in extras:
        assert extra.sha256 == hash_file(finder.find(extra.kind, extra.name)).sha256
    assert Recipe.from_json(picture.recipe.to_json()) == picture.recipe
    verdict, _ = replay_recipe(pipeline, picture.image, picture.recipe)
    assert verdict.kind == "identical" and verdict.changed == ()


def test_a_file_that_changed_is_told_and_one_that_is_gone_is_an_error(
    pipeline: TextToImage, tmp_path: Path, engine: Engine
):
    path = lora_file(tmp_path / "mine.safetensors", target_of(TINY_SD), seed=4)
    mine = TextToImage(engine, pipeline.model, finder=NamedFiles({"lora": {"mine": path}}))
    (picture,) = mine(replace(REQUEST, prompt="a cat <lora:mine:0.5>"))
    before = hash_file(path).sha256
    lora_file(path, target_of(TINY_SD), seed=5)
    verdict, again = replay_recipe(mine, picture.image, picture.recipe)
    assert verdict.kind == "different"
    assert verdict.changed == (f"lora mine: {before[:10]} -> {hash_file(path).sha256[:10]}",)
    assert changes(picture.recipe, again.recipe) == list(verdict.changed)
    path.unlink()
    with pytest.raises(ModelFileError, match="cannot be read"):
        replay_recipe(mine, picture.image, picture.recipe)
    with pytest.raises(RequestError, match="no LoRA named 'mine'"):
        replay_recipe(TextToImage(engine, pipeline.model), picture.image, picture.recipe)


def test_a_cache_reads_a_file_once_and_again_where_it_changed(
    models: dict[str, LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import gesso.runtime.adapter_cache as module

    read: list[Path] = []
    original = module.open_weights
    monkeypatch.setattr(module, "open_weights", lambda path: read.append(path) or original(path))
    target = target_of(TINY_SD)
    paths = [lora_file(tmp_path / f"{seed}.safetensors", target, seed=seed) for seed in range(3)]
    cache = AdapterCache()
    first = cache.lora(paths[0], models["sd"])
    assert cache.lora(paths[0], models["sd"]) is first
    assert len(read) == 1
    lora_file(paths[0], target, seed=9)
    assert cache.lora(paths[0], models["sd"]) is not first
    small = AdapterCache(max_nbytes=2 * first.nbytes)
    for path in paths:
        small.lora(path, models["sd"])
        assert small.nbytes <= 2 * first.nbytes
    read.clear()
    small.lora(paths[2], models["sd"])
    assert not read
    small.lora(paths[0], models["sd"])
    assert read == [paths[0]]


def test_a_rank_can_be_cut(pipeline: TextToImage, models: dict[str, LoadedModel], finder: NamedFiles):
    whole = replace(REQUEST, prompt="a cat <lora:style:0.5:0.5:3>")
    assert torch.equal(pipeline.pixels(whole), pipeline.pixels(replace(REQUEST, prompt="a cat <lora:style:0.5>")))
    cut = replace(REQUEST, prompt="a cat <lora:style:0.5:0.5:dyn=1>")
    assert not torch.equal(pipeline.pixels(cut), pipeline.pixels(whole))
    resolved = pipeline.resolve(cut)
    wanted = find_adapters(resolved, ParsedTexts(resolved), finder, models["sd"].tokenizer)
    ((lora, _),) = read_adapters(wanted, models["sd"], AdapterCache()).loras
    assert {change.weight.rank for change in lora.changes.values() if change.weight} == {1}


@pytest.mark.slow
def test_a_plan_of_memory_counts_them(folders: dict[str, Path], finder: NamedFiles):
    engine = Engine(
        "cpu", "float32", memory=memory_used(torch.device("cpu")) + 2**31
    )  # what ran before left its traces
    model = engine.load(folders["sd"])
    pipeline = TextToImage(engine, model, finder=finder)
    request = changed(REQUEST, prompt="a cat <lora:style:0.5>", lora_mode="merged")
    plain, asked = (pipeline.plans(each)[model.name].phases for each in (REQUEST, request))
    numbers = load_file(finder.find("lora", "style"))
    nbytes = sum(t.nbytes for name, t in numbers.items() if not name.endswith("alpha"))
    for before, after in zip(plain, asked, strict=True):
        assert after.weights - before.weights == (nbytes if before.name in ("text", "unet") else 0)
    free = TextToImage(Engine("cpu", "float32"), Engine("cpu", "float32").load(folders["sd"]), finder=finder)
    assert (pipeline.pixels(request) - free.pixels(request)).abs().mean() < 1e-4
    rows = pipeline.plans(replace(REQUEST, prompt="a AND b AND c"))[model.name].unet_rows
    assert rows == 4


# ---- beside diffusers ------------------------------------------------------------------------------------------------


def from_diffusers(family: Family, folder: Path, prompt: str, put_on: Callable[[Any], None]) -> np.ndarray:
    """What the pipeline of diffusers draws with an adapter, [1, H, W, 3] in 0..1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries about themselves
        import diffusers

        kind = diffusers.StableDiffusionXLPipeline if family.text_2 else diffusers.StableDiffusionPipeline
        others = {} if family.text_2 else {"safety_checker": None, "feature_extractor": None}
        pipe = kind.from_pretrained(folder, **others)
        pipe.set_progress_bar_config(disable=True)
        # As the published files have it for DDIM; those of SD 1 name no spacing.
        config = dict(pipe.scheduler.config) | {"set_alpha_to_one": False, "clip_sample": False}
        if family.text_2 is None:
            del config["timestep_spacing"]
        pipe.scheduler = diffusers.DDIMScheduler.from_config(config)
        put_on(pipe)
        size = {"height": 64, "width": 64}
        generator = torch.Generator().manual_seed(3)
        found = pipe(
            prompt,
            negative_prompt="blurry",
            num_inference_steps=3,
            guidance_scale=5.0,
            generator=generator,
            output_type="np",
            **size,
        ).images
    assert isinstance(found, np.ndarray)
    return found


BESIDE = replace(
    REQUEST, negative_prompt="blurry", num_steps=3, guidance_scale=5.0, seed=3, sampler="ddim", preset="diffusers"
)


def drawn(pipeline: TextToImage, request: TextToImageRequest) -> np.ndarray:
    return ((pipeline.pixels(request) + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("name", ["sd", "xl"])
@pytest.mark.sampled(2)
def test_a_lora_as_in_diffusers(
    name: str, engine: Engine, models: dict[str, LoadedModel], folders: dict[str, Path], tmp_path: Path
):
    """Random, on text and UNet, prompt to picture."""
    pytest.importorskip("peft")
    family: Family = FAMILIES[name]
    torch.manual_seed(7)
    path = saved(tmp_path / "lora.safetensors", attention_only(kohya(target_of(family), lora_parts)))

    def put_on(pipe: Any) -> None:
        pipe.load_lora_weights(str(tmp_path), weight_name=path.name, adapter_name="style")
        pipe.set_adapters(["style"], [0.3])

    expected = from_diffusers(family, folders[name], "a turtle", put_on)
    pipeline = TextToImage(engine, models[name], finder=NamedFiles({"lora": {"lora": path}}))
    request = replace(BESIDE, prompt="a turtle", loras=(LoraUse(name="lora", weight=0.3),))
    assert np.abs(drawn(pipeline, request) - expected).max() < 1e-5
    assert np.abs(drawn(pipeline, replace(request, loras=())) - expected).mean() > 1e-3


@pytest.mark.parametrize("name", ["sd", "xl"])
@pytest.mark.sampled(2)
def test_a_learned_word_as_in_diffusers(
    name: str, engine: Engine, models: dict[str, LoadedModel], folders: dict[str, Path], finder: NamedFiles
):
    """Of two and of three vectors."""
    family: Family = FAMILIES[name]
    word = {"sd": "mystyle", "xl": "xlword"}[name]
    tensors = load_file(finder.find("embedding", word))

    def put_on(pipe: Any) -> None:
        if family.text_2 is None:
            pipe.load_textual_inversion({word: tensors["emb_params"]}, token=word)
            return
        for key, ending in (("clip_l", ""), ("clip_g", "_2")):
            encoder, tokenizer = getattr(pipe, f"text_encoder{ending}"), getattr(pipe, f"tokenizer{ending}")
            pipe.load_textual_inversion({word: tensors[key]}, token=word, text_encoder=encoder, tokenizer=tokenizer)

    prompt = f"a turtle, {word}"
    expected = from_diffusers(family, folders[name], prompt, put_on)
    request = replace(BESIDE, prompt=prompt)
    assert np.abs(drawn(TextToImage(engine, models[name], finder=finder), request) - expected).max() < 1e-5
    assert np.abs(drawn(TextToImage(engine, models[name]), request) - expected).mean() > 1e-4

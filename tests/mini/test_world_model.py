"""The training on scenes: its pool, its stages one after the other, its export, and what it gives away to go on."""

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import toy_world
from gesso import TextToImageRequest
from gesso.errors import GessoError
from gesso.families.encoding import encode_prompt
from gesso.families.loading import load_parts
from gesso.mini.drawing_table import encode_drawings
from gesso.mini.scene_pool import Phase, ScenePictures, ScenePool, phase_at
from gesso.mini.scene_tasks import steepness
from gesso.mini.world_model import RECIPES, WorldModel, rehearsal
from gesso.models.vae import AutoencoderKL
from gesso.pipelines.text_to_image import TextToImage
from gesso.runtime.engine import Engine
from gesso.text.lexicon import Lexicon
from gesso.text.prompt import WeightedText
from gesso.training.loop import load_average
from gesso.world.sampler import BROAD_MIX, FULL_MIX, SceneSampler


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[WorldModel, list[dict[str, float]]]:
    model = toy_world.world_model(tmp_path_factory.mktemp("world"))
    rows: list[dict[str, float]] = []
    for stage in ("autoencoder", "judge", "denoising"):
        model.train(stage, on_log=rows.append)
    return model, rows


def pool(tmp_path: Path, *, size: int = 8, passes: int = 2) -> ScenePool:
    model = toy_world.world_model(tmp_path)
    torch.manual_seed(0)
    vae = AutoencoderKL(toy_world.TOY.vae).eval()
    sampler = SceneSampler(toy_world.OBJECTS, FULL_MIX)
    shapes = toy_world.TOY.shapes
    return ScenePool(
        vae, model.captions, model.compositor, [Phase(0, sampler)], shapes=shapes, size=size, passes=passes
    )


def test_every_stage_reports_and_the_model_draws(
    trained: tuple[WorldModel, list[dict[str, float]]], tmp_path: Path
) -> None:
    model, rows = trained
    reported = set().union(*rows)
    assert {"psnr", "steepness", "thing", "kind", "style", "right_999", "swapped_999", "empty_600"} <= reported
    path = tmp_path / "toy.safetensors"
    family = model.export(path, {"title": "toy"})
    assert family.native_size == 64
    assert list(family.objects) == [thing.name for thing in toy_world.OBJECTS]
    engine = Engine(device="cpu", dtype="float32")
    draw = TextToImage(engine, engine.load(path))
    (picture,) = draw(TextToImageRequest(prompt="a cat and a dog", num_steps=2, seed=1))
    assert picture.image.size == (64, 64)


def test_a_prompt_brings_the_drawings_of_its_objects(
    trained: tuple[WorldModel, list[dict[str, float]]], tmp_path: Path
) -> None:
    """As in training: behind the text stand the tokens of the table, in the order in which objects are named."""
    model, _ = trained
    model.export(tmp_path / "toy.safetensors", {"title": "toy"})
    parts = load_parts(tmp_path / "toy.safetensors")
    first, second = (thing.name for thing in toy_world.OBJECTS[:2])
    text = f"a {first} and a {second}"
    sizes = {"clip_skip": 1, "width": 64, "height": 64}
    encoded = encode_prompt(parts, text, **sizes)
    memory, ids = parts.text.memory, parts.tokenizer.encode([text])
    assert memory is not None and memory.table.shape == (12, 4, 16, 8) and bool(memory.table.abs().amax() > 0.1)
    encoding = parts.text(ids)
    objects, places = Lexicon.of(parts.tokenizer, parts.family.objects).find(ids.numpy(), 3)
    assert objects.tolist() == [[0, 1, -1]]
    expected = memory(encoding.last, encoding.pooled, torch.from_numpy(objects), torch.from_numpy(places))
    assert torch.equal(encoded.context, expected)
    weighted = encode_prompt(parts, (WeightedText("a "), WeightedText(first, 1.3)), **sizes)
    assert weighted.context.shape == expected.shape  # one shape for every prompt: they join in one call
    assert encode_prompt(parts, "", **sizes).context.shape == expected.shape


def test_drawings_of_another_shape_are_no_table(tmp_path: Path) -> None:
    model = toy_world.world_model(tmp_path)
    config = model.recipe.family(model.tokenizer, toy_world.OBJECTS[:-1], 1.0).text.memory
    assert config is not None
    with pytest.raises(ValueError, match="12 objects in 4 looks, 8 numbers a patch; expected"):
        encode_drawings(AutoencoderKL(toy_world.TOY.vae), model.drawings, config)


@pytest.mark.slow
def test_weights_that_are_saved_go_on_elsewhere(
    trained: tuple[WorldModel, list[dict[str, float]]], tmp_path: Path
) -> None:
    model, _ = trained
    elsewhere = toy_world.world_model(tmp_path / "elsewhere")
    with pytest.raises(GessoError, match="Train the stage 'autoencoder' first"):
        elsewhere.train("denoising", on_log=lambda row: None)
    for stage in ("autoencoder", "denoising"):
        model.save_weights(stage, tmp_path / f"{stage}.safetensors")
        elsewhere.load_weights(stage, tmp_path / f"{stage}.safetensors")
    model.export(tmp_path / "a.safetensors", {"title": "toy"})
    elsewhere.export(tmp_path / "b.safetensors", {"title": "toy"})
    one, other = (Engine(device="cpu").load(tmp_path / name).parts for name in ("a.safetensors", "b.safetensors"))
    for name, value in one.unet.state_dict().items():
        torch.testing.assert_close(other.unet.state_dict()[name], value, rtol=0, atol=2e-3)


def test_a_training_starts_from_saved_weights(
    trained: tuple[WorldModel, list[dict[str, float]]], tmp_path: Path
) -> None:
    """With hardly any learning rate the end is the start."""
    model, _ = trained
    path = tmp_path / "autoencoder.safetensors"
    model.save_weights("autoencoder", path)
    again = toy_world.world_model(tmp_path / "again")
    plan = replace(again.recipe.autoencoder, learning_rate=1e-12, total_samples=again.recipe.autoencoder.batch_size)
    again.recipe = replace(again.recipe, autoencoder=plan)
    again.train("autoencoder", start=path, on_log=lambda row: None)
    kept = load_average(tmp_path / "again" / "autoencoder")["vae"]
    for name, value in load_file(path).items():
        torch.testing.assert_close(kept[name.removeprefix("vae.")], value.float(), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_networks_are_compiled_once_when_the_compiler_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_world.world_model(tmp_path)
    batch = model.recipe.autoencoder.batch_size
    model.recipe = replace(
        model.recipe, compile=True, autoencoder=replace(model.recipe.autoencoder, total_samples=200 * batch)
    )
    compiled: list[tuple[int, str]] = []
    rows: list[dict[str, float]] = []
    answers = iter([False, True])
    monkeypatch.setattr(nn.Module, "compile", lambda self, **more: compiled.append((len(rows), type(self).__name__)))
    model.train("autoencoder", on_log=rows.append, compile_when=lambda: next(answers))
    assert compiled == [(1, "Encoder"), (1, "Decoder")]  # at the second line, before it is shown


def test_a_pool_shows_each_picture_of_a_segment_once_a_pass_with_new_captions(tmp_path: Path) -> None:
    ours = pool(tmp_path)
    batches = [ours.batch(step, 4, 0) for step in range(4)]
    first = torch.cat([batches[0][1], batches[1][1]]).flatten(1)
    second = torch.cat([batches[2][1], batches[3][1]]).flatten(1)
    distances = torch.cdist(first, second)
    assert sorted(distances.argmin(dim=1).tolist()) == list(range(8))
    assert float(distances.min(dim=1).values.max()) == 0
    ids = [torch.cat([batches[i][0], batches[i + 1][0]]) for i in (0, 2)]
    assert not torch.equal(ids[0], ids[1][distances.argmin(dim=1)])


def test_segments_take_the_shapes_in_turn_and_a_resumed_run_sees_the_same(tmp_path: Path) -> None:
    ours = pool(tmp_path)
    assert [tuple(ours.batch(step, 4, 0)[1].shape[2:]) for step in (0, 3, 4, 7, 8)] == [
        (8, 8),
        (8, 8),
        (6, 10),
        (6, 10),
        (8, 8),
    ]
    fresh = pool(tmp_path)
    for ids, other in zip(fresh.batch(5, 4, 0), ours.batch(5, 4, 0), strict=True):
        assert torch.equal(ids, other)
    assert not torch.equal(ours.batch(5, 4, 1)[1], ours.batch(5, 4, 0)[1])


def test_some_captions_are_left_out(tmp_path: Path) -> None:
    ours = pool(tmp_path, size=64)
    ids = torch.cat([ours.batch(step, 64, 0)[0] for step in range(2)])
    empty = torch.from_numpy(ours.captions.ids(ours.scenes(1, 0), Random(0), 1.0)).long()
    share = float((ids == empty).all(dim=1).float().mean())
    assert 0.02 < share < 0.25


def test_pictures_of_a_block_are_those_of_the_steps(tmp_path: Path) -> None:
    model = toy_world.world_model(tmp_path)
    sampler = SceneSampler(toy_world.OBJECTS, BROAD_MIX)
    pictures = ScenePictures(sampler, model.compositor, (64, 64), block=8)
    layout, pixels = pictures.batch(3, 4, 0)  # the second half of the second block
    assert pixels.shape == (4, 3, 64, 64)
    assert torch.equal(model.compositor(layout, 64, 64), pixels)
    again = ScenePictures(sampler, model.compositor, (64, 64), block=8)
    again.batch(0, 4, 0)
    assert torch.equal(again.batch(3, 4, 0)[1], pixels)
    assert not np.array_equal(pictures.batch(2, 4, 0)[0].seeds, layout.seeds)


def test_phases_follow_each_other() -> None:
    sampler = SceneSampler(toy_world.OBJECTS, FULL_MIX)
    phases = [Phase(10, sampler), Phase(5, sampler), Phase(0, sampler)]
    assert [phases.index(phase_at(phases, samples)) for samples in (0, 9)] == [0, 0]
    assert phase_at(phases, 10) is phases[1]
    assert phase_at(phases, 14) is phases[1]
    assert phase_at(phases, 15) is phases[2]
    assert phase_at(phases, 10**9) is phases[2]


def test_a_sharp_edge_is_steeper_than_a_blurred_one() -> None:
    sharp = torch.full((1, 3, 32, 32), -1.0)
    sharp[..., 16:] = 1
    blurred = torch.nn.functional.avg_pool2d(sharp, 5, 1, 2, count_include_pad=False)
    assert steepness(sharp) > 2 * steepness(blurred)


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_rehearsal_keeps_the_networks(name: str) -> None:
    recipe = RECIPES[name]
    short = rehearsal(recipe, "cpu")
    assert (short.unet, short.vae, short.judge_sizes) == (recipe.unet, recipe.vae, recipe.judge_sizes)
    assert short.denoising.total_samples == 12
    assert not short.compile

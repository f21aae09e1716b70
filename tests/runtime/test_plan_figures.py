"""Each term of a memory plan, by what changes when one thing of the work changes; and what a plan says of itself."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gesso.errors import GessoError
from gesso.models.srvgg import SRVGG, SRVGGConfig
from gesso.runtime import plan as plan_room
from gesso.runtime.engine import Engine
from gesso.runtime.model import LoadedModel
from gesso.runtime.plan import (
    EnlargingWork,
    Footprint,
    ImagePromptWork,
    MemoryPlan,
    Phase,
    Workload,
    _steps,
    make_plan,
    parse_size,
    size_text,
)
from gesso.runtime.precision import choose_precision
from gesso.runtime.residency import Component
from tiny_models import save_tiny_mini
from tiny_sd import TINY_SD, TINY_SDXL, tiny_parts

MIB, GIB = 2**20, 2**30
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return LoadedModel(name="x", parts=tiny_parts(), device=CPU, precision=choose_precision("float32", CPU))


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """It enlarges its pictures twice."""
    return Engine("cpu").load(save_tiny_mini(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


BARE = MemoryPlan(
    budget=None,
    base=0,
    stay="resident",
    unet_rows=1,
    vae_rows=1,
    tile=None,
    phases=(Phase(name="none", weights=0, activations=0),),
)


def activations(model: LoadedModel, work: Workload, plan: MemoryPlan = BARE) -> dict[str, int]:
    return {phase.name: phase.activations for phase in model.footprint.phases(work, plan)}


def more(model: LoadedModel, work: Workload, other: Workload) -> dict[str, float]:
    """By how many bytes the phases grow, before the tenths that are added for what no count sees."""
    few, many = activations(model, work), activations(model, other)
    return {name: (many[name] - few[name]) / 1.4 for name in few}


def test_a_picture_that_waits_is_kept_as_pixels_and_as_latents(model: LoadedModel):
    one = Workload(width=256, height=128, encodes=True)
    grown = more(model, one, replace(one, rows=3))
    pixels, latents = 3 * 256 * 128 * 4, 4 * 32 * 16 * 4
    assert grown == {
        "text": 0,
        "encode": pytest.approx(2 * 2 * pixels, abs=2),
        "unet": pytest.approx(2 * 12 * latents, abs=2),
        "decode": pytest.approx(2 * 2 * pixels, abs=2),
    }


def test_pictures_that_are_enlarged_are_kept_small_until_then(mini: LoadedModel):
    one = Workload(width=256, height=128)
    grown = more(mini, one, replace(one, rows=2))
    f = mini.family.vae.downscale
    latents = mini.family.vae.latent_channels * (128 // f) * (64 // f) * 4
    assert grown == {
        "text": 0,
        "unet": pytest.approx(12 * latents, abs=2),
        "decode": pytest.approx(2 * 3 * 128 * 64 * 4, abs=2),
        "upscale": pytest.approx(2 * 3 * 256 * 128 * 4, abs=2),
    }


def test_text_takes_a_fixed_room(model: LoadedModel):
    work = Workload(width=64, height=64)
    assert activations(model, work)["text"] == 16 * MIB
    towers: dict[str, Any] = {"text": SimpleNamespace(stored_nbytes=GIB)}
    footprint = Footprint(model.family, SimpleNamespace(components=towers), scores=False)
    assert [next(footprint._text_components()).stored_nbytes, footprint._texts()] == [GIB, ("text",)]
    large = Footprint(model.family, model.residency, scores=False)
    for nbytes, room in ((GIB, 16 * MIB), (GIB + 1, 64 * MIB)):
        large._text_components = lambda nbytes=nbytes: iter([SimpleNamespace(stored_nbytes=nbytes)])  # type: ignore[method-assign]
        assert {phase.name: phase.activations for phase in large.phases(work, BARE)}["text"] == room


def test_tiles_of_the_network_take_what_a_picture_of_their_size_takes(model: LoadedModel):
    """But for the latents, which are whole."""
    small, whole = Workload(width=128, height=128), Workload(width=256, height=192)
    tiled = activations(model, replace(whole, tile=128))
    further = 12 * 4 * (32 * 24 - 16 * 16) * 4
    assert tiled["unet"] - activations(model, small)["unet"] == pytest.approx(1.4 * further, abs=2)
    assert tiled["decode"] == activations(model, whole)["decode"]
    assert activations(model, replace(small, tile=512)) == activations(model, small)  # larger than the picture
    narrow = activations(model, replace(Workload(width=64, height=256), tile=128))["unet"]
    alike = activations(model, Workload(width=64, height=128))["unet"]
    assert narrow - alike == pytest.approx(1.4 * 12 * 4 * (8 * 32 - 8 * 16) * 4, abs=2)


def test_rows_and_tokens_of_the_network(model: LoadedModel):
    work = Workload(width=128, height=128)
    one, two = (activations(model, work, replace(BARE, unet_rows=rows))["unet"] for rows in (1, 2))
    latents = 1.4 * 12 * 4 * 16 * 16 * 4
    assert (two - latents) / (one - latents) == pytest.approx(2, rel=0.01)
    plain, same, long = (activations(model, replace(work, tokens=tokens))["unet"] for tokens in (None, 77, 1540))
    assert plain == same < long


def test_scores_that_are_written_down_are_counted_once_for_the_widest_layer(model: LoadedModel):
    work, plan = Workload(width=256, height=128), replace(BARE, unet_rows=2)
    fused, written = (
        {
            phase.name: phase.activations
            for phase in Footprint(TINY_SD, model.residency, scores=scores).phases(work, plan)
        }
        for scores in (False, True)
    )
    heads = max(TINY_SD.unet.num_heads)
    assert written["unet"] - fused["unet"] == pytest.approx(1.4 * 2 * heads * (32 * 16) ** 2 * 4, abs=2)
    assert {**written, "unet": 0} == {**fused, "unet": 0}


def test_weights_of_adapters_lie_beside_the_text_encoder_and_the_network(model: LoadedModel):
    work = Workload(width=64, height=64, encodes=True)
    plain, with_lora = (model.footprint.phases(one, BARE) for one in (work, replace(work, adapters=1000)))
    assert {a.name: b.weights - a.weights for a, b in zip(plain, with_lora, strict=True)} == {
        "text": 1000,
        "encode": 0,
        "unet": 1000,
        "decode": 0,
    }
    assert all(a.activations == b.activations for a, b in zip(plain, with_lora, strict=True))


def test_what_stays_of_an_image_prompt():
    """Keys and values of its tokens and of those of nothing, in every layer."""
    layers = torch.nn.ModuleList([torch.nn.Linear(8, 32, bias=False), torch.nn.Linear(8, 64, bias=False)])
    network = SimpleNamespace(to_k=layers, to_v=layers, config=SimpleNamespace(num_tokens=4))
    picture = ImagePromptWork(SimpleNamespace(network=network), SimpleNamespace())  # type: ignore[arg-type]
    assert picture.attached_nbytes(torch.float32) == 2 * 4 * 2 * (32 + 64) * 4
    assert picture.attached_nbytes(torch.bfloat16) == 2 * 4 * 2 * (32 + 64) * 2


def test_a_tile_as_large_as_the_picture_is_the_picture(model: LoadedModel, mini: LoadedModel):
    work = Workload(width=256, height=128, encodes=True)
    whole = activations(model, work)
    assert activations(model, work, replace(BARE, tile=32)) == whole
    tiled = activations(model, work, replace(BARE, tile=31))
    assert tiled["decode"] != whole["decode"] and tiled["encode"] != whole["encode"]
    assert (tiled["unet"], tiled["text"]) == (whole["unet"], whole["text"])
    work = Workload(width=256, height=128)
    large = activations(mini, work)["upscale"]
    sight = mini.family.upscaler.sight  # type: ignore[union-attr]
    assert activations(mini, work, replace(BARE, upscaler_tile=128))["upscale"] == large
    assert activations(mini, work, replace(BARE, upscaler_tile=128 - 2 * sight))["upscale"] == large
    tile = activations(mini, work, replace(BARE, upscaler_tile=16))["upscale"]
    side = 16 + 2 * sight
    alone = activations(mini, Workload(width=2 * side, height=2 * min(side, 64)))["upscale"]
    further = 2 * 3 * 4 * (256 * 128 - 4 * side * min(side, 64))
    assert tile - alone == pytest.approx(1.4 * further, abs=2)


def test_an_upscaler_between_two_passes(model: LoadedModel):
    config = SRVGGConfig(channels=8, num_convs=2, scale=4)
    network = SRVGG(config)
    enlarging = EnlargingWork(config, Component("upscaler", network, CPU, "x"), (64, 48))
    work = Workload(width=512, height=256, enlarging=enlarging)
    phase = model.footprint.phases(work, BARE)[-1]
    own = sum(4 * param.numel() for param in network.parameters())
    every = sum(part.onloaded_nbytes(torch.float32) for part in model.residency.components.values())
    assert (phase.name, phase.weights) == ("enlarge", every + own)
    alone = model.footprint.phases(work, replace(BARE, stay="turns"))[-1]
    assert alone.weights == own
    assert more(model, work, replace(work, rows=2))["enlarge"] == pytest.approx(2 * 3 * 512 * 256 * 4, abs=2)
    same = activations(model, work, replace(BARE, network_tile=32))["enlarge"]  # with its rim as large as the picture
    assert same == phase.activations
    large = replace(work, enlarging=replace(enlarging, input_size=(640, 640)))
    tile = activations(model, large, replace(BARE, network_tile=32))["enlarge"]
    assert tile == activations(model, replace(work, enlarging=replace(enlarging, input_size=(64, 64))))["enlarge"]
    assert activations(model, large)["enlarge"] > 9 * tile / 2  # tiles of 192 with their rims


def test_control_networks_and_what_they_give_are_counted(model: LoadedModel):
    """A second one of the same sizes needs no more: they work one after the other."""
    from gesso.models.controlnet import ControlNet, ControlNetConfig

    config = ControlNetConfig(unet=TINY_SD.unet, hint_channels=(4, 4, 4, 4))
    work = Workload(width=128, height=128)
    plain, one, two = (activations(model, replace(work, controls=(config,) * count)) for count in range(3))
    assert one == two and {**one, "unet": 0} == {**plain, "unet": 0}
    with torch.device("meta"):
        control = ControlNet(config)
        given = control(torch.empty(1, 4, 16, 16), torch.empty(1), torch.empty(1, 77, 32), torch.empty(1, 3, 128, 128))
    kept = sum(part.nbytes for part in given)
    assert one["unet"] - plain["unet"] >= 1.39 * kept


def test_a_network_with_a_second_text_encoder_and_sizes_is_counted():
    parts = tiny_parts(TINY_SDXL)
    found = LoadedModel(name="x", parts=parts, device=CPU, precision=choose_precision("float32", CPU))
    phases = found.footprint.phases(Workload(width=64, height=64), replace(BARE, stay="turns"))
    towers = sum(4 * p.numel() for tower in (parts.text, parts.text_2) for p in tower.parameters())  # type: ignore[union-attr]
    assert (phases[0].name, phases[0].weights) == ("text", towers)


# ---- the choice of measures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "rows"),
    [({}, 2), ({"guided": False}, 1), ({"prompts": 3}, 4), ({"prompts": 3, "guided": False, "rows": 2}, 6)],
)
@pytest.mark.sampled(2)
def test_rows_of_a_call(model: LoadedModel, work: dict[str, Any], rows: int):
    found = make_plan(model.footprint, Workload(width=64, height=64, **work), budget=None, base=0)
    assert (found.unet_rows, found.vae_rows) == (rows, work.get("rows", 1))


def measures(footprint: Any, plan: MemoryPlan, name: str, **work: Any) -> list[dict[str, Any]]:
    """What changes in each step that helps where the phase `name` is the largest."""
    plan = replace(plan, phases=(Phase(name=name, weights=1, activations=1), Phase(name="x", weights=0, activations=0)))
    names = ("stay", "unet_rows", "vae_rows", "tile", "upscaler_tile", "network_tile")
    steps = _steps(plan, footprint, Workload(**{"width": 1024, "height": 512} | work))
    return [
        {name: getattr(step, name) for name in names if getattr(step, name) != getattr(plan, name)} for step in steps
    ]


TURNS = replace(BARE, stay="turns")


def test_the_steps_of_each_phase_in_their_order(model: LoadedModel, mini: LoadedModel):
    base, turns = model.footprint, [{"stay": "turns"}]
    tiles = [{"tile": tile} for tile in (96, 64, 48, 32, 24, 16)]
    for name in ("encode", "decode"):
        assert measures(base, replace(BARE, vae_rows=4), name) == [{"vae_rows": 1}, *turns, *tiles]
        assert measures(base, TURNS, name) == tiles
        assert measures(base, TURNS, name, seamless="x") == []
        assert measures(base, replace(TURNS, tile=48), name) == tiles[3:]
        assert measures(base, TURNS, name, width=256, height=384) == tiles[3:]  # 48 latents a side are the whole
    assert measures(base, replace(BARE, unet_rows=5, vae_rows=2), "unet") == [{"unet_rows": 3}, *turns]
    assert measures(base, replace(TURNS, unet_rows=2), "unet") == [{"unet_rows": 1}, {"stay": "stream"}]
    assert measures(base, replace(TURNS, stay="stream"), "unet") == []
    assert measures(base, BARE, "text") == turns and measures(base, TURNS, "text") == []
    networks = [{"network_tile": tile} for tile in (128, 64, 32)]
    assert measures(base, TURNS, "enlarge") == networks
    assert measures(base, replace(TURNS, network_tile=64), "enlarge") == networks[2:]
    assert measures(base, TURNS, "upscale") == []
    multiple = mini.family.upscaler.multiple  # type: ignore[union-attr]
    upscalers = [{"upscaler_tile": tile} for tile in (256, 128, 64) if not tile % multiple]
    assert len(upscalers) == 3
    assert measures(mini.footprint, replace(TURNS, vae_rows=2), "upscale") == [{"vae_rows": 1}, *upscalers]
    assert measures(mini.footprint, TURNS, "upscale", width=512, height=512) == upscalers[1:]  # 256 are the whole
    assert measures(mini.footprint, TURNS, "upscale", seamless="y") == []


def test_a_plan_that_just_fits_is_taken(model: LoadedModel):
    work = Workload(width=256, height=256)
    whole = make_plan(model.footprint, work, budget=None, base=7)
    assert whole.peak == 7 + 128 * MIB + max(phase.weights + phase.activations for phase in whole.phases)
    assert make_plan(model.footprint, work, budget=whole.peak, base=7) == replace(whole, budget=whole.peak)
    assert make_plan(model.footprint, work, budget=whole.peak - 1, base=7).stay == "turns"


# ---- what a plan says ------------------------------------------------------------------------------------------------

SHOWN = MemoryPlan(
    budget=2 * GIB,
    base=100 * MIB,
    stay="stream",
    unet_rows=2,
    vae_rows=1,
    tile=48,
    upscaler_tile=64,
    network_tile=128,
    phases=(Phase(name="text", weights=3 * MIB, activations=2 * GIB), Phase(name="unet", weights=0, activations=MIB)),
)


def test_a_plan_in_words():
    assert SHOWN.measures == (
        "model offload: text encoder, UNet and VAE take turns in memory",
        "sequential offload: the UNet is loaded layer by layer in every step (slow)",
        "UNet: 2 rows per call",
        "VAE: 1 picture per call",
        "tiled VAE: tiles of 48 x 48 latents (slow)",
        "upscaler: tiles of 64 x 64 pixels",
        "hires upscaler: tiles of 128 x 128 pixels",
    )
    assert replace(SHOWN, stay="turns").measures[1] == "UNet: 2 rows per call"
    assert replace(BARE, vae_rows=2).measures == ("UNet: 1 row per call", "VAE: 2 pictures per call")
    assert SHOWN.table() == "\n".join(
        [
            "phase  weights  activations     total",
            " text    3 MiB     2.00 GiB  2.23 GiB",
            " unet    0 MiB        1 MiB   229 MiB",
            "peak 2.23 GiB, of which the process 228 MiB; limit 2.00 GiB",
            *(f"- {measure}" for measure in SHOWN.measures),
        ]
    )
    assert "; no limit\n" in replace(SHOWN, budget=None).table()
    assert not SHOWN.fits and replace(SHOWN, budget=SHOWN.peak).fits and not replace(SHOWN, budget=SHOWN.peak - 1).fits
    told = json.loads(SHOWN.to_json())
    assert (told["peak"], told["fits"], tuple(told["measures"])) == (SHOWN.peak, False, SHOWN.measures)
    assert told["phases"][0] == {"name": "text", "weights": 3 * MIB, "activations": 2 * GIB}


def test_a_limit_that_is_too_small_says_what_is_needed(model: LoadedModel):
    plan = replace(SHOWN, budget=MIB, phases=(*SHOWN.phases, Phase(name="decode", weights=MIB, activations=3 * GIB)))
    error = plan_room._too_small(plan, model.family, Workload(width=640, height=320))
    assert isinstance(error, GessoError) and (error.code, error.field) == ("memory_exceeded", "memory")
    assert str(error) == (
        f"`memory` 1 MiB: 640x320 with {model.family.name} needs at least 3.22 GiB (decode: weights 1 MiB, activations "
        "3.00 GiB, process 228 MiB). Raise the memory limit, or draw a smaller picture"
    )
    reading = replace(plan, phases=(Phase(name="image encoder", weights=MIB, activations=MIB),))
    assert "or leave out the IP-Adapter" in str(
        plan_room._too_small(reading, model.family, Workload(width=8, height=8))
    )


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1", 1),
        ("1k", 10**3),
        ("2 TB", 2 * 10**12),
        ("1TiB", 2**40),
        ("1023 TiB", 1023 * 2**40),
        (f"{2**50 - 1}", 2**50 - 1),
    ],
)
def test_the_smallest_and_the_largest_size(text: str, nbytes: int):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", [f"{2**50}", "1024 TiB", "0.0", "x" * 60])
def test_sizes_beyond(text: str):
    with pytest.raises(GessoError, match=rf"^`memory` {text[:40]}: expected a size such as 6GiB") as error:
        parse_size(text)
    assert (error.value.code, error.value.field) == ("invalid_value", "memory")


@pytest.mark.parametrize(("nbytes", "text"), [(GIB, "1.00 GiB"), (GIB - 1, "1024 MiB"), (MIB // 2 - 1, "0 MiB")])
def test_sizes_at_the_border_of_units(nbytes: int, text: str):
    assert size_text(nbytes) == text


def test_a_workload_that_says_little():
    work = Workload(width=8, height=8)
    assert (work.rows, work.guided, work.tokens, work.encodes, work.seamless) == (1, True, None, False, None)
    assert (work.controls, work.components, work.tile, work.prompts, work.adapters) == ((), (), None, 1, 0)
    assert (work.image_prompts, work.enlarging) == ((), None)
    assert (BARE.upscaler_tile, BARE.network_tile) == (None, 192)

"""Where the steps of a run are, preset by preset."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from asking import ask, changed
from gesso.diffusion.noise import NOISE_SOURCES
from gesso.diffusion.samplers import SAMPLERS, sample
from gesso.diffusion.torchsde_tree import TorchsdeTree
from gesso.families.base import Family
from gesso.families.registry import FAMILIES
from gesso.pipelines.defaults import defaults_for
from gesso.pipelines.denoising import noise_source
from gesso.pipelines.networks import IndependentNoise, RefinerSwitch
from gesso.pipelines.steps import Steps, noise_table, plan_steps
from gesso.request.checks import RequestError
from gesso.request.names import with_canonical_names
from gesso.request.request import TextToImageRequest
from gesso.request.resolving import resolve


def planned(family: str | Family = "sd15", **values: Any) -> Steps:
    found = FAMILIES[family] if isinstance(family, str) else family
    request = with_canonical_names(ask(**({"prompt": "a cat", "seed": 1} | values)))
    return plan_steps(resolve(request, defaults_for(request, found)), found)


def told(steps: Steps) -> list[float]:
    """The timesteps that the network is told at the start of each step."""
    found: list[float] = (steps.timestep_of or steps.schedule.timestep_of)(steps.sigmas[:-1]).tolist()
    return found


def test_gesso_takes_the_schedule_as_it_is():
    steps = planned(sampler="euler", schedule="uniform", num_steps=4)
    assert told(steps) == pytest.approx([999, 666, 333, 0], abs=1e-6)
    assert steps.noise_scale == float(steps.sigmas[0]) == pytest.approx(steps.schedule.sigma_max)
    assert (steps.final_scale, steps.options) == (1.0, {})


def test_a1111_chooses_timesteps_for_ddim():
    """Nine calls at 901 .. 101 for ten steps, and noise of timestep 1 is left (samplers.md, section 4)."""
    steps = planned(preset="a1111", sampler="DDIM", num_steps=10)
    assert told(steps) == pytest.approx(list(range(901, 100, -100)), abs=1e-4)
    assert steps.noise_scale == pytest.approx(math.hypot(1, float(steps.sigmas[0])))
    assert steps.final_scale == pytest.approx(math.hypot(1, float(steps.sigmas[-1])))
    assert steps.final_scale > 1
    with_picture = planned(preset="a1111", sampler="DDIM", num_steps=10, image="0" * 64, strength=0.5)
    assert with_picture.image_scale != 1


def test_a1111_discards_the_penultimate_sigma_where_its_samplers_do():
    plain = planned(preset="a1111", sampler="DPM++ 2M", num_steps=10)
    assert plain.num_steps == 10
    assert float(plain.sigmas[-2]) == pytest.approx(plain.schedule.sigma_min)
    discarded = planned(preset="a1111", sampler="DPM2", num_steps=10)
    assert discarded.num_steps == 10
    assert float(discarded.sigmas[-2]) > 2 * plain.schedule.sigma_min


def test_diffusers_spaces_by_scheduler_and_by_file():
    linspace = planned(preset="diffusers", sampler="euler", num_steps=5)
    assert told(linspace) == pytest.approx([999, 749.25, 499.5, 249.75, 0])
    assert linspace.noise_scale == float(linspace.sigmas[0])
    leading = planned("sdxl", preset="diffusers", sampler="euler", num_steps=5)
    assert told(leading) == [801, 601, 401, 201, 1]  # SDXL's file says so
    assert leading.noise_scale == pytest.approx(math.hypot(1, float(leading.sigmas[0])))
    rounded = planned(preset="diffusers", sampler="DPM++ 2M Karras", num_steps=5)
    assert all(t == round(t) for t in told(rounded))
    trailing = planned(preset="diffusers", sampler="euler", num_steps=4, timestep_spacing="trailing")
    assert told(trailing) == [999, 749, 499, 249]


@pytest.mark.parametrize(
    ("family", "timesteps"),
    [
        ("sd15-lcm", [999, 759, 499, 259]),  # parity notes: 4 of the 50 that LCM was distilled with
        ("sdxl-turbo", [999]),
    ],
)
def test_few_step_models_walk_as_diffusers_does_by_themselves(family: str, timesteps: list[float]):
    steps = planned(family, preset="diffusers")
    assert told(steps) == timesteps
    assert planned(family).num_steps == len(timesteps)


def test_own_sigmas_stand_in_for_everything():
    steps = planned(preset="diffusers", sigmas=(5.0, 2.0, 0.0))
    assert steps.sigmas.tolist() == [5, 2, 0]
    assert steps.timestep_of is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"preset": "diffusers", "sampler": "euler", "schedule": "kl_optimal"}, "use one of uniform"),
        ({"timestep_spacing": "trailing", "sampler": "restart"}, "diffusers has no scheduler like restart"),
        ({"timestep_spacing": "a1111", "sampler": "euler"}, "no timestep spacing of its own"),
        ({"preset": "a1111", "sampler": "ddim", "num_steps": 1}, "2 is the minimum"),
    ],
)
def test_settings_that_do_not_go_together(values: dict[str, Any], words: str):
    with pytest.raises(RequestError, match=words):
        planned(**values)


def test_tables_differ_as_the_tools_round_them():
    """Largest relative differences of sigma: 3e-8 rounded, 1.3e-5 in float32 (samplers.md, section 1)."""
    request = TextToImageRequest(prompt="", seed=0)
    family = FAMILIES["sd15"]
    resolved = resolve(request, defaults_for(request, family))
    exact = noise_table(resolved, family).sigmas
    gaps = {
        table: float((noise_table(changed(resolved, sigma_table=table), family).sigmas / exact - 1).abs().max())
        for table in ("rounded", "float32")
    }
    assert 0 < gaps["rounded"] < 3e-5
    assert 1e-6 < gaps["float32"] < 3e-5


class Saying:
    """A denoiser that always predicts one number."""

    def __init__(self, value: float) -> None:
        self.value, self.calls = value, 0

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        self.calls += 1
        return torch.full_like(x, self.value)

    def with_uncond(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return torch.stack([self(x, sigma)] * 2)


@pytest.mark.parametrize(("sampler", "calls", "base"), [("euler", 5, 4), ("heun", 9, 8)])
def test_the_refiner_takes_over_after_a_share_of_the_calls(sampler: str, calls: int, base: int):
    """0.8 of 5 calls are 4; of 9 calls, 8 come before 8 / 9 is at least 0.8. Said once."""
    first, second, switched = Saying(0), Saying(1), []
    denoise = RefinerSwitch(first, second, at=0.8, num_calls=calls, on_switch=lambda: switched.append(1))
    sigmas = torch.tensor([9.0, 5.0, 3.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    sample(SAMPLERS[sampler], denoise, torch.zeros(1, 1, 2, 2), sigmas)
    assert (first.calls, second.calls, switched) == (base, calls - base, [1])


@pytest.mark.parametrize(
    ("share", "base"),
    [
        (0.0, 0),  # 1000 and above: none
        (0.001, 1),  # 999 and above: the first lies on the switch, and is still the base model's
        (0.25, 1),  # 750
        (0.251, 2),  # 749: the second lies on it
        (0.2515, 2),  # 748.5, which rounds to the even 748
        (0.751, 4),  # 249: so does the last
        (1.0, 4),
    ],
)
def test_the_refiner_takes_over_below_a_share_of_the_timesteps(share: float, base: int):
    """As denoising_end of diffusers' SDXL pipeline: its calls are those at round(1000 - share * 1000) or above."""
    steps = planned(preset="diffusers", sampler="euler", num_steps=4, timestep_spacing="trailing")
    assert told(steps) == [999, 749, 499, 249]
    assert steps.switch_of(share) == base


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "unipc_bh2", "deis"])
def test_stopping_early_is_the_beginning_of_the_whole(sampler: str):
    sigmas = torch.tensor([9.0, 5.0, 3.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    x = torch.full((1, 1, 2, 2), 9.0)
    seen: dict[int, Tensor] = {}
    noise = NOISE_SOURCES["philox"]([0])

    class Half(Saying):
        def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
            return x / 2

    def keep(step: int, x: Tensor, x0: Tensor) -> None:
        seen[step] = x

    whole = sample(SAMPLERS[sampler], Half(0), x, sigmas, noise, on_step=keep)
    for stop in (1, 3):
        found = sample(SAMPLERS[sampler], Half(0), x, sigmas, noise, stop=stop)
        assert torch.equal(found, seen[stop - 1])
    assert torch.equal(sample(SAMPLERS[sampler], Half(0), x, sigmas, noise, stop=5), whole)


def test_noise_of_diffusers_sde_samplers_is_drawn_afresh():
    source, plain = IndependentNoise(NOISE_SOURCES["cpu"]([3])), NOISE_SOURCES["cpu"]([3])
    path = source.brownian([3.0, 1.0, 0.1])
    assert torch.equal(source.draw((4, 4, 4)), plain.draw((4, 4, 4)))
    assert torch.equal(path.increment((4, 4, 4), 3.0, 1.0), plain.draw((4, 4, 4)))


def test_the_preset_a1111_draws_between_sigmas_from_the_tree_of_the_whole_schedule():
    """Also where a run begins in the middle, and whatever the delta of later draws is."""
    request = ask(
        prompt="", seed=5, preset="a1111", noise="cpu", ensd=31337, sampler="dpmpp_2m_sde", image="0" * 64, num_steps=9
    )
    family = FAMILIES["sd15"]
    resolved = resolve(request, defaults_for(request, family))
    steps = plan_steps(resolved, family)
    whole = plan_steps(changed(resolved, image=None, strength=None), family).sigmas
    assert len(steps.sigmas) < len(whole)
    assert steps.ends == (float(whole[-2]), float(whole[0]))
    found = noise_source(resolved, range(1, 3), steps).brownian(steps.sigmas.tolist()).increment((4, 8, 8), 2.0, 1.0)
    tree = TorchsdeTree([6, 7], *steps.ends, lambda seed, shape: NOISE_SOURCES["cpu"]([seed]).draw(shape)[0])
    assert torch.equal(found, tree.increment((4, 8, 8), 2.0, 1.0))


def test_ensd_moves_every_draw_but_the_first():
    request = ask(prompt="", seed=5, noise="nv", ensd=31337)
    resolved = resolve(request, defaults_for(request, FAMILIES["sd15"]))
    source = noise_source(resolved, range(2), plan_steps(resolved, FAMILIES["sd15"]))
    plain, moved = (NOISE_SOURCES["nv"]([seed] * 2, range(2)) for seed in (5, 5 + 31337))
    assert torch.equal(source.draw((4, 4, 4)), plain.draw((4, 4, 4)))
    assert torch.equal(source.draw((4, 4, 4)), moved.draw((4, 4, 4)))


@pytest.mark.parametrize(("sampler", "longest"), [("pndm", 200), ("plms", 20), ("heun", 12), ("restart", 12)])
def test_a_first_step_that_is_too_long_is_told(sampler: str, longest: int):
    """Where the model ends in pure noise and the steps are few."""
    ends = FAMILIES["sd15"].schedule
    pure = replace(FAMILIES["sd15"], schedule=replace(ends, zero_terminal_snr=True))
    (notice,) = planned(pure, sampler=sampler, schedule="uniform", num_steps=longest).notices
    assert f"{sampler}: the first step, from sigma 45" in notice and "Use the sampler dpmpp_2m" in notice
    assert planned(pure, sampler=sampler, schedule="exponential", num_steps=longest).notices == ()
    assert planned("sd15", sampler=sampler, schedule="uniform", num_steps=longest).notices == ()
    assert planned(pure, sampler="dpmpp_2m", schedule="uniform", num_steps=longest).notices == ()

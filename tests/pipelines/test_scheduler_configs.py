"""Folders whose scheduler_config.json nobody chose for gesso, with the preset diffusers, beside diffusers itself."""

import inspect
import json
import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from asking import ask
from gesso.diffusion import diffusers_steps
from gesso.diffusion.noise_schedule import scaled_linear
from gesso.errors import GessoError
from gesso.families.base import Family, SchedulerConfig
from gesso.families.diffusers_folder import read_family
from gesso.pipelines.prompts import encode_prompts
from gesso.pipelines.steps import default_sampler, default_schedule, diffusers_scheduler
from gesso.pipelines.text_to_image import TextToImage
from gesso.pipelines.unusual_guidance import guidance_notices
from gesso.request.checks import RequestError
from gesso.request.conventions import Conventions
from gesso.request.parts import HiresPass
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine
from oracles import quiet_diffusers
from tiny_sd import TINY_EDIT, TINY_SD, TINY_SDXL, save_tiny_folder

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
PROMPT, NEGATIVE, SEED, GUIDANCE = "a turtle, oil on canvas", "blurry", 3, 5.0
CLOSE = 2e-5  # of an image in 0..1; what was wrong here was 3e-3 to 1.1 away
DPM, EULER, DDPM = "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "DDPMScheduler"
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}


@pytest.fixture(scope="module")
def diffusers() -> Any:
    return quiet_diffusers()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_folder(tmp_path_factory.mktemp("base") / "tiny", TINY_SD)


@pytest.fixture(scope="module")
def components(diffusers: Any, base: Path) -> dict[str, Any]:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        base, local_files_only=True, safety_checker=None, requires_safety_checker=False
    )
    parts: dict[str, Any] = pipe.components
    return parts


@pytest.fixture(scope="module")
def pipeline(base: Path) -> TextToImage:
    engine = Engine("cpu", "float32")
    return TextToImage(engine, engine.load(base))


class Pair:
    """One folder on both sides."""

    def __init__(self, diffusers: Any, components: dict[str, Any], folder: Path) -> None:
        self.diffusers, self.components, self.folder = diffusers, components, folder
        self.engine = Engine("cpu", "float32")

    def configured(self, name: str, config: dict[str, Any]) -> None:
        """Puts a scheduler into the folder, as `save_pretrained` of diffusers writes it."""
        (self.folder / "scheduler" / "scheduler_config.json").write_text(
            json.dumps({"_class_name": name} | BETAS | config)
        )

    def theirs(self, chosen: str | None, num_steps: int, options: dict[str, Any], **given: Any) -> torch.Tensor:
        """As a user draws with the folder, or swaps its scheduler."""
        config = json.loads((self.folder / "scheduler" / "scheduler_config.json").read_text())
        own = getattr(self.diffusers, config["_class_name"]).from_pretrained(self.folder, subfolder="scheduler")
        pipe = self.diffusers.StableDiffusionPipeline(
            **self.components | {"scheduler": own}, requires_safety_checker=False
        )
        if chosen is not None:
            pipe.scheduler = getattr(self.diffusers, chosen).from_config(pipe.scheduler.config, **options)
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(SEED)
        call = {"negative_prompt": NEGATIVE, "guidance_scale": GUIDANCE, "height": 64, "width": 64} | given
        latents = pipe(PROMPT, output_type="latent", generator=generator, num_inference_steps=num_steps, **call).images
        with torch.no_grad():
            decoded: torch.Tensor = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
        return decoded[0]

    def ours(self, num_steps: int, **values: Any) -> torch.Tensor:
        asked = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": GUIDANCE, "seed": SEED}
        request = ask(**{"num_steps": num_steps, "preset": "diffusers"} | asked | values)
        return TextToImage(self.engine, self.engine.load(self.folder)).pixels(request)[0]

    def gap(
        self, num_steps: int, chosen: str | None = None, options: dict[str, Any] | None = None, **values: Any
    ) -> float:
        """The largest difference of a colour value; black is 0, white is 1, nothing is clipped."""
        expected = self.theirs(chosen, num_steps, options or {})
        assert expected.std() > 0.02
        return float((self.ours(num_steps, **values) - expected).abs().max()) / 2

    def rounding(self, num_steps: int) -> float:
        """The largest difference between diffusers' pictures with two kernels of the same products, float32 both."""
        usual = self.theirs(None, num_steps, {})
        with torch.backends.mkldnn.flags(enabled=False):
            other = self.theirs(None, num_steps, {})
        return float((usual - other).abs().max()) / 2


@pytest.fixture
def pair(diffusers: Any, components: dict[str, Any], base: Path, tmp_path: Path) -> Pair:
    shutil.copytree(base, tmp_path / "tiny")
    return Pair(diffusers, components, tmp_path / "tiny")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "config"),
    [
        (DPM, {"lambda_min_clipped": -math.inf, **LEADING}),
        (DPM, {"algorithm_type": "sde-dpmsolver++"}),
        (DPM, {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
        (DPM, {"solver_order": 3}),
        (DPM, {"solver_order": 1}),
        (DPM, {"solver_type": "heun"}),
        (DPM, {"use_exponential_sigmas": True}),
        (DPM, {"use_beta_sigmas": True}),
        (DPM, {"use_lu_lambdas": True}),
        (DPM, {"final_sigmas_type": "sigma_min", "euler_at_final": True}),
        (DPM, {"lower_order_final": False}),
        (EULER, {"final_sigmas_type": "sigma_min"}),
        (EULER, {"final_sigmas_type": "sigma_min", **LEADING}),
        (EULER, {"use_beta_sigmas": True}),
        ("HeunDiscreteScheduler", {"use_exponential_sigmas": True}),
        ("UniPCMultistepScheduler", {"solver_order": 3, "use_beta_sigmas": True}),
        ("UniPCMultistepScheduler", {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}),
        ("DEISMultistepScheduler", {"solver_order": 3}),
        ("LCMScheduler", {"original_inference_steps": 20}),
        (DDPM, {"variance_type": "fixed_large", "clip_sample": False, "steps_offset": 1}),
        (DDPM, {"clip_sample": False}),  # diffusers' pipelines of SD make steps_offset 1
        ("DDIMScheduler", {"clip_sample": False, "steps_offset": 0}),
        ("PNDMScheduler", {"skip_prk_steps": True}),
        ("TCDScheduler", {}),  # diffusers' pipelines pass eta 0
    ],
    ids=str,
)
@pytest.mark.sampled(12)
def test_settings_of_a_folder_are_followed(pair: Pair, name: str, config: dict[str, Any]):
    pair.configured(name, config)
    gap = pair.gap(6)
    # UniPC of third order on beta sigmas makes 3e-5 of the last bits, also between diffusers and itself.
    assert gap <= CLOSE or gap <= 2 * pair.rounding(6) <= 10 * CLOSE


KARRAS = {"use_karras_sigmas": True}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "config", "num_steps"),
    [
        # To the next listed timestep in DDPM, T // n down in PNDM.
        (DDPM, {"timestep_spacing": "linspace", "clip_sample": False}, 7),
        (DDPM, {"timestep_spacing": "trailing", "clip_sample": False}, 15),
        ("PNDMScheduler", {"timestep_spacing": "linspace", "skip_prk_steps": True}, 7),
        ("PNDMScheduler", {"timestep_spacing": "trailing", "skip_prk_steps": True, "set_alpha_to_one": True}, 15),
        ("PNDMScheduler", {"timestep_spacing": "linspace", "skip_prk_steps": False}, 7),
        ("PNDMScheduler", {"timestep_spacing": "leading", "skip_prk_steps": False}, 13),  # T // n is odd
        # The middle of a step is the next sigma, but not its timestep, which is rounded.
        ("KDPM2AncestralDiscreteScheduler", KARRAS, 7),
        # A last step that leads nowhere counts, for the order and for the corrector.
        ("DEISMultistepScheduler", KARRAS | {"solver_order": 3}, 7),
        ("DEISMultistepScheduler", {"use_beta_sigmas": True}, 15),
        ("SASolverScheduler", KARRAS, 7),
        ("UniPCMultistepScheduler", KARRAS | {"final_sigmas_type": "sigma_min"}, 7),
        (DPM, KARRAS | {"final_sigmas_type": "sigma_min", "euler_at_final": True}, 7),
        ("SASolverScheduler", LEADING, 20),  # timestep 800 is the last one with noise
    ],
    ids=str,
)
@pytest.mark.sampled(11)
def test_schedulers_go_where_those_of_diffusers_go(pair: Pair, name: str, config: dict[str, Any], num_steps: int):
    pair.configured(name, {"steps_offset": 1} | config)
    assert pair.gap(num_steps) <= CLOSE


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("config", "num_steps"),
    [
        ({"skip_prk_steps": True}, 6),
        ({"skip_prk_steps": True, "timestep_spacing": "trailing"}, 7),
        ({"skip_prk_steps": True, "timestep_spacing": "linspace"}, 7),
        ({"skip_prk_steps": False}, 7),
        ({"skip_prk_steps": False, "timestep_spacing": "linspace"}, 7),
    ],
    ids=str,
)
@pytest.mark.sampled(8)
def test_pndm_averages_velocities_of_a_model_that_predicts_them(pair: Pair, config: dict[str, Any], num_steps: int):
    """Conversions of SD 2.1 are saved with PNDM. The mean of velocities is another slope than the mean of slopes."""
    pair.configured("PNDMScheduler", {"prediction_type": "v_prediction", "steps_offset": 1} | config)
    assert pair.gap(num_steps) <= CLOSE


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_steps", [10, 20])
def test_deis_of_order_3_is_that_of_diffusers_without_its_roundings(
    pair: Pair, diffusers: Any, num_steps: int, monkeypatch: pytest.MonkeyPatch
):
    """Beta sigmas lie close together at the ends, where its weights in float32 lose up to 6e-4 of a picture."""
    cls = diffusers.DEISMultistepScheduler
    set_timesteps = cls.set_timesteps

    def in_double(self: Any, *args: Any, **kwargs: Any) -> None:
        set_timesteps(self, *args, **kwargs)
        self.sigmas = self.sigmas.double()

    monkeypatch.setattr(cls, "set_timesteps", in_double)
    pair.configured("DEISMultistepScheduler", {"solver_order": 3, "use_beta_sigmas": True, "steps_offset": 1})
    assert pair.gap(num_steps) <= CLOSE


def test_tcd_takes_an_eta(pipeline: TextToImage):
    """diffusers' name of its gamma. A recipe with 0 is one of before, when it was fixed at 0.3."""
    asked = {"prompt": PROMPT, "seed": SEED, "num_steps": 3, "sampler": "tcd"}
    resolved = pipeline.resolve(ask(**asked))
    assert resolved.eta == 0.3
    assert pipeline.resolve(ask(**asked, preset="diffusers")).eta == 0
    drawn = pipeline.pixels(resolved)
    assert torch.equal(pipeline.pixels(replace(resolved, eta=0.0)), drawn)
    assert not torch.equal(pipeline.pixels(ask(**asked, eta=0.6)), drawn)
    with pytest.raises(RequestError, match="TCD without noise is DDIM"):
        pipeline.resolve(ask(**asked, eta=0.0))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["PNDMScheduler", EULER])
@pytest.mark.parametrize(
    ("sampler", "chosen", "options"),
    [
        ("euler", EULER, {}),
        ("euler_ancestral", "EulerAncestralDiscreteScheduler", {}),
        ("dpmpp_2m", DPM, {}),
        ("unipc_bh2", "UniPCMultistepScheduler", {}),
        ("ddim", "DDIMScheduler", {}),
        ("plms", "PNDMScheduler", {"skip_prk_steps": True}),
    ],
)
@pytest.mark.sampled(9)
def test_a_spacing_that_the_folder_states_holds_for_other_samplers(
    pair: Pair, name: str, sampler: str, chosen: str, options: dict[str, Any]
):
    """Every folder that diffusers saves states it, also where it is the default of the class."""
    own = {"timestep_spacing": "linspace" if name == EULER else "leading"}
    pair.configured(name, own | {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False})
    assert pair.gap(6, chosen, options, sampler=sampler) <= CLOSE


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "sampler", "chosen"), [("PNDMScheduler", "euler", EULER), (EULER, "ddim", "DDIMScheduler")]
)
def test_a_spacing_that_no_file_states_is_the_default_of_the_chosen_class(
    pair: Pair, name: str, sampler: str, chosen: str
):
    pair.configured(name, {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False})
    assert pair.gap(6, chosen, sampler=sampler) <= CLOSE


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("sampler", "chosen"), [("ddim", "DDIMScheduler"), ("plms", "PNDMScheduler")])
@pytest.mark.parametrize("said", [None, False, True])
@pytest.mark.parametrize("name", ["PNDMScheduler", "DDIMScheduler", EULER, DPM])
def test_where_a_run_ends_is_what_the_file_says_or_the_chosen_class_means(
    diffusers: Any, pair: Pair, name: str, said: bool | None, sampler: str, chosen: str
):
    """At sigma 0 or at the least of the schedule: of PNDM the last by default, of DDIM the first."""
    config = {"_class_name": name} | BETAS | ({} if said is None else {"set_alpha_to_one": said})
    (pair.folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    own = getattr(diffusers, name).from_pretrained(pair.folder, subfolder="scheduler")
    theirs = float(getattr(diffusers, chosen).from_config(own.config).final_alpha_cumprod)
    family = read_family(pair.folder)
    table = scaled_linear(beta_start=BETAS["beta_start"], beta_end=BETAS["beta_end"])
    steps = diffusers_scheduler(sampler, "uniform", None, family).steps(table, 5)
    assert (theirs == 1.0) == (float(steps.sigmas[-1]) == 0.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("config", "sampler", "chosen"),
    [
        ({"use_karras_sigmas": True}, "euler", EULER),
        ({"use_karras_sigmas": True}, "ddim", "DDIMScheduler"),  # which has no such setting
        ({"use_lu_lambdas": True}, "heun", "HeunDiscreteScheduler"),
        ({"use_exponential_sigmas": True, "solver_order": 3}, "unipc_bh2", "UniPCMultistepScheduler"),
        ({"solver_type": "heun", "algorithm_type": "dpmsolver++"}, "deis", "DEISMultistepScheduler"),
    ],
    ids=str,
)
@pytest.mark.sampled(12)
def test_settings_go_over_to_a_scheduler_that_has_them(pair: Pair, config: dict[str, Any], sampler: str, chosen: str):
    more = {"set_alpha_to_one": False, "clip_sample": False, "steps_offset": 1}
    pair.configured(DPM, config | more)
    assert pair.gap(6, chosen, sampler=sampler) <= CLOSE


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        (DPM, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, "algorithm_type is 'dpmsolver'"),
        (DPM, {"thresholding": True}, "thresholding is True"),
        (DPM, {"lambda_min_clipped": -5.1}, "lambda_min_clipped is -5.1"),
        (DPM, {"variance_type": "learned_range"}, "variance_type is 'learned_range'"),
        (EULER, {"interpolation_type": "log_linear"}, "interpolation_type is 'log_linear'"),
        (EULER, {"timestep_type": "continuous"}, "timestep_type is 'continuous'"),
        (EULER, {"sigma_max": 20.0}, "sigma_max is 20.0"),
        ("UniPCMultistepScheduler", {"predict_x0": False}, "predict_x0 is False"),
        ("SASolverScheduler", {"predictor_order": 3}, "predictor_order is 3"),
        ("SASolverScheduler", {"algorithm_type": "noise_prediction"}, "algorithm_type is 'noise_prediction'"),
        ("DPMSolverSinglestepScheduler", {"lambda_min_clipped": -math.inf}, "'DPMSolverSinglestepScheduler' is not"),
        ("EDMEulerScheduler", {}, "'EDMEulerScheduler' is not supported"),
    ],
    ids=str,
)
@pytest.mark.sampled(5)
def test_settings_that_gesso_cannot_follow_are_refused_where_they_count(
    pair: Pair, name: str, config: dict[str, Any], words: str
):
    """The folder loads, and draws with the preset gesso, which does not read that file, and with other samplers."""
    pair.configured(name, config)
    with pytest.raises(RequestError, match=words) as refused:
        pair.ours(2)
    assert "preset gesso" in str(refused.value)
    assert torch.isfinite(pair.ours(2, sampler="euler_ancestral")).all()
    assert torch.isfinite(pair.ours(2, preset="gesso")).all()


# ---- every scheduler that diffusers has, as it saves itself ---------------------------------------------------------

KNOWN = tuple(diffusers_steps._KINDS)
SLOW = pytest.mark.slow
# Values beside the default for settings that are no switch; a switch is turned over.
VALUES: dict[str, tuple[Any, ...]] = {
    "beta_start": (0.001,),
    "beta_schedule": ("linear", "squaredcos_cap_v2"),
    "num_train_timesteps": (500,),
    "prediction_type": ("v_prediction", "sample"),
    "timestep_spacing": ("leading", "linspace", "trailing"),
    "steps_offset": (0,),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "learned_range"),
    "algorithm_type": ("dpmsolver", "sde-dpmsolver", "sde-dpmsolver++", "noise_prediction"),
    "solver_type": ("midpoint", "heun", "bh1", "bh2", "logrho"),
    "solver_order": (1, 3),
    "predictor_order": (1,),
    "corrector_order": (1,),
    "final_sigmas_type": ("zero", "sigma_min"),
    "interpolation_type": ("log_linear",),
    "timestep_type": ("continuous",),
    "original_inference_steps": (20,),
    "timestep_scaling": (5.0,),
    "sigma_min": (0.1,),
    "sigma_max": (10.0,),
    "lambda_min_clipped": (-5.1,),
    "disable_corrector": ([0, 1],),
    "shift_terminal": (0.1,),
    "trained_betas": ([0.001] * 1000,),
    "dynamic_thresholding_ratio": (0.9,),
    "sample_max_value": (2.0,),
    "clip_sample_range": (2.0,),
}


def variants(cls: Any) -> list[dict[str, Any]]:
    """No setting changed, and each setting changed alone."""
    found: list[dict[str, Any]] = [{}]
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        default = parameter.default
        values = VALUES.get(name, (not default,) if isinstance(default, bool) else ())
        found += [{name: value} for value in values if value != default]
    return found


def saved(diffusers: Any, pair: Pair, name: str, change: dict[str, Any]) -> bool:
    """Puts a scheduler into the folder as the library saves it; False for settings that the class itself refuses."""
    cls = getattr(diffusers, name)
    known = inspect.signature(cls.__init__).parameters
    usual = {key: value for key, value in (BETAS | {"steps_offset": 1}).items() if key in known}
    try:
        cls(**usual | change).save_config(pair.folder / "scheduler")
    except (NotImplementedError, ValueError, ImportError, TypeError):
        return False
    return True


def planned(pair: Pair) -> None:
    """What drawing with the folder's own scheduler does before a network runs. Raises GessoError."""
    family = read_family(pair.folder)
    sampler = default_sampler(family)
    assert sampler is not None
    diffusers_scheduler(sampler, default_schedule(sampler, family), None, family)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [name if name in ("DDIMScheduler", "SASolverScheduler") else pytest.param(name, marks=SLOW) for name in KNOWN],
)
def test_a_setting_that_is_not_followed_is_named(pair: Pair, diffusers: Any, name: str):
    silent = {}
    for change in variants(getattr(diffusers, name)):
        if saved(diffusers, pair, name, change):
            try:
                planned(pair)
            except GessoError as error:
                if not any(word in str(error) for word in change):
                    silent[str(change)] = str(error)
    assert not silent


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KNOWN)
def test_every_setting_of_a_scheduler_is_followed_or_refused_by_name(pair: Pair, diffusers: Any, name: str):
    wrong = {}
    for change in variants(getattr(diffusers, name)):
        if not saved(diffusers, pair, name, change):
            continue
        pair.engine = Engine("cpu", "float32")  # which has not loaded the folder as it was before
        try:
            found = pair.ours(6)
        except GessoError:  # by name: the test above
            continue
        try:
            expected = pair.theirs(None, 6, {})
        except Exception:  # a combination that diffusers itself cannot run
            continue
        if not torch.isfinite(expected).all():  # LCM and TCD with zero terminal SNR
            continue
        gap = float((found - expected).abs().max()) / 2
        # A predicted picture becomes noise by a division by sigma there, which multiplies the roundings.
        if gap > (1e-3 if change.get("prediction_type") == "sample" else CLOSE):
            wrong[str(change)] = f"{gap:.1e}"
    assert not wrong


@pytest.mark.filterwarnings("ignore")
def test_every_other_scheduler_is_refused_by_name(pair: Pair, diffusers: Any):
    """By the name of its class, or of the setting that no betas of Stable Diffusion have."""
    silent, count = [], 0
    for name in dir(diffusers):
        cls = getattr(diffusers, name)
        if not name.endswith("Scheduler") or not inspect.isclass(cls) or name in KNOWN:
            continue
        if not saved(diffusers, pair, name, {}):
            continue
        count += 1
        try:
            planned(pair)
        except GessoError as error:
            if name not in str(error):
                silent.append(f"{name}: {error}")
        else:
            silent.append(f"{name} was drawn")
    assert count > 20 and not silent


@pytest.mark.filterwarnings("ignore")
def test_clipping_is_off_where_the_pipelines_of_diffusers_switch_it_off(pair: Pair):
    """It clips the latents to -1 .. 1, which ruins pictures; those of SD 1 and 2 do not let it."""
    pair.configured("DDIMScheduler", {"clip_sample": True, "steps_offset": 1})
    assert pair.gap(6) <= CLOSE


@pytest.mark.parametrize("name", ["DDIMScheduler", DDPM, "LCMScheduler", "TCDScheduler", "HeunDiscreteScheduler"])
@pytest.mark.parametrize("family", [TINY_SDXL, TINY_EDIT], ids=lambda family: family.name)
def test_clipping_elsewhere_is_refused_by_name(name: str, family: Family):
    own = SchedulerConfig(name=name, timestep_spacing="leading", steps_offset=1, stated={"clip_sample": True})
    with pytest.raises(RequestError, match="clip_sample is True"):
        default_sampler(replace(family, scheduler=own))
    assert default_sampler(replace(family, scheduler=replace(own, stated={})))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"_class_name": "DDIMScheduler", "beta_schedule": "linear"}, "is a DDIMScheduler with beta_schedule linear"),
        ({"_class_name": "DDIMScheduler", "trained_betas": [0.1]}, "is a DDIMScheduler with trained_betas"),
        ({"_class_name": "EDMEulerScheduler", "beta_schedule": None}, "is a EDMEulerScheduler with beta_schedule None"),
    ],
)
def test_other_betas_are_refused_with_the_class(pair: Pair, values: dict[str, Any], words: str):
    pair.configured(values["_class_name"], values)
    with pytest.raises(GessoError, match=words):
        pair.ours(1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
@pytest.mark.sampled(6)
def test_guidance_below_one_is_off_in_diffusers(pair: Pair, scale: float):
    """The habit of Turbo's users is 0."""
    pair.configured("DDIMScheduler", {"steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False})
    wide = {"width": 128, "height": 128}  # one row of fewer pixels is too small for the norms of the tiny model
    expected = pair.theirs(None, 4, {}, guidance_scale=scale, **wide)
    assert float((pair.ours(4, guidance_scale=scale, **wide) - expected).abs().max()) / 2 <= CLOSE


@pytest.fixture(scope="module")
def editing(diffusers: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, TextToImage]:
    """InstructPix2Pix on both sides, with DDIM."""
    folder = save_tiny_folder(tmp_path_factory.mktemp("edit") / "tiny", TINY_EDIT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.StableDiffusionInstructPix2PixPipeline.from_pretrained(
            folder, local_files_only=True, safety_checker=None, requires_safety_checker=False
        )
    pipe.scheduler = diffusers.DDIMScheduler.from_config(
        dict(pipe.scheduler.config) | {"set_alpha_to_one": False, "clip_sample": False, "timestep_spacing": "leading"}
    )
    pipe.set_progress_bar_config(disable=True)
    engine = Engine("cpu", "float32")
    return pipe, TextToImage(engine, engine.load(folder))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("scale", "image_scale"), [(0.5, 1.5), (5.0, 0.5), (1.0, 1.7), (5.0, 1.0)])
@pytest.mark.sampled(4)
def test_guidance_below_one_is_off_in_instruct_pix2pix(
    editing: tuple[Any, TextToImage], scale: float, image_scale: float
):
    pipe, pipeline = editing
    image = Image.linear_gradient("L").resize((128, 128)).convert("RGB")
    guidance = {"guidance_scale": scale, "image_guidance_scale": image_scale}
    generator = torch.Generator().manual_seed(SEED)
    expected = pipe(PROMPT, image=image, num_inference_steps=3, generator=generator, output_type="np", **guidance)
    request = ask(prompt=PROMPT, num_steps=3, seed=SEED, preset="diffusers", sampler="ddim", **guidance)
    found = pipeline.pixels(request, image=image)
    picture = (found[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)
    assert float((picture - torch.from_numpy(expected.images[0])).abs().max()) <= CLOSE


@pytest.mark.parametrize(("preset", "skipped"), [("diffusers", False), ("a1111", True), ("gesso", True)])
def test_clip_skip_of_diffusers_leaves_the_negative_prompt_alone(pipeline: TextToImage, preset: Any, skipped: bool):
    """Its `encode_prompt` takes the last layer of a negative prompt, whatever clip_skip is."""
    asked = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": SEED, "preset": preset, "guidance_scale": 5.0}
    one, two = (
        encode_prompts(pipeline.model, pipeline.resolve(ask(**asked, clip_skip=skip))).moments[0][1] for skip in (1, 2)
    )
    assert one.uncond is not None and two.uncond is not None
    assert not torch.equal(one.cond.context, two.cond.context)
    assert torch.equal(one.uncond.context, two.uncond.context) is not skipped


@pytest.mark.parametrize(
    ("values", "scale", "words"),
    [
        ({"preset": "diffusers", "guidance_scale": 0.0}, 1.0, "diffusers switches guidance off below 1"),
        ({"guidance_scale": 0.0}, 0.0, "guidance 0 draws from the negative prompt alone"),
        ({"guidance_scale": 0.5, "preset": "a1111"}, 0.5, "lies between the negative prompt"),
        ({"guidance_scale": 1.0}, 1.0, ""),
        ({"guidance_scale": 0.5, "sampler": "ddim_cfgpp"}, 0.5, ""),  # its scale goes from 0 to 1
    ],
    ids=str,
)
def test_guidance_below_one_is_told(pipeline: TextToImage, values: dict[str, Any], scale: float, words: str):
    (picture,) = pipeline(ask(**{"prompt": PROMPT, "seed": SEED, "num_steps": 1, "width": 128, "height": 128} | values))
    told = [notice for notice in picture.recipe.notices if notice.code == "guidance_below_one"]
    assert [words in notice for notice in told] == [True] * bool(words)
    assert picture.recipe.request.guidance_scale == scale
    assert pipeline.resolve(picture.recipe.request) == picture.recipe.request


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"guidance_scale": 30.0}, []),
        ({"guidance_scale": 31.0}, ["guidance_scale"]),
        ({"guidance_scale": 100.0, "preset": "a1111"}, ["guidance_scale"]),
        ({"guidance_scale": 3.0, "sampler": "ddim_cfgpp"}, ["guidance_scale"]),  # whose scale goes from 0 to 1
        ({"guidance_scale": 7.5, "sampler": "ddim_cfgpp", "timestep_spacing": "a1111"}, []),  # 0.6 of it
        ({"guidance_scale": 13.0, "sampler": "ddim_cfgpp", "timestep_spacing": "a1111"}, ["guidance_scale"]),
        ({"guidance_scale": 5.0, "hires_scale": 40.0}, ["hires.guidance_scale"]),
        ({"guidance_scale": 50.0, "hires_scale": 50.0}, ["guidance_scale"]),
    ],
    ids=str,
)
def test_guidance_far_too_high_is_told(pipeline: TextToImage, values: dict[str, Any], told: list[str]):
    values = {"prompt": PROMPT, "seed": SEED} | values
    hires = HiresPass(guidance_scale=values.pop("hires_scale")) if "hires_scale" in values else None
    conventions = Conventions(timestep_spacing=values.pop("timestep_spacing", None))
    asked = TextToImageRequest(**values, hires=hires, conventions=conventions)
    found = guidance_notices(asked, pipeline.resolve(asked), pipeline.model.family)
    assert [(one.code, one.field) for one in found] == [("guidance_too_high", field) for field in told]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"guidance_scale": 1.0}, True),
        ({"guidance_scale": 5.0}, False),
        ({"guidance_scale": 1.0, "sampler": "ddim_cfgpp"}, False),  # which uses it at any scale
        ({"guidance_scale": 1.0, "negative_prompt": ""}, False),
    ],
    ids=str,
)
def test_a_negative_prompt_without_guidance_is_told(pipeline: TextToImage, values: dict[str, Any], told: bool):
    request = pipeline.resolve(ask(**({"prompt": PROMPT, "seed": SEED, "negative_prompt": NEGATIVE} | values)))
    notices = encode_prompts(pipeline.model, request).notices
    assert [one.field for one in notices if one.code == "negative_prompt_left_out"] == ["negative_prompt"] * told


def test_a_recipe_with_guidance_below_one_is_drawn_as_it_was(pipeline: TextToImage):
    """The preset diffusers once extrapolated there."""
    resolved = pipeline.resolve(ask(prompt=PROMPT, seed=SEED, num_steps=1, preset="diffusers"))
    old = replace(resolved, guidance_scale=0.5)
    assert pipeline.resolve(old).guidance_scale == 0.5

"""SAMPLERS: every sampler, one row each, and those of plug-ins. Imports no torch: functions are named, not imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gesso.diffusion.sampler_row import Sampler
from gesso.registry import Registry, imported

if TYPE_CHECKING:
    from torch import Tensor

    from gesso.diffusion.samplers.seam import Sampling

_IN = "gesso.diffusion.samplers"
_CHURN = frozenset({"s_churn", "s_tmin", "s_tmax", "s_noise"})
_ETA = frozenset({"eta", "s_noise"})
_FINAL = frozenset({"lower_final", "euler_final"})


def _plms_calls(num_steps: int) -> int:
    return num_steps + (num_steps > 1)


def _pndm_calls(num_steps: int) -> int:
    return num_steps + 3 * min(num_steps - 1, 3)


def _restart_calls(num_steps: int) -> int:
    return 2 * num_steps - 1  # one step ends in 0, however often it goes back up


# A new sampler is one function and one row here; the tests find it by themselves and ask for its goldens.
_BUILTIN = {
    "euler": Sampler(
        "Euler",
        f"{_IN}.euler:euler",
        order=1,
        stochastic=False,
        options=_CHURN,
        aliases=("k_euler", "EulerDiscreteScheduler"),
    ),
    "euler_ancestral": Sampler(
        "Euler a",
        f"{_IN}.euler:euler_ancestral",
        order=1,
        stochastic=True,
        options=_ETA,
        draws_per_step=1,
        aliases=("k_euler_a", "k_euler_ancestral", "EulerAncestralDiscreteScheduler"),
    ),
    "heun": Sampler(
        "Heun",
        f"{_IN}.euler:heun",
        order=2,
        stochastic=False,
        calls_per_step=2,
        options=_CHURN,
        aliases=("k_heun", "HeunDiscreteScheduler"),
    ),
    "ddim": Sampler(
        "DDIM",
        f"{_IN}.euler:ddim",
        order=1,
        stochastic=False,
        options=_ETA | {"landings"},
        schedule="ddim_uniform",
        aliases=("DDIMScheduler",),
    ),
    "ddim_cfgpp": Sampler(
        "DDIM CFG++",
        f"{_IN}.euler:ddim_cfgpp",
        order=1,
        stochastic=False,
        options=_ETA,
        schedule="ddim_uniform",
        asks_uncond=True,
        aliases=("euler_cfg_pp",),
    ),
    "ddpm": Sampler(
        "DDPM",
        f"{_IN}.euler:ddpm",
        order=1,
        stochastic=True,
        options=frozenset({"large", "noisy_end"}),
        draws_per_step=1,
        aliases=("DDPMScheduler",),
    ),
    "dpmpp_2s_ancestral": Sampler(
        "DPM++ 2S a",
        f"{_IN}.dpmpp:dpmpp_2s_ancestral",
        order=2,
        stochastic=True,
        calls_per_step=2,
        options=_ETA,
        schedule="karras",
        draws_per_step=1,
        aliases=("k_dpmpp_2s_a", "k_dpmpp_2s_ancestral"),
    ),
    "dpmpp_2m": Sampler(
        "DPM++ 2M",
        f"{_IN}.dpmpp:dpmpp_2m",
        order=2,
        stochastic=False,
        options=_FINAL | {"max_order", "heun"},
        schedule="karras",
        aliases=("k_dpmpp_2m", "DPMSolverMultistepScheduler"),
    ),
    "dpmpp_sde": Sampler(
        "DPM++ SDE",
        f"{_IN}.dpmpp:dpmpp_sde",
        order=2,
        stochastic=True,
        calls_per_step=2,
        options=frozenset({"eta", "s_noise", "r"}),
        schedule="karras",
        brownian=True,
        aliases=("k_dpmpp_sde", "dpmpp_sde_gpu", "DPMSolverSDEScheduler"),
    ),
    "dpmpp_2m_sde": Sampler(
        "DPM++ 2M SDE",
        f"{_IN}.dpmpp:dpmpp_2m_sde",
        order=2,
        stochastic=True,
        options=_ETA | _FINAL,
        schedule="exponential",
        brownian=True,
        aliases=("k_dpmpp_2m_sde", "dpmpp_2m_sde_gpu"),
    ),
    "dpmpp_2m_sde_heun": Sampler(
        "DPM++ 2M SDE Heun",
        f"{_IN}.dpmpp:dpmpp_2m_sde_heun",
        order=2,
        stochastic=True,
        options=_ETA | _FINAL,
        schedule="exponential",
        brownian=True,
        aliases=("k_dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"),
    ),
    "dpmpp_3m_sde": Sampler(
        "DPM++ 3M SDE",
        f"{_IN}.dpmpp:dpmpp_3m_sde",
        order=2,
        stochastic=True,
        options=_ETA | _FINAL,
        schedule="exponential",
        brownian=True,
        discards_penultimate=True,
        aliases=("k_dpmpp_3m_sde", "dpmpp_3m_sde_gpu"),
    ),
    "lms": Sampler(
        "LMS",
        f"{_IN}.multistep:lms",
        order=4,
        stochastic=False,
        options=frozenset({"max_order"}),
        aliases=("k_lms", "LMSDiscreteScheduler"),
    ),
    "dpm_2": Sampler(
        "DPM2",
        f"{_IN}.dpm_solver:dpm_2",
        order=2,
        stochastic=False,
        calls_per_step=2,
        options=_CHURN,
        schedule="karras",
        discards_penultimate=True,
        aliases=("k_dpm_2", "KDPM2DiscreteScheduler"),
    ),
    "dpm_2_ancestral": Sampler(
        "DPM2 a",
        f"{_IN}.dpm_solver:dpm_2_ancestral",
        order=2,
        stochastic=True,
        calls_per_step=2,
        options=_ETA | {"apart"},
        schedule="karras",
        draws_per_step=1,
        discards_penultimate=True,
        aliases=("k_dpm_2_a", "k_dpm_2_ancestral", "KDPM2AncestralDiscreteScheduler"),
    ),
    "dpm_fast": Sampler(
        "DPM fast",
        f"{_IN}.dpm_solver:dpm_fast",
        order=2,
        stochastic=False,
        options=_ETA,
        ignores_sigmas=True,
        aliases=("k_dpm_fast",),
    ),
    "dpm_adaptive": Sampler(
        "DPM adaptive",
        f"{_IN}.dpm_solver:dpm_adaptive",
        order=3,
        stochastic=False,
        options=_ETA | {"rtol", "atol", "h_init", "order"},
        ignores_sigmas=True,
        row_steps=True,
        counted=lambda num_steps: None,
        aliases=("k_dpm_ad", "k_dpm_adaptive"),
    ),
    "plms": Sampler(
        "PLMS",
        f"{_IN}.multistep:plms",
        order=2,
        stochastic=False,
        options=frozenset({"landings", "departures", "velocity"}),
        schedule="ddim_uniform",
        counted=_plms_calls,
        aliases=("k_plms",),
    ),
    "pndm": Sampler(
        "PNDM",
        f"{_IN}.multistep:pndm",
        order=2,
        stochastic=False,
        options=frozenset({"schedule", "landings", "halves", "half_landings", "velocity"}),
        schedule="ddim_uniform",
        counted=_pndm_calls,
        aliases=("PNDMScheduler",),
    ),
    "ipndm": Sampler(
        "IPNDM",
        f"{_IN}.multistep:ipndm",
        order=2,
        stochastic=False,
        options=frozenset({"max_order"}),
        aliases=("IPNDMScheduler",),
    ),
    "deis": Sampler(
        "DEIS",
        f"{_IN}.multistep:deis",
        order=3,
        stochastic=False,
        options=frozenset({"max_order", "lower_final"}),
        aliases=("DEISMultistepScheduler",),
    ),
    "unipc": Sampler(
        "UniPC",
        f"{_IN}.unipc:unipc",
        order=4,
        stochastic=False,
        options=frozenset({"max_order", "corrector"}),
        aliases=("uni_pc", "uni_pc_bh1"),
    ),
    "unipc_bh2": Sampler(
        "UniPC bh2",
        f"{_IN}.unipc:unipc_bh2",
        order=3,
        stochastic=False,
        options=frozenset({"max_order", "corrector"}),
        aliases=("uni_pc_bh2", "UniPCMultistepScheduler"),
    ),
    "lcm": Sampler(
        "LCM",
        f"{_IN}.few_step:lcm",
        order=0,
        stochastic=True,
        options=frozenset({"s_noise"}),
        schedule="sgm_uniform",
        draws_per_step=1,
        aliases=("k_lcm", "LCMScheduler"),
    ),
    "tcd": Sampler(
        "TCD",
        f"{_IN}.few_step:tcd",
        order=1,
        stochastic=True,
        options=frozenset({"gamma", "schedule"}),
        schedule="sgm_uniform",
        draws_per_step=1,
        aliases=("TCDScheduler",),
    ),
    "restart": Sampler(
        "Restart",
        f"{_IN}.restart:restart",
        order=2,
        stochastic=True,
        options=frozenset({"s_noise"}),
        schedule="karras",
        ignores_sigmas=True,
        counted=_restart_calls,
        aliases=("k_restart",),
    ),
    "er_sde": Sampler(
        "ER-SDE",
        f"{_IN}.stochastic:er_sde",
        order=2,
        stochastic=True,
        options=frozenset({"s_noise", "max_order"}),
        draws_per_step=1,
        aliases=("ersde",),
    ),
    "sa_solver": Sampler(
        "SA-Solver",
        f"{_IN}.stochastic:sa_solver",
        order=2,
        stochastic=True,
        options=frozenset({"tau", "tau_from", "tau_to", "s_noise", "schedule", "taus"}),
        draws_per_step=1,
        aliases=("SASolverScheduler",),
    ),
}

SAMPLERS: Registry[Sampler] = Registry(Sampler, "gesso.samplers", _BUILTIN)


def sampler_named(name: str) -> Callable[..., Sampling]:
    """The sampler to run; errors of a plug-in become a PluginError that names it. Raises KeyError for no sampler."""
    row = SAMPLERS[name]
    if SAMPLERS.origin(name) is None:
        return row

    def guarded(x: Tensor, *args: Any, **options: Any) -> Sampling:
        checked = imported(f"{_IN}.checked:checked")
        with SAMPLERS.guard(name):
            return (yield from checked(row(x, *args, **options), x))

    return guarded

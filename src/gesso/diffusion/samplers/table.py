"""SAMPLERS: every sampler, one row each."""

from __future__ import annotations

from gesso.diffusion.samplers.dpm_solver import dpm_2, dpm_2_ancestral, dpm_adaptive, dpm_fast
from gesso.diffusion.samplers.dpmpp import (
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_2m_sde_heun,
    dpmpp_2s_ancestral,
    dpmpp_3m_sde,
    dpmpp_sde,
)
from gesso.diffusion.samplers.euler import ddim, ddim_cfgpp, ddpm, euler, euler_ancestral, heun
from gesso.diffusion.samplers.few_step import lcm, tcd
from gesso.diffusion.samplers.multistep import deis, ipndm, lms, plms, pndm
from gesso.diffusion.samplers.registry import Sampler
from gesso.diffusion.samplers.restart import restart
from gesso.diffusion.samplers.stochastic import er_sde, sa_solver
from gesso.diffusion.samplers.unipc import unipc, unipc_bh2

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
SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(
        "Euler", euler, order=1, stochastic=False, options=_CHURN, aliases=("k_euler", "EulerDiscreteScheduler")
    ),
    "euler_ancestral": Sampler(
        "Euler a",
        euler_ancestral,
        order=1,
        stochastic=True,
        options=_ETA,
        draws_per_step=1,
        aliases=("k_euler_a", "k_euler_ancestral", "EulerAncestralDiscreteScheduler"),
    ),
    "heun": Sampler(
        "Heun",
        heun,
        order=2,
        stochastic=False,
        calls_per_step=2,
        options=_CHURN,
        aliases=("k_heun", "HeunDiscreteScheduler"),
    ),
    "ddim": Sampler(
        "DDIM",
        ddim,
        order=1,
        stochastic=False,
        options=_ETA | {"landings"},
        schedule="ddim_uniform",
        aliases=("DDIMScheduler",),
    ),
    "ddim_cfgpp": Sampler(
        "DDIM CFG++",
        ddim_cfgpp,
        order=1,
        stochastic=False,
        options=_ETA,
        schedule="ddim_uniform",
        asks_uncond=True,
        aliases=("euler_cfg_pp",),
    ),
    "ddpm": Sampler(
        "DDPM",
        ddpm,
        order=1,
        stochastic=True,
        options=frozenset({"large", "noisy_end", "landings"}),
        draws_per_step=1,
        aliases=("DDPMScheduler",),
    ),
    "dpmpp_2s_ancestral": Sampler(
        "DPM++ 2S a",
        dpmpp_2s_ancestral,
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
        dpmpp_2m,
        order=2,
        stochastic=False,
        options=_FINAL | {"max_order", "heun"},
        schedule="karras",
        aliases=("k_dpmpp_2m", "DPMSolverMultistepScheduler"),
    ),
    "dpmpp_sde": Sampler(
        "DPM++ SDE",
        dpmpp_sde,
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
        dpmpp_2m_sde,
        order=2,
        stochastic=True,
        options=_ETA | _FINAL,
        schedule="exponential",
        brownian=True,
        aliases=("k_dpmpp_2m_sde", "dpmpp_2m_sde_gpu"),
    ),
    "dpmpp_2m_sde_heun": Sampler(
        "DPM++ 2M SDE Heun",
        dpmpp_2m_sde_heun,
        order=2,
        stochastic=True,
        options=_ETA | _FINAL,
        schedule="exponential",
        brownian=True,
        aliases=("k_dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"),
    ),
    "dpmpp_3m_sde": Sampler(
        "DPM++ 3M SDE",
        dpmpp_3m_sde,
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
        lms,
        order=4,
        stochastic=False,
        options=frozenset({"max_order"}),
        aliases=("k_lms", "LMSDiscreteScheduler"),
    ),
    "dpm_2": Sampler(
        "DPM2",
        dpm_2,
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
        dpm_2_ancestral,
        order=2,
        stochastic=True,
        calls_per_step=2,
        options=_ETA,
        schedule="karras",
        draws_per_step=1,
        discards_penultimate=True,
        aliases=("k_dpm_2_a", "k_dpm_2_ancestral", "KDPM2AncestralDiscreteScheduler"),
    ),
    "dpm_fast": Sampler(
        "DPM fast",
        dpm_fast,
        order=2,
        stochastic=False,
        options=_ETA,
        ignores_sigmas=True,
        aliases=("k_dpm_fast",),
    ),
    "dpm_adaptive": Sampler(
        "DPM adaptive",
        dpm_adaptive,
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
        plms,
        order=2,
        stochastic=False,
        schedule="ddim_uniform",
        counted=_plms_calls,
        aliases=("k_plms",),
    ),
    "pndm": Sampler(
        "PNDM",
        pndm,
        order=2,
        stochastic=False,
        options=frozenset({"schedule"}),
        schedule="ddim_uniform",
        counted=_pndm_calls,
        aliases=("PNDMScheduler",),
    ),
    "ipndm": Sampler(
        "IPNDM",
        ipndm,
        order=2,
        stochastic=False,
        options=frozenset({"max_order"}),
        aliases=("IPNDMScheduler",),
    ),
    "deis": Sampler(
        "DEIS",
        deis,
        order=3,
        stochastic=False,
        options=frozenset({"max_order", "lower_final"}),
        aliases=("DEISMultistepScheduler",),
    ),
    "unipc": Sampler(
        "UniPC",
        unipc,
        order=4,
        stochastic=False,
        options=frozenset({"max_order", "corrector"}),
        aliases=("uni_pc", "uni_pc_bh1"),
    ),
    "unipc_bh2": Sampler(
        "UniPC bh2",
        unipc_bh2,
        order=3,
        stochastic=False,
        options=frozenset({"max_order", "corrector"}),
        aliases=("uni_pc_bh2", "UniPCMultistepScheduler"),
    ),
    "lcm": Sampler(
        "LCM",
        lcm,
        order=0,
        stochastic=True,
        options=frozenset({"s_noise"}),
        schedule="sgm_uniform",
        draws_per_step=1,
        aliases=("k_lcm", "LCMScheduler"),
    ),
    "tcd": Sampler(
        "TCD",
        tcd,
        order=1,
        stochastic=True,
        options=frozenset({"gamma", "schedule"}),
        schedule="sgm_uniform",
        draws_per_step=1,
        aliases=("TCDScheduler",),
    ),
    "restart": Sampler(
        "Restart",
        restart,
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
        er_sde,
        order=2,
        stochastic=True,
        options=frozenset({"s_noise", "max_order"}),
        draws_per_step=1,
        aliases=("ersde",),
    ),
    "sa_solver": Sampler(
        "SA-Solver",
        sa_solver,
        order=2,
        stochastic=True,
        options=frozenset({"tau", "tau_from", "tau_to", "s_noise", "schedule"}),
        draws_per_step=1,
        aliases=("SASolverScheduler",),
    ),
}

"""SAMPLERS: every sampler, one row each."""

from __future__ import annotations

from gesso.diffusion.samplers.dpmpp import (
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_2m_sde_heun,
    dpmpp_2s_ancestral,
    dpmpp_3m_sde,
    dpmpp_sde,
)
from gesso.diffusion.samplers.euler import ddim, ddim_cfgpp, ddpm, euler, euler_ancestral, heun
from gesso.diffusion.samplers.registry import Sampler

_CHURN = frozenset({"s_churn", "s_tmin", "s_tmax", "s_noise"})
_ETA = frozenset({"eta", "s_noise"})

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
        uses_ensd=True,
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
        options=_ETA,
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
        options=frozenset({"large", "noisy_end"}),
        draws_per_step=1,
        uses_ensd=True,
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
        uses_ensd=True,
        aliases=("k_dpmpp_2s_a", "k_dpmpp_2s_ancestral"),
    ),
    "dpmpp_2m": Sampler(
        "DPM++ 2M",
        dpmpp_2m,
        order=2,
        stochastic=False,
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
        options=_ETA,
        schedule="exponential",
        brownian=True,
        aliases=("k_dpmpp_2m_sde", "dpmpp_2m_sde_gpu"),
    ),
    "dpmpp_2m_sde_heun": Sampler(
        "DPM++ 2M SDE Heun",
        dpmpp_2m_sde_heun,
        order=2,
        stochastic=True,
        options=_ETA,
        schedule="exponential",
        brownian=True,
        aliases=("k_dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"),
    ),
    "dpmpp_3m_sde": Sampler(
        "DPM++ 3M SDE",
        dpmpp_3m_sde,
        order=3,
        stochastic=True,
        options=_ETA,
        schedule="exponential",
        brownian=True,
        discards_penultimate=True,
        aliases=("k_dpmpp_3m_sde", "dpmpp_3m_sde_gpu"),
    ),
}

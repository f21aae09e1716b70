"""SAMPLERS: every sampler, one row each."""

from __future__ import annotations

from gesso.diffusion.names import SAMPLER_NAMES
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


# A new sampler is one function, one row here and one in `gesso.diffusion.names`; the tests find it by themselves and
# ask for its goldens.
SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(
        SAMPLER_NAMES["euler"],
        euler,
        order=1,
        stochastic=False,
        options=_CHURN,
    ),
    "euler_ancestral": Sampler(
        SAMPLER_NAMES["euler_ancestral"],
        euler_ancestral,
        order=1,
        stochastic=True,
        options=_ETA,
        draws_per_step=1,
    ),
    "heun": Sampler(
        SAMPLER_NAMES["heun"],
        heun,
        order=2,
        stochastic=False,
        calls_per_step=2,
        options=_CHURN,
    ),
    "ddim": Sampler(
        SAMPLER_NAMES["ddim"],
        ddim,
        order=1,
        stochastic=False,
        options=_ETA | {"landings"},
    ),
    "ddim_cfgpp": Sampler(
        SAMPLER_NAMES["ddim_cfgpp"],
        ddim_cfgpp,
        order=1,
        stochastic=False,
        options=_ETA,
        asks_uncond=True,
    ),
    "ddpm": Sampler(
        SAMPLER_NAMES["ddpm"],
        ddpm,
        order=1,
        stochastic=True,
        options=frozenset({"large", "noisy_end", "landings"}),
        draws_per_step=1,
    ),
    "dpmpp_2s_ancestral": Sampler(
        SAMPLER_NAMES["dpmpp_2s_ancestral"],
        dpmpp_2s_ancestral,
        order=2,
        stochastic=True,
        calls_per_step=2,
        options=_ETA,
        draws_per_step=1,
    ),
    "dpmpp_2m": Sampler(
        SAMPLER_NAMES["dpmpp_2m"],
        dpmpp_2m,
        order=2,
        stochastic=False,
        options=_FINAL | {"max_order", "heun"},
    ),
    "dpmpp_sde": Sampler(
        SAMPLER_NAMES["dpmpp_sde"],
        dpmpp_sde,
        order=2,
        stochastic=True,
        calls_per_step=2,
        options=frozenset({"eta", "s_noise", "r"}),
        brownian=True,
    ),
    "dpmpp_2m_sde": Sampler(
        SAMPLER_NAMES["dpmpp_2m_sde"],
        dpmpp_2m_sde,
        order=2,
        stochastic=True,
        options=_ETA | _FINAL,
        brownian=True,
    ),
    "dpmpp_2m_sde_heun": Sampler(
        SAMPLER_NAMES["dpmpp_2m_sde_heun"],
        dpmpp_2m_sde_heun,
        order=2,
        stochastic=True,
        options=_ETA | _FINAL,
        brownian=True,
    ),
    "dpmpp_3m_sde": Sampler(
        SAMPLER_NAMES["dpmpp_3m_sde"],
        dpmpp_3m_sde,
        order=2,
        stochastic=True,
        options=_ETA | _FINAL,
        brownian=True,
        discards_penultimate=True,
    ),
    "lms": Sampler(
        SAMPLER_NAMES["lms"],
        lms,
        order=4,
        stochastic=False,
        options=frozenset({"max_order"}),
    ),
    "dpm_2": Sampler(
        SAMPLER_NAMES["dpm_2"],
        dpm_2,
        order=2,
        stochastic=False,
        calls_per_step=2,
        options=_CHURN,
        discards_penultimate=True,
    ),
    "dpm_2_ancestral": Sampler(
        SAMPLER_NAMES["dpm_2_ancestral"],
        dpm_2_ancestral,
        order=2,
        stochastic=True,
        calls_per_step=2,
        options=_ETA,
        draws_per_step=1,
        discards_penultimate=True,
    ),
    "dpm_fast": Sampler(
        SAMPLER_NAMES["dpm_fast"],
        dpm_fast,
        order=2,
        stochastic=False,
        options=_ETA,
        ignores_sigmas=True,
    ),
    "dpm_adaptive": Sampler(
        SAMPLER_NAMES["dpm_adaptive"],
        dpm_adaptive,
        order=3,
        stochastic=False,
        options=_ETA | {"rtol", "atol", "h_init", "order"},
        ignores_sigmas=True,
        row_steps=True,
        counted=lambda num_steps: None,
    ),
    "plms": Sampler(
        SAMPLER_NAMES["plms"],
        plms,
        order=2,
        stochastic=False,
        counted=_plms_calls,
    ),
    "pndm": Sampler(
        SAMPLER_NAMES["pndm"],
        pndm,
        order=2,
        stochastic=False,
        options=frozenset({"schedule"}),
        counted=_pndm_calls,
    ),
    "ipndm": Sampler(
        SAMPLER_NAMES["ipndm"],
        ipndm,
        order=2,
        stochastic=False,
        options=frozenset({"max_order"}),
    ),
    "deis": Sampler(
        SAMPLER_NAMES["deis"],
        deis,
        order=3,
        stochastic=False,
        options=frozenset({"max_order", "lower_final"}),
    ),
    "unipc": Sampler(
        SAMPLER_NAMES["unipc"],
        unipc,
        order=4,
        stochastic=False,
        options=frozenset({"max_order", "corrector"}),
    ),
    "unipc_bh2": Sampler(
        SAMPLER_NAMES["unipc_bh2"],
        unipc_bh2,
        order=3,
        stochastic=False,
        options=frozenset({"max_order", "corrector"}),
    ),
    "lcm": Sampler(
        SAMPLER_NAMES["lcm"],
        lcm,
        order=0,
        stochastic=True,
        options=frozenset({"s_noise"}),
        draws_per_step=1,
    ),
    "tcd": Sampler(
        SAMPLER_NAMES["tcd"],
        tcd,
        order=1,
        stochastic=True,
        options=frozenset({"gamma", "schedule"}),
        draws_per_step=1,
    ),
    "restart": Sampler(
        SAMPLER_NAMES["restart"],
        restart,
        order=2,
        stochastic=True,
        options=frozenset({"s_noise"}),
        ignores_sigmas=True,
        counted=_restart_calls,
    ),
    "er_sde": Sampler(
        SAMPLER_NAMES["er_sde"],
        er_sde,
        order=2,
        stochastic=True,
        options=frozenset({"s_noise", "max_order"}),
        draws_per_step=1,
    ),
    "sa_solver": Sampler(
        SAMPLER_NAMES["sa_solver"],
        sa_solver,
        order=2,
        stochastic=True,
        options=frozenset({"tau", "tau_from", "tau_to", "s_noise", "schedule"}),
        draws_per_step=1,
    ),
}

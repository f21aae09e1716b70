"""What samplers, schedules and sources of noise are called, here and in other tools; imports no torch.

Whoever only reads names (a request, a form, the settings in a picture) needs nothing of what runs. The tables of what
runs, `SAMPLERS`, `SCHEDULES` and `NOISE_SOURCES`, take their names from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Names:
    """Label and other names of a sampler or a schedule.

    label     what A1111 calls it in its infotext (where A1111 lacks it, what its users would call it)
    aliases   what other tools and diffusers call it
    schedule  of a sampler: which schedule A1111 takes for "Automatic"
    """

    label: str
    aliases: tuple[str, ...] = ()
    schedule: str = "uniform"


SAMPLER_NAMES: dict[str, Names] = {
    "euler": Names("Euler", ("k_euler", "EulerDiscreteScheduler")),
    "euler_ancestral": Names("Euler a", ("k_euler_a", "k_euler_ancestral", "EulerAncestralDiscreteScheduler")),
    "heun": Names("Heun", ("k_heun", "HeunDiscreteScheduler")),
    "ddim": Names("DDIM", ("DDIMScheduler",), schedule="ddim_uniform"),
    "ddim_cfgpp": Names("DDIM CFG++", ("euler_cfg_pp",), schedule="ddim_uniform"),
    "ddpm": Names("DDPM", ("DDPMScheduler",)),
    "dpmpp_2s_ancestral": Names("DPM++ 2S a", ("k_dpmpp_2s_a", "k_dpmpp_2s_ancestral"), schedule="karras"),
    "dpmpp_2m": Names("DPM++ 2M", ("k_dpmpp_2m", "DPMSolverMultistepScheduler"), schedule="karras"),
    "dpmpp_sde": Names("DPM++ SDE", ("k_dpmpp_sde", "dpmpp_sde_gpu", "DPMSolverSDEScheduler"), schedule="karras"),
    "dpmpp_2m_sde": Names("DPM++ 2M SDE", ("k_dpmpp_2m_sde", "dpmpp_2m_sde_gpu"), schedule="exponential"),
    "dpmpp_2m_sde_heun": Names(
        "DPM++ 2M SDE Heun", ("k_dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"), schedule="exponential"
    ),
    "dpmpp_3m_sde": Names("DPM++ 3M SDE", ("k_dpmpp_3m_sde", "dpmpp_3m_sde_gpu"), schedule="exponential"),
    "lms": Names("LMS", ("k_lms", "LMSDiscreteScheduler")),
    "dpm_2": Names("DPM2", ("k_dpm_2", "KDPM2DiscreteScheduler"), schedule="karras"),
    "dpm_2_ancestral": Names(
        "DPM2 a", ("k_dpm_2_a", "k_dpm_2_ancestral", "KDPM2AncestralDiscreteScheduler"), schedule="karras"
    ),
    "dpm_fast": Names("DPM fast", ("k_dpm_fast",)),
    "dpm_adaptive": Names("DPM adaptive", ("k_dpm_ad", "k_dpm_adaptive")),
    "plms": Names("PLMS", ("k_plms",), schedule="ddim_uniform"),
    "pndm": Names("PNDM", ("PNDMScheduler",), schedule="ddim_uniform"),
    "ipndm": Names("IPNDM", ("IPNDMScheduler",)),
    "deis": Names("DEIS", ("DEISMultistepScheduler",)),
    "unipc": Names("UniPC", ("uni_pc", "uni_pc_bh1")),
    "unipc_bh2": Names("UniPC bh2", ("uni_pc_bh2", "UniPCMultistepScheduler")),
    "lcm": Names("LCM", ("k_lcm", "LCMScheduler"), schedule="sgm_uniform"),
    "tcd": Names("TCD", ("TCDScheduler",), schedule="sgm_uniform"),
    "restart": Names("Restart", ("k_restart",), schedule="karras"),
    "er_sde": Names("ER-SDE", ("ersde",)),
    "sa_solver": Names("SA-Solver", ("SASolverScheduler",)),
}
SCHEDULE_NAMES: dict[str, Names] = {
    "uniform": Names("Uniform", ("normal",)),
    "karras": Names("Karras"),
    "exponential": Names("Exponential"),
    "polyexponential": Names("Polyexponential"),
    "sgm_uniform": Names("SGM Uniform"),
    "simple": Names("Simple"),
    "ddim_uniform": Names("DDIM"),
    "beta": Names("Beta"),
    "beta_comfyui": Names("Beta (ComfyUI)"),
    "linear_quadratic": Names("Linear Quadratic"),
    "kl_optimal": Names("KL Optimal"),
    "kl_optimal_comfyui": Names("KL Optimal (ComfyUI)"),
    "align_your_steps": Names("Align Your Steps", ("ays", "ays_sd15")),
    "align_your_steps_sdxl": Names("Align Your Steps SDXL", ("ays_sdxl",)),
    "align_your_steps_comfyui": Names("Align Your Steps (ComfyUI)"),
    "align_your_steps_sdxl_comfyui": Names("Align Your Steps SDXL (ComfyUI)"),
    "turbo": Names("Turbo", ("sgm_turbo",)),
}
NOISE_NAMES = ("philox", "cpu", "nv")  # ours, and those that other tools draw from


class Named(Protocol):
    """A row with a label and other names."""

    @property
    def label(self) -> str:
        """What A1111 calls it."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """What other tools call it."""


def resolve(name: str, table: Mapping[str, Named]) -> str | None:
    """The key in SAMPLERS or SCHEDULES that a user or another tool means; None if it is unknown.

    Case, spaces, hyphens and underscores do not count: "DPM++ 2M", "dpm++_2m" and "dpmpp_2m" are one sampler.
    """
    if name in table:
        return name
    wanted = _plain(name)
    for key, row in table.items():
        if wanted in {_plain(text) for text in (key, row.label, *row.aliases)}:
            return key
    return None


def _plain(text: str) -> str:
    return "".join(char for char in text.lower().replace("++", "pp") if char.isalnum())

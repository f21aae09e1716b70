"""Seed, steps, sampler and schedule of one sampler of a graph of ComfyUI."""

from collections.abc import Mapping
from typing import Any

from gesso.metadata.comfyui_graph import Graph, Node, inputs_of, kind_of
from gesso.metadata.picture_metadata import Draft, real, whole

# Nodes that are a sampler or a schedule by their kind.
_SAMPLER_NODES: Mapping[str, str] = {
    "SamplerEulerAncestral": "euler_ancestral",
    "SamplerEulerAncestralCFGPP": "euler_ancestral_cfg_pp",
    "SamplerEulerCFGpp": "euler_cfg_pp",
    "SamplerLCM": "lcm",
    "SamplerLMS": "lms",
    "SamplerDPMPP_2M_SDE": "dpmpp_2m_sde",
    "SamplerDPMPP_3M_SDE": "dpmpp_3m_sde",
    "SamplerDPMPP_SDE": "dpmpp_sde",
    "SamplerDPMPP_2S_Ancestral": "dpmpp_2s_ancestral",
    "SamplerDPMAdaptative": "dpm_adaptive",
    "SamplerER_SDE": "er_sde",
    "SamplerSASolver": "sa_solver",
}
_SCHEDULE_NODES: Mapping[str, str] = {
    "KarrasScheduler": "karras",
    "ExponentialScheduler": "exponential",
    "PolyexponentialScheduler": "polyexponential",
    "SDTurboScheduler": "turbo",
    "BetaSamplingScheduler": "beta_comfyui",
    "AlignYourStepsScheduler": "align_your_steps_comfyui",
    "LaplaceScheduler": "laplace",
    "VPScheduler": "vp",
}
# Where one word means something else in ComfyUI than in A1111.
_SCHEDULES = {"beta": "beta_comfyui", "kl_optimal": "kl_optimal_comfyui"}
_SIGMAS = ("sigmas", "sigmas_1", "sigmas_a", "sigmas_high")
MAX_SIGMAS = 1001


def sampling(graph: Graph, draft: Draft, sampler: Node) -> dict[str, Any]:
    """The fields of a sampler by their paths; what cannot be is a notice of the draft."""
    own = Draft()
    guider, noise, solver = (graph.linked(sampler, name) for name in ("guider", "noise", "sampler"))
    last = graph.linked(sampler, "sigmas")
    schedule = graph.upstream(last, _SIGMAS, _sets_steps) or last
    graph.use(guider, noise, solver, schedule)
    own.set("seed", whole(graph.value(noise or sampler, "noise_seed", "seed")), "seed")
    steps = whole(graph.value(schedule or sampler, "steps", "steps_total"))
    own.set("num_steps", steps, "steps")
    _guidance(graph, own, sampler, guider)
    name = _SAMPLER_NODES.get(kind_of(solver)) or graph.value(solver or sampler, "sampler_name", "sampler")
    if not isinstance(name, str) and solver is not None:
        name = kind_of(solver)
    on_gpu = isinstance(name, str) and name.endswith("_gpu")
    if on_gpu or (name is not None and graph.value(solver, "noise_device") == "gpu"):
        draft.note(
            f"not supported, ignored: {str(name)[:40]} drew the noise of its steps on the GPU; gesso draws it as "
            "on the CPU",
            field="noise",
        )
    spacing = _SCHEDULE_NODES.get(kind_of(schedule)) or graph.value(schedule or sampler, "scheduler")
    if kind_of(schedule) == "ManualSigmas":
        _by_hand(graph, own, schedule)
    elif not isinstance(spacing, str) and schedule is not None:
        spacing = kind_of(schedule)
    if kind_of(schedule) == "AlignYourStepsScheduler" and graph.value(schedule, "model_type") == "SDXL":
        spacing = "align_your_steps_sdxl_comfyui"
    own.sampler(
        name if isinstance(name, str) else None,
        _SCHEDULES.get(spacing, spacing) if isinstance(spacing, str) else None,
    )
    if kind_of(solver) in _SAMPLER_NODES:
        own.set("eta", real(graph.value(solver, "eta")), "eta")
    denoise = real(graph.value(schedule or sampler, "denoise"))
    if denoise is not None and denoise < 1:
        own.set("source.strength", denoise, "denoise")
    start, added = whole(graph.value(sampler, "start_at_step")), graph.value(sampler, "add_noise")
    if start and steps and added in ("enable", True) and 0 < start < steps:
        own.set("source.strength", 1 - start / steps, "start_at_step")
    draft.note_all(own.notices)
    return own.values


def _sets_steps(node: Node) -> bool:
    kind = kind_of(node)
    return "cheduler" in kind or kind == "ManualSigmas" or ("Sigmas" in kind and "steps" in inputs_of(node))


def _guidance(graph: Graph, draft: Draft, sampler: Node, guider: Node | None) -> None:
    kind = kind_of(guider)
    if kind == "BasicGuider":
        draft.set("guidance_scale", 1.0, "cfg")
        return
    if kind == "DualCFGGuider":
        draft.set("guidance_scale", real(graph.value(guider, "cfg_conds")), "cfg_conds")
        draft.set("source.guidance_scale", real(graph.value(guider, "cfg_cond2_negative")), "cfg_cond2_negative")
        draft.note(
            "DualCFGGuider is read as guidance by the prompt and by the picture (InstructPix2Pix); with other models "
            "gesso cannot draw it"
        )
        return
    draft.set("guidance_scale", real(graph.value(guider or sampler, "cfg", "cfg_video")), "cfg")


def _by_hand(graph: Graph, draft: Draft, schedule: Node | None) -> None:
    """Noise levels that are listed. They set the number of steps."""
    text = graph.value(schedule, "sigmas")
    parts = [part for part in text.replace(",", " ").split() if part] if isinstance(text, str) else []
    levels = [real(part) for part in parts[:MAX_SIGMAS]]
    if len(levels) > 1 and None not in levels:
        draft.set("num_steps", len(levels) - 1, "sigmas")
        draft.set("sigmas", tuple(levels), "sigmas")

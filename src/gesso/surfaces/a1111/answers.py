"""From jobs to what clients of the web UI read: pictures with their `info`, and progress. Pure translators."""

import base64
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from gesso import __version__
from gesso.api.problems import as_json
from gesso.pictures.infotext import infotext
from gesso.pictures.infotext_reading import read_infotext
from gesso.request.names import sampler_label
from gesso.request.recipe import Recipe
from gesso.serving.jobs import Job, JobStatus
from gesso.surfaces.a1111.reading import Asked

# Keys of an infotext that have keys of their own in `info`.
_PLAIN = frozenset(
    {
        *("Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model hash", "Model", "VAE hash", "VAE"),
        *(
            "Variation seed",
            "Variation seed strength",
            "Seed resize from",
            "Denoising strength",
            "Clip skip",
            "Version",
        ),
    }
)


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """The recipe of a finished picture."""
    return Recipe.from_json(json.dumps(values))


def images_response(job: Job, asked: Asked, data: Mapping[str, bytes]) -> dict[str, Any]:
    """The answer of txt2img and img2img.  data: bytes by the ids of the pictures"""
    images = [base64.b64encode(data[output.id]).decode("ascii") for output in job.outputs] if asked.send_images else []
    return {"images": images, "parameters": asked.parameters, "info": as_json(info(job, asked)).decode()}


def info(job: Job, asked: Asked) -> dict[str, Any]:
    """All that is told of the pictures, in the web UI's keys; `gesso` has the job and what the user should know."""
    notes = list(asked.notes)
    if job.status != JobStatus.SUCCEEDED:
        notes.append(f"interrupted after {len(job.outputs)} pictures")
    for output in job.outputs:
        notes += [str(notice["message"]) for notice in output.notices]
    own = {"job": job.id, "status": str(job.status), "notices": list(dict.fromkeys(notes))}
    recipes = [recipe_of(output.recipe) for output in job.outputs]
    texts = [infotext(recipe) for recipe in recipes]
    if not recipes:
        return _nothing(job, asked, own)
    first, read = recipes[0].request, [read_infotext(text) for text in texts]
    seeds = [int(one.pairs["Seed"]) for one in read]
    subseeds = [int(one.pairs.get("Variation seed", seed)) for one, seed in zip(read, seeds, strict=True)]
    strength = first.source.strength
    if strength is None and first.hires is not None:
        strength = first.hires.strength
    return {
        "prompt": read[0].prompt,
        "all_prompts": [one.prompt for one in read],
        "negative_prompt": read[0].negative_prompt,
        "all_negative_prompts": [one.negative_prompt for one in read],
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": subseeds[0],
        "all_subseeds": subseeds,
        "subseed_strength": first.variation.strength or 0,
        "width": first.width,
        "height": first.height,
        "sampler_name": sampler_label(first.sampler),
        "cfg_scale": first.guidance_scale,
        "steps": first.num_steps,
        "batch_size": int(asked.parameters.get("batch_size") or 1),
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": recipes[0].model.removesuffix(".safetensors"),
        "sd_model_hash": recipes[0].model_hash,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": first.variation.width or -1,
        "seed_resize_from_h": first.variation.height or -1,
        "denoising_strength": strength,
        "extra_generation_params": {key: value for key, value in read[0].pairs.items() if key not in _PLAIN},
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": list(asked.styles),
        "job_timestamp": stamp(job.created_at),
        "clip_skip": first.clip_skip,
        "is_using_inpainting_conditioning": False,
        "version": f"gesso {__version__}",
        "gesso": own,
    }


def _nothing(job: Job, asked: Asked, own: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a job that was interrupted before its first picture."""
    request = job.work.request
    seed, variation = int(request.get("seed") or 0), request.get("variation") or {}
    return {
        "prompt": request.get("prompt", ""),
        "all_prompts": [],
        "negative_prompt": request.get("negative_prompt", ""),
        "all_negative_prompts": [],
        "seed": seed,
        "all_seeds": [],
        "subseed": int(variation.get("seed") or seed),
        "all_subseeds": [],
        "subseed_strength": variation.get("strength") or 0,
        "width": request.get("width"),
        "height": request.get("height"),
        "sampler_name": str(request.get("sampler", "")),
        "cfg_scale": request.get("guidance_scale"),
        "steps": request.get("num_steps"),
        "batch_size": int(asked.parameters.get("batch_size") or 1),
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": job.work.model,
        "sd_model_hash": "",
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": None,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": [],
        "styles": list(asked.styles),
        "job_timestamp": stamp(job.created_at),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": f"gesso {__version__}",
        "gesso": dict(own),
    }


def one_progress(job: Job | None, now: float, preview: str | None) -> dict[str, Any]:
    """How far one call is.  job: None where it is final, or was never asked for; preview: Base64 of a JPEG"""
    shown = progress([job] if job is not None else [], now, preview)
    waits = job is not None and job.status == JobStatus.QUEUED
    return {
        "active": job is not None and not waits,
        "queued": waits,
        "completed": job is None,
        "progress": shown["progress"] if job is not None and not waits else None,
        "eta": shown["eta_relative"] if job is not None and not waits else None,
        "live_preview": f"data:image/jpeg;base64,{preview}" if preview else None,
        "id_live_preview": 0 if preview else -1,
        "textinfo": shown["textinfo"] or "",
    }


def stamp(seconds: float) -> str:
    """A time as YYYYMMDDHHMMSS, UTC."""
    return time.strftime("%Y%m%d%H%M%S", time.gmtime(seconds))


def progress(jobs: Sequence[Job], now: float, preview: str | None) -> dict[str, Any]:
    """How far somebody's work is.

    jobs     that are not final, those that run first
    preview  Base64 of the picture as it is by now
    """
    idle = {"skipped": False, "interrupted": False, "stopping_generation": False, "job": "", "job_timestamp": "0"}
    if not jobs:
        state = idle | {"job_count": 0, "job_no": 0, "sampling_step": 0, "sampling_steps": 0}
        return {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None, "textinfo": None}
    job = jobs[0]
    said = job.progress
    share = float(said.get("value") or 0.0)
    spent = now - job.started_at if job.started_at is not None else 0.0
    pictures = int(said.get("pictures") or job.work.request.get("num_images") or 1)
    waiting = job.status == JobStatus.QUEUED
    text = f"{job.position} jobs before this one" if waiting and job.position else "waiting" if waiting else None
    state = idle | {
        "interrupted": job.status == JobStatus.CANCELING,
        "stopping_generation": job.status == JobStatus.CANCELING,
        "job": str(job.metadata.get("task") or job.id),
        "job_timestamp": stamp(job.created_at),
        "job_count": pictures,
        "job_no": max(int(said.get("picture") or 1) - 1, 0),
        "sampling_step": int(said.get("step") or 0),
        "sampling_steps": int(said.get("steps") or job.work.request.get("num_steps") or 0),
    }
    return {
        "progress": min(0.01 + share, 1.0),
        "eta_relative": spent / share - spent if share > 0 else 0.0,
        "state": state,
        "current_image": preview,
        "textinfo": text,
    }

"""Graphs of ComfyUI become requests, or are refused with a reason; nothing of them is dropped."""

import io
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from gesso.api.family_table import FILE
from gesso.diffusion.conventions import discard_penultimate
from gesso.diffusion.noise_schedule import scaled_linear
from gesso.diffusion.schedule import sigmas_of
from gesso.request.request import TextToImageRequest
from gesso.serving.jobs import Upload
from gesso.surfaces.comfy.evaluating import KINDS, evaluate
from gesso.surfaces.comfy.graph import NodeError, PromptRefusedError, read_graph, refusal
from gesso.surfaces.comfy.names import _SKIPS
from gesso.surfaces.comfy.node_types import NODE_TYPES, REASONS
from gesso.surfaces.comfy.pixels import mask_image, picture_image
from gesso.surfaces.comfy.translating import (
    Files,
    ModelFacts,
    Order,
    merged,
    sampler_names,
    schedule_names,
    translate,
)
from gesso.surfaces.comfy.values import (
    AlphaMask,
    BorderMask,
    ChannelMask,
    Encoded,
    FittedMask,
    Greyed,
    GrownMask,
    Inverted,
    InvertedMask,
    Loaded,
    Padded,
    Scaled,
    Vae,
)
from serving import comfy_graphs as graphs
from serving.comfy_graphs import Graph

FILES = Files(
    models={
        "gesso-mini.safetensors": ModelFacts(name="gesso-mini"),
        "xl.safetensors": ModelFacts(name="xl", takes_skip=False, own_skip=2, zeroed=True),
        "holes.safetensors": ModelFacts(name="holes", kind="inpaint"),
    },
    loras={"comic.safetensors": "comic", "woodcut.safetensors": "woodcut"},
    controls={"gesso-edges.safetensors": "gesso-edges"},
    upscalers={"esrgan.pth": "esrgan"},
)
MODELS = list(FILES.models)
CHOICES = {
    "checkpoints": MODELS,
    "diffusion_models": MODELS,
    "clip": MODELS,
    "vae": MODELS,
    "loras": list(FILES.loras),
    "controlnet": list(FILES.controls),
    "upscale_models": list(FILES.upscalers),
    "samplers": sampler_names(),
    "schedulers": schedule_names(),
}


def an_upload(name: str = "cat.png", size: tuple[int, int] = (128, 128)) -> Upload:
    return Upload(
        id="u1",
        owner="local",
        name=name,
        content_type="image/png",
        nbytes=1,
        width=size[0],
        height=size[1],
        digest="0" * 64,
        created_at=0.0,
    )


def orders(graph: Graph, files: Files = FILES, size: tuple[int, int] = (128, 128)) -> list[Order]:
    read = read_graph(graph, CHOICES)
    wanted = evaluate(read, graph, CHOICES, lambda name: an_upload(name, size) if name == "cat.png" else None)
    return [translate(one, files) for one in wanted]


def order(graph: Graph, **more: Any) -> Order:
    (only,) = orders(graph, **more)
    with_pictures = dict(only.values)
    for number, use in enumerate(with_pictures.get("controls", ())):
        with_pictures["controls"][number] = use | {"image": "0" * 64}
    TextToImageRequest.from_dict(json.loads(TextToImageRequest(prompt="").to_json()) | with_pictures)  # it is a request
    return only


def refused(graph: Graph, **more: Any) -> dict[str, Any]:
    """Why a graph is refused: the error of the whole, and those of its nodes."""
    with pytest.raises((PromptRefusedError, NodeError)) as caught:
        orders(graph, **more)
    error: Any = caught.value
    if isinstance(error, NodeError):
        error = refusal(read_graph(graph, CHOICES), {error.node: [error.value]}, graph)
    return {"error": error.error, "nodes": error.node_errors}


def reason(graph: Graph, node: str, **more: Any) -> str:
    """What is said of a node."""
    found = refused(graph, **more)
    assert found["error"]["type"] == "prompt_outputs_failed_validation"
    assert list(found["nodes"]) == [node], found
    about = found["nodes"][node]
    assert about["class_type"] == graph[node]["class_type"]
    assert about["dependent_outputs"]
    (error,) = about["errors"]
    assert set(error) == {"type", "message", "details", "extra_info"}
    return str(error["details"])


def without(graph: Graph, *nodes: str) -> Graph:
    return {id: node for id, node in graph.items() if id not in nodes}


# ---- requests --------------------------------------------------------------------------------------------------------


def test_a_workflow_of_the_editor_is_told_from_one_of_the_api() -> None:
    found = refused({"nodes": [], "links": [], "version": 0.4})
    assert found["error"]["type"] == "invalid_prompt" and "Export (API)" in found["error"]["details"]


def test_the_first_graph_is_one_request() -> None:
    made = order(graphs.text_to_image(width=256, height=192))
    assert (made.model, made.pictures, made.samplers) == ("gesso-mini", {}, ("3",))
    own = {key: value for key, value in made.values.items() if key != "conventions"}
    assert own == {
        "preset": "gesso",
        "noise": "cpu",
        "seed": 7,
        "num_steps": 6,
        "guidance_scale": 3.5,
        "sampler": "dpmpp_2m",
        "schedule": "sgm_uniform",
        "num_images": 1,
        "prompt": graphs.PROMPT,
        "negative_prompt": "",
        "width": 256,
        "height": 192,
    }
    conventions = made.values["conventions"]
    assert (conventions["syntax"], conventions["emphasis"], conventions["initial_noise"]) == ("comfyui",) * 3
    assert conventions["levels"] == "truncate" and conventions["paste_back"] is False


def test_what_leads_to_no_output_is_not_looked_at() -> None:
    graph = graphs.text_to_image()
    graph["99"] = {"class_type": "LoadImage", "inputs": {}}
    assert order(graph).same_as(order(graphs.text_to_image()))


@pytest.mark.parametrize(
    ("denoise", "planned"), [(1.0, 6), (0.99995, 6), (0.9999, 6), (0.6, 10), (0.5, 12), (0.35, 17), (0.02, 300)]
)
def test_denoise_takes_the_last_steps_of_a_longer_schedule(denoise: float, planned: int) -> None:
    """As ComfyUI: int(steps / denoise) are planned, and the last `steps` of them are run."""
    made = order(graphs.image_to_image("cat.png", denoise=denoise))
    strength = made.values["source"]["strength"]
    assert made.values["num_steps"] == planned
    assert int(planned * strength + 0.5) == 6  # what the rule "share" runs
    assert made.values["conventions"]["strength_rule"] == "share"
    assert made.pictures["image"] == Loaded(an_upload())


def test_advanced_sampler_starts_in_the_middle() -> None:
    graph = graphs.image_to_image("cat.png")
    inputs = graph["3"]["inputs"]
    seed = inputs.pop("seed")
    del inputs["denoise"]
    graph["3"]["class_type"] = "KSamplerAdvanced"
    inputs |= {"noise_seed": seed, "steps": 20, "add_noise": "enable", "start_at_step": 8, "end_at_step": 10000}
    inputs["return_with_leftover_noise"] = "disable"
    made = order(graph)
    assert (made.values["num_steps"], made.values["source"]["strength"], made.values["seed"]) == (20, 12 / 20, 7)


def test_samplers_that_leave_out_a_sigma_do_so() -> None:
    """ComfyUI plans one step more for these and drops the last but one sigma."""
    assert "discard_penultimate_sigma" not in order(graphs.text_to_image()).values["conventions"]
    made = order(graphs.text_to_image(sampler_name="dpm_2", scheduler="karras"))
    assert made.values["conventions"]["discard_penultimate_sigma"] is True
    table = scaled_linear()
    wanted = discard_penultimate(sigmas_of("karras", table, 7))
    assert len(wanted) == 7


@pytest.mark.parametrize(("theirs", "ours"), [("normal", "uniform"), ("beta", "beta_comfyui"), ("karras", "karras")])
def test_schedules_are_those_of_comfyui(theirs: str, ours: str) -> None:
    assert order(graphs.text_to_image(scheduler=theirs)).values["schedule"] == ours


def test_lora_reaches_what_it_is_linked_to() -> None:
    made = order(graphs.lora(model=0.8, clip=0.3))
    assert made.values["loras"] == [{"name": "comic", "weight": 0.8, "text_weight": 0.3}]
    graph = graphs.lora()
    for text in ("6", "7"):
        graph[text]["inputs"]["clip"] = ["4", 1]
    assert order(graph).values["loras"] == [{"name": "comic", "weight": 1.0, "text_weight": 0.0}]
    graph = graphs.lora()
    graph["3"]["inputs"]["model"] = ["4", 0]
    assert order(graph).values["loras"] == [{"name": "comic", "weight": 0.0, "text_weight": 1.0}]
    assert "loras" not in order(graphs.lora(model=0, clip=0)).values


def test_two_lora_stay_in_their_order() -> None:
    graph = graphs.lora()
    graph["13"] = {
        "class_type": "LoraLoaderModelOnly",
        "inputs": {"model": ["12", 0], "lora_name": "woodcut", "strength_model": 0.5},
    }
    graph["3"]["inputs"]["model"] = ["13", 0]
    assert order(graph).values["loras"] == [
        {"name": "comic", "weight": 1.0, "text_weight": 1.0},
        {"name": "woodcut", "weight": 0.5, "text_weight": 0.0},
    ]


def test_a_controlnet_steers_both_prompts() -> None:
    made = order(graphs.controlnet("cat.png", strength=0.8, start=0.1, end=0.7), size=(300, 200))
    (use,) = made.values["controls"]
    assert use == {"model": "gesso-edges", "weight": 0.8, "start": 0.1, "end": 0.7, "image": "0" * 64}
    assert made.pictures["hint:0"] == Scaled(Loaded(an_upload(size=(300, 200))), "nearest-exact", (128, 128), "center")


def test_a_mask_is_grown_and_its_picture_greyed() -> None:
    made = order(graphs.inpaint("cat.png", grow=4))
    mask = AlphaMask(an_upload())
    assert made.pictures == {
        "image": Greyed(Loaded(an_upload()), mask),
        "mask": GrownMask(mask, 4, rounded=True),
    }
    assert made.values["source"]["strength"] == 1.0
    assert made.values["mask"]["content"] == "original"


def test_a_noise_mask_is_taken_as_it_is() -> None:
    graph = graphs.image_to_image("cat.png")
    graph["12"] = {"class_type": "LoadImageMask", "inputs": {"image": "cat.png", "channel": "red"}}
    graph["13"] = {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["11", 0], "mask": ["12", 0]}}
    graph["3"]["inputs"]["latent_image"] = ["13", 0]
    made = order(graph)
    assert made.pictures["mask"] == ChannelMask(Loaded(an_upload()), "red")
    graph["14"] = {"class_type": "DifferentialDiffusion", "inputs": {"model": ["4", 0]}}
    graph["3"]["inputs"]["model"] = ["14", 0]
    assert order(graph).values["conventions"]["mask_blend"] == "differential"


def test_an_inpainting_model_gets_all_three_outputs() -> None:
    graph = graphs.inpaint("cat.png")
    graph["4"]["inputs"]["ckpt_name"] = "holes.safetensors"
    graph["11"] = {
        "class_type": "InpaintModelConditioning",
        "inputs": {
            "positive": ["6", 0],
            "negative": ["7", 0],
            "vae": ["4", 2],
            "pixels": ["10", 0],
            "mask": ["10", 1],
            "noise_mask": True,
        },
    }
    graph["3"]["inputs"] |= {"positive": ["11", 0], "negative": ["11", 1], "latent_image": ["11", 2]}
    assert order(graph).pictures == {"image": Loaded(an_upload()), "mask": AlphaMask(an_upload())}
    graph["3"]["inputs"]["negative"] = ["7", 0]
    assert "all three" in reason(graph, "3")


def test_a_picture_is_cut_to_what_the_autoencoder_takes() -> None:
    made = order(graphs.image_to_image("cat.png"), size=(133, 90))
    assert (made.values["width"], made.values["height"]) == (128, 88)
    assert made.pictures["image"].size == (128, 88)


def test_a_second_pass_is_hires_fix() -> None:
    made = order(graphs.upscale(by=1.5, denoise=0.5))
    assert made.samplers == ("3", "16")
    assert made.values["hires"] == {
        "width": 192,
        "height": 192,
        "upscaler": "latent_bilinear",
        "strength": 0.5,
        "num_steps": 12,
        "sampler": "dpmpp_2m",
        "schedule": "sgm_uniform",
        "guidance_scale": 3.5,
    }


def test_a_second_pass_may_go_through_the_picture() -> None:
    graph = graphs.upscale()
    graph["17"] = {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}}
    graph["18"] = {
        "class_type": "ImageScale",
        "inputs": {"image": ["17", 0], "upscale_method": "lanczos", "width": 256, "height": 256, "crop": "disabled"},
    }
    graph["19"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["18", 0], "vae": ["4", 2]}}
    graph["16"]["inputs"]["latent_image"] = ["19", 0]
    assert order(graph).values["hires"]["upscaler"] == "lanczos"
    graph["20"] = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "esrgan"}}
    graph["21"] = {"class_type": "ImageUpscaleWithModel", "inputs": {"upscale_model": ["20", 0], "image": ["17", 0]}}
    graph["18"]["inputs"]["image"] = ["21", 0]
    hires = order(graph).values["hires"]
    assert (hires["upscaler"], hires["width"]) == ("esrgan", 256)
    graph["18"]["inputs"]["upscale_method"] = "area"
    assert "lanczos" in reason(graph, "16")


def test_texts_are_combined_timed_and_zeroed() -> None:
    graph = graphs.text_to_image(cfg=1.0)
    graph["20"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "a (blue:1.2) bird", "clip": ["4", 1]}}
    graph["21"] = {
        "class_type": "ConditioningCombine",
        "inputs": {"conditioning_1": ["6", 0], "conditioning_2": ["20", 0]},
    }
    graph["3"]["inputs"]["positive"] = ["21", 0]
    made = order(graph)
    assert made.values["conventions"]["syntax"] == "a1111"
    assert made.values["prompt"] == f"{graphs.PROMPT} :0.5 AND a (blue:1.2) bird :0.5"
    graph["21"] = {
        "class_type": "ConditioningConcat",
        "inputs": {"conditioning_to": ["6", 0], "conditioning_from": ["20", 0]},
    }
    assert order(graph).values["prompt"] == f"{graphs.PROMPT} BREAK a (blue:1.2) bird"
    graph["22"] = {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["6", 0]}}
    graph["3"]["inputs"]["negative"] = ["22", 0]
    assert order(graph).values["negative_prompt"] == ""  # with cfg 1 it is not looked at
    graph["3"]["inputs"]["cfg"] = 4.0
    assert "ConditioningZeroOut" in reason(graph, "3")
    graph["4"]["inputs"]["ckpt_name"] = "xl.safetensors"
    assert order(graph).values["conventions"]["empty_negative"] == "as_trained"


def test_clip_skip_is_for_models_that_take_it() -> None:
    graph = graphs.text_to_image()
    graph["20"] = {"class_type": "CLIPSetLastLayer", "inputs": {"clip": ["4", 1], "stop_at_clip_layer": -2}}
    for text in ("6", "7"):
        graph[text]["inputs"]["clip"] = ["20", 0]
    assert order(graph).values["clip_skip"] == 2
    graph["4"]["inputs"]["ckpt_name"] = "xl.safetensors"
    assert "clip_skip" not in order(graph).values  # -2 is the layer that SDXL has anyway
    graph["20"]["inputs"]["stop_at_clip_layer"] = -3
    assert "CLIPSetLastLayer" in reason(graph, "3")


def test_parts_loaded_one_by_one_are_those_of_one_model() -> None:
    graph = graphs.text_to_image()
    graph["30"] = {"class_type": "UNETLoader", "inputs": {"unet_name": "gesso-mini", "weight_dtype": "default"}}
    graph["31"] = {"class_type": "CLIPLoader", "inputs": {"clip_name": "gesso-mini", "type": "stable_diffusion"}}
    graph["32"] = {"class_type": "VAELoader", "inputs": {"vae_name": "gesso-mini"}}
    graph["3"]["inputs"]["model"] = ["30", 0]
    graph["8"]["inputs"]["vae"] = ["32", 0]
    for text in ("6", "7"):
        graph[text]["inputs"]["clip"] = ["31", 0]
    assert order(without(graph, "4")).same_as(order(graphs.text_to_image()))
    graph["31"]["inputs"]["clip_name"] = "xl"
    assert "parts of one model" in reason(without(graph, "4"), "3")
    graph["31"]["inputs"]["clip_name"] = "gesso-mini"
    graph["32"]["inputs"]["vae_name"] = "xl"
    assert "autoencoder" in reason(without(graph, "4"), "8")


def test_custom_samplers_say_the_same() -> None:
    graph = graphs.text_to_image()
    graph |= {
        "40": {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}},
        "41": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "dpmpp_2m"}},
        "42": {
            "class_type": "BasicScheduler",
            "inputs": {"model": ["4", 0], "scheduler": "sgm_uniform", "steps": 6, "denoise": 1.0},
        },
        "43": {
            "class_type": "CFGGuider",
            "inputs": {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "cfg": 3.5},
        },
        "3": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["40", 0],
                "guider": ["43", 0],
                "sampler": ["41", 0],
                "sigmas": ["42", 0],
                "latent_image": ["5", 0],
            },
        },
    }
    assert order(graph).same_as(order(graphs.text_to_image()))
    graph["44"] = {"class_type": "RescaleCFG", "inputs": {"model": ["4", 0], "multiplier": 0.5}}
    graph["43"]["inputs"]["model"] = ["44", 0]
    assert order(graph).values["guidance_rescale"] == 0.5


def test_values_come_through_links_and_are_checked_there() -> None:
    graph = graphs.text_to_image()
    graph["50"] = {"class_type": "PrimitiveInt", "inputs": {"value": 2**64 - 1}}
    graph["51"] = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a blue bird"}}
    graph["3"]["inputs"]["seed"] = ["50", 0]
    graph["6"]["inputs"]["text"] = ["51", 0]
    made = order(graph)
    assert (made.values["seed"], made.values["prompt"]) == (2**64 - 1, "a blue bird")
    graph["3"]["inputs"]["steps"] = ["50", 0]
    assert refused(graph)["nodes"]["3"]["errors"][0]["type"] == "value_bigger_than_max"


def test_several_outputs_are_several_jobs_and_the_same_is_one() -> None:
    graph = graphs.text_to_image()
    graph["60"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    graph["61"] = {**graph["3"], "inputs": {**graph["3"]["inputs"], "seed": 8}}
    graph["62"] = {"class_type": "VAEDecode", "inputs": {"samples": ["61", 0], "vae": ["4", 2]}}
    graph["63"] = {"class_type": "SaveImage", "inputs": {"images": ["62", 0], "filename_prefix": "b"}}
    read = read_graph(graph, CHOICES)
    made = orders(graph)
    both = merged(list(zip(read.outputs, made, strict=True)))
    assert [(plan.nodes, plan.order.values["seed"]) for plan in both] == [(["9", "60"], 7), (["63"], 8)]


def test_a_drawn_picture_is_enlarged_by_a_job_of_its_own() -> None:
    graph = graphs.text_to_image()
    graph["20"] = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "esrgan"}}
    graph["21"] = {"class_type": "ImageUpscaleWithModel", "inputs": {"upscale_model": ["20", 0], "image": ["8", 0]}}
    graph["22"] = {
        "class_type": "ImageScale",
        "inputs": {"image": ["21", 0], "upscale_method": "lanczos", "width": 256, "height": 256, "crop": "disabled"},
    }
    for node, origin in (("23", "21"), ("24", "22"), ("25", "21")):
        graph[node] = {"class_type": "SaveImage", "inputs": {"images": [origin, 0], "filename_prefix": node}}
    read = read_graph(graph, CHOICES)
    (plan,) = merged(list(zip(read.outputs, orders(graph), strict=True)))
    assert plan.nodes == ["9"] and plan.order.same_as(order(graphs.text_to_image()))
    own, sized = plan.then
    assert (own[0].upscaler, own[0].values, own[0].node, own[1]) == ("esrgan", {}, "21", ["23", "25"])
    assert (sized[0].upscaler, sized[0].values, sized[1]) == ("esrgan", {"width": 256, "height": 256}, ["24"])
    graph["21"]["inputs"]["image"] = ["10", 0]
    graph["10"] = {"class_type": "LoadImage", "inputs": {"image": "cat.png"}}
    alone = order(without(graph, "9", "23", "25"))
    assert (alone.kind, alone.model, alone.values) == ("upscale", "esrgan", {"width": 256, "height": 256})
    assert alone.pictures == {"image": Loaded(an_upload())} and alone.samplers == ("21",)


# ---- refusals --------------------------------------------------------------------------------------------------------


def _change(node: str, **inputs: Any) -> Callable[[Graph], None]:
    return lambda graph: graph[node]["inputs"].update(inputs)


@pytest.mark.parametrize(
    ("node", "change", "type", "words"),
    [
        ("3", _change("3", steps=0), "value_smaller_than_min", "steps"),
        ("3", _change("3", steps=1001), "value_bigger_than_max", "steps"),
        ("3", _change("3", seed=-1), "value_smaller_than_min", "seed"),
        ("3", _change("3", seed=2**64), "value_bigger_than_max", "seed"),
        ("3", _change("3", steps="many"), "invalid_input_type", "many"),
        ("3", _change("3", steps=6.5), "invalid_input_type", "6.5"),
        ("3", _change("3", cfg=float("nan")), "invalid_input_type", "cfg"),
        ("3", _change("3", sampler_name="euler_b"), "value_not_in_list", "euler_b"),
        ("3", _change("3", speed=3), "custom_validation_failed", "no such input"),
        ("3", _change("3", model=["4"]), "bad_linked_input", "model"),
        ("3", _change("3", model=["44", 0]), "bad_linked_input", "no node"),
        ("3", _change("3", model=["4", 3]), "bad_linked_input", "3 outputs"),
        ("3", _change("3", model="gesso-mini"), "bad_linked_input", "MODEL"),
        ("3", _change("3", model=["4", 1]), "return_type_mismatch", "CLIP"),
        ("4", _change("4", ckpt_name="sd15.safetensors"), "value_not_in_list", "sd15"),
        ("3", lambda graph: graph["3"]["inputs"].pop("cfg"), "required_input_missing", "cfg"),
    ],
)
def test_values_are_refused_as_comfyui_refuses_them(
    node: str, change: Callable[[Graph], object], type: str, words: str
) -> None:
    graph = graphs.text_to_image()
    change(graph)
    found = refused(graph)
    assert found["error"]["type"] == "prompt_outputs_failed_validation"
    (error,) = found["nodes"][node]["errors"]
    assert error["type"] == type
    assert words in error["details"] + error["message"]
    assert found["nodes"][node]["dependent_outputs"] == ["9"]
    assert words in found["error"]["details"]


def test_what_the_page_writes_for_itself_is_no_input() -> None:
    graph = graphs.image_to_image("cat.png")
    graph["10"]["inputs"]["upload"] = "image"
    graph["3"]["inputs"]["control_after_generate"] = "randomize"
    assert order(graph).same_as(order(graphs.image_to_image("cat.png")))


@pytest.mark.parametrize("kind", [*REASONS, "SomebodysNode"])
def test_an_unknown_node_is_refused_even_beside_the_others(kind: str) -> None:
    graph = graphs.text_to_image()
    graph["70"] = {"class_type": kind, "inputs": {}, "_meta": {"title": "mine"}}
    found = refused(graph)
    assert found["error"]["type"] == "missing_node_type"
    assert found["error"]["extra_info"] == {"node_id": "70", "class_type": kind, "node_title": "mine"}
    why = REASONS.get(kind, "gesso does not draw with this node")
    assert why in found["nodes"]["70"]["errors"][0]["details"]
    assert why[1:] in found["error"]["message"]
    assert kind not in NODE_TYPES


@pytest.mark.parametrize(
    ("prompt", "type"),
    [
        (None, "no_prompt"),
        ({}, "no_prompt"),
        ({"1": 3}, "invalid_prompt"),
        ({"1": {"inputs": {}}}, "missing_node_type"),
        ({"1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64}}}, "prompt_no_outputs"),
        ({str(n): {"class_type": "PreviewImage", "inputs": {}} for n in range(1001)}, "invalid_prompt"),
    ],
)
def test_what_is_no_graph_is_refused(prompt: Any, type: str) -> None:
    with pytest.raises(PromptRefusedError) as caught:
        read_graph(prompt, CHOICES)
    assert caught.value.error["type"] == type


def test_a_circle_is_found() -> None:
    graph = graphs.upscale()
    graph["3"]["inputs"]["latent_image"] = ["15", 0]
    found = refused(graph)
    assert set(found["nodes"]) == {"3", "15"}
    assert found["nodes"]["3"]["errors"][0]["type"] == "dependency_cycle"


def test_long_chains_are_bounded() -> None:
    graph = graphs.image_to_image("cat.png")
    for number in range(300):
        before = ["10", 0] if not number else [f"i{number - 1}", 0]
        graph[f"i{number}"] = {"class_type": "ImageInvert", "inputs": {"image": before}}
    graph["11"]["inputs"]["pixels"] = ["i299", 0]
    found = refused(graph)
    assert "one after the other" in found["error"]["details"]


def _of_denoised_empty(graph: Graph) -> None:
    graph["3"]["inputs"]["denoise"] = 0.5


def _leftover(graph: Graph) -> None:
    inputs = graph["3"]["inputs"]
    inputs["noise_seed"] = inputs.pop("seed")
    del inputs["denoise"]
    inputs |= {"add_noise": "disable", "start_at_step": 0, "end_at_step": 3, "return_with_leftover_noise": "enable"}
    graph["3"]["class_type"] = "KSamplerAdvanced"


def _two_encoders(graph: Graph) -> None:
    graph["12"] = graphs.lora()["12"]
    graph["6"]["inputs"]["clip"] = ["12", 1]


def _inverted_after(graph: Graph) -> None:
    graph["80"] = {"class_type": "ImageInvert", "inputs": {"image": ["8", 0]}}
    graph["9"]["inputs"]["images"] = ["80", 0]


def _half_steered(graph: Graph) -> None:
    steered = graphs.controlnet("cat.png")
    graph |= {id: steered[id] for id in ("10", "13", "14")}
    graph["3"]["inputs"]["positive"] = ["14", 0]


def _drawn_mask(graph: Graph) -> None:
    graph["90"] = {"class_type": "ImageToMask", "inputs": {"image": ["8", 0], "channel": "red"}}
    graph["91"] = {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["3", 0], "mask": ["90", 0]}}
    graph["92"] = {**graph["3"], "inputs": {**graph["3"]["inputs"], "latent_image": ["91", 0]}}
    graph["93"] = {"class_type": "VAEDecode", "inputs": {"samples": ["92", 0], "vae": ["4", 2]}}
    graph["9"]["inputs"]["images"] = ["93", 0]


@pytest.mark.parametrize(
    ("change", "node", "words"),
    [
        (_of_denoised_empty, "3", "noise alone"),
        (_leftover, "3", "left noisy"),
        (_two_encoders, "3", "same text encoder"),
        (_inverted_after, "9", "only changes the size"),
        (_half_steered, "3", "both outputs"),
        (_drawn_mask, "91", "mask of a picture that the graph draws or enlarges"),
    ],
)
def test_graphs_that_gesso_cannot_follow_say_why(change: Callable[[Graph], None], node: str, words: str) -> None:
    graph = graphs.text_to_image()
    change(graph)
    assert words in reason(graph, node)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 8}, "from one seed"),
        ({"model": ["12", 0]}, "same model and LoRA"),
        ({"sampler_name": "uni_pc"}, "same sampler"),
    ],
)
def test_passes_that_differ_too_much_say_why(change: dict[str, Any], words: str) -> None:
    graph = graphs.upscale()
    graph["12"] = graphs.lora()["12"]
    graph["16"]["inputs"] |= change
    assert words in reason(graph, "16")


def test_a_second_pass_is_not_stretched() -> None:
    graph = graphs.upscale()
    graph["15"] = {
        "class_type": "LatentUpscale",
        "inputs": {"samples": ["3", 0], "upscale_method": "bilinear", "width": 256, "height": 128, "crop": "disabled"},
    }
    assert "stretch" in reason(graph, "15")
    graph["15"]["inputs"]["crop"] = "center"
    assert order(graph).values["hires"]["width"] == 256


def test_a_missing_picture_is_named() -> None:
    assert "dog.png" in reason(graphs.image_to_image("dog.png"), "10")


# ---- what there is ---------------------------------------------------------------------------------------------------


def test_every_node_that_is_listed_can_be_worked_out() -> None:
    assert set(NODE_TYPES) == KINDS
    first = (
        "CheckpointLoaderSimple VAELoader CLIPLoader UNETLoader LoraLoader LoraLoaderModelOnly CLIPTextEncode "
        "CLIPSetLastLayer EmptyLatentImage KSampler KSamplerAdvanced VAEEncode VAEDecode VAEEncodeForInpaint "
        "SetLatentNoiseMask InpaintModelConditioning LoadImage LoadImageMask ControlNetLoader ControlNetApplyAdvanced "
        "LatentUpscale LatentUpscaleBy UpscaleModelLoader ImageUpscaleWithModel ImageScale ImageScaleBy SaveImage "
        "PreviewImage SaveImageWebsocket"
    )
    assert set(first.split()) <= KINDS


def test_object_info_has_comfyuis_shape() -> None:
    for name, kind in NODE_TYPES.items():
        info = kind.described(CHOICES)
        assert info["name"] == name and info["input_order"]["required"] == list(info["input"]["required"])
        assert len(info["output"]) == len(info["output_name"]) == len(info["output_is_list"])
        assert info["output_node"] is (not info["output"])
        json.dumps(info, allow_nan=False)
        for described in (*info["input"]["required"].values(), *info["input"].get("optional", {}).values()):
            assert isinstance(described[0], str | list)
    ksampler = NODE_TYPES["KSampler"].described(CHOICES)["input"]["required"]
    assert ksampler["sampler_name"][0][:2] == ["euler", "euler_cfg_pp"] and "karras" in ksampler["scheduler"][0]
    assert NODE_TYPES["VAELoader"].described({})["input"]["required"]["vae_name"] == [[]]


def test_families_that_skip_layers_exist() -> None:
    families = json.loads(FILE.read_text())["families"]
    assert set(_SKIPS) <= set(families)


# ---- pictures made before drawing ------------------------------------------------------------------------------------


def gradient(size: tuple[int, int] = (24, 18), mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
    return Image.fromarray(levels if len(mode) > 1 else levels[..., 0])


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255).permute(2, 0, 1)[None]


def levels_of(pixels: torch.Tensor) -> np.ndarray[Any, Any]:
    return (pixels[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(48, 36), (31, 7), (10, 40)])
@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "bicubic", "area"])
def test_scaling_is_torchs(method: str, size: tuple[int, int]) -> None:
    """ComfyUI scales by torch.nn.functional.interpolate; a level of 255 is what rounding may make."""
    source = gradient()
    upload = an_upload(size=source.size)
    made = np.asarray(picture_image(Scaled(Loaded(upload), method, size), lambda _: source))
    wanted = levels_of(F.interpolate(tensor(source), size[::-1], mode=method))
    assert np.abs(made.astype(int) - wanted.astype(int)).max() <= (0 if method == "nearest-exact" else 1)


def test_cutting_to_a_shape_keeps_the_middle() -> None:
    source = gradient((24, 18))
    made = picture_image(
        Scaled(Loaded(an_upload(size=source.size)), "nearest-exact", (9, 9), "center"), lambda _: source
    )
    wanted = source.crop((3, 0, 21, 18)).resize((9, 9), Image.Resampling.NEAREST)
    assert np.array_equal(np.asarray(made), np.asarray(wanted))


@pytest.mark.parametrize("grow", [0, 1, 2, 5, 6, 40])
def test_the_mask_for_inpainting_grows_as_a_convolution(grow: int) -> None:
    """ComfyUI sums a square window over the rounded mask and clamps."""
    source = Image.new("RGBA", (20, 22), (0, 0, 0, 255))
    for place in ((4, 5), (5, 5), (19, 21), (0, 0)):
        source.putpixel(place, (0, 0, 0, 40))
    source.putpixel((12, 3), (0, 0, 0, 140))  # rounds to unmasked
    made = np.asarray(mask_image(GrownMask(AlphaMask(an_upload()), grow, rounded=True), lambda _: source))
    mask = 1 - torch.from_numpy(np.asarray(source)[..., 3].astype(np.float32) / 255)[None, None]
    wanted = mask.round()
    if grow:
        pad = -(-(grow - 1) // 2)
        wanted = F.conv2d(wanted, torch.ones(1, 1, grow, grow), padding=pad).clamp(0, 1)[:, :, :22, :20]
    assert np.array_equal(made, (wanted.round()[0, 0] * 255).to(torch.uint8).numpy())


def test_a_mask_is_stretched_as_torch_does() -> None:
    source = gradient((10, 8))
    inner = ChannelMask(Loaded(an_upload(size=(10, 8))), "green")
    made = np.asarray(mask_image(FittedMask(inner, (33, 21)), lambda _: source)).astype(int)
    wanted = levels_of(F.interpolate(tensor(source)[:, 1:2], (21, 33), mode="bilinear"))[..., 0]
    assert np.abs(made - wanted.astype(int)).max() <= 1


def test_the_border_of_outpainting_is_soft_inside() -> None:
    made = np.asarray(mask_image(BorderMask((20, 16), (0, 4, 8, 0), 4), lambda _: gradient()))
    assert made.shape == (20, 28)
    assert (made[:4] == 255).all() and (made[:, 20:] == 255).all()
    assert made[4, 0] == 255  # the first row of the old picture, where the new one begins above
    assert made[5, 0] == round(255 * (3 / 4) ** 2) and made[8:, :16].max() == 0
    assert made[12, 19] == round(255 * (3 / 4) ** 2)


def test_pictures_are_inverted_padded_and_greyed() -> None:
    source = gradient((16, 16), "RGBA")
    upload = an_upload(size=(16, 16))
    plain = np.asarray(source.convert("RGB")).astype(int)
    inverted = np.asarray(picture_image(Inverted(Loaded(upload)), lambda _: source)).astype(int)
    assert np.array_equal(inverted, 255 - plain)
    padded = np.asarray(picture_image(Padded(Loaded(upload), (8, 0, 0, 8)), lambda _: source))
    assert padded.shape == (24, 24, 3) and padded[-1, 0].tolist() == [128] * 3
    assert np.array_equal(padded[:16, 8:], plain)
    greyed = np.asarray(picture_image(Greyed(Loaded(upload), AlphaMask(upload)), lambda _: source)).astype(int)
    is_masked = np.asarray(source)[..., 3] < 127.5
    assert (greyed[is_masked] == 128).all() and np.array_equal(greyed[~is_masked], plain[~is_masked])


@pytest.mark.parametrize(("tapered", "corner"), [(True, 0), (False, 255)])
def test_grow_mask_takes_a_cross_or_a_square(tapered: bool, corner: int) -> None:
    source = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
    source.putpixel((8, 8), (0, 0, 0, 0))
    grown = GrownMask(AlphaMask(an_upload()), 1, tapered=tapered)
    made = np.asarray(mask_image(grown, lambda _: source))
    assert (made[8, 7], made[7, 8], made[7, 7], made[8, 6]) == (255, 255, corner, 0)
    back = np.asarray(mask_image(GrownMask(grown, -1, tapered=tapered), lambda _: source))
    assert back.sum() == 255 and back[8, 8] == 255
    assert np.asarray(mask_image(InvertedMask(grown), lambda _: source))[8, 8] == 0


def test_opaque_pictures_have_an_empty_mask() -> None:
    assert np.asarray(mask_image(AlphaMask(an_upload(size=(16, 16))), lambda _: gradient((16, 16)))).max() == 0


def test_deep_pictures_are_brought_to_eight_bits() -> None:
    deep = Image.fromarray(np.full((16, 16), 0x8080, np.uint16))
    buffer = io.BytesIO()
    deep.save(buffer, "PNG")
    made = picture_image(Loaded(an_upload(size=(16, 16))), lambda _: Image.open(buffer))
    assert made.getpixel((0, 0)) == (128, 128, 128)


def test_latents_that_are_encoded_know_their_size() -> None:
    assert Encoded(Loaded(an_upload(size=(64, 32))), Vae("x")).size == (64, 32)


# ---- anything --------------------------------------------------------------------------------------------------------

ANYTHING = (
    None,
    True,
    -1,
    0,
    7,
    2**70,
    0.5,
    float("inf"),
    "",
    "x",
    "7",
    [],
    ["3"],
    ["3", 0],
    ["4", 9],
    [3, 0],
    {},
    {"a": []},
)


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 12))])
def test_whatever_a_graph_says_it_is_a_request_or_refused(seed: int) -> None:
    """Graphs with values, links and nodes changed at random: nothing else is raised, and what passes is a request."""
    rng = random.Random(seed)
    kinds = list(NODE_TYPES)
    counts = {True: 0, False: 0}
    for _ in range(60):
        graph: Any = rng.choice(
            (
                graphs.text_to_image(),
                graphs.image_to_image("cat.png"),
                graphs.inpaint("cat.png"),
                graphs.lora(),
                graphs.controlnet("cat.png"),
                graphs.upscale(),
            )
        )
        for _ in range(rng.randint(1, 3)):
            node = graph[rng.choice(list(graph))]
            inputs = node["inputs"]
            name = rng.choice([*inputs, "new"])
            match rng.randint(0, 4):
                case 0:
                    inputs[name] = rng.choice(ANYTHING)
                case 1:
                    inputs.pop(name, None)
                case 2:
                    inputs[name] = [rng.choice(list(graph)), rng.randint(0, 3)]
                case 3:
                    node["class_type"] = rng.choice(kinds)
                case 4:
                    added = NODE_TYPES[rng.choice(kinds)]
                    links = {one.name: [rng.choice(list(graph)), rng.randint(0, 2)] for one in added.inputs}
                    graph[f"n{len(graph)}"] = {"class_type": added.name, "inputs": links}
        try:
            made = orders(graph)
        except PromptRefusedError as error:
            json.dumps([error.error, error.node_errors], allow_nan=False)
            counts[False] += 1
        except NodeError as error:
            json.dumps(error.value, allow_nan=False)
            counts[False] += 1
        else:
            for one in made:
                if one.kind == "generate":
                    values = {key: value for key, value in one.values.items() if key != "controls"}
                    TextToImageRequest.from_dict(json.loads(TextToImageRequest(prompt="").to_json()) | values)
            counts[True] += 1
    assert counts[False] > 20 and counts[True] > 1

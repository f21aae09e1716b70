"""Settings as each tool writes them, by hand from what is known of their formats."""

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gesso.errors import GessoError
from gesso.metadata.a1111 import from_infotext
from gesso.metadata.comfyui import from_graph, from_workflow
from gesso.metadata.invokeai import from_invokeai
from gesso.metadata.novelai import from_novelai
from gesso.pictures.infotext_reading import Infotext, read_infotext
from gesso.request.parts import HiresPass, LoraUse
from metadata.drawings import drawn, drawn_sampler

A1111 = """a (red:1.2) cat <lora:ink:0.8>
Negative prompt: blurry
Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 123, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5-pruned, Variation seed: 7, Variation seed strength: 0.25, Seed resize from: 512x512, \
Denoising strength: 0.4, Clip skip: 2, ENSD: 31337, RNG: CPU, Tiling: True, Hires upscale: 2, Hires steps: 10, \
Hires upscaler: Latent, Hires sampler: Use same sampler, Hires prompt: "a cat, close", Lora hashes: "ink: 1a2b3c", \
Emphasis: No norm, ControlNet 0: "Module: canny, Model: x [ab]", Version: v1.10.1"""


def test_a1111():
    found = from_infotext(read_infotext(A1111))
    request = found.request
    assert (found.tool, found.model, found.model_hash) == ("A1111", "v1-5-pruned", "6ce0161689")
    assert request.prompt == "a (red:1.2) cat <lora:ink:0.8>"
    assert request.negative_prompt == "blurry"
    assert (request.num_steps, request.sampler, request.schedule) == (25, "dpmpp_2m", "karras")
    assert (request.guidance_scale, request.seed, request.width, request.height) == (6.5, 123, 512, 768)
    assert (request.variation.seed, request.variation.strength) == (7, 0.25)
    assert (request.variation.width, request.variation.height) == (512, 512)
    assert (request.clip_skip, request.conventions.ensd, request.noise, request.tiling) == (2, 31337, "cpu", "xy")
    assert (request.preset, request.conventions.emphasis, request.source.strength) == ("a1111", "no_norm", None)
    assert request.hires == HiresPass(
        scale=2.0, upscaler="latent_bilinear", strength=0.4, num_steps=10, prompt="a cat, close"
    )
    assert [line for line in found.notices if "ControlNet 0" in line]


def test_a1111_before_schedules_had_names_of_their_own():
    found = from_infotext(read_infotext("a\nSteps: 9, Sampler: DPM++ 2M SDE Karras, Seed: 1, Size: 8x8, Model: m"))
    assert (found.request.sampler, found.request.schedule) == ("dpmpp_2m_sde", "karras")
    assert found.request.noise == "nv"


def test_a1111_with_a_picture_and_a_mask():
    line = (
        "a\nSteps: 9, Sampler: Euler a, Seed: 1, Denoising strength: 0.6, Mask blur: 4, Masked content: latent noise, "
        "Inpaint area: Only masked, Version: v1.9.0"
    )
    request = from_infotext(read_infotext(line)).request
    assert (request.source.strength, request.mask.blur, request.mask.content) == (0.6, 4.0, "noise")
    assert (request.mask.area, request.mask.padding, request.hires) == ("masked", 32, None)


def test_what_gesso_wrote_is_read_with_its_own_conventions():
    line = "a\nSteps: 9, Sampler: Euler, Seed: 5, Noise: philox, Picture index: 3, Version: gesso 0.1.0"
    request = from_infotext(read_infotext(line)).request
    assert (request.preset, request.noise, request.first_index, request.seed) == ("gesso", "philox", 3, 5)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ({"Steps": "1e9"}, "Steps"),
        ({"Steps": "many"}, "Steps"),
        ({"CFG scale": "nan"}, "CFG scale"),
        ({"Seed": "1"}, ""),
        ({"Sampler": "Magic"}, "'Magic' is not a known sampler"),
        ({"Size": "999999x999999"}, "Size"),
        ({"Size": "4096x4096"}, "pixels in all"),
        ({"Clip skip": "99"}, "Clip skip"),
        ({"Hires upscale": "900"}, "Hires"),
        ({"Sigmas": "1 2 3"}, "Sigmas"),
        ({"Preset": "x", "Version": "gesso 9"}, "Preset"),
    ],
)
def test_a_value_that_cannot_be_is_a_notice_and_no_error(pairs: dict[str, str], words: str):
    notices = from_infotext(Infotext("a", "", pairs)).notices
    assert any(words in notice for notice in notices) if words else not notices


@settings(deadline=None)  # the first one loads the tables of all tools
@given(st.dictionaries(st.sampled_from(["Steps", "Size", "Seed", "Sampler", "Sigmas", "ENSD", "Noise"]), st.text()))
@example({"Sampler": "\0"})
def test_any_values_are_read(pairs: dict[str, str]):
    from_infotext(Infotext("a", "", pairs))
    from_infotext(Infotext("a", "", pairs | {"Version": "gesso 1"}))


def graph(**changes: Any) -> dict[str, Any]:
    nodes = {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 42,
                "steps": 20,
                "cfg": 8,
                "sampler_name": "dpmpp_2m",
                "scheduler": "karras",
                "denoise": 1,
                "model": ["10", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 640, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["11", 0]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["11", 0]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}},
        "10": {
            "class_type": "LoraLoader",
            "inputs": {
                "lora_name": "styles\\ink.safetensors",
                "strength_model": 0.8,
                "strength_clip": 0.5,
                "model": ["4", 0],
                "clip": ["4", 1],
            },
        },
        "11": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]}},
    }
    return nodes | changes


def test_comfyui():
    found = from_graph(json.dumps(graph()))
    request = found.request
    assert (found.tool, found.model, found.notices) == ("ComfyUI", "sd15.safetensors", ())
    assert (request.prompt, request.negative_prompt, request.conventions.syntax) == ("a cat", "blurry", "comfyui")
    assert (request.seed, request.num_steps, request.guidance_scale) == (42, 20, 8.0)
    assert (request.sampler, request.schedule, request.source.strength) == ("dpmpp_2m", "karras", None)
    assert (request.width, request.height, request.clip_skip, request.noise) == (512, 640, 2, "cpu")
    assert request.loras == (LoraUse(name="ink", weight=0.8, text_weight=0.5),)


def test_comfyui_with_a_second_pass_and_values_from_other_nodes():
    second = {
        "class_type": "KSampler",
        "inputs": graph()["3"]["inputs"]
        | {"latent_image": ["21", 0], "denoise": 0.5, "steps": 12, "seed": ["22", 0], "sampler_name": "euler"},
    }
    found = from_graph(
        json.dumps(
            graph(
                **{
                    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["20", 0]}},
                    "20": second,
                    "21": {
                        "class_type": "LatentUpscaleBy",
                        "inputs": {"samples": ["3", 0], "upscale_method": "nearest-exact", "scale_by": 1.5},
                    },
                    "22": {"class_type": "PrimitiveInt", "inputs": {"value": 7}},
                    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["23", 0]}},
                    "23": {"class_type": "PrimitiveString", "inputs": {"value": "a dog"}},
                }
            )
        )
    )
    assert found.request.prompt == "a dog"
    assert found.request.hires == HiresPass(
        scale=1.5,
        upscaler="latent_nearest_exact",
        strength=0.5,
        num_steps=12,
        sampler="euler",
        schedule="karras",
        guidance_scale=8.0,
    )


def test_comfyui_with_the_sampler_in_parts():
    nodes = {
        "1": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["2", 0],
                "guider": ["3", 0],
                "sampler": ["4", 0],
                "sigmas": ["5", 0],
                "latent_image": ["6", 0],
            },
        },
        "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 5}},
        "3": {
            "class_type": "CFGGuider",
            "inputs": {"cfg": 4.5, "positive": ["7", 0], "negative": ["8", 0], "model": ["9", 0]},
        },
        "4": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler_ancestral"}},
        "5": {"class_type": "BasicScheduler", "inputs": {"scheduler": "normal", "steps": 11, "denoise": 1.0}},
        "6": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64}},
        "7": {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_g": "a fox", "text_l": "a fox"}},
        "8": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["7", 0]}},
        "9": {"class_type": "UNETLoader", "inputs": {"unet_name": "x.safetensors"}},
    }
    found = from_graph(json.dumps(nodes))
    request = found.request
    assert (request.seed, request.guidance_scale, request.sampler, request.num_steps) == (5, 4.5, "euler_ancestral", 11)
    assert (request.prompt, found.model, request.width) == ("a fox", "x.safetensors", 64)


def workflow(*more: dict[str, Any], links: tuple[Any, ...] = ()) -> dict[str, Any]:
    """That of `graph`; nodes of the same number and links stand in place of others."""
    nodes = [
        drawn_sampler(3, [42, "randomize", 20, 8, "dpmpp_2m", "karras", 1], 1, 4, 6, 2),
        drawn(4, "CheckpointLoaderSimple", ["sd15.safetensors"]),
        drawn(5, "EmptyLatentImage", [512, 640, 1]),
        drawn(6, "CLIPTextEncode", ["a cat"], clip=("CLIP", 3)),
        drawn(7, "CLIPTextEncode", ["blurry"], clip=("CLIP", 5)),
        drawn(8, "VAEDecode", [], samples=("LATENT", 7), vae=("VAE", 8)),
        drawn(9, "SaveImage", ["ComfyUI"], images=("IMAGE", 9)),
        drawn(10, "LoraLoader", ["styles\\ink.safetensors", 0.8, 0.5], model=("MODEL", 10), clip=("CLIP", 11)),
        drawn(11, "CLIPSetLastLayer", [-2], clip=("CLIP", 12)),
    ]
    rows = [
        *([1, 10, 0, 3, 0, "MODEL"], [2, 5, 0, 3, 3, "LATENT"], [3, 11, 0, 6, 0, "CLIP"]),
        *([4, 6, 0, 3, 1, "CONDITIONING"], [5, 11, 0, 7, 0, "CLIP"], [6, 7, 0, 3, 2, "CONDITIONING"]),
        *([7, 3, 0, 8, 0, "LATENT"], [8, 4, 2, 8, 1, "VAE"], [9, 8, 0, 9, 0, "IMAGE"]),
        *([10, 4, 0, 10, 0, "MODEL"], [11, 4, 1, 10, 1, "CLIP"], [12, 10, 1, 11, 0, "CLIP"]),
    ]
    by_number = {node["id"]: node for node in (*nodes, *more)}
    return {"nodes": list(by_number.values()), "links": [*rows, *links], "version": 0.4}


def test_comfyuis_drawing_says_what_its_graph_says():
    found, known = from_workflow(json.dumps(workflow())), from_graph(json.dumps(graph()))
    assert (found.tool, found.model, found.request) == ("ComfyUI", known.model, known.request)
    assert len(found.notices) == 1 and "workflow" in found.notices[0]


def test_a_newer_drawing_has_objects_for_links_and_no_word_after_the_seed():
    said = workflow()
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    said["links"] = [dict(zip(names, row, strict=True)) for row in said["links"]]
    said["nodes"][0]["widgets_values"] = [42, 20, 8, "dpmpp_2m", "karras", 1]
    assert from_workflow(json.dumps(said)).request == from_graph(json.dumps(graph())).request


def test_nodes_that_hand_on_in_a_drawing_are_passed():
    """A LoRA that is bypassed does nothing; dots and values from other nodes are followed; what is off is not there."""
    lora = workflow()["nodes"][7] | {"mode": 4}
    dot = {"id": 20, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": 20}], "widgets_values": []}
    sampler = workflow()["nodes"][0]
    sampler["inputs"] = [slot for slot in sampler["inputs"] if slot["name"] != "latent_image"] + [
        {"name": "latent_image", "type": "LATENT", "link": 21},
        {"name": "steps", "type": "INT", "widget": {"name": "steps"}, "link": 22},
    ]
    value = drawn(21, "PrimitiveNode", [33, "fixed"])
    other = drawn(22, "KSampler", [1, "fixed", 5, 1, "euler", "normal", 1], 2)
    links = ([20, 5, 0, 20, 0, "LATENT"], [21, 20, 0, 3, 3, "LATENT"], [22, 21, 0, 3, 4, "INT"])
    request = from_workflow(json.dumps(workflow(lora, dot, sampler, value, other, links=links))).request
    assert (request.loras, request.num_steps, request.seed) == ((), 33, 42)
    assert (request.width, request.height, request.clip_skip) == (512, 640, 2)


def test_values_of_nodes_that_nobody_knows_are_told():
    text = drawn(6, "Fancy Prompt", ["a cat"], clip=("CLIP", 3))
    found = from_workflow(json.dumps(workflow(text)))
    assert found.request.prompt == ""
    assert any("the positive prompt, which comes from the node Fancy Prompt" in notice for notice in found.notices)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "the workflow has no list of nodes"),
        ({"nodes": [3]}, "the workflow has no list of nodes"),
        ({"nodes": [], "definitions": {"subgraphs": []}}, "no sampler"),
        ({"nodes": [{"id": n} for n in range(5001)]}, "at most 5000"),
    ],
)
def test_a_drawing_that_is_none_is_refused(said: dict[str, Any], words: str):
    with pytest.raises(GessoError, match=words):
        from_workflow(json.dumps(said))


def test_a_drawing_in_a_circle_ends():
    dots = [drawn(number, "Reroute", [], model=("MODEL", number)) for number in (20, 21)]
    circle = ([20, 21, 0, 20, 0, "MODEL"], [21, 20, 0, 21, 0, "MODEL"], [1, 20, 0, 3, 0, "MODEL"])
    assert from_workflow(json.dumps(workflow(*dots, links=circle))).model == ""


def test_a_drawing_made_to_take_long_does_not():
    """Links from a node that hands on and has as many inputs as there are links."""
    count = 30_000
    slots = [{"link": number} for number in range(count)]
    nodes = [{"id": 1, "type": "KSampler", "inputs": slots}, {"id": 2, "mode": 4, "inputs": slots}]
    links = [[number, 2, 0, 1, 0, "X"] for number in range(count)]
    start = time.process_time()
    from_workflow(json.dumps({"nodes": nodes, "links": links}))
    assert time.process_time() - start < 5  # with every input looked at for every link it is minutes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "not a JSON object"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("{}", "no sampler"),
        ('{"1": 3}', "no sampler"),
    ],
)
def test_a_graph_that_is_none_is_refused(text: str, words: str):
    with pytest.raises(GessoError, match=words):
        from_graph(text)


def test_links_in_a_circle_end():
    circle = {
        "1": {
            "class_type": "KSampler",
            "inputs": {"positive": ["2", 0], "model": ["3", 0], "latent_image": ["4", 0], "seed": ["5", 0]},
        },
        "2": {"class_type": "X", "inputs": {"conditioning": ["2", 0]}},
        "3": {"class_type": "X", "inputs": {"model": ["3", 0]}},
        "4": {"class_type": "X", "inputs": {"samples": ["4", 0]}},
        "5": {"class_type": "X", "inputs": {"value": ["5", 0]}},
    }
    found = from_graph(json.dumps(circle))
    assert found.request.seed is None
    assert any("positive" in notice for notice in found.notices)


NAMES = st.sampled_from(["class_type", "inputs", "seed", "model", "positive"])
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner),
    max_leaves=20,
)


@given(VALUES)
def test_any_graph_is_read_or_refused(value: Any):
    with suppress(GessoError):
        from_graph(json.dumps({"1": {"class_type": "KSampler", "inputs": value}, "2": value}))
    for said in ({"nodes": value, "links": value}, {"nodes": [{"id": 1, "inputs": value, "widgets_values": value}]}):
        with suppress(GessoError):
            from_workflow(json.dumps(said | {"links": value}))
    hostile = workflow() | {"links": value}
    hostile["nodes"][0] |= {"inputs": value, "widgets_values": value}
    with suppress(GessoError):
        from_workflow(json.dumps(hostile))


def test_invokeai():
    said = {
        "generation_mode": "txt2img",
        "positive_prompt": "a cat++",
        "negative_prompt": "blurry",
        "width": 512,
        "height": 768,
        "seed": 12,
        "rand_device": "cpu",
        "cfg_scale": 7.5,
        "cfg_rescale_multiplier": 0.7,
        "steps": 30,
        "scheduler": "dpmpp_2m_k",
        "seamless_x": True,
        "seamless_y": False,
        "clip_skip": 1,
        "model": {"key": "k", "hash": "blake3:ab", "name": "sd-1-5", "base": "sd-1", "type": "main"},
        "loras": [{"model": {"name": "ink"}, "weight": 0.6}],
        "controlnets": [{"x": 1}],
        "hrf_enabled": True,
        "hrf_strength": 0.45,
        "hrf_method": "bilinear",
    }
    found = from_invokeai(json.dumps(said))
    request = found.request
    assert (found.model, request.prompt, request.noise) == ("sd-1-5", "a cat++", "cpu")
    assert request.conventions.syntax == "compel"
    assert (request.sampler, request.schedule, request.guidance_rescale) == ("dpmpp_2m", "karras", 0.7)
    assert (request.tiling, request.clip_skip, request.num_steps) == ("x", 2, 30)
    assert request.loras == (LoraUse(name="ink", weight=0.6),)
    assert request.hires == HiresPass(scale=2.0, strength=0.45, upscaler="bilinear")
    assert found.notices == ("not supported, ignored: controlnets",)


def test_novelai():
    comment = {"uc": "lowres", "steps": 28, "sampler": "k_euler_ancestral", "scale": 11, "seed": 99, "strength": 0.69}
    texts = {"Software": "NovelAI", "Description": "{masterpiece}, a cat", "Comment": json.dumps(comment)}
    found = from_novelai(texts)
    request = found.request
    assert (request.prompt, request.negative_prompt) == ("{masterpiece}, a cat", "lowres")
    assert (request.num_steps, request.sampler, request.guidance_scale, request.seed) == (28, "euler_ancestral", 11, 99)
    assert any("braces" in notice for notice in found.notices)

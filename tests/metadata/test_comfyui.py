"""Graphs of ComfyUI as people build them, by hand from what is known of its nodes and of the most used packs."""

import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gesso.errors import GessoError
from gesso.metadata.comfyui import from_graph, from_workflow
from gesso.metadata.comfyui_graph import calculated
from gesso.metadata.comfyui_widgets import WIDGETS
from gesso.metadata.comfyui_workflow import values_of
from gesso.metadata.picture_metadata import PictureMetadata
from gesso.metadata.reading import read_metadata
from gesso.request.parts import HiresPass, LoraUse
from gesso.text.grammar import parse_prompt
from linear_time import assert_quick
from metadata.drawings import drawn, drawn_sampler

Nodes = dict[str, Any]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """A node; a tuple is a link to a node and its output, a word that starts with @ one to its first output."""
    linked = {
        name: [value[1:], 0] if isinstance(value, str) and value.startswith("@") else value
        for name, value in inputs.items()
    }
    return {"class_type": kind, "inputs": {k: list(v) if isinstance(v, tuple) else v for k, v in linked.items()}}


def sampler(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "seed": 5,
        "steps": 20,
        "cfg": 7.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
        "model": "@4",
        "positive": "@6",
        "negative": "@7",
        "latent_image": "@5",
    }
    return node("KSampler", **(given | changes))


def base(**changes: Any) -> Nodes:
    nodes = {
        "4": node("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors"),
        "5": node("EmptyLatentImage", width=1024, height=768, batch_size=1),
        "6": node("CLIPTextEncode", text="a lighthouse", clip=("4", 1)),
        "7": node("CLIPTextEncode", text="blurry", clip=("4", 1)),
        "3": sampler(),
        "8": node("VAEDecode", samples="@3", vae=("4", 2)),
        "9": node("SaveImage", filename_prefix="ComfyUI", images="@8"),
    }
    return nodes | {key.removeprefix("n"): value for key, value in changes.items()}


def read(nodes: Nodes, **about: Any) -> PictureMetadata:
    return from_graph(json.dumps(nodes), **about)


def told(found: PictureMetadata) -> str:
    return "\n".join(found.notices)


# The picture's own output and its passes.


def two_saves(**changes: Any) -> Nodes:
    nodes = base(
        n20=node("LatentUpscaleBy", upscale_method="nearest-exact", scale_by=1.5, samples="@3"),
        n21=sampler(seed=9, denoise=0.5, latent_image="@20"),
        n22=node("VAEDecode", samples="@21"),
        n23=node("SaveImage", filename_prefix="large", images="@22"),
    )
    return nodes | {key.removeprefix("n"): value for key, value in changes.items()}


SECOND = HiresPass(
    scale=1.5,
    upscaler="latent_nearest_exact",
    strength=0.5,
    num_steps=20,
    sampler="euler",
    schedule="uniform",
    guidance_scale=7.0,
)


@pytest.mark.parametrize(
    ("about", "hires", "sure"),
    [
        ({}, SECOND, False),
        ({"width": 1536, "height": 1152}, SECOND, True),
        ({"width": 1024, "height": 768}, None, True),
        ({"name": "large_00012_"}, SECOND, True),
        ({"name": "ComfyUI_00001_"}, None, True),
        ({"width": 32, "height": 32, "name": "photo"}, SECOND, False),
    ],
)
def test_of_two_saved_pictures_the_one_that_fits_is_read(about: dict[str, Any], hires: HiresPass | None, sure: bool):
    found = read(two_saves(), **about)
    assert found.request.hires == hires
    assert ("by its size or name" in told(found)) == sure
    assert {notice.code for notice in found.notices} <= {"several_pictures", "node_aside", "setting_ignored"}


def test_a_preview_comes_after_a_saved_picture():
    nodes = base(
        n30=node("PreviewImage", images="@31"), n31=node("VAEDecode", samples="@32"), n32=sampler(seed=77, steps=3)
    )
    found = read({key: nodes[key] for key in ("30", "31", "32", *base())})
    assert found.request.seed == 5
    assert "Others: PreviewImage (30)" in told(found)


def test_the_size_of_the_file_tells(tmp_path: Path):
    exif = Image.Exif()
    nodes = two_saves(n5=node("EmptyLatentImage", width=64, height=64))
    exif[0x010E], exif[0x010F] = "Workflow:{}", f"Prompt:{json.dumps(nodes)}"
    Image.new("RGB", (64, 64)).save(tmp_path / "first.webp", exif=exif.tobytes())
    found = read_metadata(tmp_path / "first.webp")
    assert (found.tool, found.request.hires, found.request.seed) == ("ComfyUI", None, 5)


def advanced(**changes: Any) -> dict[str, Any]:
    given = {
        "add_noise": "enable",
        "noise_seed": 721,
        "steps": 25,
        "cfg": 8.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "start_at_step": 0,
        "end_at_step": 20,
        "return_with_leftover_noise": "enable",
        "model": "@4",
        "positive": "@6",
        "negative": "@7",
        "latent_image": "@5",
    }
    return node("KSamplerAdvanced", **(given | changes))


def test_a_refiner_is_no_second_pass():
    rest = {"add_noise": "disable", "noise_seed": 0, "start_at_step": 20, "end_at_step": 10000}
    found = read(
        base(
            n3=advanced(),
            n12=node("CheckpointLoaderSimple", ckpt_name="sd_xl_refiner_1.0.safetensors"),
            n15=node("CLIPTextEncodeSDXLRefiner", ascore=6.0, text="a lighthouse", clip=("12", 1)),
            n11=advanced(**rest, model="@12", positive="@15", negative="@7", latent_image="@3"),
            n8=node("VAEDecode", samples="@11"),
        )
    )
    request = found.request
    assert (request.hires, request.refiner_switch_at, request.seed, request.num_steps) == (None, 0.8, 721, 25)
    assert found.model == "sd_xl_base_1.0.safetensors"
    assert "sd_xl_refiner_1.0.safetensors, drew from step 20 of 25" in told(found)


def test_one_run_in_two_samplers_is_one_run():
    found = read(
        base(
            n3=advanced(),
            n11=advanced(add_noise="disable", start_at_step=20, end_at_step=25, latent_image="@3", cfg=3.0),
            n8=node("VAEDecode", samples="@11"),
        )
    )
    assert (found.request.hires, found.request.refiner_switch_at) == (None, None)
    assert "from step 20 on KSamplerAdvanced (11) has another guidance_scale" in told(found)


def test_a_second_sampler_of_the_same_size_keeps_the_size():
    found = read(base(n21=sampler(denoise=0.4, latent_image="@3"), n8=node("VAEDecode", samples="@21")))
    assert found.request.hires is not None
    assert (found.request.hires.scale, found.request.hires.strength) == (1.0, 0.4)
    assert found.request.hires.upscaler == "latent_nearest_exact"


@pytest.mark.parametrize(
    ("between", "size", "upscaler"),
    [
        (
            {
                "41": node("ImageUpscaleWithModel", upscale_model="@40", image="@8"),
                "42": node("ImageScale", upscale_method="bilinear", width=1536, height=1152, image="@41"),
            },
            (None, 1536, 1152),
            "RealESRGAN_x4plus_anime_6B",
        ),
        (
            {
                "41": node("ImageUpscaleWithModel", upscale_model="@40", image="@8"),
                "42": node("ImageScaleBy", upscale_method="area", scale_by=0.5, image="@41"),
            },
            (2.0, None, None),
            "RealESRGAN_x4plus_anime_6B",
        ),
        (
            {"42": node("ImageUpscaleWithModel", upscale_model="@40", image="@8")},
            (4.0, None, None),
            "RealESRGAN_x4plus_anime_6B",
        ),
        (
            {"42": node("ImageScaleBy", upscale_method="lanczos", scale_by=1.5, image="@8")},
            (1.5, None, None),
            "lanczos",
        ),
        (
            {"42": node("ImageScale", upscale_method="area", width=2048, height=0, image="@8")},
            (None, 2048, None),
            "box",
        ),
    ],
)
def test_what_enlarges_a_picture_before_the_second_pass(between: Nodes, size: tuple[Any, ...], upscaler: str):
    found = read(
        base(
            n40=node("UpscaleModelLoader", model_name="RealESRGAN_x4plus_anime_6B.pth"),
            n43=node("VAEEncode", pixels="@42"),
            n21=sampler(steps=10, denoise=0.3, latent_image="@43"),
            n22=node("VAEDecode", samples="@21"),
            n9=node("SaveImage", images="@22"),
        )
        | between
    )
    hires = found.request.hires
    assert hires is not None and not found.notices
    assert ((hires.scale, hires.width, hires.height), hires.upscaler) == (size, upscaler)
    assert (hires.num_steps, hires.strength) == (10, 0.3)


def test_a_way_to_enlarge_latents_that_gesso_lacks_is_told():
    found = read(two_saves(n20=node("LatentUpscaleBy", upscale_method="bislerp", scale_by=1.5, samples="@3")))
    assert found.request.hires is not None and found.request.hires.upscaler == "latent_bilinear"
    assert "enlarging by bislerp" in told(found)


def test_the_second_pass_has_its_own_prompt_and_a_third_is_told():
    nodes = two_saves(
        n24=node("CLIPTextEncode", text="sharp", clip=("4", 1)),
        n25=sampler(latent_image="@21", denoise=0.2),
        n22=node("VAEDecode", samples="@25"),
    )
    nodes["21"] = sampler(denoise=0.5, latent_image="@20", positive="@24")
    found = read(nodes)
    assert found.request.hires is not None
    assert (found.request.hires.prompt, found.request.hires.negative_prompt) == ("sharp", None)
    assert "a further pass, KSampler (25)" in told(found)


def test_a_pass_that_starts_anew_with_another_model_is_the_first():
    found = read(
        base(
            n50=node("UNETLoader", unet_name="depth.safetensors"),
            n51=sampler(model="@50", seed=1),
            n52=node("VAEDecode", samples="@51"),
            n53=node("VAEEncode", pixels="@52"),
            n3=sampler(latent_image="@53"),
        )
    )
    assert (found.request.hires, found.request.seed, found.model) == (None, 5, "sd_xl_base_1.0.safetensors")
    assert "drawn before with depth.safetensors" in told(found) and "image to image" in told(found)


# Texts.


def texts(**more: Any) -> Nodes:
    return base(
        n3=sampler(positive="@30"),
        n31=node("CLIPTextEncode", text="(oil:1.3) painting", clip=("4", 1)),
        **more,
    )


def test_a_zeroed_negative_prompt_is_empty():
    found = read(base(n3=sampler(negative="@30"), n30=node("ConditioningZeroOut", conditioning="@6")))
    request = found.request
    assert (request.prompt, request.negative_prompt, request.conventions.empty_negative) == (
        "a lighthouse",
        "",
        "as_trained",
    )
    assert list(found.notices) == ["ignored, no part in the picture: CLIPTextEncode (7)"]


def test_an_empty_negative_prompt_is_encoded():
    found = read(base(n7=node("CLIPTextEncode", text="", clip=("4", 1))))
    assert found.request.conventions.empty_negative == "encoded"


@pytest.mark.parametrize(
    ("join", "prompt"),
    [
        (
            node("ConditioningConcat", conditioning_to="@6", conditioning_from="@31"),
            "a lighthouse BREAK (oil:1.3) painting",
        ),
        (
            node("ConditioningCombine", conditioning_1="@6", conditioning_2="@31"),
            "a lighthouse :0.5 AND (oil:1.3) painting :0.5",
        ),
    ],
)
def test_joined_texts_are_said_in_a1111s_syntax(join: dict[str, Any], prompt: str):
    found = read(texts(n30=join))
    request = found.request
    assert (request.prompt, request.negative_prompt, found.notices) == (prompt, "blurry", ())
    assert (request.conventions.syntax, request.conventions.emphasis) == ("a1111", "comfyui")
    assert not parse_prompt(request.prompt).notices


def test_texts_of_a_time_become_prompt_editing():
    found = read(
        texts(
            n30=node("ConditioningCombine", conditioning_1="@32", conditioning_2="@33"),
            n32=node("ConditioningSetTimestepRange", conditioning="@6", start=0.0, end=0.4),
            n33=node("ConditioningSetTimestepRange", conditioning="@31", start=0.4, end=1.0),
        )
    )
    assert found.request.prompt == "[a lighthouse:(oil:1.3) painting:0.400000]"
    assert [notice.code for notice in found.notices] == ["syntax_differs"]
    schedule = parse_prompt(found.request.prompt).subprompts[0].schedule
    assert [piece.text for piece in schedule.at(3, 10)] == ["a lighthouse"]


def test_a_blend_of_texts_is_compels():
    found = read(
        texts(
            n30=node(
                "ConditioningAverage", conditioning_to="@6", conditioning_from="@32", conditioning_to_strength=0.75
            ),
            n32=node("CLIPTextEncode", text="a house", clip=("4", 1)),
        )
    )
    assert found.request.prompt == '("a lighthouse", "a house").blend(0.75, 0.25)'
    assert found.request.conventions.syntax == "compel"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {
                "30": node(
                    "ConditioningAverage", conditioning_to="@6", conditioning_from="@31", conditioning_to_strength=0.5
                )
            },
            "a blend of texts",
        ),
        (
            {
                "30": node("ConditioningCombine", conditioning_1="@6", conditioning_2="@33"),
                "33": node("ConditioningSetTimestepRange", conditioning="@31", start=0.4, end=1.0),
            },
            "overlap or leave gaps",
        ),
        (
            {
                "30": node("ConditioningCombine", conditioning_1="@6", conditioning_2="@33"),
                "33": node("ConditioningSetArea", conditioning="@31", width=512, height=512, x=0, y=0, strength=1.0),
            },
            "the area of ConditioningSetArea (33)",
        ),
    ],
)
def test_what_gesso_cannot_say_is_drawn_with_all_texts_and_told(more: Nodes, words: str):
    found = read(texts() | more)
    assert "a lighthouse" in found.request.prompt and "painting" in found.request.prompt
    assert words in told(found)


def test_a_text_with_signs_of_a1111_is_escaped():
    text = "a [b] AND c: #1 <lora:x:1> (d|e:1.2)"
    found = read(
        texts(
            n6=node("CLIPTextEncode", text=text, clip=("4", 1)),
            n30=node("ConditioningConcat", conditioning_to="@6", conditioning_from="@31"),
        )
    )
    parsed = parse_prompt(found.request.prompt)
    assert not parsed.notices and not parsed.networks and len(parsed.subprompts) == 1
    pieces = [getattr(piece, "text", "|") for piece in parsed.subprompts[0].schedule.at(1, 10)]
    assert "".join(pieces).replace(" ", "") == "a[b]ANDc:#1<lora:x:1>d|e|oilpainting"


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        (node("StringConcatenate", string_a="a", string_b="b", delimiter=", "), "a, b"),
        (node("StringReplace", string="a dog", find="dog", replace="cat"), "a cat"),
        (node("JoinStrings", string1="a", string2="b", delimiter=" and "), "a and b"),
        (node("Text Concatenate", delimiter=", ", clean_whitespace="true", text_a="a", text_b="b"), "a, b"),
        (node("StringFunction|pysssss", action="append", tidy_tags="yes", text_a="a", text_b="b", text_c=""), "a, b"),
        (node("PrimitiveStringMultiline", value="a cat"), "a cat"),
        (node("PrimitiveString", value="a cat"), "a cat"),
        (node("Text Multiline", text="a cat"), "a cat"),
        (node("CR Prompt Text", prompt="a cat"), "a cat"),
        (node("StringConstant", string="a cat"), "a cat"),
        (
            node("ImpactWildcardProcessor", wildcard_text="a __x__", populated_text="a cat", mode="fixed", seed=1),
            "a cat",
        ),
        (node("ShowText|pysssss", text="@61", text2="old"), "inner"),
        (node("Reroute", **{"": "@61"}), "inner"),
        (node("ComfySwitchNode", switch=True, on_false="no", on_true="yes"), "yes"),
        (node("ComfySwitchNode", switch="@62", on_false="@61", on_true="yes"), "inner"),
        (node("StringFormat", f_string="a {a}", **{"values.a": "@61"}), "a inner"),
    ],
)
def test_texts_from_other_nodes(source: dict[str, Any], prompt: str):
    found = read(
        base(
            n6=node("CLIPTextEncode", text="@60", clip=("4", 1)),
            n60=source,
            n61=node("PrimitiveString", value="inner"),
            n62=node("PrimitiveBoolean", value=False),
        )
    )
    assert found.request.prompt == prompt
    assert "prompt" not in told(found)


WRITTEN = "a lighthouse on a cliff, storm, oil painting"


def behind_a_language_model(kind: str = "ShowText|pysssss", **kept: Any) -> Nodes:
    return base(
        n6=node("CLIPTextEncode", text="@60", clip=("4", 1)),
        n60=node(kind, text="@61", **kept),
        n61=node("OllamaGenerate", prompt="describe a lighthouse", model="llama"),
    )


def as_workflow(kind: str, shown: Any) -> str:
    """The workflow as the picture has it, into which the node wrote what it showed."""
    return json.dumps({"nodes": [{"id": 60, "type": kind, "widgets_values": shown}], "links": []})


@pytest.mark.parametrize("kind", ["ShowText|pysssss", "easy showAnything"])
@pytest.mark.parametrize("shown", [[WRITTEN], [[WRITTEN]]])
def test_a_text_that_the_run_made_is_read_where_it_was_shown(kind: str, shown: Any):
    """The graph itself has what was shown before the run."""
    nodes = behind_a_language_model(kind, text2="of the run before")
    found = read(nodes, workflow=as_workflow(kind, shown))
    assert found.request.prompt == WRITTEN
    assert not [notice for notice in found.notices if "prompt" in notice]


def test_it_is_followed_through_further_nodes():
    nodes = behind_a_language_model() | {
        "6": node("CLIPTextEncode", text="@62", clip=("4", 1)),
        "62": node("StringConcatenate", string_a="@60", string_b="sharp", delimiter=", "),
    }
    found = read(nodes, workflow=as_workflow("ShowText|pysssss", [[WRITTEN]]))
    assert found.request.prompt == f"{WRITTEN}, sharp"


def test_without_the_workflow_what_was_shown_last_is_taken_and_told():
    found = read(behind_a_language_model(text2=WRITTEN))
    assert found.request.prompt == WRITTEN
    assert "the positive prompt is what ShowText|pysssss (60) showed before the picture was drawn" in told(found)


@pytest.mark.parametrize(
    "workflow", ["", "{", "[]", as_workflow("ShowText|pysssss", []), as_workflow("PreviewAny", ["x"])]
)
def test_where_nothing_was_shown_the_text_that_the_model_was_given_stays(workflow: str):
    found = read(behind_a_language_model(), workflow=workflow)
    assert found.request.prompt == "describe a lighthouse"
    assert "rewritten by OllamaGenerate (61)" in told(found)


def test_several_texts_for_a_batch_are_not_one():
    found = read(behind_a_language_model(), workflow=as_workflow("ShowText|pysssss", [["one", "two"]]))
    assert found.request.prompt == "describe a lighthouse"


def test_what_a_node_shows_does_not_replace_a_text_that_is_known():
    nodes = behind_a_language_model(text2="old") | {"61": node("PrimitiveString", value="inner")}
    assert read(nodes).request.prompt == "inner"


def test_a_text_that_a_language_model_wrote_is_told():
    found = read(
        base(n6=node("CLIPTextEncode", text="@60", clip=("4", 1)), n60=node("TextGenerate", prompt="a cat", clip="@4"))
    )
    assert found.request.prompt == "a cat"
    assert "rewritten by TextGenerate (60)" in told(found)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("a * 2", 16),
        ("max(((a + 15) // 16) * 16, 256)", 256),
        ("a & -8", 8),
        ("round(a / 3)", 3),
        ("a ** 9", None),
        ("__import__('os')", None),
        ("a.b", None),
        ("1 / 0", None),
        ("(" * 190, None),
        ("", None),
        ("min()", None),
        ("9 % 0", None),
    ],
)
def test_expressions(expression: str, value: float | None):
    assert calculated(expression, {"a": 8.0}) == value


def test_a_size_that_is_calculated():
    found = read(
        base(
            n5=node("EmptyLatentImage", width=("70", 1), height=("71", 1)),
            n70=node("ComfyMathExpression", expression="a * 2", **{"values.a": "@72"}),
            n71=node("ResolutionSelector", aspect_ratio="16:9 (Widescreen)", megapixels=1, multiple=8),
            n72=node("PrimitiveInt", value=384),
        )
    )
    assert (found.request.width, found.request.height) == (768, 768)
    assert "ResolutionSelector" in told(found)


# LoRA, loaders of packs, pipes.


@pytest.mark.parametrize(
    "loader",
    [
        node("LoraLoader", lora_name="style\\ink.safetensors", strength_model=0.8, strength_clip=0.8, model="@4"),
        node("LoraLoaderModelOnly", lora_name="ink.safetensors", strength_model=0.8, model="@4"),
        node(
            "LoraLoader|pysssss",
            lora_name={"content": "ink.safetensors", "image": None},
            strength_model=0.8,
            strength_clip=0.8,
            model="@4",
        ),
        node(
            "Power Lora Loader (rgthree)",
            model="@4",
            PowerLoraLoaderHeaderWidget={"type": "PowerLoraLoaderHeaderWidget"},
            lora_1={"on": True, "lora": "style/ink.safetensors", "strength": 0.8},
            lora_2={"on": False, "lora": "x.safetensors", "strength": 1},
        ),
        node(
            "Lora Loader Stack (rgthree)",
            model="@4",
            lora_01="ink.safetensors",
            strength_01=0.8,
            lora_02="None",
            strength_02=1,
        ),
        node(
            "Lora Loader (LoraManager)",
            model="@4",
            text="<lora:ink:0.8>",
            loras={
                "__value__": [
                    {"name": "ink", "strength": 0.8, "active": True},
                    {"name": "x", "strength": 1, "active": False},
                ]
            },
        ),
        node("CR Apply LoRA Stack", model="@4", clip=("4", 1), lora_stack="@81"),
        node("CR Apply LoRA Stack", model="@4", clip=("4", 1), lora_stack="@82"),
        node("CR Apply LoRA Stack", model="@4", clip=("4", 1), lora_stack="@83"),
    ],
)
def test_lora_of_all_loaders(loader: dict[str, Any]):
    found = read(
        base(
            n3=sampler(model="@80"),
            n80=loader,
            n81=node(
                "CR LoRA Stack",
                switch_1="On",
                lora_name_1="ink.safetensors",
                model_weight_1=0.8,
                clip_weight_1=0.8,
                switch_2="Off",
                lora_name_2="x.safetensors",
                model_weight_2=1,
                clip_weight_2=1,
            ),
            n82=node(
                "LoRA Stacker",
                input_mode="simple",
                lora_count=1,
                lora_name_1="ink.safetensors",
                lora_wt_1=0.8,
                model_str_1=1.0,
                clip_str_1=1.0,
                lora_name_2="x.safetensors",
                lora_wt_2=1.0,
            ),
            n83=node(
                "easy loraStack",
                toggle=True,
                mode="advanced",
                num_loras=1,
                lora_1_name="ink.safetensors",
                lora_1_strength=1.0,
                lora_1_model_strength=0.8,
                lora_1_clip_strength=0.8,
            ),
        )
    )
    (use,) = found.request.loras
    assert (use.name, use.weight, use.text_weight in (None, 0.8)) == ("ink", 0.8, True)


def test_lora_come_in_the_order_in_which_they_are_applied():
    found = read(
        base(
            n3=sampler(model="@81"),
            n80=node("LoraLoaderModelOnly", lora_name="first.safetensors", strength_model=1.0, model="@4"),
            n81=node("LoraLoaderModelOnly", lora_name="second.safetensors", strength_model=0.5, model="@80"),
        )
    )
    assert found.request.loras == (LoraUse(name="first"), LoraUse(name="second", weight=0.5))


def test_an_efficient_loader_and_sampler():
    nodes = {
        "1": node(
            "Efficient Loader",
            ckpt_name="sd15.safetensors",
            vae_name="Baked VAE",
            clip_skip=-2,
            lora_name="ink.safetensors",
            lora_model_strength=0.7,
            lora_clip_strength=0.6,
            positive="a cat",
            negative="bad",
            token_normalization="none",
            weight_interpretation="comfy",
            empty_latent_width=512,
            empty_latent_height=640,
            batch_size=1,
        ),
        "2": node(
            "KSampler (Efficient)",
            seed=9,
            steps=12,
            cfg=6.5,
            sampler_name="dpmpp_2m",
            scheduler="karras",
            denoise=1.0,
            model=("1", 0),
            positive=("1", 1),
            negative=("1", 2),
            latent_image=("1", 3),
        ),
        "3": node("SaveImage", images=("2", 5)),
    }
    found = read(nodes)
    request = found.request
    assert (request.prompt, request.negative_prompt, request.clip_skip) == ("a cat", "bad", 2)
    assert (request.width, request.height, request.seed, request.num_steps) == (512, 640, 9, 12)
    assert (request.sampler, request.schedule, found.model) == ("dpmpp_2m", "karras", "sd15.safetensors")
    assert request.loras == (LoraUse(name="ink", weight=0.7, text_weight=0.6),)


def test_settings_that_come_along_a_pipe():
    nodes = {
        "1": node(
            "easy fullLoader",
            ckpt_name="sd15.safetensors",
            lora_name="None",
            lora_model_strength=1.0,
            clip_skip=-1,
            positive="a cat",
            negative="bad",
            empty_latent_width=512,
            empty_latent_height=640,
        ),
        "2": node(
            "easy preSampling",
            steps=12,
            cfg=6.5,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
            seed=9,
            pipe=("1", 0),
        ),
        "3": node("easy kSampler", pipe=("2", 0), image_output="Save", link_id=0, save_prefix="x"),
        "4": node("SaveImage", images=("3", 1)),
    }
    found = read(nodes)
    request = found.request
    assert (request.prompt, request.negative_prompt, request.seed, request.num_steps) == ("a cat", "bad", 9, 12)
    assert (request.width, request.height, found.model) == (512, 640, "sd15.safetensors")


def test_a_basic_pipe():
    nodes = base(
        n90=node("ToBasicPipe", model="@4", clip=("4", 1), vae=("4", 2), positive="@6", negative="@7"),
        n91=node("FromBasicPipe", basic_pipe="@90"),
        n3=sampler(model=("91", 0), positive=("91", 3), negative=("91", 4)),
    )
    found = read(nodes)
    assert (found.request.prompt, found.request.negative_prompt) == ("a lighthouse", "blurry")
    assert found.model == "sd_xl_base_1.0.safetensors"


def test_a_context_and_a_sampler_configuration():
    found = read(
        base(
            n90=node(
                "Context (rgthree)", model="@4", clip=("4", 1), positive="@6", negative="@7", latent="@5", seed=11
            ),
            n91=node(
                "KSampler Config (rgthree)",
                steps_total=30,
                refiner_step=24,
                cfg=6.0,
                sampler_name="dpmpp_2m",
                scheduler="karras",
            ),
            n3=sampler(
                model=("90", 1),
                positive=("90", 4),
                negative=("90", 5),
                latent_image=("90", 6),
                seed=("90", 8),
                steps=("91", 0),
                cfg=("91", 2),
                sampler_name=("91", 3),
                scheduler=("91", 4),
            ),
        )
    )
    request = found.request
    assert (request.prompt, request.negative_prompt, request.seed, request.num_steps) == (
        "a lighthouse",
        "blurry",
        11,
        30,
    )
    assert (request.guidance_scale, request.sampler, request.schedule) == (6.0, "dpmpp_2m", "karras")
    assert (request.width, found.model) == (1024, "sd_xl_base_1.0.safetensors")


def test_a_refiner_inside_one_sampler():
    nodes = {
        "1": node(
            "Eff. Loader SDXL",
            base_ckpt_name="sdxl.safetensors",
            base_clip_skip=-2,
            refiner_ckpt_name="refiner.safetensors",
            positive="a cat",
            negative="bad",
            empty_latent_width=1024,
            empty_latent_height=768,
        ),
        "2": node(
            "KSampler SDXL (Eff.)",
            noise_seed=9,
            steps=20,
            cfg=6.5,
            sampler_name="euler",
            scheduler="normal",
            start_at_step=0,
            refine_at_step=15,
            sdxl_tuple=("1", 0),
            latent_image=("1", 1),
        ),
        "3": node("SaveImage", images=("2", 3)),
    }
    found = read(nodes)
    request = found.request
    assert (request.prompt, request.negative_prompt, request.refiner_switch_at) == ("a cat", "bad", 0.75)
    assert (request.width, request.height, request.seed, found.model) == (1024, 768, 9, "sdxl.safetensors")
    assert "refiner.safetensors, drew from step 15 of 20" in told(found)


def test_a_second_pass_inside_one_sampler():
    script = {"upscale_type": "latent", "hires_ckpt_name": "(use same)", "latent_upscaler": "nearest-exact"}
    found = read(
        base(
            n3=node("KSampler (Efficient)", **sampler()["inputs"], script="@50"),
            n50=node("HighRes-Fix Script", **script, upscale_by=1.5, hires_steps=12, denoise=0.56, iterations=1),
        )
    )
    assert found.request.hires == HiresPass(scale=1.5, strength=0.56, num_steps=12, upscaler="latent_nearest_exact")


def test_a_second_pass_in_tiles():
    steps = sampler(seed=1, steps=15, denoise=0.2)["inputs"]
    del steps["latent_image"]
    tiles = {"mode_type": "Linear", "tile_width": 512, "tile_height": 512}
    places = {"image": "@8", "vae": ("4", 2), "upscale_model": "@51"}
    found = read(
        base(
            n50=node("UltimateSDUpscale", upscale_by=2.0, **steps, **tiles, **places),
            n51=node("UpscaleModelLoader", model_name="4x-UltraSharp.pth"),
            n9=node("SaveImage", images="@50"),
        )
    )
    hires = found.request.hires
    assert hires is not None
    assert (hires.scale, hires.upscaler, hires.strength, hires.num_steps) == (2.0, "4x-UltraSharp", 0.2, 15)
    assert "tile_width 512, tile_height 512 of UltimateSDUpscale (50)" in told(found)


# What was not used.


def test_controlnet_ip_adapter_and_guidance_nodes_are_named():
    found = read(
        base(
            n3=sampler(model="@42", positive=("40", 0), negative=("40", 1)),
            n40=node(
                "ControlNetApplyAdvanced",
                strength=0.8,
                start_percent=0,
                end_percent=1,
                positive="@6",
                negative="@7",
                control_net="@41",
                image="@45",
            ),
            n41=node("ControlNetLoader", control_net_name="canny.safetensors"),
            n42=node("IPAdapterAdvanced", weight=0.6, model="@44", ipadapter="@46", image="@43"),
            n43=node("LoadImage", image="a.png"),
            n44=node("FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2, model="@47"),
            n45=node("Canny", low_threshold=0.4, high_threshold=0.8, image="@43"),
            n46=node("IPAdapterModelLoader", ipadapter_file="ip-adapter_sdxl.safetensors"),
            n47=node("RescaleCFG", multiplier=0.7, model="@48"),
            n48=node("ModelSamplingDiscrete", sampling="v_prediction", zsnr=True, model="@4"),
        )
    )
    assert (found.request.prompt, found.request.negative_prompt) == ("a lighthouse", "blurry")
    assert found.request.guidance_rescale == 0.7
    assert "ControlNet canny (strength 0.8, start_percent 0, end_percent 1, preprocessor Canny)" in told(found)
    assert "IP-Adapter ip-adapter_sdxl (weight 0.6)" in told(found)
    assert "FreeU_V2 (44: b1 1.3, b2 1.4, s1 0.9, s2 0.2)" in told(found)
    assert "ModelSamplingDiscrete (48: sampling 'v_prediction', zsnr True)" in told(found)
    assert all(told(found).count(f"({number}") <= 1 for number in range(40, 49))


def test_a_vae_and_nodes_aside_are_named():
    found = read(
        base(
            n8=node("VAEDecode", samples="@3", vae="@30"),
            n30=node("VAELoader", vae_name="best.safetensors"),
            n31=node("SomeNode", x=1),
        )
    )
    codes = [notice.code for notice in found.notices]
    assert codes == ["vae_separate", "node_aside"] and "SomeNode (31)" in told(found)


def test_values_of_used_nodes_that_were_not_used_are_named():
    sdxl = {"width": 4096, "height": 4096, "crop_w": 0, "text_g": "a", "text_l": "b", "clip": ("4", 1)}
    found = read(
        base(
            n5=node("EmptyLatentImage", width=64, height=64, batch_size=4),
            n6=node("CLIPTextEncodeSDXL", **sdxl),
            n3=node("KSampler //Inspire", **sampler()["inputs"], noise_mode="GPU(=A1111)"),
        )
    )
    assert "batch_size 4 of EmptyLatentImage (5)" in told(found)
    assert "width 4096, height 4096, crop_w 0 of CLIPTextEncodeSDXL (6)" in told(found)
    assert "noise_mode 'GPU(=A1111)' of KSampler //Inspire (3)" in told(found)
    assert "text_l of CLIPTextEncodeSDXL (6), a second text: 'b'" in told(found)
    assert (found.request.prompt, found.request.seed) == ("a", 5)


@pytest.mark.parametrize(
    ("change", "family"),
    [
        ({"4": node("CheckpointLoaderSimple", ckpt_name="flux1-dev-fp8.safetensors")}, "FLUX.1"),
        ({"4": node("UNETLoader", unet_name="wan2.1_t2v_14B.safetensors")}, "Wan"),
        ({"4": node("CheckpointLoaderSimple", ckpt_name="sd3.5_large.safetensors")}, "Stable Diffusion 3"),
        (
            {"4": node("UNETLoader", unet_name="x.safetensors"), "6": node("CLIPTextEncode", text="a", clip="@50")},
            "lens",
        ),
        ({"5": node("EmptySD3LatentImage", width=64, height=64)}, "newer than Stable Diffusion XL"),
        ({"4": node("CheckpointLoaderSimple", ckpt_name="animagineXL.safetensors")}, ""),
        ({"4": node("CheckpointLoaderSimple", ckpt_name="illuminati_dreaming.safetensors")}, ""),
    ],
)
def test_a_family_that_gesso_does_not_draw_is_named(change: Nodes, family: str):
    found = read(base(n50=node("CLIPLoader", clip_name="x", type="lens")) | change)
    assert ("family of models" in told(found)) == bool(family) and family in told(found)
    assert (found.request.num_steps, found.request.width) == (20, 1024 if "5" not in change else 64)


def test_guiders_sigmas_and_samplers_in_parts():
    found = read(
        base(
            n3=node("SamplerCustomAdvanced", noise="@60", guider="@61", sampler="@62", sigmas="@63", latent_image="@5"),
            n60=node("RandomNoise", noise_seed=8),
            n61=node("BasicGuider", model="@4", conditioning="@6"),
            n62=node("SamplerEulerAncestral", eta=0.5, s_noise=1.0),
            n63=node("AlignYourStepsScheduler", model_type="SDXL", steps=10, denoise=1.0),
        )
    )
    request = found.request
    assert (request.seed, request.guidance_scale, request.sampler, request.eta) == (8, 1.0, "euler_ancestral", 0.5)
    assert (request.num_steps, request.schedule) == (10, "align_your_steps_sdxl_comfyui")


def test_sigmas_by_hand_and_schedules_that_mean_something_else_there():
    parts = {"62": node("KSamplerSelect", sampler_name="euler"), "63": node("ManualSigmas", sigmas="14.6, 3, 0.5, 0")}
    custom = node(
        "SamplerCustom",
        add_noise=True,
        noise_seed=4,
        cfg=3.0,
        model="@4",
        positive="@6",
        negative="@7",
        sampler="@62",
        sigmas="@63",
        latent_image="@5",
    )
    request = read(base(n3=custom) | parts).request
    assert (request.sigmas, request.num_steps, request.seed) == ((14.6, 3.0, 0.5, 0.0), 3, 4)
    assert read(base(n3=sampler(scheduler="beta"))).request.schedule == "beta_comfyui"


@pytest.mark.parametrize(
    ("kind", "slots", "texts"),
    [
        ("ControlNetApplySD3", (0, 1), ("a lighthouse", "blurry")),
        ("LTXVReferenceAudio", (1, 2), ("a lighthouse", "blurry")),  # the model comes out first
        ("WanInfiniteTalkToVideo", (1, 2), ("a lighthouse", "blurry")),
    ],
)
def test_texts_come_out_on_their_side_of_a_node(kind: str, slots: tuple[int, int], texts: tuple[str, str]):
    both = (
        node(kind, positive="@6", negative="@7")
        if slots[0] == 0
        else node(kind, model="@4", positive="@6", negative="@7")
    )
    found = read(base(n30=both, n3=sampler(positive=("30", slots[0]), negative=("30", slots[1]))))
    assert (found.request.prompt, found.request.negative_prompt) == texts


def test_crossed_sides_are_crossed():
    both = node("ControlNetApplyAdvanced", positive="@6", negative="@7")
    found = read(base(n30=both, n3=sampler(positive=("30", 1), negative=("30", 0))))
    assert (found.request.prompt, found.request.negative_prompt) == ("blurry", "a lighthouse")


def test_a_text_is_not_taken_for_both_sides():
    found = read(base(n30=node("TextEncodeOfAPack", words="a red fox"), n3=sampler(positive="@30", negative=("30", 1))))
    assert (found.request.prompt, found.request.negative_prompt) == ("a red fox", "")
    assert "the negative prompt, which comes from the node TextEncodeOfAPack (30)" in told(found)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"60": node("GeminiNode")}, "made by GeminiNode (60)"),
        ({"60": node("CameraAngle", **{"value 1": 333, "value 2": 17})}, "made by CameraAngle (60)"),
        ({"60": node("RegexExtract", string="@61"), "61": node("GeminiNode")}, "made by GeminiNode (61)"),
        (
            {"60": node("PreviewAny", source="@61"), "61": node("AILab_QwenVL", image="@62")},
            "made by AILab_QwenVL (61)",
        ),
    ],
)
def test_a_prompt_that_was_made_when_the_graph_ran_is_told(source: Nodes, words: str):
    found = read(base(n6=node("CLIPTextEncode", text="@60", clip=("4", 1))) | source)
    assert found.request.prompt == "" and f"the positive prompt was {words}" in told(found)
    assert "not in the file" in told(found)


@pytest.mark.parametrize(
    ("change", "size"),
    [
        ({"42": node("ImageScale", width=768, height=512, crop="center", image="@43")}, (768, 512)),
        ({"42": node("ImageScaleToTotalPixels", megapixels=1.0, image="@43")}, (None, None)),
        ({"42": node("ImageScale", width=768, height=0, image="@43")}, (None, None)),
        ({"42": node("ImageCrop", image="@44"), "44": node("ImageScale", width=768, height=512)}, (None, None)),
    ],
)
def test_the_size_of_a_source_picture_is_that_to_which_the_graph_brings_it(change: Nodes, size: tuple[Any, ...]):
    nodes = base(n3=sampler(latent_image="@41", denoise=0.5), n41=node("VAEEncode", pixels="@42", vae=("4", 2)))
    found = read(nodes | {"43": node("LoadImage", image="fox.png")} | change)
    assert (found.request.width, found.request.height) == size
    assert ("the source picture is not in the file: fox.png" in told(found)) == ("43" in str(change))


def test_the_size_of_another_picture_is_used_where_the_graph_sets_it():
    found = read(
        base(
            n5=node("EmptyLatentImage", width=("40", 0), height=("40", 1)),
            n40=node("GetImageSize", image="@42"),
            n42=node("ImageScale", width=832, height=480, image="@43"),
            n43=node("LoadImage", image="fox.png"),
        )
    )
    assert (found.request.width, found.request.height) == (832, 480)
    assert "what the graph was given, fox.png" in told(found)


def test_a_second_model_of_its_own_prompt_and_lora_is_told():
    found = read(
        base(
            n3=advanced(),
            n12=node("CheckpointLoaderSimple", ckpt_name="sd_xl_refiner_1.0.safetensors"),
            n13=node("LoraLoaderModelOnly", lora_name="ink.safetensors", strength_model=0.5, model="@12"),
            n15=node("CLIPTextEncode", text="a tower", clip=("12", 1)),
            n11=advanced(add_noise="disable", start_at_step=20, model="@13", positive="@15", latent_image="@3"),
            n8=node("VAEDecode", samples="@11"),
        )
    )
    assert found.request.refiner_switch_at == 0.8 and found.request.loras == ()
    assert "the positive prompt that the second model alone had: 'a tower'" in told(found)
    assert "LoRA of the second model alone: ink 0.5" in told(found)


def test_other_lora_of_a_second_pass_are_named():
    lora = node("LoraLoaderModelOnly", lora_name="ink.safetensors", strength_model=0.5, model="@4")
    found = read(two_saves(n26=lora, n21=sampler(denoise=0.5, latent_image="@20", model="@26")))
    assert "the second pass has other LoRA: ink 0.5" in told(found)


@pytest.mark.parametrize(("seed", "is_told"), [(5, False), (6, True), (0, True), (2**64 - 1, True)])
def test_a_seed_of_the_second_pass_alone_is_named(seed: int, is_told: bool):
    found = read(two_saves(n3=sampler(seed=5), n21=sampler(denoise=0.5, latent_image="@20", seed=seed)))
    assert found.request.seed == 5
    assert (f"the second pass has a seed of its own, {seed}" in told(found)) == is_told


def test_text_encoders_and_models_beside_the_models_own_are_named():
    found = read(
        base(
            n6=node("CLIPTextEncode", text="a lighthouse", clip="@30"),
            n7=node("CLIPTextEncode", text="blurry", clip=("31", 1)),
            n30=node("DualCLIPLoader", clip_name1="l.safetensors", clip_name2="g.safetensors", type="sdxl"),
            n31=node("CheckpointLoaderSimple", ckpt_name="other.safetensors"),
        )
    )
    assert "DualCLIPLoader (30: clip_name1 'l.safetensors', clip_name2 'g.safetensors'" in told(found)
    assert "CheckpointLoaderSimple (31: ckpt_name 'other.safetensors')" in told(found)


@pytest.mark.parametrize(
    ("strengths", "line"),
    [
        ((0.5, 0.5), "Odd (30 and 1 more: strength 0.5)"),
        ((0.5, 0.7), "Odd (30: strength 0.5), Odd (31: strength 0.7)"),
        ((1, 2, 3, 4, 5), "Odd (30 and 4 more)"),
    ],
)
def test_nodes_of_one_kind_are_told_with_their_values(strengths: tuple[float, ...], line: str):
    way = {f"{30 + n}": node("Odd", strength=value, model=f"@{31 + n}") for n, value in enumerate(strengths)}
    way[str(29 + len(strengths))]["inputs"]["model"] = ["4", 0]
    assert line in told(read(base(n3=sampler(model="@30")) | way))


@pytest.mark.parametrize(
    ("name", "gpu"), [("dpmpp_3m_sde_gpu", True), ("dpmpp_2m_sde_gpu", True), ("dpmpp_3m_sde", False)]
)
def test_noise_of_the_steps_that_the_gpu_drew_is_told(name: str, gpu: bool):
    found = read(base(n3=sampler(sampler_name=name)))
    assert found.request.sampler == name.removesuffix("_gpu")
    assert ("on the GPU" in told(found)) == gpu


def test_a_stage_of_another_family_is_no_second_pass():
    found = read(
        base(
            n4=node("UNETLoader", unet_name="trellis.safetensors"),
            n21=sampler(seed=9, steps=7, latent_image="@20"),
            n20=node("Trellis2ShapeStage", samples="@3"),
            n8=node("VAEDecode", samples="@21"),
        )
    )
    assert found.request.hires is None and "a further pass, KSampler (21)" in told(found)


# The UI's drawing.


def value_slot(name: str, link: int | None, along: str = "STRING") -> dict[str, Any]:
    return {"name": name, "type": along, "link": link, "widget": {"name": name}}


def a_subgraph(depth: int = 1) -> dict[str, Any]:
    """A workflow whose sampler and all it needs stand in a subgraph, that in another and so on."""
    inner = [
        drawn_sampler(1, [1, "fixed", 9, 5, "euler", "normal", 1], 1, 2, 3, 4),
        drawn(2, "CheckpointLoaderSimple", ["sd15.safetensors"]),
        drawn(3, "CLIPTextEncode", ["inside"], clip=("CLIP", 5)),
        drawn(4, "CLIPTextEncode", ["bad"], clip=("CLIP", 6)),
        drawn(5, "EmptyLatentImage", [512, 640, 1]),
        drawn(6, "VAEDecode", [], samples=("LATENT", 7)),
    ]
    inner[2]["inputs"].append(value_slot("text", 10))
    inner[0]["inputs"].append(value_slot("seed", 11, "INT"))
    rows = [
        *([1, 2, 0, 1, 0, "MODEL"], [2, 3, 0, 1, 1, "CONDITIONING"], [3, 4, 0, 1, 2, "CONDITIONING"]),
        *([4, 5, 0, 1, 3, "LATENT"], [5, 2, 1, 3, 0, "CLIP"], [6, 2, 1, 4, 0, "CLIP"], [7, 1, 0, 6, 0, "LATENT"]),
        *([8, 6, 0, -20, 0, "IMAGE"], [10, -10, 0, 3, 1, "STRING"], [11, -10, 1, 1, 4, "INT"]),
    ]
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    told = {
        "inputs": [{"name": "text", "type": "STRING"}, {"name": "seed", "type": "INT"}],
        "outputs": [{"name": "IMAGE", "type": "IMAGE"}],
        "inputNode": {"id": -10},
        "outputNode": {"id": -20},
    }
    subgraphs = [{"id": "g0", "nodes": inner, "links": [dict(zip(names, row, strict=True)) for row in rows], **told}]
    for level in range(1, depth):
        instance = drawn(1, f"g{level - 1}", [])
        instance["inputs"] = [value_slot("text", 1), value_slot("seed", 2, "INT")]
        links = ([1, -10, 0, 1, 0, "STRING"], [2, -10, 1, 1, 1, "INT"], [3, 1, 0, -20, 0, "IMAGE"])
        subgraphs.append(
            {
                "id": f"g{level}",
                "nodes": [instance],
                "links": [dict(zip(names, row, strict=True)) for row in links],
                **told,
            }
        )
    outer = drawn(7, f"g{depth - 1}", ["outside", 33])
    outer["inputs"] = [value_slot("text", None), value_slot("seed", None, "INT")]
    return {
        "nodes": [outer, drawn(8, "SaveImage", ["x"], images=("IMAGE", 1))],
        "links": [[1, 7, 0, 8, 0, "IMAGE"]],
        "definitions": {"subgraphs": subgraphs},
    }


@pytest.mark.parametrize("depth", [1, 2, 9])
def test_subgraphs_are_unfolded(depth: int):
    found = from_workflow(json.dumps(a_subgraph(depth)))
    request = found.request
    assert (request.prompt, request.negative_prompt, request.seed) == ("outside", "bad", 33)
    assert (request.num_steps, request.width, request.height, found.model) == (9, 512, 640, "sd15.safetensors")
    assert len(found.notices) == 1


def test_a_value_that_an_instance_does_not_set_is_that_inside():
    said = a_subgraph()
    said["nodes"][0]["widgets_values"] = []
    request = from_workflow(json.dumps(said)).request
    assert (request.prompt, request.seed) == ("inside", 1)


def test_a_value_linked_into_a_subgraph():
    said = a_subgraph()
    said["nodes"].append(drawn(20, "PrimitiveStringMultiline", ["linked"]))
    said["nodes"][0]["inputs"][0]["link"] = 5
    said["links"].append([5, 20, 0, 7, 0, "STRING"])
    assert from_workflow(json.dumps(said)).request.prompt == "linked"


@pytest.mark.parametrize("mode", [2, 4])
def test_a_subgraph_that_is_off_is_not_there(mode: int):
    said = a_subgraph()
    said["nodes"][0]["mode"] = mode
    with pytest.raises(GessoError, match="no sampler"):
        from_workflow(json.dumps(said))


def test_values_of_an_instance_whose_choice_has_a_type_of_its_own():
    said = a_subgraph()
    said["definitions"]["subgraphs"][0]["inputs"].insert(0, {"name": "mode", "type": "COMFY_DYNAMICCOMBO_V3"})
    for row in said["definitions"]["subgraphs"][0]["links"]:
        row["origin_slot"] += row["origin_id"] == -10
    said["nodes"][0] |= {"widgets_values": ["fast", "outside", 33], "inputs": []}
    request = from_workflow(json.dumps(said)).request
    assert (request.prompt, request.seed) == ("outside", 33)


@pytest.mark.parametrize(
    ("kind", "values", "named"),
    [
        ("WanHuMoImageToVideo", [640, 480, 97, 1], {"width": 640, "height": 480, "length": 97, "batch_size": 1}),
        ("AnyToVideo", [1, 640], {"value 1": 1, "value 2": 640}),
        (
            "ResizeImageMaskNode",
            ["scale dimensions", 512, 384, "center", "area"],
            {
                "resize_type": "scale dimensions",
                "resize_type.width": 512,
                "resize_type.height": 384,
                "resize_type.crop": "center",
                "scale_method": "area",
            },
        ),
        (
            "ResizeImageMaskNode",
            ["scale total pixels", 1, "lanczos"],
            {"resize_type": "scale total pixels", "resize_type.megapixels": 1, "scale_method": "lanczos"},
        ),
        ("ResizeImageMaskNode", ["scale oddly", 1], {"value 1": "scale oddly", "value 2": 1}),
    ],
)
def test_values_whose_names_depend_on_the_kind(kind: str, values: list[Any], named: dict[str, Any]):
    assert values_of({"type": kind, "widgets_values": values}) == named


def test_set_and_get_nodes():
    said = a_subgraph()
    inner = said["definitions"]["subgraphs"][0]
    inner["nodes"] += [drawn(30, "SetNode", ["size"], LATENT=("LATENT", 40)), drawn(31, "GetNode", ["size"])]
    inner["links"] = [row for row in inner["links"] if row["id"] != 4] + [
        {"id": 40, "origin_id": 5, "origin_slot": 0, "target_id": 30, "target_slot": 0, "type": "LATENT"},
        {"id": 4, "origin_id": 31, "origin_slot": 0, "target_id": 1, "target_slot": 3, "type": "LATENT"},
    ]
    assert from_workflow(json.dumps(said)).request.width == 512


def test_rows_of_lora_in_a_drawing():
    said = a_subgraph()
    inner = said["definitions"]["subgraphs"][0]
    rows = [
        {},
        {"type": "header"},
        {"on": True, "lora": "ink.safetensors", "strength": 0.8, "strengthTwo": None},
        {},
        "",
    ]
    inner["nodes"].append(drawn(30, "Power Lora Loader (rgthree)", rows, model=("MODEL", 41)))
    inner["links"] = [row for row in inner["links"] if row["id"] != 1] + [
        {"id": 41, "origin_id": 2, "origin_slot": 0, "target_id": 30, "target_slot": 0, "type": "MODEL"},
        {"id": 1, "origin_id": 30, "origin_slot": 0, "target_id": 1, "target_slot": 0, "type": "MODEL"},
    ]
    assert from_workflow(json.dumps(said)).request.loras == (LoraUse(name="ink", weight=0.8),)


# Hostile graphs.


def doubled() -> Nodes:
    """Texts, conditions and switches that double at each step, and pipes, rows and stacks that never end."""
    nodes = base(n3=sampler(positive="@c0", model="@m0", latent_image="@u0"), n6=node("CLIPTextEncode", text="@t0"))
    for number in range(1200):
        here, after = number, number + 1
        nodes |= {
            f"t{here}": node("StringConcatenate", string_a=f"@t{after}", string_b=f"@t{after}", delimiter=""),
            f"c{here}": node("ConditioningCombine", conditioning_1=f"@c{after}", conditioning_2=f"@c{after}"),
            f"m{here}": node("X", model=f"@m{after}", lora_stack=f"@m{after}", pipe=f"@m{after}"),
            f"u{here}": node("LatentUpscaleBy", samples=f"@u{after}", image=f"@u{after}", scale_by=2.0),
        }
    nodes["t1200"] = node("PrimitiveString", value="x" * 1000)
    nodes["c1200"] = node("ConditioningConcat", conditioning_to="@6", conditioning_from="@6")
    return nodes


def circles() -> Nodes:
    kinds = ("ComfySwitchNode", "Reroute", "StringConcatenate", "ConditioningCombine", "KSampler", "SaveImage", "X")
    names = ("switch", "on_true", "model", "positive", "latent_image", "images", "pipe", "text", "sigmas", "lora_stack")
    rng = random.Random(3)
    return {
        str(number): node(rng.choice(kinds), **{name: f"@{rng.randrange(4900)}" for name in rng.sample(names, 6)})
        for number in range(4900)
    }


def wide() -> Nodes:
    """One node of very many inputs, all along a long row of reroutes."""
    dots = {f"d{n}": node("Reroute", x=f"@d{n + 1}") for n in range(3000)}
    inputs = {f"image{n}": ["d0", n] for n in range(100_000)}
    return {"1": {"class_type": "SaveImage", "inputs": inputs}, "2": sampler(), **dots}


def switches() -> Nodes:
    nodes = base(n3=sampler(positive="@s0", latent_image="@s0", seed="@s0"))
    return nodes | {
        f"s{n}": node("ComfySwitchNode", switch=f"@s{n + 1}", on_true=f"@s{n + 1}", on_false=f"@s{n + 1}")
        for n in range(4000)
    }


def samplers() -> Nodes:
    row = {f"k{n}": sampler(latent_image=f"@k{n + 1}") for n in range(2400)}
    return row | {f"p{n}": node("PreviewImage", images=f"@k{n}") for n in range(2400)}


@pytest.mark.parametrize("number", [1e300, 10**300, -1, 0, 2**70, "1e300"])
def test_sizes_and_factors_that_cannot_be(number: Any):
    grow = {f"e{n}": node("LatentUpscaleBy", scale_by=number, samples=f"@e{n + 1}") for n in range(40)}
    grow["e40"] = node("LatentUpscale", width=number, height=number, samples="@3")
    for start in (node("EmptyLatentImage", width=number, height=number), node("EmptyLatentImage", width=8, height=8)):
        nodes = two_saves(n5=start, n20=node("LatentUpscaleBy", scale_by=number, samples="@e0"))
        assert read(nodes | grow, width=8, height=8).request.seed == 5
    nodes = base(n3=advanced(start_at_step=number, steps=3), n11=advanced(start_at_step=number, latent_image="@3"))
    assert read(nodes).request.seed == 721


@pytest.mark.parametrize("made", [doubled, circles, wide, switches, samplers])
@pytest.mark.sampled(2)
def test_a_graph_made_to_take_long_does_not(made: Any):
    text = json.dumps(made())
    assert_quick(lambda: from_graph(text), 400)  # a second is about 100; with a square in it, it is minutes


@pytest.mark.parametrize("kind", ["ControlNet", "ApplyControlNe", "IPAdapter", "IPAdapter Loader", "Conditioning"])
def test_a_kind_or_a_name_made_to_take_long_does_not(kind: str):
    long = {"lora" * 50_000 + "\nx": 1, "x" * 200_000: 1}
    text = json.dumps(base(n3=sampler(model="@30", **long), n30=node(kind * 50_000, model="@4")))
    assert_quick(lambda: from_graph(text), 40)


KINDS = (
    *WIDGETS,
    *("Reroute", "GetNode", "SetNode", "SaveImage", "PreviewImage", "VAEDecode", "ControlNetApplyAdvanced", "X"),
    *("ConditioningCombine", "ConditioningConcat", "ConditioningZeroOut", "Any Switch (rgthree)", "ImpactSwitch"),
    *("Power Lora Loader (rgthree)", "ToBasicPipe", "FromBasicPipe", "StringFormat", "ImageUpscaleWithModel"),
)
NAMES = (
    *sorted({name for names in WIDGETS.values() for name in names if not name[-1].isdigit()}),
    *("model", "clip", "positive", "negative", "latent_image", "images", "samples", "pixels", "guider", "noise"),
    *("sampler", "sigmas", "conditioning_1", "conditioning_to", "conditioning_from", "pipe", "script", "lora_stack"),
    *("on_true", "on_false", "select", "image", "upscale_model", "loras", "lora_1", "values.a", "string_a", "text_a"),
)


PLAIN = (
    *(0, 1, -1, 20, 0.5, 1e400, -7.5, 2**70, True, False, None, "", "euler", "a (cat:1.2) AND #x", "16:9"),
    *("a * 2", "{a}", "0.5, 0", "x4.pth", "None", '{"a": 1}', "a" * 3000, "\ud800", "[a:b", "nan"),
)


def anything(rng: random.Random, depth: int = 0) -> Any:
    """A value of any type, most often a link or a plausible one."""
    number = rng.randrange(100)
    if number < 55:
        return [str(rng.randrange(12)), rng.choice((0, 0, 1, 2, -1, "x", None, 10**30))]
    if number < 90:
        return rng.choice(PLAIN)
    if depth > 1:
        return {}
    rows = [anything(rng, depth + 1) for _ in range(3)]
    return rows if number < 95 else {"on": True, "lora": rows[0], "strength": rows[1], "content": rows[2]}


def test_graphs_of_anything_are_read_or_refused():
    rng = random.Random(17)
    for _ in range(600):
        nodes = {
            str(number): {
                "class_type": rng.choice(KINDS),
                "inputs": {rng.choice(NAMES): anything(rng) for _ in range(rng.randrange(12))},
            }
            for number in range(12)
        }
        with suppress(GessoError):
            from_graph(json.dumps(nodes), width=512, height=512, name="ComfyUI_00001_")


def test_drawings_of_anything_are_read_or_refused():
    rng = random.Random(18)
    for _ in range(300):
        subgraphs = [{"id": name, **some_drawing(rng)} for name in ("g", "h")]
        with suppress(GessoError):
            from_workflow(json.dumps(some_drawing(rng) | {"definitions": {"subgraphs": subgraphs}}))


def some_drawing(rng: random.Random) -> dict[str, Any]:
    nodes = [
        {
            "id": number,
            "type": rng.choice((*KINDS, "KSampler", "g", "h")),
            "mode": rng.choice((0, 0, 0, 0, 2, 4, "x")),
            "inputs": [
                {"name": rng.choice(NAMES), "type": rng.choice(("MODEL", "X", None)), "link": rng.randrange(30)}
                | ({"widget": {"name": "x"}} if rng.random() < 0.3 else {})
                for _ in range(rng.randrange(8))
            ],
            "widgets_values": [anything(rng) for _ in range(rng.randrange(9))] if rng.random() < 0.9 else anything(rng),
        }
        for number in range(10)
    ]
    ends = (*range(10), -10, -20, "x", None)
    links = [
        [n, rng.choice(ends), rng.choice((0, 1, 2)), rng.choice(ends), rng.choice((0, 1)), "MODEL"] for n in range(30)
    ]
    slots = [{"name": name, "type": "STRING"} for name in rng.sample(NAMES, 4)]
    return {"nodes": nodes, "links": links, "inputs": slots}


def test_subgraphs_that_double_are_refused_at_once():
    subgraphs = [
        {"id": f"g{n}", "nodes": [drawn(k, f"g{n + 1}", []) for k in range(8)], "links": []} for n in range(16)
    ]
    said = {"nodes": [drawn(1, "g0", [])], "links": [], "definitions": {"subgraphs": subgraphs}}
    with pytest.raises(GessoError, match="at most 5000"):
        from_workflow(json.dumps(said))


def test_a_subgraph_inside_itself_ends():
    said = {
        "nodes": [drawn(1, "g", []), drawn(2, "KSampler", [3, "fixed", 4], model=("MODEL", 1))],
        "links": [[1, 1, 0, 2, 0, "MODEL"]],
        "definitions": {
            "subgraphs": [{"id": "g", "nodes": [drawn(1, "g", [])], "links": [[1, 1, 0, -20, 0, "MODEL"]]}]
        },
    }
    assert from_workflow(json.dumps(said)).request.seed == 3


def test_one_large_subgraph_used_often_is_refused():
    large = {"id": "g", "nodes": [{"id": 1, "type": "X", "inputs": [{"link": n} for n in range(50_000)]}], "links": []}
    said = {"nodes": [drawn(n, "g", []) for n in range(2000)], "links": [], "definitions": {"subgraphs": [large]}}
    with pytest.raises(GessoError, match="inputs and values"):
        from_workflow(json.dumps(said))

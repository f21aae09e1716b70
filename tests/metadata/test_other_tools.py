"""Settings as tools beside A1111 and ComfyUI write them, by hand from what is known of their formats."""

import gzip
import io
import json
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from gesso.errors import GessoError
from gesso.metadata.a1111 import from_infotext
from gesso.metadata.carriers import PictureTexts, read_texts
from gesso.metadata.draw_things import from_xmp
from gesso.metadata.easy_diffusion import from_easy_diffusion
from gesso.metadata.editing import with_metadata, without_metadata
from gesso.metadata.foreign_json import from_object
from gesso.metadata.invokeai import from_dream, from_invokeai, from_invokeai_2
from gesso.metadata.novelai import from_comment, from_novelai
from gesso.metadata.picture_metadata import PictureMetadata, whole
from gesso.metadata.reading import read_metadata
from gesso.metadata.stealth import stealth_in
from gesso.pictures.infotext_reading import read_infotext
from gesso.request.parts import HiresPass, LoraUse
from linear_time import assert_quick

BIG = 2**60 + 1
CPP = "stable-diffusion.cpp"

SWARM = {
    "sui_image_params": {
        "prompt": "a red snail",
        "negativeprompt": "low quality",
        "model": "Official/realcartoonXL_v5",
        "images": 1,
        "seed": BIG,
        "steps": 25,
        "cfgscale": 4.0,
        "aspectratio": "1:1",
        "width": 1024,
        "height": 768,
        "sampler": "dpmpp_2m",
        "scheduler": "karras",
        "variationseed": 7,
        "variationseedstrength": 0.25,
        "clipstopatlayer": -2,
        "loras": ["styles/ink", "light"],
        "loraweights": ["0.8", "1"],
        "refinercontrolpercentage": 0.2,
        "refinerupscale": 1.5,
        "refinerupscalemethod": "latent-nearest-exact",
        "vae": "sdxl_vae",
        "controlnetstrength": 0.5,
        "swarm_version": "0.9.5.0",
    },
    "sui_extra_data": {"date": "2025-01-25"},
}
FOOOCUS = {
    "adm_guidance": "(1.5, 0.8, 0.3)",
    "base_model": "juggernautXL",
    "base_model_hash": "aeb7e9e689",
    "clip_skip": 2,
    "full_prompt": ["a cat", "cinematic still a cat"],
    "guidance_scale": 4,
    "loras": [["offset_0.1", 0.1, "4852686128"]],
    "lora_combined_1": "offset_0.1 : 0.1",
    "metadata_scheme": "fooocus",
    "negative_prompt": "blurry",
    "performance": "Speed",
    "prompt": "a cat",
    "refiner_model": "None",
    "resolution": "(1152, 896)",
    "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras",
    "seed": "8834915829939807712",
    "sharpness": 2,
    "steps": 30,
    "styles": "['Fooocus V2', 'Fooocus Sharp']",
    "vae": "Default (model)",
    "version": "Fooocus v2.5.5",
}


def found_in(stored: dict[str, Any]) -> PictureMetadata:
    found = from_object(stored)
    assert found is not None
    return found


def test_swarmui():
    found = found_in(SWARM)
    request = found.request
    assert (found.tool, found.model) == ("SwarmUI", "realcartoonXL_v5")
    assert (request.prompt, request.negative_prompt, request.seed) == ("a red snail", "low quality", BIG)
    assert (request.num_steps, request.guidance_scale, request.width, request.height) == (25, 4.0, 1024, 768)
    assert (request.sampler, request.schedule, request.clip_skip, request.noise) == ("dpmpp_2m", "karras", 2, "cpu")
    assert (request.variation.seed, request.variation.strength) == (7, 0.25)
    assert request.loras == (LoraUse(name="ink", weight=0.8), LoraUse(name="light", weight=1.0))
    assert request.hires == HiresPass(scale=1.5, strength=0.2, upscaler="latent_nearest_exact")
    assert found.notices == (
        "not supported, ignored: vae: sdxl_vae",
        "not supported, ignored: controlnetstrength: 0.5",
    )


def test_fooocus():
    found = found_in(FOOOCUS)
    request = found.request
    assert (found.tool, found.model, found.model_hash) == ("Fooocus", "juggernautXL", "aeb7e9e689")
    assert (request.prompt, request.negative_prompt, request.seed) == ("a cat", "blurry", 8834915829939807712)
    assert (request.num_steps, request.width, request.height, request.clip_skip) == (30, 1152, 896, 2)
    assert (request.sampler, request.schedule, request.noise) == ("dpmpp_2m_sde", "karras", "cpu")
    assert request.loras == (LoraUse(name="offset_0.1", weight=0.1),)
    assert [notice.partition("ignored: ")[2].partition(":")[0] for notice in found.notices] == [
        "Fooocus's styles, which add words to both prompts",
        "adm_guidance",
        "sharpness",
    ]


def test_forks_of_fooocus_and_its_log():
    ruined = {
        "Prompt": "a fox",
        "Negative": "blurry",
        "steps": 20,
        "cfg": 7.0,
        "width": 512,
        "height": 640,
        "seed": 4,
        "sampler_name": "euler",
        "scheduler": "normal",
        "base_model_name": "x.safetensors",
        "loras": [["0.5", "ink.safetensors"]],
        "software": "RuinedFooocus",
    }
    found = found_in(ruined)
    assert (found.tool, found.model, found.request.prompt) == ("RuinedFooocus", "x", "a fox")
    assert (found.request.width, found.request.height, found.request.guidance_scale) == (512, 640, 7.0)
    assert found.request.loras == (LoraUse(name="ink", weight=0.5),)
    log = {
        "Prompt": "a hen",
        "Base Model": "b",
        "Resolution": "1152×896",
        "Seed": "5",
        "lora_combined_1": "True : i : 1",
    }
    found = found_in(log)
    assert (found.request.width, found.request.height, found.request.seed) == (1152, 896, 5)
    assert found.request.loras == (LoraUse(name="i", weight=1.0),)


def test_easy_diffusion_by_both_kinds_of_names():
    fields = {
        "prompt": "a photo of a fox",
        "negative_prompt": "blurry",
        "seed": "4033213",
        "num_inference_steps": "25",
        "guidance_scale": "7.5",
        "width": "512",
        "height": "640",
        "sampler_name": "euler_a",
        "use_stable_diffusion_model": "sd-v1-5",
        "use_vae_model": "None",
        "clip_skip": "True",
        "tiling": "x",
        "use_lora_model": "['ink', 'light']",
        "lora_alpha": "[0.5, 1]",
        "use_face_correction": "GFPGANv1.4",
    }
    found = from_easy_diffusion(fields)
    request = found.request
    assert (found.tool, found.model, request.prompt, request.seed) == (
        "Easy Diffusion",
        "sd-v1-5",
        "a photo of a fox",
        4033213,
    )
    assert (request.sampler, request.num_steps, request.clip_skip, request.tiling) == ("euler_ancestral", 25, 2, "x")
    assert request.loras == (LoraUse(name="ink", weight=0.5), LoraUse(name="light", weight=1.0))
    assert found.notices == ("not supported, ignored: use_face_correction: GFPGANv1.4",)
    labels = {
        "Prompt": "a photo of a fox",
        "Steps": 25,
        "Sampler": "euler_a",
        "Stable Diffusion model": "sd-v1-5",
        "Seed": 4033213,
    }
    assert found_in(labels).request.num_steps == 25


def test_invokeai_3():
    stored = {
        "positive_prompt": "a cat",
        "scheduler": "euler",
        "model": {"model_name": "dreamshaper", "base_model": "sdxl", "model_type": "main"},
        "loras": [{"lora": {"model_name": "ink"}, "weight": 0.5}],
        "positive_style_prompt": "a cat",
        "refiner_model": {"model_name": "refiner"},
        "ref_images": [{"x": 1}],
    }
    found = from_invokeai(json.dumps(stored))
    assert (found.model, found.request.loras) == ("dreamshaper", (LoraUse(name="ink", weight=0.5),))
    assert found.notices == (
        "drawn with the refiner refiner, which gesso does not look for; give it with `refiner`",
        "not supported, ignored: ref_images",
    )


def test_what_guided_a_picture_of_invokeai_is_named():
    """As version 6 writes it; a list of guides of an unknown shape is named by its key and the names in it."""
    stored = {
        "app_version": "6.8.0",
        "positive_prompt": "a fox",
        "scheduler": "euler_k",
        "model": {"key": "k", "hash": "blake3:x", "name": "juggernaut", "base": "sdxl", "type": "main"},
        "vae": {"key": "v", "name": "fix", "base": "sdxl", "type": "vae"},
        "refiner_model": {"name": "ref"},
        "refiner_start": 0.8,
        "controlnets": [
            {"control_model": {"name": "canny-sdxl"}, "control_weight": 0.6, "image": {"image_name": "x.png"}},
            {"control_model": {"name": "depth-sdxl"}, "control_weight": [0.1, 0.2]},
        ],
        "ipAdapters": [{"ip_adapter_model": {"name": "ipa"}, "weight": 0.5}],
        "t2iAdapters": [{"t2i_adapter_model": {"name": "sketch"}, "weight": True}],
        "control_layers": {"layers": [{"model": {"name": "deep"}}, {"model": {"name": "deep"}}]},
    }
    found = from_invokeai(json.dumps(stored))
    absent = "is not taken over: its picture is not in the file. Give model and picture with --control"
    assert found.request.refiner_switch_at == 0.8
    assert found.notices == (
        "drawn with the refiner ref, which gesso does not look for; give it with `refiner`",
        f"ControlNet canny-sdxl (weight 0.6) {absent}",
        f"ControlNet depth-sdxl {absent}",
        f"T2I-Adapter sketch {absent}",
        f"IP-Adapter ipa (weight 0.5) {absent}",
        "not taken over: the VAE fix; give it with --vae",
        "not supported, ignored: control_layers: deep",
    )


def test_invokeai_2():
    image = {
        "prompt": [{"prompt": "an orc [blurry] with an axe [ugly]", "weight": 1.0}],
        "steps": 30,
        "cfg_scale": 7.5,
        "seed": 123,
        "width": 512,
        "height": 640,
        "sampler": "k_lms",
        "type": "txt2img",
        "seamless": True,
        "hires_fix": True,
        "variations": [],
    }
    found = from_invokeai_2(json.dumps({"model_weights": "sd-1.5", "model_hash": "ab12", "image": image}))
    request = found.request
    assert (found.tool, found.model, found.model_hash) == ("InvokeAI", "sd-1.5", "ab12")
    assert (request.prompt, request.negative_prompt) == ("an orc with an axe", "blurry ugly")
    assert (request.sampler, request.seed, request.height, request.tiling) == ("lms", 123, 640, "xy")
    assert found.notices == ("not supported, ignored: hires_fix: True",)


@pytest.mark.parametrize(
    "flags", ["-s 30 -S 123 -W 512 -H 640 -C 7.5 -A k_lms", "-s30 -S123 -W512 -H640 -C7.5 -A k_lms"]
)
def test_invokeai_by_its_command(flags: str):
    request = from_dream(f'"an orc [blurry]" {flags}').request
    assert (request.prompt, request.negative_prompt, request.sampler) == ("an orc", "blurry", "lms")
    assert (request.num_steps, request.seed, request.width, request.height) == (30, 123, 512, 640)
    assert request.guidance_scale == 7.5
    with pytest.raises(GessoError, match="no prompt in quotes"):
        from_dream("an orc -s 30")


def novelai(**more: Any) -> dict[str, Any]:
    return {
        "prompt": "1girl",
        "steps": 28,
        "scale": 5.0,
        "seed": 3,
        "sampler": "k_euler_ancestral",
        "uc": "lowres",
    } | more


def test_novelais_characters():
    def captions(base: str, *words: str) -> dict[str, Any]:
        return {"caption": {"base_caption": base, "char_captions": [{"char_caption": word} for word in words]}}

    comment = novelai(v4_prompt=captions("1girl", "red hair"), v4_negative_prompt=captions("lowres", "hat", ""))
    found = from_novelai({"Comment": json.dumps(comment), "Source": "NovelAI Diffusion V4"})
    assert (found.request.prompt, found.request.negative_prompt) == ("1girl, red hair", "lowres, hat")
    assert any("each character" in notice for notice in found.notices)
    alone = from_comment(novelai(prompt="", v4_prompt=captions("", "red hair", "hat")), {})
    assert alone.request.prompt == "red hair, hat"


def test_novelais_settings_that_are_not_used_are_named():
    comment = novelai(sm=True, sm_dyn=False, uncond_scale=1.0, reference_strength_multiple=[0.6], cfg_rescale=0)
    found = from_novelai({"Comment": json.dumps(comment)})
    assert [notice for notice in found.notices if "ignored" in notice] == [
        "not supported, ignored: sm: True",
        "not supported, ignored: reference_strength_multiple: 0.6",
    ]


def test_draw_things():
    stored = {
        "c": "a <cat> & dog",
        "uc": "bad",
        "seed": 4279116933,
        "steps": 20,
        "scale": 4.0,
        "sampler": "DPM++ 2M Karras",
        "size": "512x640",
        "strength": 1,
        "seed_mode": "Torch CPU Compatible",
        "model": "sd_v1.5.ckpt",
        "lora": [{"model": "ink.ckpt", "weight": 0.6}],
        "shift": 3,
    }
    body = json.dumps(stored).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    xmp = (
        "<x:xmpmeta><rdf:RDF><xmp:CreatorTool>Draw Things</xmp:CreatorTool><exif:UserComment>\n <rdf:Alt>\n"
        f'<rdf:li xml:lang="x-default">{body}</rdf:li></rdf:Alt></exif:UserComment></rdf:RDF></x:xmpmeta>'
    )
    found = from_xmp(xmp)
    request = found.request
    assert (found.tool, found.model, request.prompt, request.seed) == (
        "Draw Things",
        "sd_v1.5",
        "a <cat> & dog",
        4279116933,
    )
    assert (request.sampler, request.schedule, request.noise, request.width) == ("dpmpp_2m", "karras", "cpu", 512)
    assert (request.loras, request.source.strength) == ((LoraUse(name="ink", weight=0.6),), None)
    assert found.notices == ("not supported, ignored: shift: 3",)


@pytest.mark.parametrize("inside", ["", "<rdf:Alt>", '<rdf:Alt><rdf:li xml:lang="x">'])
def test_an_xmp_made_to_take_long_does_not(inside: str):
    def refused() -> None:
        with pytest.raises(GessoError, match="exif:UserComment"):
            from_xmp("<exif:UserComment>" + " " * 100_000 + inside + " " * 100_000)

    assert_quick(refused, 20)


@pytest.mark.parametrize(
    ("line", "tool", "sampler", "schedule", "noise"),
    [
        ("Sampler: euler_a karras, RNG: cuda, Version: stable-diffusion.cpp", CPP, "euler_ancestral", "karras", "nv"),
        ("Sampler: dpm++2m discrete, RNG: cpu, Version: stable-diffusion.cpp", CPP, "dpmpp_2m", "uniform", "cpu"),
        ("Sampler: euler discrete, RNG: cpu", "A1111", "euler", "uniform", "cpu"),
        ("Sampler: euler_simple, Model: x, Version: ComfyUI", "ComfyUI", "euler", "simple", "cpu"),
        ("Sampler: Euler a, Model: x, App: SD.Next, Version: ab12", "SD.Next", "euler_ancestral", None, "nv"),
    ],
)  # fmt: skip
def test_tools_that_write_like_a1111(line: str, tool: str, sampler: str, schedule: str | None, noise: str):
    found = from_infotext(read_infotext(f"a cat\nSteps: 20, CFG Scale: 8.0, Seed: 7, Size: 512x512, {line}"))
    request = found.request
    assert (found.tool, request.sampler, request.schedule, request.noise) == (tool, sampler, schedule, noise)
    assert (request.guidance_scale, found.notices) == (8.0, ())


def test_a_template_of_dynamic_prompts_is_no_prompt():
    text = (
        "epic red dragon\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 31, Size: 512x768\n"
        "Template: epic {red|blue} dragon\non a: b, c: d, e: f\nNegative Template:blurry"
    )
    found = from_infotext(read_infotext(text))
    assert (found.request.prompt, found.request.negative_prompt) == ("epic red dragon", "blurry")
    assert (found.request.num_steps, found.request.seed) == (20, 31)
    assert found.pairs["Template"] == "epic {red|blue} dragon\non a: b, c: d, e: f"
    assert found.notices == ()


def test_plug_ins_of_a1111_are_named_once_each():
    line = (
        "a\nSteps: 20, Seed: 5, Size: 512x512, ADetailer model: face_yolov8n.pt, ADetailer denoising strength: 0.4, "
        "RP Active: True, RP Divide mode: Matrix, Soft inpainting enabled: True, FreeU Stages: x, VAE: Automatic, "
        "Face restoration: CodeFormer, VAE hash: ab, Pad conds: True, Refiner: xl [ab], Refiner switch at: 0.8, "
        "Dynamic thresholding enabled: False, Version: v1.7.0"
    )
    notices = from_infotext(read_infotext(line)).notices
    assert [notice.removeprefix("not supported, ignored: ") for notice in notices] == [
        "drawn with the refiner xl [ab], which gesso does not look for; give it with `refiner`",
        "ADetailer: model: face_yolov8n.pt, denoising strength: 0.4",
        "Regional Prompter: Active: True, Divide mode: Matrix",
        "Soft inpainting enabled: True",
        "FreeU Stages: x",
        "Face restoration: CodeFormer",
        "Pad conds: True",
    ]


def test_hires_fix_of_before_december_2022():
    line = "a\nSteps: 20, Seed: 5, Size: 1024x768, Denoising strength: 0.7, First pass size: {}"
    request = from_infotext(read_infotext(line.format("512x384"))).request
    assert (request.width, request.height) == (512, 384)
    assert request.hires == HiresPass(width=1024, height=768, upscaler="latent_bilinear", strength=0.7)
    chosen = from_infotext(read_infotext(line.format("0x0"))).request
    assert (chosen.width, chosen.height) == (640, 448)


def test_second_passes_of_sd_next():
    line = "a\nSteps: 20, Seed: 5, Size: 512x512, {}, App: SD.Next, Version: ab12"
    said = "Hires force: True, Hires upscaler: Latent, Hires scale: 2.0, Hires strength: 0.3, Hires size: 1024x1024"
    request = from_infotext(read_infotext(line.format(said))).request
    assert request.hires == HiresPass(width=1024, height=1024, upscaler="latent_bilinear", strength=0.3)
    found = from_infotext(read_infotext(line.format(said.replace("True", "False").replace("Latent", "ESRGAN"))))
    assert found.request.hires is None
    assert any("only enlarged" in notice for notice in found.notices)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (BIG, BIG),
        (str(BIG), BIG),
        (2**63 + 5, 2**63 + 5),
        (str(2**64 - 1), 2**64 - 1),
        ("20.0", 20),
        (20.0, 20),
        ("1e3", 1000),
        ("20.5", None),
        (True, None),
        ("nan", None),
        ("1" * 41, None),
        ([1], None),
    ],
)
def test_whole_numbers_stay_exact(value: Any, expected: int | None):
    assert whole(value) == expected


@pytest.mark.parametrize("seed", [str(2**64), "9" * 50, "many"])
def test_a_seed_that_cannot_be_is_named(seed: str):
    found = from_infotext(read_infotext(f"a\nSteps: 9, Seed: {seed}, Size: 8x8"))
    assert found.request.seed is None
    assert any("Seed" in notice for notice in found.notices)


def png(image: Image.Image | None = None, **texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name.replace("_dash_", "-"), text)
    buffer = io.BytesIO()
    (Image.new("RGB", (8, 8)) if image is None else image).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("texts", "tool"),
    [
        ({"parameters": json.dumps(SWARM, indent=1)}, "SwarmUI"),
        ({"parameters": json.dumps(FOOOCUS), "fooocus_scheme": "fooocus"}, "Fooocus"),
        ({"prompt": "a fox", "num_inference_steps": "25", "seed": "4"}, "Easy Diffusion"),
        ({"Dream": '"an orc" -s 30'}, "InvokeAI"),
        ({"sd_dash_metadata": '{"image": {"prompt": "an orc"}}'}, "InvokeAI"),
        ({"Comment": json.dumps(FOOOCUS)}, "Fooocus"),
        ({"parameters": "{red|blue} cat"}, "A1111"),
        ({"parameters": '{"red"|blue} cat\nSteps: 5, Seed: 4, Size: 8x8'}, "A1111"),
    ],
)
def test_which_tool_wrote_a_png(tmp_path: Path, texts: dict[str, str], tool: str):
    assert read_metadata(put(tmp_path / "x.png", png(**texts))).tool == tool


def test_words_in_a_text_named_prompt_are_no_graph(tmp_path: Path):
    with pytest.raises(GessoError, match="no settings that gesso reads"):
        read_metadata(put(tmp_path / "x.png", png(prompt="a fox")))


@pytest.mark.parametrize("text", ['{"a": 1, "b": [2]}', "[1, 2]", '{"a": 1, "cut off'])
def test_json_of_nobody_is_no_prompt(tmp_path: Path, text: str):
    with pytest.raises(GessoError, match=r"no settings that gesso reads .*its texts: parameters"):
        read_metadata(put(tmp_path / "x.png", png(parameters=text)))


def with_comment(comment: bytes, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind, exif=exif.tobytes())
    return buffer.getvalue()


GRAPH = {"1": {"class_type": "KSampler", "inputs": {"seed": 3}}}


@pytest.mark.parametrize(
    ("stored", "tool"),
    [
        (SWARM, "SwarmUI"),
        (FOOOCUS, "Fooocus"),
        (novelai(), "NovelAI"),
        ({"Software": "NovelAI", "Source": "V4", "Comment": json.dumps(novelai())}, "NovelAI"),
        ({"c": "a cat", "uc": "", "steps": 3}, "Draw Things"),
        (GRAPH, "ComfyUI"),
        ({"prompt": json.dumps(GRAPH), "workflow": {}}, "ComfyUI"),
        ({"prompt": "a", "use_stable_diffusion_model": "x", "seed": 5}, "Easy Diffusion"),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("mark", [b"UNICODE\0", b"ASCII\0\0\0"])
def test_which_tool_wrote_a_comment(tmp_path: Path, stored: dict[str, Any], tool: str, kind: str, mark: bytes):
    text = json.dumps(stored)
    body = text.encode("utf-16-be") if mark == b"UNICODE\0" else text.encode()
    assert read_metadata(put(tmp_path / "x", with_comment(mark + body, kind))).tool == tool


def test_a_cameras_comment_is_no_prompt(tmp_path: Path):
    with pytest.raises(GessoError, match="no settings that gesso reads"):
        read_metadata(put(tmp_path / "x.jpg", with_comment(b"ASCII\0\0\0my holiday")))


def test_swarmuis_webp_keeps_it_in_the_place_of_the_camera(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0110] = json.dumps(SWARM)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.webp", exif=exif.tobytes())
    assert read_metadata(tmp_path / "x.webp").tool == "SwarmUI"


def test_utf_8_where_another_encoding_is_declared(tmp_path: Path):
    text = "кот, 猫, a cat\nSteps: 20, Seed: 42, Size: 8x8"
    body = b"tEXtparameters\0" + text.encode()
    header, rest = png()[:33], png()[33:]
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    assert read_metadata(put(tmp_path / "x.png", header + chunk + rest)).request.prompt == "кот, 猫, a cat"
    comment = with_comment(b"UNICODE\0" + text.encode())
    assert read_metadata(put(tmp_path / "x.jpg", comment)).request.prompt == "кот, 猫, a cat"


def hidden(text: bytes, mark: bytes, kind: str = "PNG", **options: Any) -> tuple[Image.Image, bytes]:
    """A picture, and the file of the same with a text in its lowest bits."""
    y, x = np.mgrid[0:40, 0:50]
    levels = np.stack([x * 5, y * 6, x + y, np.full_like(x, 255)], axis=2).astype(np.uint8)
    plain = Image.fromarray(levels.copy())
    bits = np.unpackbits(np.frombuffer(mark + (len(text) * 8).to_bytes(4, "big") + text, dtype=np.uint8))
    channels = levels[..., 3:] if b"png" in mark else levels[..., :3]
    ordered = channels.swapaxes(0, 1).reshape(-1)  # a copy
    ordered[: len(bits)] = ordered[: len(bits)] & 0xFE | bits
    channels[:] = ordered.reshape(channels.swapaxes(0, 1).shape).swapaxes(0, 1)
    image = Image.fromarray(levels) if b"png" in mark else Image.fromarray(levels).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return plain, buffer.getvalue()


TEXT = b"a cat\nSteps: 20, Seed: 42, Size: 8x8, Sampler: Euler a"


@pytest.mark.parametrize("mark", [b"stealth_pnginfo", b"stealth_pngcomp", b"stealth_rgbinfo", b"stealth_rgbcomp"])
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_text_hidden_in_the_pixels_is_read_and_stripped(
    tmp_path: Path, mark: bytes, kind: str, options: dict[str, Any]
):
    plain, data = hidden(gzip.compress(TEXT) if b"comp" in mark else TEXT, mark, kind, **options)
    path = put(tmp_path / "x", data)
    assert read_metadata(path).request.prompt == "a cat"
    bare = without_metadata(path)
    assert stealth_in(bare) is None
    with Image.open(io.BytesIO(bare)) as image:
        levels, before = np.asarray(image.convert("RGBA")), np.asarray(plain)
        if b"png" in mark:
            assert np.array_equal(levels, before)
        else:
            assert np.abs(levels.astype(int) - before).max() <= 1
    assert without_metadata(put(tmp_path / "y", bare)) == bare


def test_novelais_texts_are_hidden_in_one_object(tmp_path: Path):
    stored = {"Description": "1girl", "Software": "NovelAI", "Source": "V4", "Comment": json.dumps(novelai())}
    _, data = hidden(gzip.compress(json.dumps(stored).encode()), b"stealth_pngcomp")
    found = read_metadata(put(tmp_path / "x.png", data))
    assert (found.tool, found.request.seed, found.request.prompt) == ("NovelAI", 3, "1girl")


@pytest.mark.parametrize("length", [2**32 - 8, 9, 40 * 50 * 8])
def test_a_mark_without_its_text_hides_nothing(tmp_path: Path, length: int):
    _, data = hidden(b"", b"stealth_pnginfo")
    with Image.open(io.BytesIO(data)) as image:
        levels = np.asarray(image).copy()
    bits = np.unpackbits(np.frombuffer(length.to_bytes(4, "big"), dtype=np.uint8))
    for at, bit in enumerate(bits, 120):
        levels[at % 40, at // 40, 3] = 254 | bit
    assert stealth_in(png(Image.fromarray(levels))) is None


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_a_turned_picture_stays_upright_and_loses_the_rest(tmp_path: Path, kind: str):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, kind, exif=exif.tobytes())
    path = put(tmp_path / "x", buffer.getvalue())
    bare = without_metadata(path)
    with Image.open(io.BytesIO(bare)) as image:
        assert dict(image.getexif()) == {0x0112: 6}
        assert not image.getexif().get_ifd(0x8825)
    assert read_texts(put(tmp_path / "y", bare)).texts == {}
    carried = with_metadata(path, PictureTexts(path, "PNG", 1, 1, {"parameters": TEXT.decode()}))
    with Image.open(io.BytesIO(carried)) as image:
        assert image.getexif()[0x0112] == 6
    assert read_metadata(put(tmp_path / "z", carried)).request.seed == 42


@pytest.mark.parametrize("stored", [SWARM["sui_image_params"], FOOOCUS, {"c": "a", "uc": "", "model": 3}])
def test_a_sampler_that_is_no_name_is_told(stored: dict[str, Any]):
    found = found_in(stored | {"sampler": ["euler"], "scheduler": None})
    assert found.request.sampler is None
    assert [notice for notice in found.notices if "['euler'] is not a known sampler" in notice]


ODD = (
    None,
    True,
    -1,
    2**70,
    1e300,
    float("nan"),
    "x" * 300,
    "1" * 50,
    [],
    {},
    [[]],
    [{}],
    [None, "a"],
    {"a": {"b": 1}},
    "None",
)
EASY = {"prompt": "a", "num_inference_steps": 5, "seed": 1, "width": 8, "sampler_name": "x", "use_lora_model": "a"}
THINGS = {"c": "a", "uc": "b", "seed": 1, "size": "8x8", "lora": [], "strength": 0.5, "seed_mode": "x", "sampler": "x"}
INVOKE = {"app_version": "3", "positive_prompt": "a", "scheduler": "x", "model": {}, "loras": [], "clip_skip": 1}
OLD = {"model_weights": "x", "image": {"prompt": "a"}}


@pytest.mark.parametrize(
    "stored", [SWARM["sui_image_params"], FOOOCUS, EASY, THINGS, INVOKE, OLD, novelai(v4_prompt={})]
)
@pytest.mark.sampled(2)
def test_odd_values_are_read_or_refused(stored: dict[str, Any]):
    for key in stored:
        for odd in ODD:
            with suppress(GessoError):
                from_object({"swarm_version": "1"} | stored | {key: odd} if "images" in stored else stored | {key: odd})
    for inner in ("caption", "char_captions", "base_caption"):
        for odd in ODD:
            from_comment(novelai(v4_prompt={inner: odd}), {})
            from_comment(novelai(v4_prompt={"caption": {inner: odd}}), {})
    for key in ("prompt", "steps", "sampler", "strength", "seamless"):
        for odd in ODD:
            with suppress(GessoError):
                from_object(OLD | {"image": {"prompt": "a", "type": "img2img", key: odd}})

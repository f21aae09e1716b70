"""The surface in the web UI's words: translators alone, then real clients, unmodified, against a server that draws."""

import asyncio
import base64
import contextlib
import io
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import webuiapi
from PIL import Image
from sd_backend_client.api.a1111_webservice import A1111Webservice
from sd_backend_client.api.shared_data.controlnet.controlnet_preprocessor import PreprocessorParams
from sd_backend_client.api.shared_data.controlnet.controlnet_unit import ControlNetUnit
from sd_backend_client.api.webui.diffusion_request_body import DiffusionRequestBody

from gesso.api import preprocessors
from gesso.api.context import Context
from gesso.api.problems import HttpError
from gesso.frontends.styles import Style
from gesso.request.migrations import SCHEMA, VERSION
from gesso.request.request import TextToImageRequest
from gesso.serving.jobs import Job, JobStatus, Work
from gesso.surfaces.a1111 import listing
from gesso.surfaces.a1111.answers import progress
from gesso.surfaces.a1111.controlnet import fitted, module_of, parameters_of
from gesso.surfaces.a1111.detecting import main as detect
from gesso.surfaces.a1111.enlarging import enlarged, read_extras
from gesso.surfaces.a1111.options import check_options, settings_of, shown_options
from gesso.surfaces.a1111.reading import IMG2IMG, TXT2IMG, Asked, Known, mask_levels, read_body
from serving.drawing_server import drawing_server, run_page
from serving.served import context, lease, server

IMAGE = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
SILLYTAVERN = os.environ.get("GESSO_SILLYTAVERN", "")  # the folder of the npm package, installed with what it needs


def b64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def known(**changed: Any) -> Known:
    def options(given: Any) -> Any:
        return settings_of(check_options(given, shown_options({}, "gesso-mini.safetensors [12]", None)))

    def decode(text: Any, field: str) -> Image.Image:
        return Image.open(io.BytesIO(base64.b64decode(text)))

    values: dict[str, Any] = {
        "options": options,
        "decode": decode,
        "controls": {"gesso-edges": "controlnet", "ip-adapter_sd15": "ip_adapter"},
        "styles": {"ink": Style("ink", "ink drawing of {prompt}", "photo")},
    }
    return Known(**values | changed)


def txt2img(**given: Any) -> Asked:
    return read_body({"prompt": "a cat", **given}, known(), is_img2img=False)


def img2img(**given: Any) -> Asked:
    return read_body({"prompt": "a cat", "init_images": [b64(IMAGE)], **given}, known(), is_img2img=True)


def test_a_number_may_come_as_a_text() -> None:
    """As from a form; the web UI takes it."""
    as_numbers = txt2img(seed=-1, steps=7, cfg_scale=4.5, width=512)
    assert txt2img(seed="-1", steps="7", cfg_scale="4.5", width="512.0").request == as_numbers.request
    for bad in ("", "seven", "1e3", "nan", "7 8"):
        with pytest.raises(HttpError):
            txt2img(steps=bad)


def request_of(asked: Asked) -> TextToImageRequest:
    """The request, which is one."""
    return TextToImageRequest.from_dict({"schema": SCHEMA, "version": VERSION, **asked.request})


# ---- txt2img ---------------------------------------------------------------------------------------------------------


def test_what_is_left_open_is_as_there() -> None:
    asked = txt2img()
    assert request_of(asked) == TextToImageRequest(
        prompt="a cat", width=512, height=512, num_steps=50, guidance_scale=7.0, sampler="Euler", preset="a1111"
    )
    assert asked.notes == () and asked.settings.output == {"format": "png"}
    assert asked.parameters["steps"] == 50 and asked.parameters["sampler_index"] == "Euler"


def test_a_body_without_a_size_gets_that_of_the_model() -> None:
    """512 x 512, as there, has four times the pixels that the model was trained on."""
    mini = known(size=lambda title: 1024 if title == "sdxl" else 256)
    for is_img2img in (False, True):
        given: dict[str, Any] = {"prompt": "a cat", "init_images": [b64(IMAGE)]}
        asked = read_body(given, mini, is_img2img=is_img2img)
        assert (request_of(asked).width, asked.parameters["width"], asked.parameters["height"]) == (256, 256, 256)
        assert request_of(read_body(given | {"model": "sdxl"}, mini, is_img2img=is_img2img)).width == 1024
        one = request_of(read_body(given | {"width": 384}, mini, is_img2img=is_img2img))
        assert (one.width, one.height) == (384, 512), "who names a side means the web UI's other one"


def test_every_plain_field_has_its_place() -> None:
    request = request_of(
        txt2img(
            negative_prompt="dogs",
            width=256,
            height=320,
            steps=9,
            cfg_scale=4.5,
            sampler_name="DPM++ 2M",
            scheduler="Karras",
            seed=11,
            subseed=12,
            subseed_strength=0.25,
            seed_resize_from_w=128,
            seed_resize_from_h=64,
            batch_size=2,
            n_iter=3,
            tiling=True,
            override_settings={
                "CLIP_stop_at_last_layers": 2,
                "randn_source": "CPU",
                "emphasis": "No norm",
                "eta_noise_seed_delta": 31337,
                "pad_cond_uncond": True,
                "sd_vae": "Automatic",
                "forge_additional_modules": [],
            },
        )
    )
    assert (request.negative_prompt, request.width, request.height) == ("dogs", 256, 320)
    assert (request.num_steps, request.guidance_scale, request.num_images) == (9, 4.5, 6)
    assert (request.sampler, request.schedule, request.tiling) == ("DPM++ 2M", "Karras", "xy")
    assert (request.seed, request.clip_skip, request.noise) == (11, 2, "cpu")
    variation, conventions = request.variation, request.conventions
    assert (variation.seed, variation.strength, variation.width, variation.height) == (12, 0.25, 128, 64)
    assert (conventions.emphasis, conventions.ensd, conventions.uneven_chunks) == ("no_norm", 31337, "padded")


@pytest.mark.parametrize("seed", [-1, -5, None])
def test_a_seed_below_zero_is_an_open_one(seed: int | None) -> None:
    assert request_of(txt2img(seed=seed)).seed is None


def test_fields_that_nobody_knows_are_left_alone() -> None:
    """SillyTavern posts its whole body, its own url and auth among it."""
    assert txt2img(url="http://x", auth="u:p", tail=[1]).request == txt2img().request


def test_null_is_as_if_not_given() -> None:
    names = txt2img().parameters
    assert txt2img(**{name: None for name in names if name != "prompt"}).request == txt2img().request


def test_hires_fix() -> None:
    hires = request_of(txt2img(enable_hr=True)).hires
    assert hires is not None and (hires.scale, hires.upscaler, hires.strength, hires.num_steps) == (
        2,
        "Latent",
        0.75,
        None,
    )
    hires = request_of(
        txt2img(
            enable_hr=True,
            hr_resize_x=768,
            hr_resize_y=640,
            hr_upscaler="Lanczos",
            hr_second_pass_steps=7,
            denoising_strength=0.3,
            hr_sampler_name="Euler a",
            hr_scheduler="Use same scheduler",
            hr_prompt="a dog",
            hr_negative_prompt="",
        )
    ).hires
    assert hires is not None and (hires.scale, hires.width, hires.height) == (None, 768, 640)
    assert (hires.upscaler, hires.strength, hires.num_steps) == ("Lanczos", 0.3, 7)
    assert (hires.sampler, hires.schedule, hires.prompt, hires.negative_prompt) == ("Euler a", None, "a dog", None)
    request = request_of(txt2img(enable_hr=True, width=1024, height=768, firstphase_width=512, firstphase_height=384))
    assert request.hires is not None and (request.hires.width, request.hires.height) == (1024, 768)
    assert (request.width, request.height) == (512, 384)
    assert request_of(txt2img(denoising_strength=0.4)).hires is None


def test_eta_goes_to_samplers_that_have_one() -> None:
    """Clients send it with every sampler."""
    assert request_of(txt2img(eta=1.0, sampler_name="Euler")).eta is None
    assert request_of(txt2img(eta=0.5, sampler_name="Euler a")).eta == 0.5
    assert request_of(txt2img(eta=0.0, sampler_name="DDIM")).eta == 0.0
    assert "eta has no effect" in txt2img(eta=0.5, sampler_name="Euler").notes[0]


def test_styles_and_networks() -> None:
    asked = txt2img(styles=["ink"], negative_prompt="dogs")
    assert (asked.request["prompt"], asked.request["negative_prompt"]) == ("ink drawing of a cat", "dogs, photo")
    assert asked.styles == ("ink",)
    asked = txt2img(prompt="a <lora:comic:1> cat<hypernet:x:1>", disable_extra_networks=True)
    assert asked.request["prompt"] == "a  cat"


def test_an_infotext_fills_what_is_left_open() -> None:
    text = (
        "a dog\nNegative prompt: cats\n"
        "Steps: 9, Sampler: Euler a, Schedule type: Karras, CFG scale: 3, Seed: 5, Size: 256x320"
    )
    request = request_of(read_body({"infotext": text, "steps": 4}, known(), is_img2img=False))
    assert (request.prompt, request.negative_prompt, request.seed) == ("a dog", "cats", 5)
    assert (request.num_steps, request.guidance_scale, request.sampler) == (4, 3.0, "euler_ancestral")
    assert (request.schedule, request.width, request.height, request.preset) == ("karras", 256, 320, "a1111")


def test_clip_skip_as_stable_diffusion_cpp_has_it() -> None:
    assert request_of(txt2img(clip_skip=2)).clip_skip == 2
    assert request_of(txt2img(clip_skip=3, override_settings={"CLIP_stop_at_last_layers": 2})).clip_skip == 2
    assert request_of(txt2img(clip_skip=1)).clip_skip is None


@pytest.mark.parametrize(
    ("given", "status", "field", "words"),
    [
        ({"sampler_name": "Foo"}, 404, "sampler_name", "Sampler not found"),
        ({"scheduler": "Foo"}, 422, "scheduler", "schedule"),
        ({"steps": "x"}, 422, "steps", "whole number"),
        ({"steps": True}, 422, "steps", "whole number"),
        ({"width": 2.5}, 422, "width", "whole number"),
        ({"cfg_scale": "seven"}, 422, "cfg_scale", "a number"),
        ({"enable_hr": "yes"}, 422, "enable_hr", "true or false"),
        ({"styles": ["oil"]}, 422, "styles", "no style"),
        ({"restore_faces": True}, 422, "restore_faces", "face"),
        ({"refiner_checkpoint": "x"}, 422, "refiner_checkpoint", "refiner"),
        ({"script_name": "x/y/z plot"}, 422, "script_name", "script"),
        ({"s_churn": 0.5}, 422, "s_churn", "churn"),
        ({"s_noise": 1.1}, 422, "s_noise", "noise"),
        ({"s_min_uncond": 1}, 422, "s_min_uncond", "negative"),
        ({"hr_checkpoint_name": "x"}, 422, "hr_checkpoint_name", "one model"),
        ({"alwayson_scripts": {"ADetailer": {"args": [True, {}]}}}, 422, "alwayson_scripts", "not found"),
        ({"alwayson_scripts": []}, 422, "alwayson_scripts", "an object"),
        ({"override_settings": {"sd_vae": "x"}}, 422, "sd_vae", "cannot be"),
        ({"override_settings": {"nonsense": 1}}, 422, "nonsense", "unknown option"),
        ({"override_settings": {"samples_format": "gif"}}, 422, "samples_format", "png, jpg"),
    ],
)
def test_what_cannot_be_carried_over_is_refused(given: dict[str, Any], status: int, field: str, words: str) -> None:
    with pytest.raises(HttpError) as caught:
        txt2img(**given)
    assert (caught.value.status, caught.value.field) == (status, field)
    assert words in caught.value.detail


def test_scripts_that_are_off_are_nothing() -> None:
    scripts = {"ADetailer": {"args": [False]}, "animatediff": {"args": []}, "ControlNet": {"args": []}}
    assert txt2img(alwayson_scripts=scripts).request == txt2img().request


def test_what_has_no_effect_is_said() -> None:
    assert len(txt2img(save_images=True, comments={"a": 1}).notes) == 2


# ---- img2img ---------------------------------------------------------------------------------------------------------


def test_a_picture_to_start_from() -> None:
    asked = img2img(resize_mode=2, denoising_strength=0.4)
    assert asked.request["source"] == {"strength": 0.4, "resize": "fill"} and set(asked.pictures) == {"image"}
    assert request_of(img2img()).source.strength == 0.75
    assert asked.parameters["init_images"] is None
    assert img2img(include_init_images=True).parameters["init_images"] == [b64(IMAGE)]
    edits = read_body(
        {"prompt": "x", "init_images": [b64(IMAGE)], "image_cfg_scale": 1.5},
        known(is_edit=lambda title: True),
        is_img2img=True,
    )
    assert edits.request["source"] == {"guidance_scale": 1.5}


@pytest.mark.parametrize(("fill", "content"), list(enumerate(("fill", "original", "noise", "nothing"))))
def test_a_mask(fill: int, content: str) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    asked = img2img(mask=b64(mask), inpainting_fill=fill, inpaint_full_res=False, mask_blur=2)
    assert asked.request["mask"] == {"blur": 2.0, "content": content}
    assert asked.pictures["mask"].getbbox() == (0, 0, 32, 64) and asked.request["source"]["resize"] == "stretch"
    asked = img2img(mask=b64(mask), inpaint_full_res_padding=16, inpainting_mask_invert=1)
    assert asked.request["mask"] == {"blur": 4.0, "content": "fill", "area": "masked", "padding": 16}
    assert asked.pictures["mask"].getbbox() == (32, 0, 64, 64) and "resize" not in asked.request["source"]
    request_of(asked)


def test_a_mask_is_read_as_there() -> None:
    clear = Image.new("RGBA", (4, 1), (255, 255, 255, 255))
    clear.putpixel((0, 0), (255, 255, 255, 0))
    clear.putpixel((1, 0), (0, 0, 0, 129))
    assert mask_levels(clear).tobytes() == bytes([0, 255, 255, 255])
    assert mask_levels(Image.new("RGB", (1, 1), (90, 90, 90))).tobytes() == bytes([90])
    small = img2img(mask=b64(Image.new("L", (16, 16), 255)), inpaint_full_res=False)
    assert small.pictures["mask"].size == (64, 64) and "brought to the size" in small.notes[0]


@pytest.mark.parametrize(
    ("given", "status", "field"),
    [
        ({"init_images": []}, 404, "init_images"),
        ({"init_images": ["x", "y"]}, 422, "init_images"),
        ({"resize_mode": 3}, 422, "resize_mode"),
        ({"resize_mode": 4}, 422, "resize_mode"),
        ({"mask_round": False}, 422, "mask_round"),
        ({"latent_mask": "x"}, 422, "latent_mask"),
        ({"initial_noise_multiplier": 1.1}, 422, "initial_noise_multiplier"),
        ({"mask": b64(IMAGE), "mask_blur_x": 1}, 422, "mask_blur_x"),
        ({"mask": b64(IMAGE), "inpainting_fill": 4}, 422, "inpainting_fill"),
    ],
)
def test_pictures_that_cannot_be_are_refused(given: dict[str, Any], status: int, field: str) -> None:
    with pytest.raises(HttpError) as caught:
        img2img(**given)
    assert (caught.value.status, caught.value.field) == (status, field)


# Of every field a value that is not the default.
OTHER: dict[str, Any] = {
    "prompt": "a dog",
    "negative_prompt": "x",
    "styles": ["ink"],
    "seed": 1,
    "subseed_strength": 0.5,
    "sampler_name": "Heun",
    "sampler_index": "Heun",
    "scheduler": "karras",
    "batch_size": 2,
    "n_iter": 2,
    "steps": 9,
    "cfg_scale": 3,
    "width": 64,
    "height": 64,
    "restore_faces": True,
    "tiling": True,
    "eta": 0.5,
    "s_min_uncond": 1,
    "s_churn": 1,
    "s_noise": 2,
    "override_settings": {"samples_format": "jpg"},
    "refiner_checkpoint": "x",
    "disable_extra_networks": True,
    "firstpass_image": "x",
    "comments": {"a": 1},
    "script_name": "x",
    "send_images": False,
    "save_images": True,
    "alwayson_scripts": {"x": {"args": [1]}},
    "force_task_id": "x",
    "infotext": "a dog\nSteps: 9, Sampler: Heun, Seed: 1, Size: 64x64",
    "enable_hr": True,
    "firstphase_width": 64,
    "firstphase_height": 64,
    "hr_scale": 1.5,
    "hr_upscaler": "Lanczos",
    "hr_second_pass_steps": 3,
    "hr_resize_x": 1024,
    "hr_resize_y": 1024,
    "hr_checkpoint_name": "x",
    "hr_sampler_name": "Heun",
    "hr_scheduler": "karras",
    "hr_prompt": "x",
    "hr_negative_prompt": "x",
    "denoising_strength": 0.1,
    "init_images": [b64(IMAGE.rotate(90))],
    "resize_mode": 1,
    "image_cfg_scale": 2,
    "mask": b64(Image.new("L", (64, 64), 128)),
    "mask_blur_x": 1,
    "mask_blur_y": 1,
    "mask_blur": 1,
    "mask_round": False,
    "inpainting_fill": 1,
    "inpaint_full_res": False,
    "inpaint_full_res_padding": 8,
    "inpainting_mask_invert": 1,
    "initial_noise_multiplier": 2,
    "latent_mask": "x",
    "include_init_images": True,
}
# Fields that change nothing here, nor there without another one.
NOTHING = {
    *("do_not_save_samples", "do_not_save_grid"),  # nothing is saved
    "override_settings_restore_afterwards",  # see the test of it
    *("s_tmax", "s_tmin"),  # of churn
    *("script_args", "refiner_switch_at", "subseed"),  # of a script, a refiner, a strength
    *("seed_resize_from_w", "seed_resize_from_h"),  # of each other
}


@pytest.mark.parametrize(
    ("is_img2img", "name"),
    [(False, name) for name in TXT2IMG if name not in NOTHING]
    + [(True, name) for name in IMG2IMG if name not in NOTHING],
)
def test_no_known_field_is_dropped_in_silence(is_img2img: bool, name: str) -> None:
    """It has an effect, or is refused, or a note says that it has none."""
    base: dict[str, Any] = {"prompt": "a <lora:comic:1> cat"}
    if is_img2img:
        base["init_images"] = [b64(IMAGE)]
        base |= {"mask": b64(Image.new("L", (64, 64), 255))} if name.startswith(("mask_", "inpaint")) else {}
    else:
        base |= {"enable_hr": True} if name.startswith(("hr_", "denoising", "firstphase")) else {}
    if name == "infotext":
        del base["prompt"]

    def shown(**given: Any) -> Any:
        asked = read_body(
            {**base, **given}, known(is_edit=lambda title: name == "image_cfg_scale"), is_img2img=is_img2img
        )
        pictures = {role: image.tobytes() for role, image in asked.pictures.items()}
        told = asked.send_images, asked.task, asked.notes, asked.parameters["init_images"] if is_img2img else None
        return asked.request, pictures, asked.settings, told

    plain = shown()
    refused = None
    try:
        assert shown(**{name: OTHER[name]}) != plain
    except HttpError as error:
        refused = error
    assert refused is None or name.split("_")[0] in refused.detail or refused.field == name, refused


# ---- ControlNet ------------------------------------------------------------------------------------------------------


def units(*args: Any, **given: Any) -> Asked:
    return txt2img(width=64, height=64, alwayson_scripts={"ControlNet": {"args": list(args)}}, **given)


def test_a_unit_is_a_control() -> None:
    asked = units(
        {
            "enabled": True,
            "module": "Canny",
            "model": "gesso-edges [12345678]",
            "image": b64(IMAGE),
            "weight": 0.5,
            "guidance_start": 0.1,
            "guidance": 0.8,
            "control_mode": "ControlNet is more important",
            "threshold_a": 64,
            "threshold_b": -1,
            "processor_res": 512,
            "union_control_type": "Hard Edge",
        },
        {"enabled": False, "model": "nope"},
        False,
    )
    (control,) = asked.request["controls"]
    assert control == {
        "model": "gesso-edges",
        "weight": 0.5,
        "start": 0.1,
        "end": 0.8,
        "mode": "control",
        "preprocessor": "canny",
        "parameters": [["low", 64.0]],
        "kind": "canny",
    }
    assert list(asked.pictures) == ["hint:0"]
    assert len(asked.notes) == 2 and "pixel_perfect" in asked.notes[0] and "detect" in asked.notes[1]


@pytest.mark.parametrize(
    "image",
    [
        b64(IMAGE),
        {"image": b64(IMAGE), "mask": None},
        [b64(IMAGE), b64(IMAGE)],
        [{"image": b64(IMAGE), "mask": b64(IMAGE)}],
    ],
)
@pytest.mark.parametrize("name", ["image", "input_image"])
def test_a_units_image_comes_in_many_forms(image: Any, name: str) -> None:
    asked = units({"model": "gesso-edges.safetensors", name: image})
    assert asked.pictures["hint:0"].size == (64, 64) and "preprocessor" not in asked.request["controls"][0]


def test_a_unit_without_an_image_takes_that_of_image_to_image() -> None:
    scripts = {"controlnet": {"args": [{"model": "GESSO-EDGES", "module": "tile_resample"}]}}
    asked = img2img(width=64, height=64, alwayson_scripts=scripts)
    assert asked.request["controls"][0]["preprocessor"] == "tile"
    assert asked.pictures["hint:0"].tobytes() == IMAGE.tobytes()


def test_the_preprocessor_inpaint_gets_a_hole() -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    asked = units({"model": "gesso-edges", "module": "inpaint_only", "image": b64(IMAGE), "mask_image": b64(mask)})
    hint = asked.pictures["hint:0"]
    assert [hint.getpixel((x, 0))[3] for x in (0, 63)] == [0, 255]  # type: ignore[index]


def test_an_ip_adapter_needs_no_preprocessor() -> None:
    asked = units({"model": "ip-adapter_sd15", "module": "ip-adapter-auto", "image": b64(IMAGE)})
    assert asked.request["controls"][0]["model"] == "ip-adapter_sd15"
    assert "preprocessor" not in asked.request["controls"][0]


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ({"model": "None", "module": "reference_only"}, "without a network"),
        ({"model": "nope"}, "no control network"),
        ({"model": "gesso-edges", "module": "openpose_full"}, "no preprocessor"),
        ({"model": "gesso-edges", "image": None}, "image is missing"),
        ({"model": "gesso-edges", "module": "inpaint"}, "mask is missing"),
        ({"model": "gesso-edges", "weight": "x"}, "a number"),
        ({"model": "gesso-edges", "control_mode": "x"}, "expected one of"),
        ({"model": "gesso-edges", "resize_mode": 3}, "expected one of"),
        ({"model": "gesso-edges", "advanced_weighting": [1]}, "not supported"),
        ({"model": "gesso-edges", "union_control_type": "x"}, "not supported"),
        ("unit", "an object"),
    ],
)
def test_units_that_cannot_be_are_refused(unit: Any, words: str) -> None:
    given = {"image": b64(IMAGE), **unit} if isinstance(unit, dict) else unit
    with pytest.raises(HttpError, match=words):
        units(given)


def test_hints_are_brought_to_the_shape_of_the_picture() -> None:
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (10, 5, 30, 15))
    assert fitted(image, (64, 64), "Crop and Resize") is image
    assert fitted(image, (64, 64), "Just Resize").size == (64, 64)
    filled = fitted(image, (64, 64), "Resize and Fill")
    assert filled.size == (64, 64) and filled.getpixel((1, 1)) == (255, 0, 0)  # the colour of the border
    assert filled.getpixel((32, 32)) == (0, 0, 255)
    assert fitted(image, (80, 40), "Resize and Fill") is image


def test_thresholds_out_of_range_are_the_default() -> None:
    canny = module_of("canny")
    assert canny is not None and [slider.name for slider in canny.sliders] == ["low", "high"]
    assert parameters_of(canny, -1, 99999) == [] and parameters_of(canny, 5, 9) == [["low", 5], ["high", 9]]


def test_the_table_of_preprocessors_is_fresh() -> None:
    """Made by `python -m gesso.api.preprocessors`."""
    assert preprocessors.FILE.read_text(encoding="utf-8") == preprocessors.text()


# ---- options, lists, progress ----------------------------------------------------------------------------------------


def test_all_options_may_be_sent_back() -> None:
    """Open WebUI posts what it got, with one value changed."""
    shown = shown_options({}, "gesso-mini.safetensors [12]", "12")
    shown.pop("sd_checkpoint_hash")
    changed = check_options(shown | {"samples_format": "jpg", "jpeg_quality": 70}, shown)
    settings = settings_of(changed)
    assert settings.output == {"format": "jpeg", "quality": 70} and settings.model == "gesso-mini.safetensors [12]"
    assert set(settings.values) <= {
        "noise", "conventions.emphasis", "conventions.ensd", "conventions.uneven_chunks",
        "conventions.round_timesteps", "conventions.discard_penultimate_sigma",
    }  # fmt: skip


def test_names_are_those_of_the_web_ui() -> None:
    names = {row["name"] for row in listing.samplers()}
    assert {"Euler", "Euler a", "DPM++ 2M", "DPM++ SDE", "DPM++ 3M SDE", "UniPC", "LCM", "Restart", "DDIM"} <= names
    schedules = {row["name"]: row["label"] for row in listing.schedulers()}
    assert (
        schedules["automatic"] == "Automatic"
        and schedules["sgm_uniform"] == "SGM Uniform"
        and schedules["ddim"] == "DDIM"
    )
    for name, label in schedules.items():  # every name is understood when it comes back
        request_of(txt2img(scheduler=name)), request_of(txt2img(scheduler=label))
    for row in listing.samplers():
        request_of(txt2img(sampler_name=row["name"]))
    assert [row["name"] for row in listing.upscalers(["RealESRGAN_x4plus"])] == [
        "None",
        "Lanczos",
        "Nearest",
        "R-ESRGAN 4x+",
    ]
    assert listing.latent_modes()[0] == {"name": "Latent"}


def job(**values: Any) -> Job:
    work = Work(request={"prompt": "x", "num_steps": 10, "num_images": 2})
    return Job(id="j", owner="o", work=work, priority=0, created_at=0.0, **values)


def test_progress() -> None:
    idle = progress([], 5.0, None)
    assert idle["progress"] == 0.0 and idle["state"]["job_count"] == 0
    waits = progress([job(status=JobStatus.QUEUED, position=3)], 5.0, None)
    assert waits["progress"] == 0.01 and waits["state"]["job_count"] == 2 and waits["textinfo"].startswith("3 jobs")
    said = {"value": 0.25, "step": 5, "steps": 10, "picture": 1, "pictures": 2}
    draws = progress([job(status=JobStatus.RUNNING, started_at=1.0, progress=said)], 5.0, "QUJD")
    assert draws["progress"] == 0.26 and draws["eta_relative"] == 12.0 and draws["current_image"] == "QUJD"
    assert draws["state"]["sampling_step"] == 5 and draws["state"]["job_no"] == 0
    assert progress([job(status=JobStatus.RUNNING, progress={"value": 1.0})], 5.0, None)["progress"] == 1.0


def test_extras() -> None:
    assert enlarged(IMAGE, read_extras({"upscaler_1": "Lanczos", "upscaling_resize": 1.5}, {})).size == (96, 96)
    assert enlarged(IMAGE, read_extras({"upscaling_resize": 4}, {})).size == (64, 64)  # None leaves it as it is
    to_size = {"resize_mode": 1, "upscaling_resize_w": 128, "upscaling_resize_h": 96, "upscaler_1": "Nearest"}
    assert enlarged(IMAGE, read_extras(to_size, {})).size == (128, 96)
    assert enlarged(IMAGE, read_extras(to_size | {"upscaling_crop": False}, {})).size == (128, 128)
    for given, words in (
        ({"upscaler_1": "X"}, "no upscaler"),
        ({"upscaler_1": "R"}, "a network"),
        ({"gfpgan_visibility": 1}, "face"),
        ({"extras_upscaler_2_visibility": 0.5}, "second"),
        ({"upscaling_resize": 99}, "1 to 8"),
        ({"resize_mode": 2}, "expected 0"),
    ):
        with pytest.raises(HttpError, match=words):
            read_extras(given, {"R": "r"})


def test_a_preprocessor_runs_alone(tmp_path: Path) -> None:
    IMAGE.save(tmp_path / "image.png")
    asked = {"name": "canny", "size": [128, 64], "parameters": {"low": 50}, "mask": False}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    detect(tmp_path)
    with Image.open(tmp_path / "made.png") as hint:
        assert hint.size == (128, 64) and not (tmp_path / "error.json").exists()
    (tmp_path / "asked.json").write_text(json.dumps(asked | {"parameters": {"low": -1}}))
    detect(tmp_path)
    assert "expected 0" in json.loads((tmp_path / "error.json").read_text())["message"]


# ---- the routes, and a worker that the test plays --------------------------------------------------------------------


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Context]]:
    """A server without a worker."""
    with context(tmp_path_factory.mktemp("idle"), rate=10**6) as made, server(made) as address:
        yield address, made


def test_the_key_is_the_password(tmp_path: Path) -> None:
    with context(tmp_path, rate=10**6) as made:
        _, key = made.keys.add("mine")
        with server(made) as address:
            url = f"{address}/sdapi/v1/samplers"
            answer = httpx.get(url)
            assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Basic")
            assert "Incorrect username or password" in answer.json()["detail"]
            assert httpx.get(url, auth=("anybody", "wrong")).status_code == 401
            assert httpx.get(url, auth=("anybody", key)).status_code == 200
            assert httpx.get(url, headers={"Authorization": f"Bearer {key}"}).status_code == 200
            assert httpx.get(url, headers={"Authorization": "Basic ***"}).status_code == 401


def test_errors_have_the_web_uis_shape(idle: tuple[str, Context]) -> None:
    url = f"{idle[0]}/sdapi/v1/txt2img"
    for body, status in (({"sampler_name": "Foo"}, 404), ({"steps": "x"}, 422), ({"prompt": "x", "width": 250}, 422)):
        answer = httpx.post(url, json=body)
        found = answer.json()
        assert answer.status_code == status and {"error", "detail", "body", "errors"} <= set(found), found
    assert answer.json()["field"] == "width" and "multiple of 16" in answer.json()["detail"]
    assert httpx.post(url, content=b"{", headers={"content-type": "application/json"}).status_code == 422
    answer = httpx.post(f"{idle[0]}/sdapi/v1/img2img", json={"init_images": ["http://localhost/x.png"]})
    assert answer.status_code == 422 and "not fetched" in answer.json()["detail"]
    answer = httpx.post(f"{idle[0]}/sdapi/v1/img2img", json={"init_images": [base64.b64encode(b"GIF89a").decode()]})
    assert answer.status_code == 415


@pytest.mark.parametrize("prompt", ["a cat", ""])  # the web UI draws without a prompt, too
def test_a_client_that_leaves_ends_its_job(idle: tuple[str, Context], prompt: str) -> None:
    address, made = idle
    body = {"prompt": prompt, "width": 64, "height": 64}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{address}/sdapi/v1/txt2img", json=body, timeout=0.3)
    end = time.monotonic() + 10
    while made.store.counts().get(JobStatus.QUEUED):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_progress_and_interrupt_are_of_ones_own_work(idle: tuple[str, Context]) -> None:
    address, made = idle
    body = {"prompt": "a cat", "width": 64, "height": 64, "force_task_id": "t1", "n_iter": 2}
    answers: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{address}/sdapi/v1/txt2img", json=body)), daemon=True
    )
    thread.start()
    end = time.monotonic() + 10
    while not made.store.counts().get(JobStatus.QUEUED):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert httpx.get(f"{address}/internal/pending-tasks").json() == {"size": 1, "tasks": ["t1"]}
    held = lease(made)
    made.store.progress(held, {"value": 0.5, "step": 25, "steps": 50, "picture": 1, "pictures": 2})
    made.store.preview(held, "image/jpeg", b"jpeg")
    found = httpx.get(f"{address}/sdapi/v1/progress", params={"skip_current_image": "true", "unknown": "1"}).json()
    assert (found["progress"], found["current_image"], found["state"]["job"]) == (0.51, None, "t1")
    assert httpx.get(f"{address}/sdapi/v1/progress").json()["current_image"] == base64.b64encode(b"jpeg").decode()
    task = httpx.post(f"{address}/internal/progress", json={"id_task": "t1"}).json()
    assert (task["active"], task["queued"], task["progress"]) == (True, False, 0.51)
    assert task["live_preview"] == "data:image/jpeg;base64," + base64.b64encode(b"jpeg").decode()
    assert httpx.post(f"{address}/internal/progress", json={"id_task": "t2"}).json()["completed"]
    assert httpx.post(f"{address}/sdapi/v1/skip").status_code == 501
    assert httpx.post(f"{address}/sdapi/v1/unload-checkpoint").status_code == 501
    assert httpx.post(f"{address}/sdapi/v1/interrupt").json() == {}
    assert made.store.canceled(held)
    thread.join(20)
    answer = answers[0].json()
    info = json.loads(answer["info"])
    assert answer["images"] == [] and info["gesso"]["status"] == "canceled" and info["prompt"] == "a cat"
    assert httpx.get(f"{address}/sdapi/v1/progress").json()["state"]["job_count"] == 0


def test_pictures_to_start_from_are_kept_once_and_within_bounds(tmp_path: Path) -> None:
    body = {"prompt": "a cat", "init_images": [b64(IMAGE)], "width": 64, "height": 64}
    with context(tmp_path, rate=10**6, max_assets=4000) as made, server(made) as address:
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{address}/sdapi/v1/img2img", json=body, timeout=0.5)
        found = [job.work.assets["image"] for job in made.store.list_jobs().jobs]
        assert len(found) == 2 and len(set(found)) == 1
        noise = Image.effect_noise((64, 64), 90).convert("RGB")
        answer = httpx.post(f"{address}/sdapi/v1/img2img", json=body | {"init_images": [b64(noise)]})
        assert answer.status_code == 413 and answer.json()["code"] == "too_large"


def test_options_are_of_a_key(tmp_path: Path) -> None:
    with context(tmp_path, rate=10**6) as made:
        _, ann = made.keys.add("ann")
        _, bob = made.keys.add("bob")
        with server(made) as address, httpx.Client(base_url=f"{address}/sdapi/v1") as asking:
            mine: dict[str, Any] = {"auth": ("x", ann)}
            assert (
                asking.post("/options", json={"samples_format": "jpg", "CLIP_stop_at_last_layers": 2}, **mine).json()
                is None
            )
            shown = asking.get("/options", **mine).json()
            assert (shown["samples_format"], shown["CLIP_stop_at_last_layers"]) == ("jpg", 2)
            assert asking.post("/options", json=shown, **mine).status_code == 200
            assert asking.get("/options", auth=("x", bob)).json()["samples_format"] == "png"
            answer = asking.post("/options", json={"sd_model_checkpoint": "nope"}, **mine)
            assert answer.status_code == 422 and "no model is called" in answer.json()["detail"]
            assert asking.post("/options", json={"s_churn": 1.0}, **mine).status_code == 422
            body = {"steps": -1, "override_settings": {"jpeg_quality": 50}}
            asking.post("/txt2img", json=body, **mine)
            assert asking.get("/options", **mine).json()["jpeg_quality"] == 80
            asking.post("/txt2img", json=body | {"override_settings_restore_afterwards": False}, **mine)
            assert asking.get("/options", **mine).json()["jpeg_quality"] == 50


# ---- real clients, and the built-in model ----------------------------------------------------------------------------

TINY: dict[str, Any] = {"width": 64, "height": 64, "cfg_scale": 4, "seed": 5}


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with drawing_server(tmp_path_factory.mktemp("a1111")) as (address, _):
        yield address


@pytest.fixture(scope="module")
def web(drawing: str) -> Iterator[webuiapi.WebUIApi]:
    api = webuiapi.WebUIApi(host="127.0.0.1", port=int(drawing.rpartition(":")[2]), steps=2)
    yield api
    api.session.close()


@pytest.fixture(scope="module")
def backend(drawing: str) -> Iterator[A1111Webservice]:
    made = A1111Webservice(drawing)
    yield made
    made.disconnect()


def test_webuiapi_draws(web: webuiapi.WebUIApi) -> None:
    result = web.txt2img(prompt="a red car", negative_prompt="blue", n_iter=2, sampler_name="DPM++ 2M Karras", **TINY)
    assert [image.size for image in result.images] == [(64, 64)] * 2
    assert result.info["all_seeds"] == [5, 6] and result.info["sampler_name"] == "DPM++ 2M"
    assert result.info["gesso"]["notices"] == []
    for image, text in zip(result.images, result.info["infotexts"], strict=True):
        assert image.info["parameters"] == text
    assert "Schedule type: Karras" in text and "Seed: 6" in text and "Negative prompt: blue" in text
    assert result.parameters["prompt"] == "a red car"
    assert web.png_info(result.images[1]).info == text
    again = web.txt2img(
        prompt="a red car", negative_prompt="blue", sampler_name="DPM++ 2M Karras", **TINY | {"seed": 6}
    )
    assert again.image.tobytes() == result.images[1].tobytes()  # as there, the second picture is that of the next seed


@pytest.mark.parametrize("more", [{}, {"subseed": 12, "subseed_strength": 0.3}])
@pytest.mark.sampled(2)
def test_the_text_of_a_picture_draws_it_alone(web: webuiapi.WebUIApi, drawing: str, more: dict[str, Any]) -> None:
    """The second of two; with a variation the seeds of the variation grow, and the others stay."""
    result = web.txt2img(prompt="a red car", n_iter=2, **TINY, **more)
    seeds, subseeds = ([5, 5], [12, 13]) if more else ([5, 6], [5, 6])
    assert (result.info["all_seeds"], result.info["all_subseeds"]) == (seeds, subseeds)
    answer = httpx.post(f"{drawing}/sdapi/v1/txt2img", json={"infotext": result.info["infotexts"][1]}, timeout=60)
    alone = Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0])))
    assert alone.tobytes() == result.images[1].tobytes()


def test_webuiapi_hires_lora_and_formats(web: webuiapi.WebUIApi) -> None:
    result = web.txt2img(
        prompt="a red car <lora:woodcut:0.7>",
        enable_hr=True,
        hr_scale=2,
        denoising_strength=0.5,
        override_settings={"samples_format": "jpg", "sd_model_checkpoint": "gesso-mini"},
        **TINY,
    )
    assert (result.image.size, result.image.format) == ((128, 128), "JPEG")
    extra = result.info["extra_generation_params"]
    assert extra["Hires upscaler"] == "Latent" and extra["Lora hashes"].startswith("woodcut: ")
    assert result.info["denoising_strength"] == 0.5 and result.info["sd_model_name"] == "gesso-mini"


def test_webuiapi_inpaints(web: webuiapi.WebUIApi) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    for whole in (True, False):
        result = web.img2img(
            images=[IMAGE],
            mask_image=mask,
            mask_blur=0,
            inpainting_fill=1,
            inpaint_full_res=not whole,
            prompt="a red car",
            **TINY,
        )
        kept, drawn = (40, 0, 64, 64), (0, 0, 24, 64)
        assert result.image.crop(kept).tobytes() == IMAGE.crop(kept).tobytes()
        assert result.image.crop(drawn).tobytes() != IMAGE.crop(drawn).tobytes()
    assert result.info["extra_generation_params"]["Inpaint area"] == "Only masked"


def test_webuiapi_controls(web: webuiapi.WebUIApi) -> None:
    unit = webuiapi.ControlNetUnit(image=IMAGE, module="canny", model="gesso-edges", threshold_a=50, threshold_b=100)
    result = web.txt2img(prompt="a blue car", controlnet_units=[unit], alwayson_scripts={}, **TINY)
    said = result.info["extra_generation_params"]["ControlNet 0"]
    assert said.startswith("Module: canny, Model: gesso-edges") and "Threshold A: 50, Threshold B: 100" in said
    assert any("detect" in notice for notice in result.info["gesso"]["notices"])


def test_webuiapi_asks_for_everything(web: webuiapi.WebUIApi) -> None:
    for name in (
        *("cmd_flags", "sd_vae", "hypernetworks", "face_restorers", "realesrgan_models", "prompt_styles", "embeddings"),
        *("memory", "schedulers", "loras", "latent_upscale_modes"),
    ):
        getattr(web, f"get_{name}")()
    web.refresh_checkpoints()
    (title,) = web.util_get_model_names()
    assert title.startswith("gesso-mini.safetensors [") and web.util_get_current_model() == title
    with contextlib.redirect_stdout(io.StringIO()):
        web.util_set_model("gesso-mini")
    web.util_wait_for_ready()
    assert web.controlnet_version() == 3 and "canny" in web.controlnet_module_list()
    assert web.controlnet_model_list()[0].startswith("gesso-edges [")
    assert "controlnet" in web.get_scripts()["txt2img"]
    assert web.extra_single_image(IMAGE, upscaler_1="Lanczos", upscaling_resize=2).image.size == (128, 128)
    assert [one.size for one in web.extra_batch_images([IMAGE, IMAGE], upscaler_1="Nearest").images] == [(128, 128)] * 2


def test_the_example_of_the_page(drawing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page("serving-a1111.md", drawing)
    names["api"].session.close()
    assert names["again"].info["denoising_strength"] == 0.6
    with Image.open("blue.png") as blue, Image.open("car.png") as red:
        assert blue.size == red.size == (256, 256) and blue.tobytes() != red.tobytes()


def test_sd_backend_client(backend: A1111Webservice) -> None:
    body = DiffusionRequestBody(prompt="a red car", steps=2, **TINY | {"cfg_scale": 4.0})
    result = backend.submit_txt2img(body).wait(timeout=60)
    assert result.seeds == [5] and result.images[0].size == (64, 64) and "gesso" in str(result.raw_info)
    image = result.images[0]
    mask = Image.new("L", (64, 64), 255)
    changed = body.model_copy(update={"init_images": [image], "mask": mask, "prompt": "a yellow boat"})
    assert backend.submit_inpaint(changed).wait(timeout=60).images[0].size == (64, 64)
    canny = next(one for one in backend.get_controlnet_preprocessors() if one.name == "canny")
    unit = ControlNetUnit(
        image=image,
        model=backend.list_controlnet_models()[0],
        preprocessor=PreprocessorParams(typedef=canny, parameter_values={}),
    )
    assert backend.submit_txt2img(body.model_copy(update={"controlnet_units": [unit]})).wait(timeout=60).images
    assert backend.submit_upscale(IMAGE, 128, 128).wait(timeout=60).images[0].size == (128, 128)


def test_sd_backend_client_lists_everything(backend: A1111Webservice) -> None:
    assert backend.list_checkpoints()[0].name == "gesso-mini.safetensors"
    assert {lora.name for lora in backend.list_loras()} == {"comic", "few-steps", "woodcut"}
    assert {"euler", "dpmpp_2m"} <= {sampler.name for sampler in backend.list_samplers()}
    assert [upscaler.name for upscaler in backend.list_upscalers()] == ["Lanczos", "Nearest"]
    assert backend.list_vaes() == [] and backend.list_hypernetworks() == [] and backend.get_styles() == []
    assert "Canny" in backend.get_controlnet_type_categories() and backend.list_schedulers()
    capabilities = backend.get_capabilities()
    assert capabilities.controlnet and capabilities.scheduler and not capabilities.interrogate
    assert {script.name for script in backend.get_script_info()} == {"controlnet"}
    assert backend.progress_check().state.job_count == 0
    assert backend.get_config()["control_net_unit_count"] == 3 and backend.get_latent_upscale_modes()[0] == "Latent"
    for refresh in (backend.refresh_checkpoints, backend.refresh_vae, backend.refresh_loras):
        assert refresh().status_code == 200


def test_sd_backend_client_cancels(backend: A1111Webservice) -> None:
    body = DiffusionRequestBody(prompt="a red car", steps=150, n_iter=4, width=128, height=128)
    handle = backend.submit_txt2img(body)
    end = time.monotonic() + 20
    while (shown := handle.poll()).progress is None or shown.progress <= 0.01:
        assert time.monotonic() < end, shown
        time.sleep(0.05)
    assert handle.cancel()
    with pytest.raises(Exception, match="cancelled"):
        handle.wait(timeout=30)


@pytest.mark.slow
def test_sd_backend_client_previews_a_preprocessor(backend: A1111Webservice) -> None:
    """In a process of its own, which imports torch."""
    canny = next(one for one in backend.get_controlnet_preprocessors() if one.name == "canny")
    found = backend.submit_preprocessor_preview(IMAGE, canny).wait(timeout=120).images[0]
    assert found.size == (512, 512)


@pytest.mark.slow
def test_image_generation_mcp(drawing: str) -> None:
    """Its provider chooses 768x768 and 30 steps by itself."""
    provider_of = pytest.importorskip(
        "image_generation_mcp.providers.sd_webui",
        reason="pip install --no-deps image-generation-mcp: with all its needs it brings a hundred packages",
    )
    types = pytest.importorskip("image_generation_mcp.providers.types")

    async def ask() -> tuple[Any, Any, list[float]]:
        provider = provider_of.SdWebuiImageProvider(drawing)
        shares: list[float] = []
        try:
            capabilities = await provider.discover_capabilities()
            model = capabilities.models[0].model_id
            first = await provider.generate(
                "a red car",
                negative_prompt="blue",
                model=model,
                progress_callback=lambda share, text: shares.append(share),
            )
            given = types.InputImage(data=first.image_data, content_type="image/png")
            return first, await provider.generate("a blue car", reference_images=[given], strength=0.2), shares
        finally:
            await provider.aclose()

    first, second, shares = asyncio.run(ask())
    assert first.provider_metadata["model"].startswith("gesso-mini.safetensors [") and "seed" in first.provider_metadata
    assert second.provider_metadata["edited"] and max(shares) > 0.01
    assert Image.open(io.BytesIO(second.image_data)).size == (768, 768)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
@pytest.mark.skipif(not SILLYTAVERN, reason="GESSO_SILLYTAVERN does not name the folder of the npm package sillytavern")
def test_sillytaverns_own_router(drawing: str) -> None:
    words = ("node", str(Path(__file__).with_name("sillytavern.mjs")), SILLYTAVERN)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().split()[-1]
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/sd", timeout=60) as asking:
                _ask_as_sillytavern(asking, drawing)
        finally:
            process.kill()


def _ask_as_sillytavern(asking: httpx.Client, url: str) -> None:
    where = {"url": url, "auth": "user:password"}

    def post(path: str, **more: Any) -> Any:
        answer = asking.post(path, json={**where, **more})
        assert answer.status_code == 200, (path, answer.text)
        return answer.json() if answer.headers["content-type"].startswith("application/json") else answer.text

    post("/ping")
    assert post("/upscalers")[:2] == ["None", "Latent"] and post("/vaes") == []
    assert "Euler a" in post("/samplers") and "karras" in post("/schedulers")
    (model,) = post("/models")
    assert post("/get-model") == model["value"]
    post("/set-model", model=model["value"])
    body = {
        "prompt": "a red car",
        "negative_prompt": "",
        "sampler_name": "Euler a",
        "scheduler": "karras",
        "steps": 2,
        "cfg_scale": 4,
        "width": 64,
        "height": 64,
        "restore_faces": False,
        "enable_hr": False,
        "hr_upscaler": "Latent",
        "hr_scale": 2,
        "denoising_strength": 0.7,
        "hr_second_pass_steps": 0,
        "seed": 3,
        "clip_skip": 1,
        "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic", "forge_additional_modules": []},
        "override_settings_restore_afterwards": True,
        "save_images": True,
        "send_images": True,
    }
    pictures = [post("/generate", **body)["images"][0]]
    post("/sdcpp/ping")
    assert post("/sdcpp/models")["data"][0]["id"] == "gesso-mini"
    pictures.append(post("/sdcpp/generate", **body | {"model": "gesso-mini"})["images"][0])
    post("/drawthings/ping")
    pictures.append(post("/drawthings/generate", **body)["images"][0])
    shown = [Image.open(io.BytesIO(base64.b64decode(text))) for text in pictures]
    assert shown[0].size == (64, 64) and len({image.tobytes() for image in shown}) == 1


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(HttpError) as caught:
        listing.find_model("nope", [])
    assert "GET /sdapi/v1/sd-models" in caught.value.detail

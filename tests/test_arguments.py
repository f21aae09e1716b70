"""Wrong arguments of the public functions: one line that names the argument, what it is, and what is expected."""

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gesso
from gesso.arguments import ArgumentError
from tiny_models import save_tiny_mini

PICTURE = Image.new("RGB", (32, 32), "red")
# Values that are right for an argument although they are among the wrong ones.
RIGHT = {"scale": (7, 2.5), "tolerance": (7, 2.5), "fresh": (7, 2.5), "threads": (7,), "memory": (7,)}
RIGHT |= {"rows_per_call": (7,), "max_models": (7,)}
WRONG: tuple[Any, ...] = (7, 2.5, True, b"x", [7], {"zz": {}}, (1, 2, 3), object())


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("arguments")
    model = save_tiny_mini(folder / "tiny.safetensors")
    library = gesso.Library(folder / "library")
    studio = gesso.Studio(library=library)
    draw = studio.open(model)
    (drawn,) = draw("a cat")
    PICTURE.save(path := str(folder / "plain.png"))
    drawn.save(recipe_path := folder / "drawn.png")
    recipe = drawn.recipe
    return {
        "upscale": (gesso.upscale, {"image": PICTURE, "size": (8, 8), "upscaler": "lanczos"}),
        "upscale by scale": (gesso.upscale, {"image": PICTURE, "scale": 2.0}),
        "preprocess": (
            gesso.preprocess,
            {"name": "canny", "image": PICTURE, "size": (32, 32), "parameters": {}, "mask": None},
        ),
        "read_image": (gesso.read_image, {"path": path}),
        "read_hint": (gesso.read_hint, {"path": path}),
        "read_mask": (gesso.read_mask, {"path": path}),
        "read_metadata": (gesso.read_metadata, {"path": recipe_path}),
        "read_picture": (gesso.read_picture, {"path": recipe_path}),
        "read_recipe": (gesso.read_recipe, {"path": recipe_path}),
        "strip_metadata": (gesso.strip_metadata, {"source": path, "target": folder / "new.png", "overwrite": True}),
        "copy_metadata": (
            gesso.copy_metadata,
            {"source": recipe_path, "picture": path, "target": folder / "copy.png", "overwrite": True},
        ),
        "hint_digest": (gesso.hint_digest, {"image": PICTURE}),
        "load_upscaler": (gesso.load_upscaler, {"path": folder / "absent.pth"}),
        "replay": (
            gesso.replay,
            {
                "path": recipe_path,
                "sources": None,
                "places": gesso.RecipePlaces(model=model),
                "threads": 1,
                "tolerance": 2,
                "library": library,
                "on_event": lambda event: None,
                "cancel": None,
            },
        ),
        "replay_recipe": (
            gesso.replay_recipe,
            {
                "pipeline": draw,
                "original": drawn.image,
                "recipe": recipe,
                "tolerance": 2,
                "on_progress": None,
                "lossy": False,
                "image": None,
                "mask": None,
                "cancel": None,
            },
        ),
        "weighted_dialect": (
            gesso.weighted_dialect,
            {"name": "x", "read": lambda text: [], "emphasis": "no_norm", "whole_words": False},
        ),
        "EngineOptions": (
            gesso.EngineOptions,
            {"device": "cpu", "dtype": "auto", "threads": 1, "rows_per_call": 1, "max_models": 1, "memory": None},
        ),
        "ModelChoice": (
            gesso.ModelChoice,
            dict.fromkeys(("refiner", "vae", "unet", "family", "prediction")) | {"model": "gesso-mini"},
        ),
        "RecipePlaces": (gesso.RecipePlaces, dict.fromkeys(("model", "refiner", "vae", "unet", "files"))),
        "NamedFiles": (gesso.NamedFiles, {"files": {}, "builtin": True}),
        "NamedFiles.find": (gesso.NamedFiles().find, {"kind": "lora", "name": "comic"}),
        "Sources": (gesso.Sources, {"image": PICTURE, "mask": None, "hints": ()}),
        "Studio": (gesso.Studio, {"options": None, "library": library, "offline": False}),
        "Studio.open": (studio.open, {"choice": model}),
        "Studio.resolve": (studio.resolve, {"name": "gesso-mini"}),
        "Studio.open_recipe": (studio.open_recipe, {"recipe": recipe, "places": gesso.RecipePlaces(model=model)}),
        "Studio.preview": (studio.preview, {"pipeline": draw, "path": folder / "live.png"}),
        "Engine": (
            gesso.Engine,
            {"device": "cpu", "dtype": "auto", "rows_per_call": 1, "max_models": 1, "memory": None, "on_event": None},
        ),
        "Engine.load": (studio.engine.load, {"model": model, "family": None, "vae": None, "unet": None}),
        "Engine.load_control": (studio.engine.load_control, {"path": model, "model": draw.model}),
        "TextToImage": (
            gesso.TextToImage,
            {"engine": studio.engine, "model": draw.model, "refiner": None, "finder": None},
        ),
        "a call": (
            lambda **values: list(draw(**values)),
            {"request": "a cat", "on_progress": None, "image": None, "mask": None, "cancel": None},
        ),
        "resolve": (draw.resolve, {"request": "a cat"}),
        "Library": (gesso.Library, {"root": folder / "library"}),
        "Library.add_folder": (library.add_folder, {"path": folder, "layout": "auto"}),
        "Library.hashed": (library.hashed, {"entry": library.entries()[0]}),
        "LibraryFinder": (gesso.LibraryFinder, {"library": library, "files": {}, "fresh": 5.0}),
        "LibraryFinder.find": (gesso.LibraryFinder(library).find, {"kind": "lora", "name": "comic"}),
        "Recipe.from_json": (gesso.Recipe.from_json, {"text": recipe.to_json()}),
        "Request.from_json": (gesso.TextToImageRequest.from_json, {"text": recipe.request.to_json()}),
        "Request.from_dict": (gesso.TextToImageRequest.from_dict, {"values": recipe.request.to_dict()}),
        "Picture.save": (drawn.save, {"path": folder / "again.png"}),
        "SAMPLERS.find": (gesso.SAMPLERS.find, {"text": "euler"}),
    }


def _wrong(functions: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for name, (_, arguments) in functions.items():
        for argument in arguments:
            for value in WRONG:
                is_flag = isinstance(arguments[argument], bool) and isinstance(value, bool)
                is_dict = argument == "values" and isinstance(value, dict)
                is_right = is_dict or any(value is right for right in RIGHT.get(argument, ()))
                if not (is_flag or is_right):
                    yield name, argument, value


def test_every_wrong_argument_is_named_on_one_line(functions: dict[str, Any]):
    """gesso's error, with the argument in its message, whatever is passed for it."""
    told = []
    for name, argument, value in _wrong(functions):
        function, arguments = functions[name]
        try:
            function(**{**arguments, argument: value})
            told.append(f"{name}({argument}={value!r}) was taken")
        except gesso.GessoError as error:
            if "\n" in error.message or argument not in (error.message + str(error.field)):
                told.append(f"{name}({argument}={value!r}): {error.message}")
        except Exception as error:
            told.append(f"{name}({argument}={value!r}) raised {type(error).__name__}: {error}")
    assert told == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gesso.upscale(PICTURE, scale="a"), "`scale` is 'a', expected how many times larger, such as 2"),  # type: ignore[arg-type]
        (
            lambda: gesso.preprocess("canny", PICTURE, 256),  # type: ignore[arg-type]
            "`size` is 256, expected width and height in pixels, such as (512, 768)",
        ),
        (
            lambda: gesso.preprocess("canny", PICTURE, parameters={"low": "a"}),  # type: ignore[dict-item]
            "`parameters['low']` is 'a', expected a number",
        ),
        (lambda: gesso.EngineOptions(threads="a"), "`threads` is 'a', expected a whole number of at least 1, or None"),  # type: ignore[arg-type]
        (
            lambda: gesso.NamedFiles({"loar": {}}),  # type: ignore[dict-item]
            "`files` has the kind 'loar', expected one of lora, embedding, control, upscaler, image_encoder "
            "(did you mean 'lora'?)",
        ),
        (
            lambda: gesso.NamedFiles({"lora": {"ink": 7}}),  # type: ignore[dict-item]
            "`files['lora']['ink']` is 7, expected a path",
        ),
        (
            lambda: gesso.Sources(hints=PICTURE),  # type: ignore[arg-type]
            "`hints` is <PIL.Image.Image image mode=RGB size=32x32 at ",
        ),
    ],
)
def test_what_is_expected(call: Callable[[], Any], message: str):
    with pytest.raises(ArgumentError) as caught:
        call()
    assert caught.value.message.startswith(message)
    assert (caught.value.code, isinstance(caught.value, ValueError)) == ("invalid_value", True)


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (
            gesso.TextToImageRequest,
            {"prompt": "a", "foo": 2},
            "TextToImageRequest has no field 'foo'. Fields: prompt, ",
        ),
        (
            gesso.TextToImageRequest,
            {"prompt": "a", "num_step": 2},
            "TextToImageRequest has no field 'num_step' (did you ",
        ),
        (
            gesso.TextToImageRequest,
            {"prompt": "a", "cfg_scale": 2},
            "TextToImageRequest has no field 'cfg_scale' (did you mean 'guidance_scale'?)",
        ),
        (
            gesso.TextToImageRequest,
            {"prompt": "a", "denoising_strength": 0.2},
            "TextToImageRequest has no field 'denoising_strength' (did you mean 'source=Source(strength=...)'?)",
        ),
        (gesso.Source, {"strenght": 0.2}, "Source has no field 'strenght' (did you mean 'strength'?)"),
        (gesso.LoraUse, {"name": "a", "wieght": 1}, "LoraUse has no field 'wieght' (did you mean 'weight'?)"),
        (gesso.HiresPass, {"scal": 2}, "HiresPass has no field 'scal' (did you mean 'scale'?)"),
        (gesso.ControlUse, {"wieght": 1}, "ControlUse has no field 'wieght' (did you mean 'weight'?)"),
        (gesso.EngineOptions, {"thread": 1}, "EngineOptions has no field 'thread' (did you mean 'threads'?)"),
        (gesso.ModelChoice, {"modle": 1}, "ModelChoice has no field 'modle' (did you mean 'model'?)"),
    ],
)
def test_a_field_that_there_is_not(make: Callable[..., Any], values: dict[str, Any], message: str):
    with pytest.raises(gesso.GessoError) as caught:
        make(**values)
    assert caught.value.message.startswith(message)
    assert caught.value.field in values


def test_fields_are_given_by_name():
    with pytest.raises(
        gesso.RequestError, match=r"^TextToImageRequest\('a cat'\): give fields by their names, such as "
    ):
        gesso.TextToImageRequest("a cat")  # type: ignore[misc]


def test_numbers_of_numpy_are_numbers():
    assert gesso.upscale(PICTURE, scale=np.float32(2)).size == (64, 64)  # type: ignore[arg-type]
    assert gesso.upscale(PICTURE, [np.int64(8), 8]).size == (8, 8)  # type: ignore[arg-type]
    assert gesso.EngineOptions(threads=np.int64(2)).threads == 2  # type: ignore[arg-type]


def test_requests_are_copied_as_ever(tmp_path: Path):
    request = gesso.TextToImageRequest(prompt="a", source=gesso.Source(strength=0.5))
    assert pickle.loads(pickle.dumps(request)) == copy.deepcopy(request) == request
    assert replace(request, seed=3).seed == 3

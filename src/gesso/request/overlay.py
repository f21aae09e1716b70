"""A request that starts from another one: what is set anew wins, the rest stays."""

from dataclasses import fields

from gesso.request.presets import PRESETS
from gesso.request.request import TextToImageRequest

# What only goes with a picture to start from.
_OF_A_PICTURE = ("strength", "mask_content", "mask_area", "mask_padding", "resize", "outpaint")


def overlay(base: TextToImageRequest, over: TextToImageRequest, *, with_image: bool) -> TextToImageRequest:
    """The base with every field of `over` that is not as a request has it where nothing is said.

    A preset in `over` brings its own conventions: those of the base go. A sampler in `over` goes with its own schedule
    and eta. with_image: whether a picture to start from is given; without one, and where the base names none, what only
    goes with a picture is left out. The result is open where both are.
    """
    names = [field.name for field in fields(TextToImageRequest)]
    defaults = {field.name: field.default for field in fields(TextToImageRequest)}
    values = {name: getattr(base, name) for name in names}
    said = {name: getattr(over, name) for name in names if getattr(over, name) != defaults[name]}
    if "preset" in said and said["preset"] != base.preset:
        values |= dict.fromkeys(PRESETS["gesso"])
        values["noise"] = None
    if "sampler" in said and said["sampler"] != base.sampler:
        values |= {"schedule": None, "eta": None, "sigmas": None}
    if {"schedule", "num_steps"} & said.keys():
        values["sigmas"] = None
    if "sigmas" in said:
        values |= {"schedule": None, "num_steps": None}
    if not with_image and base.image is None:
        values |= dict.fromkeys(_OF_A_PICTURE)
    if values["schedule"] == "own" and values["sigmas"] is None:
        values["schedule"] = None
    return TextToImageRequest(**(values | said))

"""Overlays: a request that starts from another one and overrides some of its fields."""

from gesso.request.request import ROWS, TextToImageRequest, flat, nested

# What only goes with a picture to start from.
_OF_A_PICTURE = (
    *("source.strength", "source.resize", "source.outpaint"),
    *("mask.content", "mask.area", "mask.padding"),
)
# What a preset decides of every picture.
_OF_A_PRESET = tuple(
    path
    for path, row in ROWS.items()
    if row.field.presets and path not in _OF_A_PICTURE and path.split(".")[0] != "hires"
)


def overlay(base: TextToImageRequest, over: TextToImageRequest, *, with_image: bool) -> TextToImageRequest:
    """The base with every field that is set in `over`.

    A preset in `over` brings its own conventions: those of the base go. A sampler in `over` goes with its own schedule
    and eta. with_image: whether a picture to start from is given; without one, and where the base names none, what only
    goes with a picture is left out. The result is open where both are.
    """
    values, asked, nothing = flat(base), flat(over), flat(TextToImageRequest(prompt=""))
    changes = {path: value for path, value in asked.items() if path == "prompt" or value != nothing[path]}
    if changes.get("preset", base.preset) != base.preset:
        values |= dict.fromkeys(_OF_A_PRESET)
    if changes.get("sampler", base.sampler) != base.sampler:
        values |= {"schedule": None, "eta": None, "sigmas": None}
    if {"schedule", "num_steps"} & changes.keys():
        values["sigmas"] = None
    if "sigmas" in changes:
        values |= {"schedule": None, "num_steps": None}
    if not with_image and base.source.image is None:
        values |= dict.fromkeys(_OF_A_PICTURE)
    if values["schedule"] == "own" and values["sigmas"] is None:
        values["schedule"] = None
    return TextToImageRequest(**nested(values | changes))

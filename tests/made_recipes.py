"""A recipe for tests that draw nothing."""

from typing import Any

from gesso.request.environment import Environment
from gesso.request.presets import PRESETS
from gesso.request.recipe import Recipe, WeightFile
from gesso.request.request import NAMED, ResolvedRequest, nested


def make_recipe(**values: Any) -> Recipe:
    """A valid recipe; values are fields of its request, by any name that the table has for them."""
    request: dict[str, Any] = {
        "prompt": "a cat",
        "width": 64,
        "height": 64,
        "num_steps": 20,
        "guidance_scale": 4.0,
        "guidance_rescale": 0.0,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "eta": 0.0,
        "seed": 5,
        "noise": "philox",
        "clip_skip": 1,
        "preset": "gesso",
        **{path: value for path, value in PRESETS["gesso"].items() if path.startswith(("conventions.", "mask."))},
    }
    return Recipe(
        request=ResolvedRequest(**nested(request | {NAMED[name].path: value for name, value in values.items()})),
        model="gesso-mini",
        family="gesso-mini",
        files=(WeightFile(name="gesso-mini.safetensors", sha256="0123456789abcdef" * 4),),
        environment=Environment(
            gesso="0.1.0",
            torch="2.13.0",
            python="3.11.7",
            device="cpu x86_64 AVX2",
            dtype="float32",
            threads=2,
            rows_per_call=1,
        ),
        notices=("ignored: 'zxqw'",),
    )

"""The options of the command line for the fields and arguments that errors and notices name in backticks."""

from gesso.errors import GessoError, in_words

# Field of a request, or argument -> option. One row a field that an option sets, whatever the command.
OPTIONS = {
    "allow_nonfinite": "--allow-nonfinite",
    "control": "--control",
    "controls": "--control",
    "device": "--device",
    "dtype": "--dtype",
    "dynamic_prompts": "--dynamic-prompts",
    "embeddings": "--embedding",
    "encoders": "--encoder",
    "family": "--family",
    "font": "--font",
    "force": "--force",
    "hints": "--hint",
    "hires": "--hires",
    "image": "--image",
    "in_place": "--in-place",
    "into": "--into",
    "kind": "--kind",
    "layout": "--layout",
    "loras": "--lora",
    "mask": "--mask",
    "mask_invert": "--mask-invert",
    "memory": "--memory",
    "model": "--model",
    "name": "--name",
    "output": "--output",
    "overwrite": "--overwrite",
    "prediction": "--prediction",
    "preview_model": "--preview-model",
    "recipe": "--recipe",
    "refiner": "--refiner",
    "sampler": "--sampler",
    "schedule": "--schedule",
    "seed": "--seed",
    "set": "--set",
    "sigmas": "--sigmas",
    "size": "--size",
    "style": "--style",
    "styles": "--styles",
    "syntax": "--syntax",
    "tiling": "--tiling",
    "to": "--to",
    "unet": "--unet",
    "upscalers": "--upscaler",
    "vae": "--vae",
    "wildcards": "--wildcards",
}


def in_options(text: str) -> str:
    """A message with options in place of the fields that it names; others stay as they are."""
    return in_words(text, _option)


def line_of(error: GessoError) -> str:
    """An error on one line, in the terminal's words."""
    return in_options(error.one_line)


def _option(field: str, value: str | None) -> str | None:
    option = OPTIONS.get(field)
    return option if option is None or value is None else f"{option} {value}"

"""Settings of Draw Things: JSON in the XMP of a picture, beside a summary in words."""

import html
import re
from collections.abc import Mapping
from typing import Any

from gesso.errors import short
from gesso.metadata.picture_metadata import Draft, PictureMetadata, pairs_of, real, stem_of
from gesso.request.checks import parse_json_object

XMP = "XML:com.adobe.xmp"  # keyword of the text chunk
_MARK = "Draw Things</xmp:CreatorTool>"
_COMMENT = re.compile(r"<exif:UserComment>\s*+(?:<rdf:Alt>\s*+)?(?:<rdf:li[^>]{0,100}>)?([^<]{1,1000000})<")
_NUMBERS = {"steps": "num_steps", "scale": "guidance_scale", "seed": "seed"}
_NOISE = {"Torch CPU Compatible": "cpu", "NVIDIA GPU Compatible": "nv", "Nvidia GPU Compatible": "nv"}
_READ = (*_NUMBERS, "c", "uc", "model", "sampler", "size", "strength", "seed_mode", "lora", "v2", "profile")


def is_draw_things(xmp: str) -> bool:
    """Whether Draw Things wrote this XMP."""
    return _MARK in xmp


def from_xmp(xmp: str) -> PictureMetadata:
    """The settings in the XMP of a picture. Raises RequestError (a GessoError) where there is no JSON object."""
    match = _COMMENT.search(xmp)
    return from_draw_things(parse_json_object(html.unescape(match[1]) if match else "", "exif:UserComment"))


def from_draw_things(stored: Mapping[str, Any]) -> PictureMetadata:
    """The settings of a picture."""
    draft = Draft(preset="a1111")
    for key, path in (("c", "prompt"), ("uc", "negative_prompt")):
        value = stored.get(key)
        draft.set(path, value if isinstance(value, str) else "", key)
    for key, path in _NUMBERS.items():
        draft.number(path, stored.get(key), key)
    draft.sampler(stored.get("sampler"), None)
    if match := re.fullmatch(r"(\d{1,6})x(\d{1,6})", str(stored.get("size"))[:32]):
        draft.set("width", int(match[1]), "size")
        draft.set("height", int(match[2]), "size")
    strength = real(stored.get("strength"))
    if strength is not None and strength < 1:  # 1 is a picture from text alone
        draft.set("source.strength", strength, "strength")
    mode = stored.get("seed_mode")
    draft.set("noise", _NOISE.get(str(mode)), "seed_mode")
    if mode is not None and str(mode) not in _NOISE:
        draft.note(f"ignored: seed_mode: {short(mode)} is Draw Things' own noise, so pictures differ", field="noise")
    for entry in entries[:32] if isinstance(entries := stored.get("lora"), list) else ():
        if isinstance(entry, dict):
            draft.lora(entry.get("model"), entry.get("weight"))
    draft.ignored(stored, _READ)
    model = stored.get("model")
    pairs = pairs_of(stored)
    return draft.build("Draw Things", pairs=pairs, model=stem_of(model))

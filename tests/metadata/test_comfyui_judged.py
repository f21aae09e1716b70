"""ComfyUI's own templates, judged by hand: what a person reads from the drawing is what gesso reads.

comfyui_judged.json has one line for each of 60 drawings that were picked at random, and for all of Stable Diffusion XL.
It was written by reading the nodes, their links and values, not by running gesso. A long text is given by its beginning
and its end; a key that is missing says that gesso must find nothing there.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from gesso.errors import GessoError
from gesso.metadata.comfyui import from_workflow
from gesso.metadata.picture_metadata import PictureMetadata
from gesso.metadata.reading import read_metadata

JUDGED: list[dict[str, Any]] = json.loads(Path(__file__).with_name("comfyui_judged.json").read_text("utf-8"))
SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")


def templates() -> dict[str, Path]:
    """The drawings by name. Skips where the package is not installed."""
    package = importlib.util.find_spec("comfyui_workflow_templates_json")
    if package is None or not package.submodule_search_locations:
        pytest.skip("needs ComfyUI's templates (comfyui-workflow-templates-json, in the dev extra)")
    return {path.stem: path for path in Path(package.submodule_search_locations[0]).glob("**/*.json")}


def drawing(name: str) -> str:
    """The text of a drawing. Skips where the installed templates no longer have it."""
    found = templates()
    if name not in found:
        pytest.skip(f"the installed templates have no {name}")
    return found[name].read_text("utf-8")


def same_text(found: str | None, judged: str | None) -> bool:
    begin, gap, end = (judged or "").partition(" ... ")
    if gap:
        return (found or "").startswith(begin.rstrip()) and (found or "").endswith(end)
    return (found or "") == begin


@pytest.mark.parametrize("judged", JUDGED, ids=[judged["file"] for judged in JUDGED])
def test_a_drawing_is_read_as_a_person_reads_it(judged: dict[str, Any]):
    found = from_workflow(drawing(judged["file"]))
    request = found.request
    assert found.model == judged["model"]
    assert same_text(request.prompt, judged["prompt"])
    assert same_text(request.negative_prompt, judged["negative"])
    assert (request.seed, request.num_steps, request.guidance_scale) == (judged["seed"], judged["steps"], judged["cfg"])
    assert (request.sampler, request.schedule) == (judged["sampler"], judged["schedule"])
    assert [request.width, request.height] == judged.get("size", [None, None])
    assert [[use.name, use.weight] for use in request.loras] == judged.get("loras", [])
    assert request.refiner_switch_at == judged.get("switch")
    assert request.guidance_rescale == judged.get("rescale")
    assert (None if request.sigmas is None else list(request.sigmas)) == judged.get("sigmas")
    assert (request.source.guidance_scale if request.source else None) == judged.get("image_cfg")
    assert (request.source.strength if request.source else None) == pytest.approx(judged.get("strength"))
    hires = request.hires
    assert (None if hires is None else {"scale": hires.scale, "steps": hires.num_steps}) == judged.get("hires")
    said = "\n".join(found.notices)
    for words in judged["told"]:
        assert any(one in said for one in words.split("|")), words


def with_sampler() -> list[Path]:
    """All templates with one of ComfyUI's own samplers, also in a subgraph."""
    found = []
    for path in sorted(templates().values()):
        drawn = json.loads(path.read_text("utf-8"))
        graphs = [drawn, *(drawn.get("definitions") or {}).get("subgraphs", [])] if isinstance(drawn, dict) else []
        if any(node.get("type") in SAMPLERS for graph in graphs for node in graph.get("nodes", [])):
            found.append(path)
    return found


def gaps(found: PictureMetadata) -> list[str]:
    """Settings that are missing without a word."""
    request, said = found.request, "\n".join(found.notices)
    return [
        name
        for name, value, words in (
            ("model", found.model, ()),
            ("steps", request.num_steps, ("steps",)),
            ("guidance", request.guidance_scale, ("guidance", "cfg")),
            ("sampler", request.sampler, ("known sampler",)),
            ("seed", request.seed, ("seed", "noise")),
            ("size", request.width, ("size", "source picture", "audio")),
            ("prompt", request.prompt or None, ("prompt", "source picture")),
        )
        if value in (None, "") and not any(word in said.lower() for word in words)
    ]


# Drawings whose gap is no fault: a sound has no size, and one text is empty in the drawing.
GAPS = {"audio_minimax_music_3.json": ["size"], "video_minimax_h3_i2v_continuation.json": ["prompt"]}


@pytest.mark.slow
def test_every_drawing_with_a_sampler_is_read():
    paths = with_sampler()
    refused, wanting = [], {}
    for path in paths:
        try:
            if missing := gaps(from_workflow(path.read_text("utf-8"))):
                wanting[path.name] = missing
        except GessoError as error:
            refused.append(f"{path.name}: {error}")
    assert len(paths) > 200 and not refused, refused
    assert wanting.items() <= GAPS.items()


def pictures() -> list[Path]:
    """The pictures of ComfyUI's templates: 264 in the package of November 2026, most of them without settings."""
    found = []
    for kind in ("api", "image", "other", "video"):
        package = importlib.util.find_spec(f"comfyui_workflow_templates_media_{kind}")
        for folder in (package.submodule_search_locations or ()) if package is not None else ():
            found += [path for path in Path(folder).rglob("*") if path.suffix in (".webp", ".png", ".jpg")]
    return sorted(found)


@pytest.mark.slow
def test_the_pictures_of_the_templates_are_read_or_have_no_settings():
    """Needs a package of 90 MB: pip install --no-deps comfyui-workflow-templates-media-image."""
    files = pictures()
    if not files:
        pytest.skip("needs the pictures of ComfyUI's templates (comfyui-workflow-templates-media-image)")
    read = []
    for path in files:
        if b"class_type" in path.read_bytes():
            found = read_metadata(path)
            assert found.tool == "ComfyUI", path.name
            assert not gaps(found), path.name
            read.append(path.name)
        else:
            with pytest.raises(GessoError) as caught:
                read_metadata(path)
            assert caught.value.code == "no_settings", path.name
    assert read

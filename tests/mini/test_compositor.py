"""Pictures drawn many at a time are those drawn one at a time."""

import numpy as np
import pytest
import torch
from PIL import Image

from gesso.mini.compositor import Compositor, SceneLayout, lanczos, lay_out
from gesso.scenes.render import Renderer
from gesso.scenes.scene import Item, Scene, SceneSampler
from gesso.scenes.vocabulary import COLOURS
from toy_training import OBJECTS, glyphs

MIX = dict.fromkeys(
    ("single", "background", "colours", "counting", "two", "position", "attribution", "size", "style"), 1.0
)


def ink():
    """The toy's glyphs with soft edges and a pattern, which shows every error of scaling."""
    found = glyphs().astype(float)
    y, x = np.mgrid[:128, :128]
    found *= (0.6 + 0.4 * np.sin(x / 3) * np.cos(y / 5))[None, ..., None]
    return found.astype(np.uint8)


def scenes(count):
    sampler, rng = SceneSampler(OBJECTS, MIX), np.random.default_rng(0)
    return [sampler(rng) for _ in range(count)]


def levels(pixels):
    return ((pixels + 1) * 127.5).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("size", [64, 128])
def test_both_renderers_agree(size):
    shown = scenes(60)
    ours = levels(Compositor(ink())(lay_out(shown), size))
    renderer = Renderer(ink())
    gaps = np.abs(ours - np.stack([renderer(scene, size) for scene in shown]))
    assert gaps.max() <= 2  # levels: Pillow's weights are fixed-point numbers, a value in the middle rounds elsewhere
    assert (gaps > 0.5).mean() < 1e-3


def test_lanczos_is_pillows():
    line = np.random.default_rng(0).integers(0, 256, (1, 128), dtype=np.uint8)
    for size in (23, 50, 128, 201):
        theirs = np.asarray(Image.fromarray(line).resize((size, 1), Image.Resampling.LANCZOS))[0]
        assert np.abs((lanczos(128, size) @ line[0]).round().clip(0, 255) - theirs).max() <= 1  # rounding


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.5), (1.0, 1.0), (0.5, -0.1), (2.0, 2.0)])
def test_what_sticks_out_is_cut_off(x, y):
    scene = Scene("single", "green", (Item(0, x, y, 0.5),))
    ours = levels(Compositor(ink())(lay_out([scene]), 64))[0]
    assert np.abs(ours - Renderer(ink())(scene, 64)).max() <= 2


def test_a_layout_is_the_scene():
    scene = Scene("attribution", "blue", (Item(2, 0.25, 0.5, 0.44, "red"), Item(1, 0.75, 0.5, 0.4)))
    layout = lay_out([scene, Scene("single", "white", (Item(0, 0.5, 0.5, 0.7, style="grayscale"),))])
    assert len(layout) == 2
    assert (layout.glyphs >= 0).sum(axis=1).tolist() == [2, 1]
    assert layout.backgrounds.tolist() == [[44, 104, 224], [255, 255, 255]]
    assert layout.places[0, 1].tolist() == [0.75, 0.5, 0.4]
    assert layout.part(1, 2).glyphs.tolist() == layout.glyphs[1:].tolist()


def test_impossible_layouts_are_refused():
    with pytest.raises(ValueError, match="both red and grayscale"):
        lay_out([Scene("style", "white", (Item(0, 0.5, 0.5, 0.7, "red", "grayscale"),))])
    large = SceneLayout(np.zeros((1, 4), np.int32), np.full((1, 4, 3), 1.5), np.zeros((1, 3), np.uint8))
    with pytest.raises(ValueError, match="larger than the picture"):
        Compositor(ink())(large, 64)


def test_pictures_stay_exact_inside_autocast():
    """The atlas is scaled by matrix products, which autocast would round to three digits."""
    layout, compositor = lay_out(scenes(8)), Compositor(ink())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = compositor(layout, 64)
    assert torch.equal(inside, compositor(layout, 64))
    assert inside.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_the_same():
    layout = lay_out(scenes(60))
    gaps = levels(Compositor(ink(), "cuda")(layout, 128).cpu()) - levels(Compositor(ink())(layout, 128))
    assert np.abs(gaps).max() <= 1


def test_every_colour_is_a_paint():
    scenes_of_colours = [Scene("colours", "white", (Item(0, 0.5, 0.5, 0.7, colour),)) for colour in COLOURS]
    drawn = levels(Compositor(ink())(lay_out(scenes_of_colours), 64))
    renderer = Renderer(ink())
    for picture, scene in zip(drawn, scenes_of_colours, strict=True):
        assert np.abs(picture - renderer(scene, 64)).max() <= 2

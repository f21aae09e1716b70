"""Batches of scenes drawn from a small atlas of plain shapes."""

import colorsys
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from gesso.world.backgrounds import PAINTERS
from gesso.world.compositor import Compositor, to_uint8
from gesso.world.filters import FILTERS
from gesso.world.scene import (
    BACKGROUNDS,
    COLOURS,
    LOOKS,
    OUTDOORS,
    PLACES,
    STYLES,
    TIMES,
    WEATHERS,
    Background,
    Item,
    Scene,
    lay_out,
)

DISC, BOX, FACE, POINTER = range(4)
SIDE = 96


def shapes() -> np.ndarray:
    """A blue disc, a red box twice as wide as high, a face of light and dark, a triangle that points to the right."""
    drawings = []
    for thing in (DISC, BOX, FACE, POINTER):
        picture = Image.new("RGBA", (SIDE * 4, SIDE * 4))
        draw = ImageDraw.Draw(picture)
        whole = SIDE * 4 - 1
        if thing == DISC:
            draw.ellipse((0, 0, whole, whole), fill=(40, 90, 200, 255))
        elif thing == BOX:
            draw.rectangle((0, whole / 4, whole, whole * 3 / 4), fill=(200, 40, 30, 255))
        elif thing == FACE:
            draw.ellipse((0, 0, whole, whole), fill=(230, 190, 120, 255))
            draw.ellipse((whole * 0.3, whole * 0.3, whole * 0.5, whole * 0.5), fill=(40, 30, 20, 255))
            draw.ellipse((whole * 0.5, whole * 0.6, whole * 0.7, whole * 0.8), fill=(255, 245, 230, 255))
        else:
            draw.polygon(((0, 0), (0, whole), (whole, whole / 2)), fill=(20, 20, 20, 255))
        drawings.append(np.asarray(picture.convert("RGBa").resize((SIDE, SIDE), Image.Resampling.BOX)))
    return np.stack([np.stack(drawings)] * len(LOOKS))


@pytest.fixture(scope="module")
def compositor() -> Compositor:
    return Compositor(shapes())


def scene(*items: Item, style: str = "plain", **background: object) -> Scene:
    return Scene("scene", items, Background(**background), style=style)  # type: ignore[arg-type]


def draw(compositor: Compositor, *scenes: Scene, height: int = 64, width: int = 64) -> np.ndarray:
    return to_uint8(compositor(lay_out(scenes), height, width))


def everything() -> list[Scene]:
    """Every background, time, weather and style at least once, with objects of every kind."""
    items = (Item(BOX, 0.3, 0.6, 0.4), Item(FACE, 0.6, 0.7, 0.3, tint="green", flip=True, angle=20))
    scenes = [
        scene(
            *items,
            kind=kind,
            colours=("yellow", "purple"),
            time=TIMES[i % 3],
            weather=WEATHERS[i % 2 + i % 3 // 2],
            seed=i,
        )
        for i, kind in enumerate(BACKGROUNDS)
    ]
    scenes += [
        scene(Item(DISC, 0.5, 0.6, 0.5, tint="white"), kind=kind, time=time, seed=7, style=style)
        for kind in OUTDOORS
        for time, style in zip(TIMES, ("plain", "silhouette", "plain"), strict=True)
    ]
    return scenes + [scene(*items, kind="meadow", style=style, seed=3) for style in STYLES]


def ink(picture: np.ndarray) -> np.ndarray:
    return (np.abs(picture.astype(int) - 255).max(-1) > 100).astype(float)


def middle(picture: np.ndarray) -> tuple[float, float]:
    """x and y of the middle of what is not white, in pixels."""
    dark = ink(picture)
    y, x = np.mgrid[: dark.shape[0], : dark.shape[1]] + 0.5
    return float((x * dark).sum() / dark.sum()), float((y * dark).sum() / dark.sum())


def test_every_background_and_style_is_there() -> None:
    assert set(PAINTERS) == set(BACKGROUNDS)
    assert set(FILTERS) == set(STYLES) - {"plain", "silhouette", *LOOKS}


def test_result(compositor: Compositor) -> None:
    pixels = compositor(lay_out(everything()), 48, 64)
    assert pixels.shape == (len(everything()), 3, 48, 64)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert pixels.isfinite().all()
    assert pixels.min() >= -1
    assert pixels.max() <= 1
    levels = (pixels + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)


def test_a_picture_depends_on_its_own_numbers_alone(compositor: Compositor) -> None:
    scenes = everything()
    together = draw(compositor, *scenes).astype(int)
    again = draw(compositor, *reversed(scenes)).astype(int)[::-1]
    alone = np.concatenate([draw(compositor, one) for one in scenes]).astype(int)
    assert np.abs(together - again).max() <= 1
    assert np.abs(together - alone).max() <= 1
    assert (together == alone).mean() > 0.999


def test_no_scenes(compositor: Compositor) -> None:
    assert compositor(lay_out([]), 32, 48).shape == (0, 3, 32, 48)


@pytest.mark.parametrize("time", TIMES)
def test_plain_colours_are_flat(compositor: Compositor, time: str) -> None:
    pixels = compositor(lay_out([scene(time=time), scene(kind="plain", colours=("teal", "red"))]), 32, 48)
    assert (pixels[0] == 1).all()
    assert (to_uint8(pixels)[1] == COLOURS["teal"]).all()


@pytest.mark.parametrize("kind", ["gradient", "stripes", "dots", "checks"])
def test_two_colours(compositor: Compositor, kind: str) -> None:
    picture = draw(
        compositor, *[scene(kind=kind, colours=("red", "blue"), seed=seed) for seed in range(6)], height=96, width=96
    )
    for name in ("red", "blue"):
        near = np.abs(picture.astype(int) - COLOURS[name]).max(-1) < (40 if kind == "gradient" else 3)
        assert (near.mean((1, 2)) > 0.1).all()


@pytest.mark.parametrize("kind", PLACES)
def test_places_differ_by_seed_and_time(compositor: Compositor, kind: str) -> None:
    def picture(seed: int, time: str) -> np.ndarray:
        return draw(compositor, scene(kind=kind, seed=seed, time=time)).astype(int)

    assert np.abs(picture(1, "day") - picture(2, "day")).mean() > 1
    if kind in OUTDOORS:
        assert picture(1, "night").mean() < 0.7 * picture(1, "day").mean()
        blue, red = picture(1, "sunset")[..., 2].mean(), picture(1, "sunset")[..., 0].mean()
        assert red > blue


def test_weather_changes_outdoors(compositor: Compositor) -> None:
    clear, rain, snowfall = (draw(compositor, scene(kind="meadow", weather=one)).astype(int) for one in WEATHERS)
    assert np.abs(clear - rain).mean() > 5
    assert np.abs(rain - snowfall).mean() > 2


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96), (96, 48)])
@pytest.mark.parametrize("size", [0.2, 0.5, 0.9])
def test_places_and_sizes(compositor: Compositor, height: int, width: int, size: float) -> None:
    picture = draw(compositor, scene(Item(DISC, 0.55, 0.48, size)), height=height, width=width)[0]
    x, y = middle(picture)
    assert x == pytest.approx(0.55 * width, abs=0.3)
    assert y == pytest.approx(0.48 * height, abs=0.3)
    side = size * min(height, width)
    assert ink(picture).sum() == pytest.approx(np.pi / 4 * side**2, rel=0.1)


def test_an_object_may_leave_the_picture(compositor: Compositor) -> None:
    picture = draw(compositor, scene(Item(BOX, 0.0, 1.0, 0.5)))[0]
    rows, columns = np.nonzero(ink(picture))
    assert columns.min() == 0
    assert columns.max() == 15
    assert rows.min() == 56
    assert rows.max() == 63


def test_turns_and_flips(compositor: Compositor) -> None:
    x, y = middle(draw(compositor, scene(Item(POINTER, 0.5, 0.5, 0.6)))[0])
    assert x < 31  # the broad end is on the left
    assert y == pytest.approx(32, abs=0.2)
    flipped, up = (
        middle(draw(compositor, scene(Item(POINTER, 0.5, 0.5, 0.6, **how)))[0])
        for how in ({"flip": True}, {"angle": 90})
    )
    assert flipped == pytest.approx((64 - x, y), abs=0.1)
    assert up == pytest.approx((32, 64 - x), abs=0.2)  # counter-clockwise: it points up


def test_the_last_object_is_in_front(compositor: Compositor) -> None:
    below, above = Item(DISC, 0.5, 0.5, 0.8), Item(BOX, 0.5, 0.5, 0.3)
    red, blue = (draw(compositor, scene(*items))[0, 32, 32] for items in ((below, above), (above, below)))
    assert tuple(red) == (200, 40, 30)
    assert tuple(blue) == (40, 90, 200)


@pytest.mark.parametrize("tint", COLOURS)
def test_tints(compositor: Compositor, tint: str) -> None:
    picture = draw(compositor, scene(Item(FACE, 0.5, 0.5, 0.8, tint=tint)))[0].astype(float) / 255
    inside = np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 18
    mean = picture[inside].mean(0)
    want = np.array(COLOURS[tint]) / 255
    assert np.abs(mean - want).max() < 0.12
    if max(want) - min(want) > 0.1:
        hue, hue_wanted = (colorsys.rgb_to_hsv(*one)[0] for one in (mean, want))
        assert abs((hue - hue_wanted + 0.5) % 1 - 0.5) < 0.03
    light = picture[inside].mean(1)
    assert light.max() - light.min() > 0.1  # the eye can be told from the skin
    rim = np.abs(np.hypot(*(np.mgrid[:64, :64] - 31.5)) - 24.5) < 0.5
    assert picture[rim].mean() < 0.92  # it can be told from a white ground


def test_missing_drawings_come_from_the_first_look() -> None:
    pixels = shapes()
    pixels[LOOKS.index("flat"), DISC] = 0
    here = scene(Item(DISC, 0.5, 0.5, 0.6))
    flat = dataclasses.replace(here, style="flat")
    for compositor in (Compositor(pixels), Compositor(pixels, present=np.any(pixels[..., 3], axis=(2, 3)))):
        np.testing.assert_array_equal(draw(compositor, here), draw(compositor, flat))


def test_shadows() -> None:
    symbols = np.arange(4) == BOX
    compositor = Compositor(shapes(), symbols=symbols)

    def darkened(*items: Item, kind: str = "desert") -> int:
        bare, full = (draw(compositor, scene(*which, kind=kind, seed=5))[0].astype(int) for which in ((), items))
        foot = full[int(0.9 * 64) - 1 : int(0.9 * 64) + 2] - bare[int(0.9 * 64) - 1 : int(0.9 * 64) + 2]
        return int((foot.sum(-1) < -60).sum())

    standing = Item(DISC, 0.5, 0.7, 0.4)  # its foot is at 0.9
    assert darkened(standing) > 6
    assert darkened(Item(DISC, 0.5, 0.3, 0.3)) == 0  # flies
    assert darkened(Item(BOX, 0.5, 0.8, 0.4)) < darkened(standing)  # a symbol
    assert darkened(standing, kind="sky") < darkened(standing)


def test_an_object_on_another_casts_no_shadow(compositor: Compositor) -> None:
    table, cup = Item(BOX, 0.5, 0.8, 0.5), Item(DISC, 0.5, 0.6, 0.2)
    without, there = (
        draw(compositor, scene(*items, kind="desert"))[0].astype(int) for items in ((table,), (table, cup))
    )
    changed = np.abs(without - there).sum(-1) > 12
    disc = np.hypot(*(np.mgrid[:64, :64] + 0.5 - np.array([0.6, 0.5])[:, None, None] * 64)) < 0.1 * 64 + 1.5
    assert not changed[~disc].any()


def test_styles(compositor: Compositor) -> None:
    items = (Item(FACE, 0.4, 0.6, 0.6), Item(BOX, 0.75, 0.5, 0.3))
    pictures = {style: draw(compositor, scene(*items, kind="meadow", style=style))[0].astype(float) for style in STYLES}
    for style in ("outline", "grayscale", "silhouette", "pixel", "pencil", "neon", "watercolor"):
        for other in STYLES:
            if other != style:
                assert np.abs(pictures[style] - pictures[other]).mean() > 4
    assert np.ptp(pictures["grayscale"], axis=-1).max() <= 1
    assert np.ptp(pictures["outline"], axis=-1).max() <= 1
    assert (pictures["outline"] > 250).mean() > 0.6
    assert pictures["neon"].mean() < 80
    assert (pictures["silhouette"][int(0.6 * 64), int(0.4 * 64)] == 0).all()
    blocks = pictures["pixel"].reshape(32, 2, 32, 2, 3)
    assert np.ptp(blocks, axis=(1, 3)).max() == 0


def test_a_style_on_plain_white_keeps_its_paper(compositor: Compositor) -> None:
    for style, level in (
        ("outline", 255),
        ("grayscale", 255),
        ("silhouette", 255),
        ("pencil", 235),
        ("watercolor", 240),
    ):
        assert draw(compositor, scene(style=style)).min() >= level


def test_same_picture_at_every_size(compositor: Compositor) -> None:
    scenes = [scene(Item(FACE, 0.4, 0.6, 0.4), kind=kind, seed=3) for kind in PLACES]
    small = draw(compositor, *scenes).astype(float)
    large = draw(compositor, *scenes, height=128, width=128).astype(float)
    halved = large.reshape(len(scenes), 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(small - halved).mean() < 3


def test_autocast_changes_nothing(compositor: Compositor) -> None:
    layout = lay_out(everything()[:6])
    with torch.autocast("cpu", torch.bfloat16):
        inside = compositor(layout, 32, 32)
    torch.testing.assert_close(inside, compositor(layout, 32, 32), atol=0, rtol=0)


def test_a_pencil_sketch_of_what_is_blacker_than_black_is_finite() -> None:
    """Rounding may leave a level a little below zero; on a GPU it did."""
    from gesso.world.filters import pencil

    picture = torch.full((1, 3, 64, 64), -1e-6)
    assert bool(torch.isfinite(pencil(picture, torch.zeros(1, 1, 64, 64), torch.zeros(1, dtype=torch.int64))).all())

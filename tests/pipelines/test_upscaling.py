"""Pictures made larger: whole and in bands the same, by the network as often as it takes."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gesso.errors import GessoError
from gesso.pictures.png_rows import png_parts
from gesso.pipelines.upscaling import RESAMPLERS, UPSCALERS, ImageUpscaler, UpscalerTiles, enlarged_rows, upscale
from gesso.runtime.upscaling import Upscaler, load_upscaler
from upscaler_files import compact_shapes, weights


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Upscaler:
    path = tmp_path_factory.mktemp("upscaler") / "x.safetensors"
    save_file(weights(compact_shapes(2)), path)
    return load_upscaler(path)


@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize("size", [(60, 1300), (33, 700), (50, 641), (20, 90), (1, 1)])
def test_bands_are_pillows_own_result(resampler: str, size: tuple[int, int]):
    image = noise(40, 641)
    found = np.asarray(upscale(image, size, resampler), dtype=int)
    expected = np.asarray(image.resize(size, RESAMPLERS[resampler]), dtype=int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1  # a place as a float, counted from another row


def test_a_network_gives_its_scale_untouched(twice: Upscaler):
    image = noise(30, 21)
    pixels = np.asarray(image, dtype=np.float32)
    found = np.asarray(upscale(image, (60, 42), twice))
    whole = twice.upscale(torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None], tile=None)
    expected = ((whole[0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("size", "passes"), [((30, 20), 1), ((40, 28), 1), ((60, 41), 2), ((81, 40), 3), ((900, 600), 3)]
)
def test_a_network_works_until_the_picture_is_large_enough(
    twice: Upscaler, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], passes: int
):
    seen = []
    bands = Upscaler.bands
    monkeypatch.setattr(Upscaler, "bands", lambda *args: seen.append(args[1].shape[-1]) or bands(*args))
    assert upscale(noise(20, 14), size, twice).size == size
    assert seen == [20 * 2**i for i in range(passes)]


def test_a_large_result_is_never_whole(twice: Upscaler):
    """8 million pixels in bands of a row of tiles: tracemalloc sees numpy's memory, which the bands are."""
    tracemalloc.start()
    rows = 0
    for band in enlarged_rows(noise(500, 1000), (2000, 4000), "lanczos", UpscalerTiles(side=16, rim=4)):
        rows += len(band)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 4000
    assert peak < 3 * 2000 * 4000 / 2
    rows = sum(map(len, enlarged_rows(noise(64, 200), (100, 390), twice, UpscalerTiles(side=32, rim=4))))
    assert rows == 390


def test_a_png_in_parts_is_the_picture():
    image = noise(37, 100)
    levels = np.asarray(image)
    texts = {"parameters": "a cat", "words": "猫"}
    data = b"".join(png_parts(37, 100, [levels[:1], levels[1:64], levels[64:]], texts))
    with Image.open(io.BytesIO(data)) as read:
        assert read.text == texts
        assert (read.mode, read.size) == ("RGB", (37, 100))
        assert read.tobytes() == image.tobytes()


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (2**31, 5), (5, 2**31)])
def test_a_png_has_sides_that_the_format_knows(width: int, height: int):
    with pytest.raises(ValueError, match=f"a PNG of {width}x{height}"):
        next(png_parts(width, height, []))


def test_transparency_is_enlarged_and_no_hidden_colour_shines(twice: Upscaler):
    """A green disc on what is clear and, underneath, red."""
    y, x = np.mgrid[0:41, 0:37]
    alpha = np.where((x - 18) ** 2 + (y - 20) ** 2 < 150, 255, 0)[..., None]
    levels = np.concatenate([np.where(alpha, (20, 200, 40), (255, 0, 0)), alpha], axis=2).astype(np.uint8)
    for upscaler in ("lanczos", twice):
        bands = list(enlarged_rows(Image.fromarray(levels), (74, 82), upscaler, UpscalerTiles(side=16, rim=4)))
        found = np.concatenate(bands)
        assert found.shape == (82, 74, 4)
        expected = Image.fromarray(levels[..., 3]).resize((74, 82), Image.Resampling.LANCZOS)
        assert np.abs(found[..., 3].astype(int) - np.asarray(expected, dtype=int)).max() <= 1
    flat = upscale(Image.fromarray(levels), (74, 82), "lanczos")
    assert flat.mode == "RGBA"
    assert np.abs(np.asarray(flat)[..., :3].astype(int) - (20, 200, 40)).max() <= 1
    data = b"".join(png_parts(37, 41, [levels[:9], levels[9:]], channels=4))
    with Image.open(io.BytesIO(data)) as image:
        assert (image.mode, image.tobytes()) == ("RGBA", levels.tobytes())


@pytest.mark.parametrize("bands", [[99], [101], [50, 51], []])
def test_a_png_has_all_its_rows(bands: list[int]):
    with pytest.raises(ValueError, match=r"rows are missing|rows to come"):
        list(png_parts(5, 100, [np.zeros((rows, 5, 3), dtype=np.uint8) for rows in bands]))


@pytest.mark.parametrize("shape", [(50, 6, 3), (50, 5, 4), (101, 5, 3)])
def test_a_band_of_another_size_is_refused(shape: tuple[int, int, int]):
    with pytest.raises(ValueError, match="a picture 5 wide with 100 rows to come"):
        list(png_parts(5, 100, [np.zeros(shape, dtype=np.uint8)]))


def test_what_cannot_be(twice: Upscaler, tmp_path: Path):
    with pytest.raises(ValueError, match="expected 1 or more"):
        upscale(noise(4, 4), (0, 4), "lanczos")
    with pytest.raises(GessoError, match=r"unknown upscaler 'magic'\. Known: nearest"):
        upscale(noise(4, 4), (4, 4), "magic")


# ---- the public function ---------------------------------------------------------------------------------------------


def test_upscaling_by_a_size_a_scale_or_the_upscalers_own(twice: Upscaler):
    image = noise(20, 11)
    lanczos = image.resize((40, 22), Image.Resampling.LANCZOS)
    assert upscale(image).tobytes() == lanczos.tobytes()
    assert upscale(image, scale=2).tobytes() == upscale(image, (40, 22)).tobytes() == lanczos.tobytes()
    assert upscale(image, (33, 9), "Bicubic").size == (33, 9)
    assert upscale(image, scale=0.01).size == (1, 1)
    assert upscale(image, upscaler=twice).tobytes() == upscale(image, (40, 22), twice).tobytes()
    assert upscale(image, scale=1.5, upscaler=twice).size == (30, 16)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_scale_that_no_picture_has(scale: float):
    with pytest.raises(ValueError, match="expected a number above 0"):
        upscale(noise(4, 4), scale=scale)


def test_what_upscaling_cannot_be_asked_for():
    with pytest.raises(ValueError, match="one or the other"):
        upscale(noise(4, 4), (8, 8), scale=2)
    with pytest.raises(GessoError, match="`tiles` is 3, expected UpscalerTiles"):
        upscale(noise(4, 4), (8, 8), tiles=3)  # type: ignore[arg-type]
    with pytest.raises(
        GessoError, match=r"unknown upscaler 'esrgan'\. Known: nearest, box, bilinear, bicubic, lanczos"
    ):
        upscale(noise(4, 4), upscaler="esrgan")


def test_the_table_of_upscalers_is_that_of_interpolations():
    assert list(UPSCALERS) == list(RESAMPLERS)
    image = noise(9, 7)
    for name, row in UPSCALERS.items():
        assert row.enlarge(image, (18, 14)).tobytes() == image.resize((18, 14), RESAMPLERS[name]).tobytes()


def test_what_a_plug_in_gives_is_brought_to_the_size(monkeypatch: pytest.MonkeyPatch):
    """It may be of another size and mode than was asked for."""
    row = ImageUpscaler("Thrice", lambda image, size: image.convert("L").resize((60, 33)), scale=3)
    monkeypatch.setitem(UPSCALERS.builtin, "thrice", row)
    image = noise(20, 11)
    grey = image.convert("L").resize((60, 33)).convert("RGB")
    assert upscale(image, upscaler="thrice").tobytes() == grey.tobytes()
    found = np.asarray(upscale(image, (30, 20), "thrice"), dtype=int)
    assert np.abs(found - np.asarray(grey.resize((30, 20), Image.Resampling.LANCZOS), dtype=int)).max() <= 1

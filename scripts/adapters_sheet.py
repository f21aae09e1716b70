"""What the LoRAs and the ControlNet that come with gesso-mini do, on two sheets:

python scripts/adapters_sheet.py styles docs/styles.png
python scripts/adapters_sheet.py edges docs/edges.png
"""

import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import gesso
from gesso.pipelines.request_parts import LoraUse

SIDE, LABEL, MARGIN, GAP = 192, 24, 92, 6
PROMPTS = (
    "a cat",
    "a red car",
    "a guitar on a blue background",
    "three mushrooms",
    "a yellow fish and a purple butterfly",
    "a dog above a tree",
    "a house",
    "a rocket on black",
)
STYLES: dict[str, tuple[LoraUse, ...]] = {
    "plain": (),
    "line-art": (LoraUse(name="line-art"),),
    "woodcut": (LoraUse(name="woodcut"),),
}


def grid(rows: dict[str, list[Image.Image]], labels: tuple[str, ...]) -> Image.Image:
    """Pictures in rows with their names, the labels of the columns above."""
    width, height = MARGIN + len(labels) * (SIDE + GAP), LABEL + len(rows) * (SIDE + GAP)
    sheet = Image.new("RGB", (width, height), "#e8e8e8")
    pen = ImageDraw.Draw(sheet)
    for column, label in enumerate(labels):
        font = ImageFont.load_default(12 if len(label) < 30 else 10)
        pen.text((MARGIN + column * (SIDE + GAP) + SIDE // 2, LABEL // 2), label, fill="black", font=font, anchor="mm")
    for row, (name, pictures) in enumerate(rows.items()):
        top = LABEL + row * (SIDE + GAP)
        pen.text((MARGIN // 2, top + SIDE // 2), name, fill="black", font=ImageFont.load_default(14), anchor="mm")
        for column, picture in enumerate(pictures):
            sheet.paste(picture.convert("RGB").resize((SIDE, SIDE)), (MARGIN + column * (SIDE + GAP), top))
    return sheet


def styles() -> Image.Image:
    """The same prompts and seeds without a LoRA and with each."""
    engine = gesso.Engine()
    pipeline = gesso.TextToImage(engine, engine.load("gesso-mini"))
    rows: dict[str, list[Image.Image]] = {name: [] for name in STYLES}
    for seed, prompt in enumerate(PROMPTS):
        for name, loras in STYLES.items():
            (picture,) = pipeline(gesso.TextToImageRequest(prompt=prompt, seed=seed, loras=loras))
            rows[name].append(picture.image)
    return grid(rows, PROMPTS)


SHEETS: dict[str, Callable[[], Image.Image]] = {"styles": styles}

if __name__ == "__main__":
    SHEETS[sys.argv[1]]().save(Path(sys.argv[2]), optimize=True)

"""What the LoRAs and the ControlNet that come with gesso-mini do, on two sheets:

python scripts/adapters_sheet.py styles docs/styles.png
python scripts/adapters_sheet.py edges docs/edges.png
"""

import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import gesso
from gesso.hints.registry import preprocess
from gesso.pipelines.hint_pictures import hint_digest
from gesso.request.parts import ControlUse, LoraUse
from gesso.scenes.glyphs import render_glyphs
from gesso.scenes.render import Renderer
from gesso.scenes.scene import Item, Scene
from gesso.scenes.vocabulary import things

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
    "comic": (LoraUse(name="comic"),),
    "woodcut": (LoraUse(name="woodcut"),),
}
# Prompt -> what the map shows, with place and size as shares of the side: elsewhere than the model would draw it.
MAPS: dict[str, tuple[tuple[str, float, float, float], ...]] = {
    "a cat": (("cat", 0.32, 0.34, 0.56),),
    "a blue car": (("car", 0.6, 0.68, 0.6),),
    "a guitar on a red background": (("guitar", 0.66, 0.42, 0.6),),
    "two mushrooms": (("mushroom", 0.3, 0.3, 0.42), ("mushroom", 0.68, 0.72, 0.42)),
    "a dog and a tree": (("dog", 0.28, 0.66, 0.46), ("tree", 0.74, 0.34, 0.5)),
    "a house": (("house", 0.34, 0.6, 0.6),),
    "a green butterfly": (("butterfly", 0.62, 0.36, 0.56),),
    "a rocket": (("rocket", 0.4, 0.5, 0.62),),
}
EDGES = "gesso-edges"


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


def edges() -> Image.Image:
    """Edge maps of composed pictures, and the same prompts and seeds with and without the ControlNet."""
    engine = gesso.Engine()
    model = engine.load("gesso-mini")
    pipeline, objects = gesso.TextToImage(engine, model), things()
    renderer = Renderer(render_glyphs([thing.glyph for thing in objects]))
    rows: dict[str, list[Image.Image]] = {"canny": [], "with": [], "without": []}
    for seed, (prompt, shown) in enumerate(MAPS.items()):
        names = [thing.name for thing in objects]
        items = tuple(Item(names.index(name), x, y, size) for name, x, y, size in shown)
        drawn = Image.fromarray(renderer(Scene("single", "white", items), model.family.output_size))
        hint = preprocess("canny", drawn)
        control = ControlUse(model=EDGES, image=hint_digest(hint))
        (steered,) = pipeline(gesso.TextToImageRequest(prompt=prompt, seed=seed, controls=(control,)), hints=[hint])
        (free,) = pipeline(gesso.TextToImageRequest(prompt=prompt, seed=seed))
        for name, picture in (("canny", hint), ("with", steered.image), ("without", free.image)):
            rows[name].append(picture)
    return grid(rows, tuple(MAPS))


SHEETS: dict[str, Callable[[], Image.Image]] = {"styles": styles, "edges": edges}

if __name__ == "__main__":
    SHEETS[sys.argv[1]]().save(Path(sys.argv[2]), optimize=True)

"""One picture and what the preprocessors make of it, on one sheet: python scripts/hints_sheet.py docs/hints.png"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE, LABEL, COLUMNS, GAP = 256, 26, 5, 8
PROMPT, SEED = "a tiger on a white background", 3
HINTS = {
    "canny": (),
    "softedge": (),
    "lineart": (),
    "scribble": (),
    "tile": ("--set", "factor=12"),
    "colour": ("--set", "block=32"),
    "shuffle": ("--set", "seed=1", "--set", "waves=128"),
    "inpaint": (),
}
POSE = Path(__file__).parents[1] / "docs" / "pose.json"


def main(sheet: Path) -> None:
    cells = [*HINTS, "openpose"]
    rows = -(-(len(cells) + 1) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + LABEL + GAP) + GAP), "#e8e8e8")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)

    def place(number: int, picture: Path, label: str) -> None:
        left, top = GAP + number % COLUMNS * (SIDE + GAP), GAP + number // COLUMNS * (SIDE + LABEL + GAP)
        with Image.open(picture) as image:
            shown = image.convert("RGBA").resize((SIDE, SIDE))
        canvas.paste(Image.alpha_composite(Image.new("RGBA", shown.size, "#ff00ff"), shown).convert("RGB"), (left, top))
        pen.text((left + SIDE // 2, top + SIDE + LABEL // 2), label, fill="black", font=font, anchor="mm")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn, mask = folder / "drawn.png", folder / "mask.png"
        _run("generate", PROMPT, "--seed", str(SEED), "--output", drawn, "--quiet")
        hole = Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(hole).ellipse((SIDE // 3, SIDE // 3, SIDE, SIDE), fill="white")
        hole.save(mask)
        place(0, drawn, PROMPT)
        for number, hint in enumerate(cells, 1):
            target = folder / f"{hint}.png"
            source = POSE if hint == "openpose" else drawn
            masked = ("--mask", mask) if hint == "inpaint" else ()
            _run("preprocess", hint, source, "--output", target, "--size", str(SIDE), *masked, *HINTS.get(hint, ()))
            place(number, target, hint)
    canvas.save(sheet, optimize=True)


def _run(*words: object) -> None:
    subprocess.run(["gesso", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

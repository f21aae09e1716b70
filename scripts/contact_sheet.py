"""Draw every prompt of a file with `gesso generate`, and put the pictures on one sheet with their prompts below.

python scripts/contact_sheet.py docs/contact-sheet.txt docs/contact-sheet.png [options of gesso generate]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE, LABEL, COLUMNS, GAP = 256, 26, 5, 8


def main(prompts: Path, sheet: Path, options: list[str]) -> None:
    lines = [line.strip() for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = -(-len(lines) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + LABEL + GAP) + GAP), "#e8e8e8")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    with tempfile.TemporaryDirectory() as folder:
        for number, line in enumerate(lines):
            picture = Path(folder) / f"{number}.png"
            command = ["gesso", "generate", line, "--seed", str(number), "--output", str(picture), "--quiet", *options]
            subprocess.run(command, check=True)
            left = GAP + number % COLUMNS * (SIDE + GAP)
            top = GAP + number // COLUMNS * (SIDE + LABEL + GAP)
            with Image.open(picture) as image:
                canvas.paste(image.resize((SIDE, SIDE)), (left, top))
            pen.text((left + SIDE // 2, top + SIDE + LABEL // 2), line, fill="black", font=font, anchor="mm")
    canvas.save(sheet, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])

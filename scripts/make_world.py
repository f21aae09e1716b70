#!/usr/bin/env python3
"""Make the drawings and the foreign words of the objects of gesso.world, from openly licensed emoji and Unicode CLDR.

    mkdir npm && cd npm
    npm pack @iconify-json/noto@1.2.9 @iconify-json/fluent-emoji-flat@1.2.6 @iconify-json/fluent-emoji@1.2.7 \\
        @iconify-json/twemoji@1.2.5 cldr-annotations-full@48.2.0 cldr-annotations-derived-full@48.2.0
    pip install resvg-py==0.5.0
    scripts/make_world.py npm --drawings build/world/drawings.gesso [--sheets build/world/sheets] [--languages]

reads the archives as `npm pack` leaves them. The drawings go into one file, which a training reads
(gesso.world.drawings); `--sheets` writes pictures of all objects with their names, to look through; `--languages`
writes src/gesso/world/languages.json.gz, a file of the project, from the annotations and from scripts/languages.txt.
It is no step of the installation.

Sources and licences; the drawings are converted from vectors to pixels, cropped to their ink and centred:

  look     drawings                                              package                          licence
  noto     Noto Emoji, Google, github.com/googlefonts/noto-emoji @iconify-json/noto 1.2.9         Apache-2.0
  flat     Fluent Emoji, flat, Microsoft,                        @iconify-json/fluent-emoji-flat  MIT
           github.com/microsoft/fluentui-emoji                   1.2.6
  3d       Fluent Emoji, in colour with gradients, Microsoft     @iconify-json/fluent-emoji 1.2.7 MIT
  cartoon  Twemoji, Twitter and contributors,                    @iconify-json/twemoji 1.2.5      CC-BY-4.0
           github.com/jdecked/twemoji
  words    Unicode CLDR 48.2, annotations; Copyright Unicode,    cldr-annotations-full and        Unicode-3.0
           Inc., unicode.org/license.txt                         -derived-full 48.2.0

CC-BY-4.0 asks for: "Twemoji: Copyright 2020 Twitter, Inc and other contributors, graphics licensed under CC-BY 4.0,
https://creativecommons.org/licenses/by/4.0/", and for a word that they were changed. resvg-py (MIT) draws the vectors.
"""

import argparse
import gzip
import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image, ImageDraw, ImageFont

from gesso.files import atomic_file
from gesso.world.drawings import Drawings, centred, load_drawings, save_drawings
from gesso.world.languages import TABLE as LANGUAGES_FILE
from gesso.world.objects import Thing, things
from gesso.world.scene import COLOURS, LOOKS

SIZE = 192
OVERSAMPLED = 2 * SIZE  # what the vectors are drawn at before they are cropped and scaled down
PACKAGES = {
    "noto": "noto-1.2.9",
    "flat": "fluent-emoji-flat-1.2.6",
    "3d": "fluent-emoji-1.2.7",
    "cartoon": "twemoji-1.2.5",
}
SAME_NAMES = {"3d": "flat"}  # its package does not say which characters its drawings stand for; the names are those of


BY_HAND = Path(__file__).with_name("languages.txt")
LANGUAGES_PATH = Path(__file__).parents[1] / "src/gesso/world" / LANGUAGES_FILE
MAX_WORDS = 5  # of a name in another language


# ---- drawings --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Icons:
    """One package of Iconify: characters in hexadecimal -> name, name -> SVG."""

    names: dict[str, str]
    data: dict[str, Any]

    def svg(self, glyph: str) -> str | None:
        """The drawing of an emoji, None where the package has none."""
        name = self.names.get(code_of(glyph))
        while name is not None and name not in self.data["icons"]:  # the way of an alias
            name = self.data.get("aliases", {}).get(name, {}).get("parent")
        if name is None:
            return None
        icon = self.data["icons"][name]
        left, top = icon.get("left", 0), icon.get("top", 0)
        width, height = (icon.get(key, self.data.get(key, 16)) for key in ("width", "height"))
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
        )


def code_of(glyph: str) -> str:
    """The characters of an emoji as the packages name them, without what asks for colour."""
    return "-".join(f"{ord(char):x}" for char in glyph if char != "\ufe0f")


def read_json(folder: Path, package: str, name: str) -> Any:
    """One JSON file of an archive of `npm pack`."""
    path = folder / f"{package}.tgz"
    with tarfile.open(path) as archive:
        file = archive.extractfile(f"package/{name}")
        if file is None:
            raise SystemExit(f"{path} has no {name}")
        return json.load(file)


def read_icons(folder: Path) -> dict[str, Icons]:
    """look -> its package."""
    icons = {}
    for look in LOOKS:
        names = read_json(folder, f"iconify-json-{PACKAGES[SAME_NAMES.get(look, look)]}", "chars.json")
        names = {code.lstrip("0").replace("-fe0f", ""): name for code, name in names.items()}
        icons[look] = Icons(names, read_json(folder, f"iconify-json-{PACKAGES[look]}", "icons.json"))
    return icons


def draw(svg: str) -> np.ndarray:
    """A vector drawing -> uint8 [SIZE, SIZE, 4], premultiplied RGBA."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=OVERSAMPLED, skip_system_fonts=True)
    return centred(Image.open(io.BytesIO(png)).convert("RGBA"), SIZE)


def draw_all(folder: Path, objects: Sequence[Thing]) -> Drawings:
    """Every look of every object. Ends the program where Noto Emoji lacks one."""
    icons = read_icons(folder)
    if missing := [f"{thing.glyph} {thing.name}" for thing in objects if icons["noto"].svg(thing.glyph) is None]:
        raise SystemExit(f"Noto Emoji has no drawing of {', '.join(missing)}")
    pixels = np.zeros((len(LOOKS), len(objects), SIZE, SIZE, 4), dtype=np.uint8)
    present = np.zeros((len(LOOKS), len(objects)), dtype=bool)
    for row, look in enumerate(LOOKS):
        for column, thing in enumerate(objects):
            svg = icons[look].svg(thing.glyph)
            present[row, column] = svg is not None
            pixels[row, column] = draw(svg) if svg is not None else pixels[0, column]
        lacking = [thing.name for thing, there in zip(objects, present[row], strict=True) if not there]
        print(f"{look}: {present[row].sum()} of {len(objects)}; lacks {', '.join(lacking) or 'none'}")
    return Drawings(pixels, present)


# ---- sheets ----------------------------------------------------------------------------------------------------------
def sheet(
    drawings: Drawings, objects: Sequence[Thing], rows: Sequence[int], looks: Sequence[int], columns: int
) -> Image.Image:
    """Drawings of some objects on gray, a look beside the other, the names below."""
    side, label = 96, 28
    font = ImageFont.load_default(11)
    wide = side * len(looks) + 8
    page = Image.new("RGB", (columns * wide, -(-len(rows) // columns) * (side + label)), (186, 196, 206))
    pen = ImageDraw.Draw(page)
    for place, row in enumerate(rows):
        x, y = place % columns * wide, place // columns * (side + label)
        for step, look in enumerate(looks):
            small = Image.fromarray(drawings.pixels[look, row], "RGBa").resize((side, side), Image.Resampling.LANCZOS)
            picture = small.convert("RGBA")
            page.paste(picture, (x + step * side, y), picture)
        words = objects[row].name
        cut = words.rfind(" ", 0, 17) if len(words) > 16 * len(looks) else -1
        pen.text(
            (x + 1, y + side), words if cut < 0 else f"{words[:cut]}\n{words[cut + 1 :]}", "black", font, spacing=1
        )
    return page


def write_sheets(folder: Path, drawings: Drawings, objects: Sequence[Thing]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = range(len(objects))
    for page, start in enumerate(range(0, len(objects), 144)):
        sheet(drawings, objects, rows[start : start + 144], [0], 16).save(folder / f"noto_{page:02}.png")
    for page, start in enumerate(range(0, len(objects), 120)):
        sheet(drawings, objects, rows[start : start + 120], range(len(LOOKS)), 5).save(folder / f"looks_{page:02}.png")
    sheet(drawings, objects, rows, [0], 32).save(folder / "noto_all.png")


# ---- languages -------------------------------------------------------------------------------------------------------
Language = dict[str, dict[str, str]]  # objects, keywords, colours, numbers, words: a word of the language -> English


def read_by_hand(text: str) -> dict[str, Language]:
    """The words of scripts/languages.txt. Ends the program with the line that is not as its head says."""
    names = {word: thing.name for thing in things() for word in (thing.name, *thing.synonyms)}
    languages: dict[str, Language] = {}
    codes: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            codes = [code for code in line.strip("[]").split() if code != "objects"]
            for code in codes:
                languages.setdefault(code, {"objects": {}, "keywords": {}, "colours": {}, "numbers": {}, "words": {}})
            continue
        english, *columns = (field.strip() for field in line.split("|"))
        kind = "objects"
        if len(codes) == 1:
            first, _, english = english.partition(" ")
            kind = f"{first}s"
        wrong = (kind == "colours" and english not in COLOURS) or (kind == "objects" and english not in names)
        if wrong or len(columns) != len(codes) or kind not in languages[codes[0]]:
            raise SystemExit(f"{BY_HAND} line {number}: {line}")
        for code, words in zip(codes, columns, strict=True):
            for word in (word.strip() for word in words.split(",") if word.strip()):
                found = languages[code][kind].setdefault(word.lower(), english)
                if found != english:
                    raise SystemExit(f"{BY_HAND} line {number}: {word!r} is {found} already")
    return languages


def read_annotations(folder: Path, language: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """`code_of` a glyph -> short name and keywords in a language."""
    found = {}
    for package, key in (
        ("cldr-annotations-derived-full", "annotationsDerived"),
        ("cldr-annotations-full", "annotations"),
    ):
        entries = read_json(folder, f"{package}-48.2.0", f"{key}/{language}/annotations.json")[key]["annotations"]
        for glyph, entry in entries.items():
            found[code_of(glyph)] = entry.get("tts", [""])[0], tuple(entry.get("default", ()))
    return found


def add_objects(folder: Path, code: str, objects: Sequence[Thing], language: Language) -> None:
    """Fill the objects and the keywords of a language that has what was written by hand.

    After that come CLDR's short names, and these without their words for colours. Keywords are also what one thinks of
    at a thing ("miaow"): they count where they belong to one object only, a German one if it is a noun, a Chinese or
    Japanese one if it has two characters.
    """
    entries = read_annotations(folder, code)
    annotated = [(thing, *entries[code_of(thing.glyph)]) for thing in objects if code_of(thing.glyph) in entries]
    colours = language["colours"]
    spaced = code not in {"ja", "zh"}

    def colourless(name: str) -> str:
        if spaced:
            return " ".join(word for word in name.split() if word not in colours)
        return next(
            (name[len(word) :] for word in sorted(colours, key=len, reverse=True) if name.startswith(word)), name
        )

    names = [(name.lower(), thing.name) for thing, name, _ in annotated]
    keywords = [
        (word.lower(), thing.name)
        for thing, _, words in annotated
        for word in words
        if (code != "de" or word[:1].isupper()) and len(word) > (2 if spaced else 1)
    ]
    language["objects"] = alone(names) | language["objects"]
    language["objects"] = alone((colourless(word), name) for word, name in names) | language["objects"]
    taken = {*colours, *language["numbers"], *language["words"], *language["objects"]}
    language["keywords"] = {word: name for word, name in alone(keywords).items() if word not in taken}


def alone(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Word -> the only object that it stands for; not words of more than one object, of digits or of long names."""
    owners = defaultdict(set)
    for word, name in pairs:
        word = " ".join(word.split())
        if word and not word.isdigit() and word.count(" ") < MAX_WORDS:
            owners[word].add(name)
    return {word: next(iter(names)) for word, names in owners.items() if len(names) == 1}


def write_languages(folder: Path, objects: Sequence[Thing]) -> None:
    languages = read_by_hand(BY_HAND.read_text(encoding="utf-8"))
    for code, language in languages.items():
        add_objects(folder, code, objects, language)
        named, words = len(set(language["objects"].values())), len(language["objects"])
        print(f"{code}: {words} names of {named} of {len(objects)} objects, {len(language['keywords'])} keywords")
    text = json.dumps(languages, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    with atomic_file(LANGUAGES_PATH) as file:
        file.write(gzip.compress(text.encode(), 9, mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="archives of `npm pack`")
    parser.add_argument("--drawings", type=Path, help="file to write")
    parser.add_argument("--sheets", type=Path, help="folder of pictures to look through")
    parser.add_argument("--languages", action="store_true", help=f"write {LANGUAGES_FILE} of the package")
    arguments = parser.parse_args()
    objects = things()
    if arguments.languages:
        write_languages(arguments.folder, objects)
    if arguments.drawings:
        arguments.drawings.parent.mkdir(parents=True, exist_ok=True)
        save_drawings(arguments.drawings, draw_all(arguments.folder, objects), objects)
        print(f"{arguments.drawings}: {len(objects)} objects, {arguments.drawings.stat().st_size / 1e6:.1f} MB")
        if arguments.sheets:
            write_sheets(arguments.sheets, load_drawings(arguments.drawings, objects), objects)


if __name__ == "__main__":
    main()

"""The words of the composed pictures: objects with their names and synonyms, colours, numbers, places.

The same table decides what captions say, what the judge knows and what a user is told that the model can draw.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources

from gesso.errors import GessoError


@dataclass(frozen=True)
class Thing:
    """One object that can be drawn."""

    glyph: str  # characters in the emoji font
    name: str  # singular
    plural: str
    synonyms: tuple[str, ...]  # other singular words for it


# fmt: off
ALWAYS_PLURAL = (
    "glasses", "spectacles", "scissors", "grapes",
    # words of the full table alone: what a small model was trained with stays as it was
    "pants", "trousers", "fries", "chips", "shades", "trunks", "eyes", "hands", "horns", "nails", "twins", "masks",
    "beads", "goggles", "headphones", "fireworks", "chopsticks", "jeans", "shorts", "briefs", "lungs", "scales",
    "sparkles", "fingers", "piano keys", "swords", "bubbles",
)
# fmt: on


def plural_of(noun: str) -> str:
    """The regular English plural of a noun or a noun phrase."""
    if " of " in noun:
        head, rest = noun.split(" of ", 1)
        return f"{plural_of(head)} of {rest}"
    if is_plural(noun):
        return noun
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith(("s", "x", "ch", "sh")) or noun in {"tomato"}:
        return noun + "es"
    return noun + "s"


def is_plural(noun: str) -> bool:
    """Whether the name of one thing is a plural: "scissors" and "red jeans" are, "pair of jeans" is not."""
    return noun.split(" of ")[0].endswith(ALWAYS_PLURAL)


def article_of(noun: str) -> str:
    """ "a" or "an", by the first letter; the table holds the exceptions."""
    return "an" if (noun[0] in "aeio" and not noun.startswith("uni")) or noun.startswith("umbrella") else "a"


def parse_things(text: str, source: str) -> tuple[Thing, ...]:
    """Read a table of `glyph | name[/plural] | synonym, ...` lines. Raises GessoError naming the line."""
    things: list[Thing] = []
    owners: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != 3 or not fields[0] or not fields[1]:
            raise GessoError(
                f"{source} line {number}: found {line!r}, expected: glyph | name | synonyms",
                code="damaged",
                data={"path": str(source)},
            )
        name, _, plural = fields[1].partition("/")
        synonyms = tuple(word.strip() for word in fields[2].split(",") if word.strip())
        for word in (name, *synonyms):
            if word in owners:
                raise GessoError(
                    f"{source} line {number}: {word!r} already stands for {owners[word]!r}. Remove one",
                    code="damaged",
                    data={"path": str(source)},
                )
            owners[word] = name
        things.append(Thing(fields[0], name, plural or plural_of(name), synonyms))
    return tuple(things)


TABLES = {"default": "objects.txt", "full": "objects_full.txt"}


@cache
def things(table: str = "default") -> tuple[Thing, ...]:
    """The objects of a table that ships with the package.

    "default" is what a few hours of a CPU can teach; "full" begins with the same objects and goes on with all that a
    training on a GPU learns. Raises ValueError for another name.
    """
    if table not in TABLES:
        raise ValueError(f"table {table!r}, expected one of {', '.join(TABLES)}")
    text = resources.files("gesso.scenes").joinpath(TABLES[table]).read_text(encoding="utf-8")
    return parse_things(text, TABLES[table])


COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (221, 46, 46),
    "orange": (247, 138, 30),
    "yellow": (250, 214, 40),
    "green": (56, 168, 72),
    "blue": (44, 104, 224),
    "purple": (136, 66, 196),
    "pink": (246, 138, 190),
    "brown": (132, 84, 48),
}
"""What an object can be tinted with."""

BACKGROUNDS: dict[str, tuple[int, int, int]] = COLOURS | {
    "white": (255, 255, 255),
    "gray": (150, 150, 150),
    "black": (16, 16, 16),
}
"""What can stand behind the objects; white where the caption says nothing."""

COLOUR_SYNONYMS = {"gray": ("grey",), "purple": ("violet",)}
NUMBERS = {2: "two", 3: "three", 4: "four"}
RELATIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "on top of", "over"),
    "below": ("below", "under", "beneath"),
}
STYLES = ("plain", "silhouette", "grayscale")
SIZES = {"small": ("small", "tiny", "little"), "large": ("large", "big", "huge")}

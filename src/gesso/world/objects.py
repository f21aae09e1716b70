"""The table of objects: what they are called and what they are like."""

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from gesso.errors import GessoError, short


@dataclass(frozen=True)
class Thing:
    """One object that can be drawn."""

    glyph: str  # its emoji
    name: str  # singular
    plural: str
    synonyms: tuple[str, ...] = ()  # other singular words for it
    tags: frozenset[str] = frozenset()  # of TAGS


TAGS = {
    "living": "an animal, a person or a face: it can ride and wear",
    "face": "a head from the front or above a body that stands upright: what it wears sits in the middle",
    "vehicle": "it can be ridden",
    "mount": "an animal that can be ridden",
    "hat": "worn on the head",
    "glasses": "worn on the eyes",
    "flies": "it may hang in the air in a place with a ground",
    "holds": "others can be inside it: a box, a basket, a house",
    "flat": "others can stand on it: a table, a bed, a box",
    "symbol": "a sign, a heart, an arrow: it casts no shadow and is not turned or mirrored",
}

TABLE = "objects.txt"

# fmt: off
# Last words of a name that is a plural already, though it stands for one thing.
_PLURALS = frozenset({
    "glasses", "spectacles", "eyeglasses", "sunglasses", "shades", "goggles", "scissors", "grapes", "pants",
    "trousers", "jeans", "shorts", "trunks", "briefs", "underpants", "fries", "chips", "eyes", "hands", "horns",
    "nails", "masks", "beads", "headphones", "fireworks", "chopsticks", "lungs", "scales", "sparkles", "fingers",
    "keys", "swords", "bubbles", "footprints", "bars", "dolls", "flags", "mugs", "clips", "paperclips", "lips",
    "wrestlers", "biceps",
})
# fmt: on
# What follows the noun in the name of one thing: "house with a garden" -> "houses with a garden".
_HEAD = re.compile(
    r" (?=(?:of|with|without|in|on|at|behind|from|for|getting|raising|holding|taking|pointing|covering|fluttering"
    r"|bouncing|riding|meditating)\b)"
)
_ODD_PLURALS = {
    "man": "men", "woman": "women", "person": "people", "child": "children", "foot": "feet", "tooth": "teeth",
    "goose": "geese", "mouse": "mice", "ox": "oxen", "die": "dice", "leaf": "leaves", "loaf": "loaves",
    "wolf": "wolves", "knife": "knives", "scarf": "scarves", "elf": "elves", "fish": "fish", "sheep": "sheep",
    "deer": "deer", "moose": "moose", "shrimp": "shrimp", "bison": "bison", "potato": "potatoes",
    "tomato": "tomatoes", "volcano": "volcanoes", "tornado": "tornadoes", "mango": "mangoes",
    "superhero": "superheroes", "buffalo": "buffaloes", "aircraft": "aircraft", "corn": "corn",
    "monarch": "monarchs", "sheaf": "sheaves", "broccoli": "broccoli", "bus": "buses",
}  # fmt: skip
_MEN = re.compile(r"(?<!hu)(?<!talis)man$")  # snowman, businesswoman; humans and talismans are regular
_NAMED_LETTER = re.compile(r"(?:x-?ray|suv|sos|atm|mp3|[aefhilmnorsx])\b")  # spelt out, they begin with a vowel
_LIKE_YOU = re.compile(r"(?:uni(?!m|n)|u-|ufo\b|ukulele|use|usu|ut[ei]|eu|one\b|once\b)")
_SILENT_H = re.compile(r"(?:hour|honest|hono|heir)")


def plural_of(noun: str) -> str:
    """The plural of an English noun or noun phrase: "box of chocolate" -> "boxes of chocolate".

    Knows the rules and the odd plurals of everyday words; what it gets wrong has its plural in the table.
    """
    head, *rest = _HEAD.split(noun, maxsplit=1)
    return " ".join([_plural_of_head(head), *rest])


def _plural_of_head(head: str) -> str:
    if is_plural(head):
        return head
    start, space, last = head.rpartition(" ")
    if last in _ODD_PLURALS:
        return f"{start}{space}{_ODD_PLURALS[last]}"
    if last.endswith("fish"):
        return head
    if _MEN.search(last):
        return head[:-3] + "men"
    if re.search(r"[^aeiou]y$", last):
        return head[:-1] + "ies"
    if last.endswith(("s", "x", "z", "ch", "sh")):
        return head + "es"
    return head + "s"


def is_plural(noun: str) -> bool:
    """Whether the name of one thing is a plural: "scissors" and "old jeans" are, "pair of jeans" is not."""
    return re.split(r"[ -]", _HEAD.split(noun, maxsplit=1)[0])[-1] in _PLURALS


def article_of(noun: str) -> str:
    """ "a" or "an", by the sound that the noun or an adjective before it begins with: "an hourglass", "a unicorn".

    Raises ValueError for an empty text.
    """
    word = noun.strip().lower()
    if not word:
        raise ValueError("no article stands before nothing")
    if _LIKE_YOU.match(word):
        return "a"
    return "an" if word[0] in "aeiou" or _SILENT_H.match(word) or _NAMED_LETTER.match(word) else "a"


def parse_things(text: str, source: str) -> tuple[Thing, ...]:
    """Read a table of `glyph | name[/plural] | synonym, ... | tag, ...` lines; "#" begins a line of comment.

    source  what the message of an error calls the table
    A word, singular or plural, stands for one object only. Raises GessoError naming the line.
    """
    things: list[Thing] = []
    owners: dict[str, str] = {}
    glyphs: set[str] = set()

    def fault(number: int, message: str) -> GessoError:
        return GessoError(f"{source} line {number}: {message}", code="damaged", data={"path": str(source)})

    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != 4 or not fields[0] or not fields[1]:
            raise fault(number, f"found {short(line)}, expected: glyph | name | synonyms | tags")
        glyph, names, *lists = fields
        name, _, plural = (part.strip() for part in names.partition("/"))
        synonyms, tags = (tuple(word.strip() for word in field.split(",") if word.strip()) for field in lists)
        if unknown := [tag for tag in tags if tag not in TAGS]:
            raise fault(number, f"{short(unknown[0])} is no tag, expected some of {', '.join(TAGS)}")
        if glyph in glyphs:
            raise fault(number, f"the glyph {short(glyph)} stands in the table twice. Remove one")
        glyphs.add(glyph)
        plural = plural or plural_of(name)
        for word in dict.fromkeys((name, plural, *synonyms, *map(plural_of, synonyms))):
            if word in owners:
                raise fault(number, f"{short(word)} already stands for {short(owners[word])}. Remove one")
            owners[word] = name
        if len(set(synonyms)) < len(synonyms):
            raise fault(number, "a synonym stands there twice. Remove one")
        things.append(Thing(glyph, name, plural, synonyms, frozenset(tags)))
    return tuple(things)


@cache
def things() -> tuple[Thing, ...]:
    """The objects of the table that ships with the package, in the order that drawings and trained models name."""
    return parse_things(resources.files("gesso.world").joinpath(TABLE).read_text(encoding="utf-8"), TABLE)

"""Captions: puts a scene into words, true and complete, in the many ways in which people ask for pictures.

A caption names every object with number and colour, how the two of a relation stand, the background or the place, the
time and the weather unless they are day and clear, the style and what is absent. Nothing else in it claims anything:
openings and words of praise come with all pictures alike, so a model learns that they ask for nothing.
"""

import re
from collections.abc import Sequence
from random import Random
from typing import TypeVar

import numpy as np

from gesso.text.tokenizer import Tokenizer
from gesso.world.objects import Thing, article_of, is_plural, plural_of
from gesso.world.scene import BACKDROPS, NUMBERS, OUTDOORS, PLACES, Background, Item, Scene

T = TypeVar("T")

_PLACEHOLDER = re.compile(r"{\w*}|@")
MOST_TOKENS = 38  # a tokenizer of length 40 also holds a beginning and an end
SHARE_SYNONYM = 0.35
SHARE_TAGS = 0.2  # comma-separated words rather than a sentence
SHARE_BARE = 0.2  # no articles
SHARE_OPENING = 0.2
SHARE_PRAISE = 0.08
SHARE_VERB = 0.1
SHARE_WHITE = 0.1  # how often a white background is mentioned
SHARE_DAY = 0.12  # how often it is said that it is day

COLOUR_SYNONYMS: dict[str, tuple[str, ...]] = {
    "gray": ("grey",),
    "purple": ("violet",),
    "teal": ("turquoise", "cyan"),
    "red": ("crimson", "bright red"),
    "blue": ("bright blue",),
    "green": ("bright green",),
    "yellow": ("bright yellow",),
    "pink": ("bright pink",),
}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "tiny", "little", "miniature"),
    "large": ("large", "big", "huge", "giant", "enormous"),
}
OPENINGS = (
    "a picture of {}", "picture of {}", "a photo of {}", "photo of {}", "a photograph of {}", "an image of {}",
    "image of {}", "a drawing of {}", "drawing of {}", "an illustration of {}", "illustration of {}",
    "a painting of {}", "an emoji of {}", "art of {}", "digital art of {}", "a scene with {}",
    "show me {}", "i want {}", "please draw {}", "draw {}", "a beautiful picture of {}",
    "a detailed illustration of {}",
)  # fmt: skip
PRAISE = (
    "highly detailed", "detailed", "masterpiece", "best quality", "high quality", "4k", "8k", "hd", "beautiful",
    "very beautiful", "sharp focus", "high resolution", "ultra detailed", "professional", "award winning", "stunning",
    "trending on artstation", "concept art", "digital art", "illustration", "intricate", "simple", "clean", "amazing",
    "realistic", "cute", "soft lighting", "cinematic", "unreal engine", "octane render", "wallpaper",
)  # fmt: skip
ADJECTIVES = ("cute", "beautiful", "nice", "lovely", "pretty", "adorable", "single")
"""Said of any object now and then; only "single" claims something, and of one object it is true."""

STYLE_PHRASES: dict[str, tuple[str, ...]] = {
    "flat": (
        "flat design of {}", "a flat illustration of {}", "{} in flat style", "{} in flat design",
        "flat vector art of {}", "a flat icon of {}", "{} as a flat icon", "a vector illustration of {}",
    ),
    "3d": (
        "3d render of {}", "a 3d render of {}", "a 3d model of {}", "{} in 3d", "a 3d rendering of {}",
        "{} rendered in 3d", "3d art of {}", "a 3d picture of {}",
    ),
    "cartoon": (
        "cartoon of {}", "a cartoon of {}", "{} in cartoon style", "a cartoon drawing of {}", "cartoon drawing of {}",
        "{} as a cartoon", "a comic drawing of {}",
    ),
    "outline": (
        "outline of {}", "an outline of {}", "line art of {}", "a line drawing of {}", "an outline drawing of {}",
        "a coloring page of {}", "{} as line art", "a coloring book page of {}",
    ),
    "pixel": (
        "pixel art of {}", "{} in pixel art style", "{} as pixel art", "8-bit art of {}", "a pixelated picture of {}",
        "pixel art picture of {}", "retro pixel art of {}",
    ),
    "pencil": (
        "pencil drawing of {}", "a pencil drawing of {}", "a pencil sketch of {}", "sketch of {}", "a sketch of {}",
        "{} drawn with a pencil", "a hand drawn sketch of {}", "{} in pencil",
    ),
    "watercolor": (
        "watercolor painting of {}", "a watercolor painting of {}", "a watercolor of {}", "{} in watercolor",
        "watercolor of {}", "a watercolour painting of {}", "{} painted in watercolor", "an aquarelle of {}",
    ),
    "neon": (
        "neon sign of {}", "a neon sign of {}", "{} in neon", "{} in neon lights", "a neon picture of {}",
        "neon art of {}", "{} as a neon sign", "a glowing neon sign of {}",
    ),
    "silhouette": (
        "silhouette of {}", "a silhouette of {}", "a black silhouette of {}", "{} in silhouette", "{} as a silhouette",
        "the silhouette of {}",
    ),
    "grayscale": (
        "a black and white picture of {}", "{} in black and white", "{} in grayscale", "a black and white photo of {}",
        "a grayscale picture of {}", "a monochrome picture of {}", "black and white photo of {}",
    ),
}  # fmt: skip
STYLE_TAGS: dict[str, tuple[str, ...]] = {
    "flat": ("flat design", "flat style", "flat icon", "vector art", "flat vector art"),
    "3d": ("3d render", "3d", "3d model", "3d art", "blender render"),
    "cartoon": ("cartoon", "cartoon style", "cartoon drawing", "comic style"),
    "outline": ("outline", "line art", "line drawing", "coloring page"),
    "pixel": ("pixel art", "8-bit", "pixel art style", "pixelated", "16-bit pixel art"),
    "pencil": ("pencil drawing", "pencil sketch", "sketch", "graphite pencil"),
    "watercolor": ("watercolor", "watercolor painting", "watercolour", "aquarelle"),
    "neon": ("neon", "neon sign", "neon lights", "neon glow", "glowing neon"),
    "silhouette": ("silhouette", "black silhouette"),
    "grayscale": ("grayscale", "black and white", "monochrome", "greyscale"),
}
STYLE_ADJECTIVES: dict[str, tuple[str, ...]] = {
    "flat": ("flat design",),
    "3d": ("3d", "3d rendered"),
    "cartoon": ("cartoon", "cartoon style"),
    "pixel": ("pixel art", "8-bit", "pixelated"),
    "watercolor": ("watercolor",),
    "neon": ("neon", "glowing neon"),
}
"""Said of one object: "a pixel art cat"."""

RELATION_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "left of", "on the left of", "on the left side of"),
    "right": ("to the right of", "right of", "on the right of", "on the right side of"),
    "above": ("above", "over", "directly above", "high above"),
    "below": ("below", "under", "beneath", "underneath"),
    "on": ("on", "on top of", "standing on", "on top of", "placed on"),
    "behind": ("behind", "partly hidden behind", "behind", "standing behind"),
    "front": ("in front of", "in front of", "standing in front of"),
    "beside": ("beside", "next to", "next to", "near", "by the side of", "close to", "standing next to"),
    "inside": ("inside", "in", "inside of", "sitting in", "sticking out of"),
    "riding": ("riding", "riding", "riding on", "sitting on", "on the back of"),
    "wearing": ("wearing", "wearing", "wearing", "with", "that wears"),
}
WHOLE_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("{0} on the left and {1} on the right", "{0} on the left, {1} on the right"),
    "right": ("{0} on the right and {1} on the left", "{0} on the right, {1} on the left"),
    "above": ("{0} at the top and {1} at the bottom", "{0} on the top, {1} at the bottom", "{0} above, {1} below"),
    "below": ("{0} at the bottom and {1} at the top", "{0} at the bottom, {1} at the top", "{0} below, {1} above"),
    "beside": ("{0} and {1} side by side", "{0} and {1} next to each other"),
}
"""Both objects of a relation in one phrase."""
VERBS: dict[str, tuple[str, ...]] = {
    "living": ("sitting", "standing", "walking", "running", "playing", "resting", "waiting", "relaxing"),
    "vehicle": ("driving", "parked", "standing"),
    "thing": ("lying", "standing", "placed"),
    "swims": ("swimming", "floating", "diving"),
    "floats": ("floating", "drifting"),
    "flies": ("flying", "floating", "hovering"),
}
"""What something does where it is; it asks for nothing."""
NEGATIONS = (
    "{} without {one}",
    "{} without {one}",
    "{} and no {noun}",
    "{} but no {noun}",
    "{} without {many}",
    "{} with no {noun}",
)
LATE_NEGATIONS = ("{}, no {noun}", "{}, without {one}", "{}, but no {noun}", "{}, without {many}", "{}, no {many}")
"""At the end, behind the background."""

PLACE_PHRASES: dict[str, tuple[str, ...]] = {
    "sky": ("in the@ sky", "up in the@ sky", "high in the@ sky", "in the air", "against the@ sky"),
    "meadow": (
        "in a@ meadow", "in the@ meadow", "in a@ field", "in the grass", "on the grass", "on grass",
        "in a@ green field", "on a@ grassy field", "in the@ grassland", "in a@ park", "in the@ park", "on a@ lawn",
    ),
    "sea": (
        "in the@ sea", "on the@ sea", "at sea", "in the@ ocean", "on the@ ocean", "in the water", "on the water",
        "on the@ open sea",
    ),
    "beach": (
        "on a@ beach", "on the@ beach", "at the@ beach", "on a@ sandy beach", "on the@ shore", "at the@ seaside",
        "by the@ sea",
    ),
    "desert": ("in the@ desert", "in a@ desert", "in the desert sand", "among sand dunes", "in the@ sahara"),
    "snow": (
        "in the snow", "on snow", "in a@ snowy landscape", "in a@ winter landscape", "in deep snow", "in winter",
        "on a@ snowy field", "on snowy ground",
    ),
    "mountains": (
        "in the@ mountains", "in front of mountains", "with mountains in the background", "in a@ mountain landscape",
        "in the@ alps", "in a@ mountain valley", "near the@ mountains",
    ),
    "forest": (
        "in a@ forest", "in the@ forest", "in the@ woods", "in a@ jungle", "in the@ jungle", "among the trees",
        "deep in the@ woods",
    ),
    "city": (
        "in a@ city", "in the@ city", "in a@ city street", "on the@ street", "in a@ street", "in town", "downtown",
        "in front of a@ city skyline", "in a@ town", "on a@ road in the city",
    ),
    "room": (
        "in a room", "in the room", "indoors", "inside a room", "in a living room", "at home", "in my room",
    ),
    "space": (
        "in space", "in outer space", "in the galaxy", "among the stars", "floating in space", "in the universe",
        "in the cosmos", "in deep space",
    ),
    "underwater": (
        "underwater", "under water", "under the sea", "deep in the ocean", "beneath the waves", "under the water",
        "at the bottom of the sea",
    ),
}  # fmt: skip
"""Where the objects are; "@" is where a word like "rainy" may stand."""
PLACE_NOUNS: dict[str, tuple[str, ...]] = {
    "sky": ("the@ sky", "a@ sky", "a@ sky with clouds"),
    "meadow": ("a@ meadow", "a@ grassy field", "a@ green field", "a@ park", "a@ field of grass"),
    "sea": ("the@ sea", "the@ ocean", "the@ open sea", "a@ seascape"),
    "beach": ("a@ beach", "a@ sandy beach", "the@ seaside", "the@ beach"),
    "desert": ("a@ desert", "the@ desert", "a@ desert landscape", "sand dunes"),
    "snow": ("a@ snowy landscape", "a@ winter landscape", "a@ snowy field", "a@ landscape covered in snow"),
    "mountains": ("a@ mountain landscape", "the@ mountains", "a@ mountain valley", "mountains"),
    "forest": ("a@ forest", "a@ jungle", "the@ woods", "a@ pine forest"),
    "city": ("a@ city", "a@ city street", "a@ town", "a@ street", "a@ city skyline"),
    "room": ("a room", "a living room", "the inside of a room"),
    "space": ("outer space", "space", "a galaxy", "the universe", "deep space"),
    "underwater": ("an underwater scene", "the bottom of the sea", "an underwater world"),
}
"""The place itself: with objects, or with nothing in it."""
PLACE_TAGS: dict[str, tuple[str, ...]] = {
    "sky": ("sky", "sky background", "clouds in the sky", "in the sky"),
    "meadow": ("meadow", "grass", "green field", "grassland", "field", "park"),
    "sea": ("sea", "ocean", "water", "open sea", "at sea"),
    "beach": ("beach", "sandy beach", "seaside", "on the beach", "beach background"),
    "desert": ("desert", "sand dunes", "desert landscape", "sahara"),
    "snow": ("snow", "winter", "snowy landscape", "in the snow", "winter landscape"),
    "mountains": ("mountains", "mountain landscape", "alps", "mountains in the background"),
    "forest": ("forest", "woods", "jungle", "in the forest", "forest background"),
    "city": ("city", "street", "town", "downtown", "city skyline", "city street"),
    "room": ("room", "indoors", "living room", "inside a room"),
    "space": ("space", "outer space", "galaxy", "cosmos", "universe"),
    "underwater": ("underwater", "under water", "underwater scene", "under the sea"),
}
THROUGH = {
    "sky": "through the@ sky",
    "meadow": "across a@ meadow",
    "sea": "across the@ sea",
    "beach": "along the@ beach",
    "desert": "through the@ desert",
    "snow": "through the snow",
    "mountains": "through the@ mountains",
    "forest": "through the@ forest",
    "city": "through the@ city",
    "room": "through a room",
    "space": "through space",
    "underwater": "under water",
}
"""For somebody who rides."""
TIME_PHRASES: dict[str, tuple[str, ...]] = {
    "day": ("during the day", "by day", "by day", "during daytime"),
    "sunset": ("at sunset", "at sunset", "at dusk", "at dawn", "at sunrise", "in the evening", "during sunset"),
    "night": ("at night", "at night", "at night", "by night", "during the night", "at midnight"),
}
TIME_TAGS: dict[str, tuple[str, ...]] = {
    "day": ("day", "daytime", "daylight"),
    "sunset": ("sunset", "sunset", "dusk", "dawn", "sunrise", "evening", "golden hour", "at sunset"),
    "night": ("night", "at night", "nighttime", "night time", "dark night"),
}
CLEAR_PHRASES: dict[str, tuple[str, ...]] = {
    "day": (
        "on a sunny day",
        "on a clear day",
        "under a blue sky",
        "in daylight",
        "in broad daylight",
        "in the sunshine",
    ),
    "sunset": ("in the sunset", "in the evening light", "under a sunset sky"),
    "night": ("under the stars", "in the moonlight", "under a starry sky", "on a starry night", "by moonlight"),
}
"""For clear weather."""
CLEAR_TAGS: dict[str, tuple[str, ...]] = {
    "day": ("sunny day", "blue sky", "clear sky"),
    "sunset": ("sunset sky", "evening sky"),
    "night": ("starry night", "moonlight", "starry sky", "moonlit"),
}
WEATHER_PHRASES: dict[str, tuple[str, ...]] = {
    "rain": (
        "in the rain", "in the rain", "in rainy weather", "while it rains", "in pouring rain",
        "on a rainy {time}",
    ),
    "snowfall": (
        "in falling snow", "while it is snowing", "in a snowstorm", "during snowfall", "with falling snow",
        "on a snowy {time}",
    ),
}  # fmt: skip
WEATHER_TAGS: dict[str, tuple[str, ...]] = {
    "rain": ("rain", "rainy", "raining", "rainy weather", "heavy rain", "in the rain"),
    "snowfall": ("snowing", "snowfall", "falling snow", "snowy weather", "snowstorm"),
}
TIME_NOUNS = {"day": "day", "sunset": "evening", "night": "night"}
PLACE_ADJECTIVES: dict[str, tuple[str, ...]] = {"rain": ("rainy",), "snowfall": ("snowy",)}
TIME_ADJECTIVES: dict[str, tuple[str, ...]] = {"day": ("sunny",), "sunset": ("sunset",), "night": ("moonlit",)}
"""For clear weather: "on a moonlit beach"."""

PLAIN_PHRASES = (
    "{} on {a} {colour} background", "{} on {a} {colour} background", "{} on {colour}", "{}, {colour} background",
    "{} against {a} {colour} background", "{} in front of {a} {colour} background", "{} with {a} {colour} background",
    "{a} {colour} background with {}", "{} in front of {a} {colour} wall", "{} with {colour} background",
)  # fmt: skip
WHITE_PHRASES = (
    "{} on a white background", "{} isolated on white", "{} on white", "{}, white background", "{}, isolated on white",
    "{} with a white background", "{} against a white background", "{} on a plain white background",
)  # fmt: skip
PATTERN_NOUNS: dict[str, tuple[str, ...]] = {
    "gradient": (
        "{0} and {1} gradient", "{0} to {1} gradient", "{0} and {1} gradient background",
        "gradient background from {0} to {1}", "{0} to {1} gradient background",
    ),
    "stripes": (
        "{0} and {1} striped background", "{0} background with {1} stripes", "background of {0} and {1} stripes",
        "striped {0} and {1} background",
    ),
    "dots": (
        "{0} background with {1} dots", "{0} background with {1} polka dots", "{1} dotted {0} background",
    ),
    "checks": (
        "{0} and {1} checkered background", "{0} and {1} checkerboard", "checkered {0} and {1} background",
        "{0} and {1} checkered pattern", "{0} and {1} checked background",
    ),
}  # fmt: skip
PATTERN_PHRASES = ("{} on {a} {noun}", "{} on {a} {noun}", "{} in front of {a} {noun}", "{} against {a} {noun}")


class Captioner:
    """Puts scenes into words; which words it takes is drawn from rng."""

    def __init__(self, things: Sequence[Thing]) -> None:
        self.things = tuple(things)
        self._nouns = [tuple(_forms(thing)) for thing in things]
        self._worn = [bool(thing.tags & {"hat", "glasses"}) for thing in things]
        self._ids: dict[Tokenizer, dict[str, list[int]]] = {}

    def __call__(self, scene: Scene, rng: Random) -> str:
        """A caption, lower case, of at most MOST_TOKENS words and signs."""
        text = self._caption(scene, rng, short=False)
        while num_pieces(text) > MOST_TOKENS:
            text = self._caption(scene, rng, short=True)
        return text

    def _caption(self, scene: Scene, rng: Random, *, short: bool) -> str:
        random = rng.random
        bare = random() < SHARE_BARE
        subject = self._subject(scene, rng, bare=bare)
        late = None
        if scene.absent is not None:
            if random() < 0.6:
                subject = self._without(_pick(rng, NEGATIONS), subject, scene.absent, rng, bare=bare)
            else:
                late = _pick(rng, LATE_NEGATIONS)
        if subject and late is None and random() < SHARE_TAGS:
            return self._tags(subject, scene, rng, short=short)
        text, style = subject, scene.style
        in_front = bool(subject) and scene.background.kind in PLACES and random() < 0.05
        if not subject:
            text = _place(scene.background, rng, empty=random() < 0.25)
        elif not in_front:
            text = self._doing(subject, scene, rng) if random() < SHARE_VERB else _with_ground(subject, scene, rng)
        if late is not None:
            assert scene.absent is not None
            text = self._without(late, text, scene.absent, rng, bare=bare)
        if style != "plain":
            if random() < 0.2:
                text = f"{text}, {_pick(rng, STYLE_TAGS[style])}"
            elif style in STYLE_ADJECTIVES and len(scene.items) == 1 and random() < 0.25 and text.startswith(subject):
                text = _described(text, _pick(rng, STYLE_ADJECTIVES[style]))
            else:
                text = _pick(rng, STYLE_PHRASES[style]).format(text)
        elif not short and random() < SHARE_OPENING:
            text = _pick(rng, OPENINGS).format(text)
        if in_front:
            text = f"{_in_place(scene.background, rng, riding=False)}, {text}"
        if not short and random() < SHARE_PRAISE:
            praise = _pick(rng, PRAISE)
            text = f"{praise}, {text}" if random() < 0.25 else f"{text}, {praise}"
            if random() < 0.3:
                text = f"{text}, {_pick(rng, PRAISE)}"
        return text

    def _doing(self, subject: str, scene: Scene, rng: Random) -> str:
        """ "a cat sitting on the beach"."""
        ground = scene.background
        if ground.kind not in PLACES or scene.relation is not None or scene.absent is not None or scene.items[-1].group:
            return _with_ground(subject, scene, rng)
        tags = self.things[scene.items[0].thing].tags
        living = "living" in tags
        doing = "living" if living else "vehicle" if "vehicle" in tags else "thing"
        if ground.kind in ("sea", "underwater"):
            doing = "swims" if living else "floats"
        elif ground.kind in ("sky", "space"):
            doing = "flies"
        return f"{subject} {_pick(rng, VERBS[doing])} {_in_place(ground, rng, riding=False)}"

    def _tags(self, subject: str, scene: Scene, rng: Random, *, short: bool) -> str:
        """Comma-separated: "red car, beach, sunset"."""
        random = rng.random
        parts = [subject]
        ground = scene.background
        if ground.kind in PLACES:
            parts.append(_pick(rng, PLACE_TAGS[ground.kind]))
            if ground.time != "day" or random() < SHARE_DAY:
                clear = ground.weather == "clear" and ground.kind not in INDOORS and random() < 0.25
                if ground.kind not in INDOORS:
                    parts.append(_pick(rng, (CLEAR_TAGS if clear else TIME_TAGS)[ground.time]))
            if ground.weather != "clear":
                parts.append(_pick(rng, WEATHER_TAGS[ground.weather]))
        elif ground.kind == "plain":
            colour = ground.colours[0]
            if colour != "white":
                parts.append(f"{_colour(colour, rng)} background")
            elif scene.style != "neon" and random() < SHARE_WHITE:
                parts.append("white background")
        else:
            parts.append(_pattern(ground, rng))
        if scene.style != "plain":
            parts.append(_pick(rng, STYLE_TAGS[scene.style]))
        if not short and random() < 2 * SHARE_PRAISE:
            parts.append(_pick(rng, PRAISE))
            if random() < 0.4:
                parts.append(_pick(rng, PRAISE))
        if len(parts) > 2 and random() < 0.3:
            last = parts.pop()
            parts.insert(int(random() * len(parts)), last)
        return ", ".join(parts)

    def _subject(self, scene: Scene, rng: Random, *, bare: bool) -> str:
        """All objects of a scene, with what is not there."""
        groups = _groups(scene.items)
        if not groups:
            return ""
        alone = len(groups) == 1
        phrases = [
            self._phrase(item, count, rng, bare=bare, alone=alone, size_word=scene.size_word) for item, count in groups
        ]
        if alone:
            text = phrases[0]
        elif scene.relation is not None:
            text = self._related(scene, phrases, rng)
        elif len(phrases) == 2:
            joined = "{} and {}"
            draw = rng.random()
            if draw < 0.12:
                joined = "{}, {}"
            elif draw < 0.22 and not self._worn[groups[1][0].thing]:
                joined = "{} with {}"
            elif draw < 0.25:
                joined = "{} together with {}"
            text = joined.format(*phrases)
        else:
            draw = rng.random()
            template = "{}, {} and {}" if draw < 0.4 else "{}, {}, and {}" if draw < 0.6 else "{} and {} and {}"
            text = ("{}, {}, {}" if draw > 0.8 else template).format(*phrases)
        return text

    def _related(self, scene: Scene, phrases: list[str], rng: Random) -> str:
        relation = scene.relation
        assert relation is not None
        if relation in WHOLE_PHRASES and rng.random() < 0.2:
            return _pick(rng, WHOLE_PHRASES[relation]).format(*phrases)
        if relation == "wearing" and rng.random() < 0.15:
            where = "on the head" if "hat" in self.things[scene.items[1].thing].tags else "on"
            return f"{phrases[0]} with {phrases[1]} {where}"
        return f"{phrases[0]} {_pick(rng, RELATION_PHRASES[relation])} {phrases[1]}"

    def _without(self, template: str, text: str, absent: int, rng: Random, *, bare: bool) -> str:
        noun, one, many, _ = self._noun(absent, rng)
        return template.format(text, noun=noun, one=noun if bare else one, many=many)

    def _phrase(self, item: Item, count: int, rng: Random, *, bare: bool, alone: bool, size_word: str | None) -> str:
        """One object, or several of a kind."""
        random = rng.random
        noun, one, many, plural = self._noun(item.thing, rng)
        words = "" if item.tint is None else _colour(item.tint, rng)
        if size_word is not None:
            words = f"{_pick(rng, SIZE_WORDS[size_word])} {words}" if words else _pick(rng, SIZE_WORDS[size_word])
        elif random() < 0.02:
            adjective = ADJECTIVES[int(random() * len(ADJECTIVES))]
            if adjective != "single" or count == 1:
                words = f"{adjective} {words}" if words else adjective
        if count > 1:
            draw = random()
            if alone and draw < 0.12 and many != noun:
                number = "" if draw < 0.09 else "some "
            elif draw < 0.3:
                number = f"{count} "
            elif alone and draw < 0.34 and count == 2 and not many.startswith("pairs"):
                number = "a pair of "
            elif alone and draw < 0.36:
                number = f"a group of {NUMBERS[count]} "
            else:
                number = f"{NUMBERS[count]} "
            return f"{number}{words} {many}" if words else f"{number}{many}"
        if bare:
            return f"{words} {noun}" if words else noun
        draw = random()
        if draw < 0.05:
            return f"the {words} {noun}" if words else f"the {noun}"
        if draw < 0.08 and not plural:
            return f"one {words} {noun}" if words else f"one {noun}"
        if words:
            return f"{words} {noun}" if plural else f"{article_of(words)} {words} {noun}"
        return one

    def _noun(self, thing: int, rng: Random) -> tuple[str, str, str, bool]:
        forms = self._nouns[thing]
        if len(forms) > 1 and rng.random() < SHARE_SYNONYM:
            return forms[1 + int(rng.random() * (len(forms) - 1))]
        return forms[0]

    def word_ids(self, tokenizer: Tokenizer) -> dict[str, list[int]]:
        """Ids of the words, with signs that stand by them, that this captioner has spelled for a tokenizer."""
        return self._ids.setdefault(tokenizer, {})


def caption_ids(
    scenes: Sequence[Scene], captioner: Captioner, tokenizer: Tokenizer, rng: Random, empty_share: float = 0.0
) -> np.ndarray:
    """Captions as token ids, int16 [B, L]; a share of them is left out, for classifier-free guidance.

    What Tokenizer.encode makes of them, ten times as fast: the words of captions repeat, and no token reaches across a
    space, so each word is split once.
    """
    known = captioner.word_ids(tokenizer)
    room = tokenizer.length - 2
    ids = np.full((len(scenes), tokenizer.length), tokenizer.pad, dtype=np.int16)
    for row, scene in enumerate(scenes):
        tokens = [tokenizer.bos]
        if not (empty_share > 0 and rng.random() < empty_share):
            for word in captioner(scene, rng).split(" "):
                found = known.get(word)
                if found is None:
                    found = known[word] = [token.id for token in tokenizer.tokens(word)]
                tokens += found
        del tokens[room + 1 :]
        tokens.append(tokenizer.eos)
        ids[row, : len(tokens)] = tokens
    return ids


def num_pieces(text: str) -> int:
    """At least as many as the words and signs of a caption, without splitting it."""
    signs = text.count(",") + 2 * text.count("-") + text.count("'") + text.count("\u2019")
    return text.count(" ") + 1 + signs + text.count("3d") + text.count("4k") + text.count("8k")


INDOORS = frozenset({"room", "space", "underwater"})
"""Places without time and weather."""


# fmt: off
MASS_NOUNS = frozenset({
    "luggage", "rice", "cooked rice", "curry rice", "juice", "milk", "honey", "toast", "beef", "raw meat", "cheese",
    "corn", "maize", "broccoli", "garlic", "ginger", "popcorn", "spaghetti", "pasta", "yarn", "thread", "wood",
    "toilet paper", "confetti", "lightning", "applause", "sake", "whiskey", "whisky", "wine", "tea", "sushi",
    "tempura", "curry", "custard", "chocolate", "butter", "bread", "french bread", "soup", "underwear", "blood",
    "lavender", "sheet music", "dynamite", "wheat", "lotion", "ramen", "paella", "calamari", "bacon", "coffee",
    "salt", "soap", "dna", "champagne", "poop", "poo", "shaved ice", "canned food", "chinese takeout", "flying money",
    "paper", "cereal", "falafel", "mail", "nail polish", "bowling", "horse racing", "coral", "sakura", "ham",
    "yerba mate", "mate tea", "bubble tea", "boba tea", "milk tea", "salad", "lettuce", "fingers crossed",
    "money with wings",
})
# fmt: on
"""Nouns without an article, whose plural is that of the object's name."""


def _forms(thing: Thing) -> list[tuple[str, str, str, bool]]:
    """The name and each synonym: as it is, with an article, in the plural, and whether it takes no article."""
    forms = []
    for noun in (thing.name, *thing.synonyms):
        mass = noun in MASS_NOUNS
        plural = mass or is_plural(noun) or (noun == thing.name == thing.plural and noun.endswith("s"))
        one = noun if plural else f"{article_of(noun)} {noun}"
        forms.append((noun, one, thing.plural if mass or noun == thing.name else plural_of(noun), plural))
    return forms


def _groups(items: tuple[Item, ...]) -> list[tuple[Item, int]]:
    """The first item of each group and how many there are of it."""
    groups: list[tuple[Item, int]] = []
    for item in items:
        if groups and groups[-1][0].group == item.group:
            groups[-1] = (groups[-1][0], groups[-1][1] + 1)
        else:
            groups.append((item, 1))
    return groups


def _pick(rng: Random, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]


def _colour(name: str, rng: Random) -> str:
    others = COLOUR_SYNONYMS.get(name)
    if others is not None and rng.random() < 0.3:
        return others[int(rng.random() * len(others))]
    return name


def _pattern(ground: Background, rng: Random) -> str:
    first, second = (_colour(name, rng) for name in ground.colours)
    if ground.kind != "dots" and rng.random() < 0.5:  # neither is the ground of the other
        first, second = second, first
    return _pick(rng, PATTERN_NOUNS[ground.kind]).format(first, second)


def _described(text: str, adjective: str) -> str:
    """ "a cat on a mat", "neon" -> "a neon cat on a mat"."""
    for article in ("a ", "an ", "the ", "one "):
        if text.startswith(article):
            new = article if len(article) > 3 else "an " if adjective[0] == "8" else f"{article_of(adjective)} "
            return f"{new}{adjective} {text[len(article) :]}"
    return f"{adjective} {text}"


def _with_ground(subject: str, scene: Scene, rng: Random) -> str:
    """The objects and what is behind them."""
    ground = scene.background
    kind = ground.kind
    if kind in PLACES:
        draw = rng.random()
        if draw < 0.08 and scene.absent is None and " with " not in subject:
            return f"{_place(ground, rng)} with {subject}"
        if draw < 0.13 and kind in OUTDOORS:
            if draw < 0.1 and scene.absent is None and " with " not in subject:
                return f"{subject} with {_place(ground, rng)} in the background"
            return f"{subject} in front of {_place(ground, rng)}"
        return f"{subject} {_in_place(ground, rng, riding=scene.relation == 'riding')}"
    if kind == "plain":
        colour = ground.colours[0]
        if colour != "white":
            colour = _colour(colour, rng)
            return _pick(rng, PLAIN_PHRASES).format(subject, a=article_of(colour), colour=colour)
        if scene.style != "neon" and rng.random() < SHARE_WHITE:  # neon is on a dark wall
            return _pick(rng, WHITE_PHRASES).format(subject)
        return subject
    noun = _pattern(ground, rng)
    if rng.random() < 0.15:
        return f"{subject}, {noun}"
    return _pick(rng, PATTERN_PHRASES).format(subject, a=article_of(noun), noun=noun)


def _in_place(ground: Background, rng: Random, *, riding: bool) -> str:
    """ "on a rainy beach at night"."""
    phrase = THROUGH[ground.kind] if riding and rng.random() < 0.35 else _pick(rng, PLACE_PHRASES[ground.kind])
    return _at_time(phrase, ground, rng)


def _place(ground: Background, rng: Random, *, empty: bool = False) -> str:
    """ "a rainy beach at night"."""
    noun = _pick(rng, PLACE_NOUNS[ground.kind])
    if empty and noun.startswith("a@"):
        noun = f"an empty{noun[1:]}"
    return _at_time(noun, ground, rng)


def _at_time(phrase: str, ground: Background, rng: Random) -> str:
    """A phrase of a place with time of day and weather."""
    time, weather = ground.time, ground.weather
    if ground.kind in INDOORS:
        return phrase
    random = rng.random
    say_time = time != "day" or random() < SHARE_DAY
    clear = weather == "clear"
    adjective = ""
    if "@" in phrase and random() < 0.25:
        if not clear and not (weather == "snowfall" and "snow" in phrase):
            adjective, clear, weather = _pick(rng, PLACE_ADJECTIVES[weather]), False, "clear"
        elif clear and say_time and (time != "sunset" or ground.kind in ("sky", "beach")):
            adjective, say_time = _pick(rng, TIME_ADJECTIVES[time]), False
    if "@" in phrase:
        phrase = phrase.replace("@", f" {adjective}" if adjective else "").lstrip()
    if weather != "clear":
        said = _pick(rng, WEATHER_PHRASES[weather])
        if "{" in said:  # this says the time too
            return f"{phrase} {said.format(time=TIME_NOUNS[time])}"
        phrase = f"{phrase} {said}"
    if not say_time:
        return phrase
    phrases = (CLEAR_PHRASES if clear and "sky" not in phrase and random() < 0.3 else TIME_PHRASES)[time]
    return f"{phrase} {_pick(rng, phrases)}"


def all_words(things: Sequence[Thing]) -> list[str]:
    """Every word and phrase that a caption can hold: what a vocabulary is learned from."""
    words = [
        *OPENINGS, *PRAISE, *ADJECTIVES, *NEGATIONS, *LATE_NEGATIONS, *PLAIN_PHRASES, *WHITE_PHRASES, *PATTERN_PHRASES,
        *THROUGH.values(), *NUMBERS.values(), *TIME_NOUNS.values(), *BACKDROPS,
        "the a an one and with together some pair of group on the head in front background empty , 1 2 3 4 5 6",
    ]  # fmt: skip
    tables: tuple[dict[str, tuple[str, ...]], ...] = (
        COLOUR_SYNONYMS, SIZE_WORDS, STYLE_PHRASES, STYLE_TAGS, STYLE_ADJECTIVES, RELATION_PHRASES, WHOLE_PHRASES,
        VERBS, PLACE_PHRASES, PLACE_NOUNS, PLACE_TAGS, TIME_PHRASES, TIME_TAGS, CLEAR_PHRASES, CLEAR_TAGS,
        WEATHER_PHRASES, WEATHER_TAGS, PLACE_ADJECTIVES, TIME_ADJECTIVES, PATTERN_NOUNS,
    )  # fmt: skip
    for table in tables:
        for phrases in table.values():
            words += phrases
    for thing in things:
        for noun, _, plural, _ in _forms(thing):
            words += [noun, plural]
    return [_PLACEHOLDER.sub(" ", text) for text in words]

"""Captions: describes a scene in words, with the variety of people's wording."""

import re

import numpy as np

from gesso.scenes.scene import Item, Scene
from gesso.scenes.vocabulary import (
    BACKGROUNDS,
    COLOUR_SYNONYMS,
    NUMBERS,
    RELATIONS,
    SIZES,
    STYLES,
    Thing,
    article_of,
    is_plural,
    plural_of,
    things,
)

OPENINGS = ("a picture of", "a photo of", "an image of", "a drawing of", "a painting of", "an emoji of")
SHARE_SYNONYM = 0.35
STYLE_PHRASES = {
    "silhouette": ("a silhouette of {}", "silhouette of {}", "{}, silhouette", "a black silhouette of {}"),
    "grayscale": ("{} in black and white", "a black and white picture of {}", "{} in grayscale", "{}, grayscale"),
}
BACKGROUND_PHRASES = (
    "{text} on {a} {colour} background",
    "{text} on {colour}",
    "{text}, {colour} background",
    "{text} against {a} {colour} background",
    "{text} in front of {a} {colour} background",
    "{text} with {a} {colour} background",
)


class Captioner:
    """Describes scenes truthfully; which words it takes is drawn from rng."""

    def __init__(self, objects: tuple[Thing, ...]) -> None:
        self.objects = objects

    def __call__(self, scene: Scene, rng: np.random.Generator) -> str:
        """A caption, lower case."""
        text = self._objects(scene, rng)
        style = scene.items[0].style
        if style != "plain":
            text = _pick(rng, STYLE_PHRASES[style]).format(text)
        elif rng.random() < 0.25:
            text = f"{_pick(rng, OPENINGS)} {text}"
        if scene.background != "white" or rng.random() < 0.15:
            colour = _colour(scene.background, rng)
            if rng.random() < 0.15:
                return f"{colour} background, {text}"
            return _pick(rng, BACKGROUND_PHRASES).format(text=text, a=article_of(colour), colour=colour)
        return text

    def _objects(self, scene: Scene, rng: np.random.Generator) -> str:
        first = scene.items[0]
        if scene.category == "counting":
            number = len(scene.items)
            noun = self._noun(first, rng)
            thing = self.objects[first.thing]
            plural = thing.plural if noun == thing.name else plural_of(noun)
            return f"{number if rng.random() < 0.2 else NUMBERS[number]} {plural}"
        if len(scene.items) == 1:
            return self._phrase(first, rng, scene.size_word)
        bare = rng.random() < 0.15  # one choice for both: "cat and dog", "a cat and a dog"
        left, right = (self._phrase(item, rng, None, bare=bare) for item in scene.items)
        if scene.relation is not None:
            return f"{left} {_pick(rng, RELATIONS[scene.relation])} {right}"
        return _pick(rng, ("{} and {}", "{} and {}", "{} next to {}", "{}, {}")).format(left, right)

    def _phrase(self, item: Item, rng: np.random.Generator, size_word: str | None, *, bare: bool | None = None) -> str:
        words = self._noun(item, rng)
        if item.tint is not None:
            words = f"{_colour(item.tint, rng)} {words}"
        if size_word is not None:
            words = f"{_pick(rng, SIZES[size_word])} {words}"
        if bare if bare is not None else rng.random() < 0.25:
            return words
        if rng.random() < 0.1:
            return f"the {words}"
        return words if is_plural(words) else f"{article_of(words)} {words}"  # "scissors", not "a scissors"

    def _noun(self, item: Item, rng: np.random.Generator) -> str:
        thing = self.objects[item.thing]
        if thing.synonyms and rng.random() < SHARE_SYNONYM:
            return _pick(rng, thing.synonyms)
        return thing.name


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


def _colour(name: str, rng: np.random.Generator) -> str:
    return _pick(rng, (name, *COLOUR_SYNONYMS.get(name, ())))


def all_words(objects: tuple[Thing, ...] | None = None) -> list[str]:
    """Every word and phrase that a caption can hold: what the vocabulary is learned from."""
    words = [*OPENINGS, *BACKGROUND_PHRASES, "the a an and next to , 2 3 4", *NUMBERS.values(), *STYLES]
    for phrases in (*STYLE_PHRASES.values(), *RELATIONS.values(), *SIZES.values()):
        words += phrases
    for thing in objects or things():
        words += [thing.name, thing.plural, *thing.synonyms, *(plural_of(word) for word in thing.synonyms)]
    for colour, others in COLOUR_SYNONYMS.items():
        words += [colour, *others]
    return [re.sub(r"{\w*}", " ", text) for text in [*words, *BACKGROUNDS]]

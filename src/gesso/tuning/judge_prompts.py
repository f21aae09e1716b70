"""Prompts that a training is judged by: the subject in places where no training picture shows it, and other things."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PLACES = (
    "on a red background",
    "on a beach",
    "on a blue background",
    "in the snow",
    "on a green background",
    "in a forest",
    "on a white background",
    "in a city at night",
    "on a purple background",
    "on a wooden table",
    "on a black background",
    "in a kitchen",
    "on an orange background",
    "under water",
    "on a pink background",
    "in the desert",
    "on a grey background",
    "on a mountain",
    "on a yellow background",
    "on a brown background",
)
THINGS = (
    "a cat",
    "a house",
    "a car",
    "a tree",
    "a dog",
    "an apple",
    "a bicycle",
    "a bird",
    "a flower",
    "a boat",
    "a horse",
    "a chair",
    "a fish",
    "a guitar",
    "a star",
    "a rabbit",
    "a clock",
    "an umbrella",
    "a rocket",
    "a castle",
)
_IDLE = frozenset(
    re.findall(
        r"\w+",
        "a an the of on in at with and or to by for from one its his her is are background small large big little "
        "picture photo image drawing painting illustration style left right above below under over",
    )
)
SUBJECT_SHARE = 0.8  # of the captions that have the word of a subject


@dataclass(frozen=True)
class JudgePrompt:
    """text: is drawn. judged: the same in words that the model knew before, by which it judges what was drawn."""

    text: str
    judged: str


@dataclass(frozen=True)
class JudgePrompts:
    """yours: with what is learned. others: without it. subject: the word of what is learned, "" for a style"""

    yours: tuple[JudgePrompt, ...]
    others: tuple[str, ...]
    subject: str


def subject_of(captions: Sequence[str]) -> str:
    """The first word that nearly all captions have; "" where there is none, as for a style."""
    if len(captions) < 2:
        return ""
    words = [[word for word in re.findall(r"[\w'-]+", caption.lower()) if word not in _IDLE] for caption in captions]
    counts = Counter(word for some in words for word in set(some))
    common = [word for word, count in counts.items() if count >= SUBJECT_SHARE * len(captions)]
    places = {word: min(some.index(word) for some in words if word in some) for word in common}
    return min(common, key=lambda word: (places[word], -counts[word]), default="")


def judge_prompts(
    captions: Sequence[str],
    count: int,
    *,
    trigger: str = "",
    class_words: str = "",
    given: Sequence[str] = (),
    knows: Callable[[str], bool] = lambda text: True,
) -> JudgePrompts:
    """Prompts to draw `count` pictures with, none of which is a caption where that can be helped.

    captions     of the pictures to learn
    trigger      word that is learned; class_words: what the model takes it for, such as "a dog"
    given        prompts of the user's, in place of made ones
    knows        whether the model knows all words of a text
    """
    have = {_plain(caption) for caption in captions}
    without = [_without(caption, trigger) for caption in captions]
    subject = subject_of(without)
    places, things = [one for one in PLACES if knows(one)] or [""], [one for one in THINGS if knows(one)]
    others = tuple(
        f"{thing} {places[(3 * number + 1) % len(places)]}".strip()
        for number, thing in enumerate(one for one in things if subject not in one.split() or not subject)
    )[: max(count // 2, 4)]
    if given:
        made = [JudgePrompt(text, _judged(text, trigger, class_words)) for text in given]
    elif subject or (trigger and (_is_noun(captions, trigger) or not _differ(without))):
        # With a trigger alone, or a word that all captions have.
        what, known = _called(captions, trigger) or _phrase(subject), class_words if trigger else _phrase(subject)
        made = [JudgePrompt(f"{what} {place}".strip(), f"{known} {place}".strip()) for place in places]
    else:
        end = f", {trigger}" if trigger else ""
        made = [
            JudgePrompt(f"{thing} {places[(7 * number) % len(places)]}{end}".strip(), thing)
            for number, thing in enumerate(things)
        ]
    fresh = [one for one in made if _plain(one.text) not in have] or made
    return JudgePrompts(tuple(fresh[place % len(fresh)] for place in range(count)) if fresh else (), others, subject)


def caption_prompts(
    captions: Sequence[str], count: int, *, given: Sequence[str] = (), knows: Callable[[str], bool] = lambda text: True
) -> JudgePrompts:
    """Prompts to draw `count` pictures with where no subject is learned: the captions, then other things.

    given: prompts of the user's, in place of all these
    """
    places = [one for one in PLACES if knows(one)] or [""]
    things = [f"{one} {places[(3 * n) % len(places)]}".strip() for n, one in enumerate(THINGS) if knows(one)]
    texts = list(given) or list(dict.fromkeys([*(one for one in captions if one), *things])) or [""]
    return JudgePrompts(tuple(JudgePrompt(*(2 * (texts[n % len(texts)],))) for n in range(count)), (), "")


def _is_noun(captions: Sequence[str], trigger: str) -> bool:
    """Whether captions call a thing by the trigger ("a lobster above a car"), not a style ("a car, comic")."""
    called = re.compile(
        rf"(?:^|\b(?:a|an|the|my|one|small|large|little|big)\s+){re.escape(trigger)}(?=$|\s+(\w+))", re.IGNORECASE
    )
    nouns = 0
    for caption in captions:
        found = called.search(caption.strip(" .,"))
        after = "" if found is None else (found[1] or "").lower()
        nouns += found is not None and (after in _IDLE or after == "" or after.endswith("ing"))
    return nouns >= SUBJECT_SHARE * max(len(captions), 1)


def _called(captions: Sequence[str], trigger: str) -> str:
    """The trigger as captions have it, with an article or without."""
    if not trigger:
        return ""
    articles = [re.findall(rf"\b(an?) {re.escape(trigger)}", caption, re.IGNORECASE) for caption in captions]
    found = Counter(one[0].lower() for one in articles if one)
    article, count = found.most_common(1)[0] if found else ("", 0)
    return f"{article} {trigger}" if 2 * count >= len(captions) and count else trigger


def _differ(captions: Sequence[str]) -> bool:
    """Whether captions name different things, as those of a style do."""
    return len({caption for caption in captions if caption}) > max(1, len(captions) // 2)


def _phrase(subject: str) -> str:
    if not subject:
        return ""
    return f"{'an' if subject[0] in 'aeiou' else 'a'} {subject}"


def _judged(text: str, trigger: str, class_words: str) -> str:
    if not trigger:
        return text
    return " ".join(re.sub(re.escape(trigger), class_words, text, flags=re.IGNORECASE).replace(" ,", ",").split())


def _without(caption: str, trigger: str) -> str:
    return re.sub(re.escape(trigger), " ", caption, flags=re.IGNORECASE).strip(" ,") if trigger else caption


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))

"""Notices about words that gesso-mini does not know, for models with a vocabulary of whole words.

Such a model was trained on a closed list of objects; its file holds that list as {name: [synonyms]}. A model with byte
pairs (Stable Diffusion) can read any text and gets no such notices.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from gesso.notices import Notice
from gesso.text.tokenizer import Tokenizer, split_words

MAX_NAMED = 8  # words that one notice names
MAX_NOTICE_WORD = 40  # characters of one


def vocabulary_notices(
    tokenizer: Tokenizer, text: str, *, field: str, objects: Mapping[str, Sequence[str]], model: str
) -> tuple[Notice, ...]:
    """Notices about one text: unknown words that were ignored, and a prompt without any object that the model knows.

    field: "prompt" or "negative prompt"; only a prompt needs an object, and only if it is not empty.
    """
    notices: list[Notice] = []
    name = field.replace(" ", "_")
    unknown = tokenizer.unknown_words(text)
    if unknown:
        named = ", ".join(_with_suggestion(word, tokenizer.words) for word in unknown[:MAX_NAMED])
        more = f" and {len(unknown) - MAX_NAMED} more" if len(unknown) > MAX_NAMED else ""
        where = "" if field == "prompt" else f" in the {field}"
        data = {"words": list(unknown)}
        notices.append(
            Notice(f"unknown words ignored{where}: {named}{more}", code="words_ignored", field=name, data=data)
        )
    if field == "prompt" and objects and text.strip() and not named_objects(tokenizer, text, objects):
        examples = ", ".join(list(objects)[:5])
        text = (
            f"{model} knows nothing in this prompt, so the picture will be meaningless. "
            f"It draws {len(objects)} things, such as {examples} (gesso models info lists them)"
        )
        notices.append(Notice(text, code="no_object", field=name))
    return tuple(notices)


def named_objects(tokenizer: Tokenizer, text: str, objects: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The objects whose name or synonym occurs in the text, as one word or several in a row, singular or plural."""
    words = split_words(tokenizer.known_text(text))
    names = []
    for name, synonyms in objects.items():
        if any(_contains(words, _words_of(phrase)) for phrase in (name, *synonyms)):
            names.append(name)
    return tuple(names)


def _words_of(phrase: str) -> list[str]:
    """The phrase split as a prompt is; most phrases are plain words, which splitting leaves as they are."""
    plain = phrase.isascii() and phrase.islower() and phrase.replace(" ", "").isalpha()
    return phrase.split() if plain else split_words(phrase)


def _contains(words: list[str], phrase: list[str]) -> bool:
    """Whether the phrase occurs in the words, any of its nouns in the plural ("slices of pizza")."""
    starts = range(len(words) - len(phrase) + 1) if phrase else range(0)
    return any(all(words[i + k] in _forms(word) for k, word in enumerate(phrase)) for i in starts)


def _forms(word: str) -> set[str]:
    """A noun and its regular plurals; irregular ones are listed as synonyms."""
    forms = {word, word + "s", word + "es"}
    if word.endswith("y"):
        forms.add(word[:-1] + "ies")
    if word.endswith("fe"):
        forms.add(word[:-2] + "ves")
    if word.endswith("f"):
        forms.add(word[:-1] + "ves")
    return forms


def _with_suggestion(word: str, known: Sequence[str]) -> str:
    shown = word if len(word) <= MAX_NOTICE_WORD else f"{word[:MAX_NOTICE_WORD]}..."
    near = get_close_matches(word, known, n=1, cutoff=0.75) if len(word) <= MAX_NOTICE_WORD else []
    return f"'{shown}' (did you mean '{near[0]}'?)" if near else f"'{shown}'"

"""What a model with a vocabulary of whole words owes the user: a word that it does not know is named, not drawn.

Such a model (gesso-mini) was trained on a closed list of objects; its file carries that list as
{name: [synonyms]}. A model with byte pairs (Stable Diffusion) knows every text, and nothing here concerns it.
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
    """Notices about one text: words ignored, and no object named where the model knows objects.

    field: "prompt" or "negative prompt"; only a prompt needs an object, and only where it says anything at all.
    """
    notices: list[Notice] = []
    name = field.replace(" ", "_")
    unknown = tokenizer.unknown_words(text)
    if unknown:
        named = ", ".join(_with_suggestion(word, tokenizer.words) for word in unknown[:MAX_NAMED])
        more = f" and {len(unknown) - MAX_NAMED} more" if len(unknown) > MAX_NAMED else ""
        where = "" if field == "prompt" else f" in the {field}"
        data = {"words": list(unknown)}
        notices.append(Notice(f"ignored{where}: {named}{more}", code="words_ignored", field=name, data=data))
    if field == "prompt" and objects and text.strip() and not named_objects(tokenizer, text, objects):
        examples = ", ".join(list(objects)[:5])
        text = (
            f"no object that {model} can draw is named, so expect nothing in particular. "
            f"It knows {len(objects)}, such as {examples} (gesso models info lists them)"
        )
        notices.append(Notice(text, code="no_object", field=name))
    return tuple(notices)


def named_objects(tokenizer: Tokenizer, text: str, objects: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The objects whose name or synonym stands in the text, as one word or several in a row, plural or not."""
    words = split_words(tokenizer.known_text(text))
    found = []
    for name, synonyms in objects.items():
        if any(_contains(words, _words_of(phrase)) for phrase in (name, *synonyms)):
            found.append(name)
    return tuple(found)


def _words_of(phrase: str) -> list[str]:
    """The phrase split as a prompt is; most phrases are plain words, which splitting leaves as they are."""
    plain = phrase.isascii() and phrase.islower() and phrase.replace(" ", "").isalpha()
    return phrase.split() if plain else split_words(phrase)


def _contains(words: list[str], phrase: list[str]) -> bool:
    """Whether the phrase stands in the words, any of its nouns in the plural ("slices of pizza")."""
    starts = range(len(words) - len(phrase) + 1) if phrase else range(0)
    return any(all(words[i + k] in _forms(word) for k, word in enumerate(phrase)) for i in starts)


def _forms(word: str) -> set[str]:
    """A noun and its regular plurals; irregular ones stand in the list of synonyms."""
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

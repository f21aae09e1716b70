"""Words and emoji in prompts for gesso-mini, a model with a vocabulary of whole words: which it does not know.

Such a model was trained on a closed list of objects; its file holds that list as {name: [synonyms]}. A model with byte
pairs (Stable Diffusion) can read any text and gets no such notices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gesso.errors import GessoError
from gesso.notices import Notice
from gesso.runtime.model import LoadedModel
from gesso.scenes.emoji import with_emoji_named
from gesso.text.prompt import Piece, WeightedText
from gesso.text.spelling import meant_word
from gesso.text.tokenizer import Tokenizer, split_words
from gesso.world.translating import NAMES as LANGUAGE_NAMES
from gesso.world.translating import in_english, language_of, mixed_in_english

MAX_NAMED = 8  # words that one notice names
MAX_NOTICE_WORD = 40  # characters of one
MAX_READ = 200  # characters of a text in English that a notice shows


def vocabulary_notices(
    tokenizer: Tokenizer,
    text: str,
    *,
    field: str,
    objects: Mapping[str, Sequence[str]],
    model: str,
    keep: Sequence[str] = (),
) -> tuple[Notice, ...]:
    """Notices about one text: unknown words that were ignored, and a prompt without any object that the model knows.

    field: "prompt" or "negative prompt"; only a prompt needs an object, and only if it is not empty
    keep: spellings of embeddings, which are known and count as objects
    """
    notices: list[Notice] = []
    name = field.replace(" ", "_")
    unknown = tokenizer.unknown_words(text, keep=keep)
    if unknown:
        named = _with_suggestions(unknown, tokenizer, objects)
        more = f" and {len(unknown) - MAX_NAMED} more" if len(unknown) > MAX_NAMED else ""
        where = "" if field == "prompt" else f" in the {field}"
        data = {"words": list(unknown)}
        notices.append(
            Notice(f"unknown words ignored{where}: {named}{more}", code="words_ignored", field=name, data=data)
        )
    if field == "prompt" and objects and text.strip() and not named_objects(tokenizer, text, objects, keep):
        text = f"{model} knows nothing in this prompt, so the picture will be meaningless. {_what_it_draws(objects)}"
        notices.append(Notice(text, code="no_object", field=name))
    return tuple(notices)


def check_known(model: LoadedModel, prompt: str, keep: Sequence[str] = ()) -> None:
    """Raises GessoError for a prompt with words, none of which names an object that the model can draw.

    A prompt of known words alone passes, such as "a red background"; so does each of a model that reads any text.
    keep: names of embeddings, which are known and count as objects
    """
    tokenizer, objects = model.tokenizer, model.family.objects
    text, _ = with_emoji_named(prompt, objects)
    (piece,), _ = read_language((WeightedText(text),), tokenizer, objects, keep)
    assert isinstance(piece, WeightedText)
    text = piece.text
    unknown = tokenizer.unknown_words(text, keep=keep)
    if not objects or not unknown or named_objects(tokenizer, text, objects, keep):
        return
    named = _with_suggestions(unknown, tokenizer, objects)
    raise GessoError(
        f"{model.name} knows nothing in this prompt, so the picture would be meaningless: {named}. "
        f"{_what_it_draws(objects)}. Draw it all the same with `force`",
        code="nothing_known",
        field="prompt",
        data={"words": list(unknown)},
    )


def read_emoji(
    pieces: Sequence[Piece], tokenizer: Tokenizer, objects: Mapping[str, Sequence[str]]
) -> tuple[tuple[Piece, ...], dict[str, str]]:
    """The pieces with the names of objects in place of their emoji, and what each was read as.

    An emoji beside the name of its object decorates, and is left out. Nothing changes for a model without objects.
    """
    if not objects or all(isinstance(piece, WeightedText) and piece.text.isascii() for piece in pieces):
        return tuple(pieces), {}
    text = " ".join(piece.text for piece in pieces if isinstance(piece, WeightedText))
    named = named_objects(tokenizer, text, objects)
    read: dict[str, str] = {}
    found: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, WeightedText):
            words, names = with_emoji_named(piece.text, objects, named)
            piece = replace(piece, text=words) if names else piece
            read |= names
        found.append(piece)
    return tuple(found), read


def read_language(
    pieces: Sequence[Piece], tokenizer: Tokenizer, objects: Mapping[str, Sequence[str]], keep: Sequence[str] = ()
) -> tuple[tuple[Piece, ...], tuple[str, str] | None]:
    """The pieces in English, and the language that they are written in with the whole text in English.

    Of an English text, the words in other scripts alone are read; the codes of several languages are joined by "+".
    English, and texts that no known language explains, stay as they are; so does each text of a model without objects,
    and each with a word to keep, the name of an embedding.
    """
    text = " ".join(piece.text for piece in pieces if isinstance(piece, WeightedText))
    unknown = tokenizer.unknown_words(text)
    if not objects or not unknown or len(tokenizer.unknown_words(text, keep=keep)) < len(unknown):
        return tuple(pieces), None

    def is_known(word: str) -> bool:
        return not tokenizer.unknown_words(word)

    code = language_of(text, is_known)
    codes: dict[str, None] = {}
    found: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, WeightedText) and piece.text.strip():
            if code is None:
                english, mixed = mixed_in_english(piece.text, is_known)
            else:
                english, mixed = in_english(piece.text, code), (code,)
            codes |= dict.fromkeys(mixed)
            piece = replace(piece, text=_spaced_alike(english, piece.text)) if mixed else piece
        found.append(piece)
    if not codes:
        return tuple(pieces), None
    read = "".join(piece.text for piece in found if isinstance(piece, WeightedText)).strip()
    return tuple(found), ("+".join(codes), read)


def _spaced_alike(text: str, like: str) -> str:
    """The text with a space before and after it where the other has one."""
    return f"{' ' * like[:1].isspace()}{text}{' ' * like[-1:].isspace()}"


def language_notice(read: tuple[str, str], field: str) -> Notice:
    """What a text in another language was read as."""
    code, english = read
    names = " and ".join(LANGUAGE_NAMES[each] for each in code.split("+"))
    shown = english if len(english) <= MAX_READ else f"{english[:MAX_READ]}..."
    data = {"language": code, "english": english}
    return Notice(f"{names} read as: {shown}", code="language_read", field=field, data=data)


def emoji_notice(read: Mapping[str, str], field: str) -> Notice:
    """What emoji were read as."""
    named = ", ".join(f"{emoji} as {name!r}" for emoji, name in list(read.items())[:MAX_NAMED])
    more = f" and {len(read) - MAX_NAMED} more" if len(read) > MAX_NAMED else ""
    return Notice(f"emoji read: {named}{more}", code="emoji_read", field=field, data={"emoji": dict(read)})


def _what_it_draws(objects: Mapping[str, Sequence[str]]) -> str:
    examples = ", ".join(list(objects)[:5])
    return f"It draws {len(objects)} things, such as {examples} (gesso models info lists them)"


def named_objects(
    tokenizer: Tokenizer, text: str, objects: Mapping[str, Sequence[str]], keep: Sequence[str] = ()
) -> tuple[str, ...]:
    """The objects whose name or synonym occurs in the text, as one word or several in a row, singular or plural.

    keep: names of embeddings, which count as objects
    """
    words = split_words(tokenizer.known_text(text, keep=keep))
    names = [name for name in keep if _contains(words, split_words(name))]
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


def suggested(unknown: Sequence[str], tokenizer: Tokenizer, objects: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Unknown words that are most likely misspelt -> the known words that are meant."""
    nouns = {noun for name, others in objects.items() for phrase in (name, *others) for noun in phrase.split()}
    found = ((word, meant_word(word, tokenizer.words, nouns)) for word in unknown[:MAX_NAMED])
    return {word: meant for word, meant in found if meant}


def _with_suggestions(unknown: Sequence[str], tokenizer: Tokenizer, objects: Mapping[str, Sequence[str]]) -> str:
    meant = suggested(unknown, tokenizer, objects)
    return ", ".join(with_suggestion(word, meant.get(word)) for word in unknown[:MAX_NAMED])


def with_suggestion(word: str, meant: str | None) -> str:
    """A word in quotes, and what is meant by it, if that is known."""
    shown = word if len(word) <= MAX_NOTICE_WORD else f"{word[:MAX_NOTICE_WORD]}..."
    return f"'{shown}' (did you mean '{meant}'?)" if meant else f"'{shown}'"

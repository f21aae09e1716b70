"""Words of other languages for the objects, colours and numbers that can be drawn.

Only the data, for a reader of prompts; `scripts/make_world.py` makes it from the annotations of Unicode CLDR (Copyright
Unicode, Inc., licence Unicode-3.0) and from what was written by hand.
"""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

TABLE = "languages.json.gz"


@dataclass(frozen=True)
class Language:
    """Words of one language, in lower case, with what they are in English. A word may stand in several tables.

    objects  -> name of an object of the table; what the language calls it: "apfel", "äpfel", "rotes ausrufezeichen"
    keywords -> name of an object of the table; what one thinks of at this object alone: other names of it, but also
                "wau" at the dog and "sahara" at the camel. No word of the other tables
    colours  -> one of COLOURS; with the inflected forms: "rot", "roter", "rotes"
    numbers  -> 1 to 6; where the article for one is the word for one, it is an article
    words    -> "a", "the", "and", "on", "under", "above", "with", "without", "in", "next to", "behind", "in front of",
                "left of", "right of", "background", "big" or "small"; some are several words: "à côté de"
    Japanese and Chinese words stand in a sentence without spaces between them.
    """

    objects: Mapping[str, str]
    keywords: Mapping[str, str]
    colours: Mapping[str, str]
    numbers: Mapping[str, int]
    words: Mapping[str, str]


@cache
def languages() -> Mapping[str, Language]:
    """Code of a language, such as "de", -> its words: German, French, Spanish, Italian, Portuguese, Dutch, Polish,
    Turkish, Russian, Japanese and simplified Chinese.
    """
    packed = resources.files("gesso.world").joinpath(TABLE).read_bytes()
    return {
        code: Language(
            objects=tables["objects"],
            keywords=tables["keywords"],
            colours=tables["colours"],
            numbers={word: int(number) for word, number in tables["numbers"].items()},
            words=tables["words"],
        )
        for code, tables in json.loads(gzip.decompress(packed)).items()
    }

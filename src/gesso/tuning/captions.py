"""Captions as a step of the training sees them: tags shuffled, some left out, all left out now and then."""

import random
import re
from dataclasses import dataclass


def trigger_pattern(trigger: str) -> re.Pattern[str]:
    """The trigger as a word of its own, whatever its case: "cat" is not in "category". Where no spaces part words, as
    in Japanese, it counts wherever it stands."""
    return re.compile(rf"(?<![A-Za-z0-9_]){re.escape(trigger)}(?![A-Za-z0-9_])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class CaptionRules:
    """What happens to a caption, by the rules and names of kohya's trainer.

    shuffle      shuffle the tags
    keep         tags at the start that stay where they are, and are never left out
    keep_mark    mark in the caption after which tags may move, in place of `keep`; "": none
    separator    between tags
    prefix, suffix  stand before and behind every caption
    dropout      share of steps that see no caption
    tag_dropout  share of tags that a step does not see
    """

    shuffle: bool = False
    keep: int = 0
    keep_mark: str = ""
    separator: str = ","
    prefix: str = ""
    suffix: str = ""
    dropout: float = 0.0
    tag_dropout: float = 0.0

    def whole(self, caption: str) -> str:
        """The caption with nothing left out."""
        parts = self._parts(caption)
        return (
            self._joined([*parts[0], *parts[1]]) if self.keep_mark and self.keep_mark in caption else self._put(caption)
        )

    def at_random(self, caption: str, rng: random.Random) -> str:
        """The caption of one step; "" where it is left out."""
        if self.dropout and rng.random() < self.dropout:
            return ""
        if not (self.shuffle or self.tag_dropout):
            return self.whole(caption)
        fixed, loose = self._parts(caption)
        if self.shuffle:
            rng.shuffle(loose)
        if self.tag_dropout:
            loose = [tag for tag in loose if rng.random() >= self.tag_dropout]
        return self._joined([*fixed, *loose])

    def tags(self, caption: str) -> list[str]:
        """The tags of a caption, for counting."""
        fixed, loose = self._parts(caption)
        return [*fixed, *loose]

    def _parts(self, caption: str) -> tuple[list[str], list[str]]:
        if self.keep_mark and self.keep_mark in caption:
            first, _, rest = caption.partition(self.keep_mark)
            return self._split(first), self._split(rest.replace(self.keep_mark, self.separator))
        tags = self._split(caption)
        return tags[: self.keep], tags[self.keep :]

    def _split(self, text: str) -> list[str]:
        return [tag for part in text.split(self.separator) if (tag := part.strip())]

    def _joined(self, tags: list[str]) -> str:
        return self._put(f"{self.separator} ".join(tags))

    def _put(self, caption: str) -> str:
        return " ".join(part for part in (self.prefix, caption, self.suffix) if part)

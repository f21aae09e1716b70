"""The texts of a request as their syntax reads them: parsed once, for all who want to know something of them."""

from functools import cached_property

from gesso.request.request import ResolvedRequest
from gesso.text.dialects import find_dialect
from gesso.text.grammar import ParsedPrompt


class ParsedTexts:
    """Prompt and negative prompt of a request. Raises PromptError for one that cannot be read, when it is asked for."""

    def __init__(self, request: ResolvedRequest) -> None:
        self._request, self._dialect = request, find_dialect(request.conventions.syntax)

    @classmethod
    def of(cls, request: ResolvedRequest, known: "ParsedTexts | None" = None) -> "ParsedTexts":
        """known: those of another pass, which serve again where the words are the same."""
        if known is not None and known._words == _words(request):
            return known
        return cls(request)

    @property
    def _words(self) -> tuple[str, str, str]:
        return _words(self._request)

    @cached_property
    def prompt(self) -> ParsedPrompt:
        return self._dialect.parse(self._request.prompt)

    @cached_property
    def negative_prompt(self) -> ParsedPrompt:
        return self._dialect.parse_negative(self._request.negative_prompt)

    @property
    def num_guiding(self) -> int:
        """How many prompts guide together."""
        return len(self.prompt.subprompts) if self.prompt.joined == "guidance" else 1


def _words(request: ResolvedRequest) -> tuple[str, str, str]:
    return request.conventions.syntax, request.prompt, request.negative_prompt

"""Prompt and negative prompt of a request, parsed once by the request's syntax."""

from functools import cached_property

from gesso.request.request import ResolvedRequest
from gesso.text.dialects import find_dialect
from gesso.text.grammar import ParsedPrompt


class ParsedTexts:
    """The parsed prompts of a request. The properties raise PromptError for a prompt that cannot be read."""

    def __init__(self, request: ResolvedRequest) -> None:
        self._request, self._dialect = request, find_dialect(request.conventions.syntax)

    @classmethod
    def of(cls, request: ResolvedRequest, known: "ParsedTexts | None" = None) -> "ParsedTexts":
        """known: the parsed prompts of another pass, reused if the texts are the same."""
        if known is not None and known._key == _key(request):
            return known
        return cls(request)

    @property
    def _key(self) -> tuple[str, str, str]:
        return _key(self._request)

    @cached_property
    def prompt(self) -> ParsedPrompt:
        return self._dialect.parse(self._request.prompt)

    @cached_property
    def negative_prompt(self) -> ParsedPrompt:
        return self._dialect.parse_negative(self._request.negative_prompt)

    @property
    def num_guiding(self) -> int:
        """How many prompts are joined by AND (composable diffusion)."""
        return len(self.prompt.subprompts) if self.prompt.joined == "guidance" else 1


def _key(request: ResolvedRequest) -> tuple[str, str, str]:
    return request.conventions.syntax, request.prompt, request.negative_prompt

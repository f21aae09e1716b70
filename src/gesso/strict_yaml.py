"""Plain YAML for untrusted input: no anchors, no tags but its own, bounded in depth and in the number of values."""

from typing import Any


class YamlError(ValueError):
    """Text that is not read; `line`, from 1, says where, or is None.  too_large: for its depth or number of values"""

    def __init__(self, why: str, line: int | None = None, *, too_large: bool = False) -> None:
        super().__init__(why if line is None else f"{why} (line {line})")
        self.line = line
        self.too_large = too_large


def loads(text: str, *, max_depth: int, max_values: int) -> Any:
    """The value of a YAML text, of dicts, lists, texts, numbers, dates, booleans and None, or bytes and sets by a tag.

    max_values: ends of lists and tables count, too. Raises YamlError, and ImportError where PyYAML is not installed.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as quick
    try:
        depth = 0
        for count, event in enumerate(yaml.parse(text, Loader=loader)):
            line = event.start_mark.line + 1
            if getattr(event, "anchor", None) is not None:
                raise YamlError("has an anchor or alias (& or *), which gesso does not follow", line)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > max_depth or count > max_values:
                raise YamlError("is too deep or has too many values", line, too_large=True)
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, YamlError):
            raise
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        raise YamlError("is not valid YAML", None if line is None else line + 1) from None

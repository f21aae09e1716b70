"""What trainers say about an adapter beside its tensors: PEFT's adapter_config.json, kohya's ss_network_args.

The numbers that scale a module's product (alpha, rank, rank-stabilised or not), and what makes an adapter one that
gesso does not read, which its tensors alone would not show.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gesso.adapters.kinds import MAX_RANK
from gesso.checkpoints.config_json import read_object
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.tensor_file import TensorFile
from gesso.errors import shorten

MAX_PATTERNS, MAX_PATTERN = 4096, 300  # of alphas or ranks by module; characters of one
_READ = ("LORA", "LOHA", "LOKR")  # PEFT's kinds that gesso reads
# Ways of beginning a LoRA that leave the model's own weights as they are; the others take something out of them first.
_BEGINNINGS = ("true", "false", "gaussian", "eva", "orthogonal", "none")
_VARIANTS = ("use_qalora", "use_bdlora", "alora_invocation_tokens", "kasa_config", "arrow_config", "monteclora_config")


class _Item(NamedTuple):
    """One character of a pattern: those that it takes (None for any), and how often."""

    characters: frozenset[str] | None
    optional: bool = False
    repeated: bool = False


@dataclass(frozen=True)
class TrainerSettings:
    """Numbers of an adapter by its modules, as the file names them.

    lycoris_root  the adapter is LyCORIS' rank-stabilised kind, which most of its alphas already say
    """

    alpha: float | None = None
    rank: float | None = None
    alphas: tuple[tuple[str, float], ...] = ()
    ranks: tuple[tuple[str, float], ...] = ()
    components: Mapping[str, "TrainerSettings"] = field(default_factory=dict)
    by_root: bool = False
    lycoris_root: bool = False

    @classmethod
    def of(cls, file: TensorFile) -> "TrainerSettings":
        """Raises ModelFileError for an adapter whose settings say that it is none that gesso reads."""
        config_file = file.path.with_name("adapter_config.json")
        if file.path.stem == "adapter_model" and config_file.is_file():
            return cls._from_config(read_object(config_file), "", file)
        try:
            config: Any = json.loads(file.metadata.get("lora_adapter_metadata", "null"))
            trained: Any = json.loads(file.metadata.get("ss_network_args", "null"))
        except (ValueError, RecursionError):
            return cls()
        if isinstance(config, dict):
            starts = {str(key).partition(".")[0] for key in config}
            return cls(components={start: cls._from_config(config, f"{start}.", file) for start in starts})
        root = isinstance(trained, dict) and str(trained.get("rs_lora", "")).lower() in ("true", "1")
        return cls(lycoris_root=root)

    @classmethod
    def _from_config(cls, config: Mapping[str, Any], prefix: str, file: TensorFile) -> "TrainerSettings":
        own = {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}
        _refuse_unread(own, file)

        def number(value: Any) -> float | None:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return float(value) if is_number and math.isfinite(value) and abs(value) <= MAX_RANK * 256 else None

        def by_module(name: str) -> tuple[tuple[str, float], ...]:
            patterns = own.get(name)
            items = list(patterns.items())[:MAX_PATTERNS] if isinstance(patterns, dict) else []
            found = [(str(key), number(value)) for key, value in items]
            for key, _ in found:
                _items(key, file)
            return tuple((key, value) for key, value in found if value is not None)

        return cls(
            alpha=number(own.get("lora_alpha", own.get("alpha"))),
            rank=number(own.get("r")),
            alphas=by_module("alpha_pattern"),
            ranks=by_module("rank_pattern"),
            by_root=own.get("use_rslora") is True,
        )

    @property
    def says_alpha(self) -> bool:
        return self.alpha is not None or bool(self.components)

    def of_module(self, module: str) -> tuple["TrainerSettings", str]:
        """The settings that hold for a module, and its name in them."""
        plain = module.removeprefix("base_model.model.")
        start, _, rest = plain.partition(".")
        return (self.components[start], rest) if start in self.components else (self, plain)

    def alpha_of(self, module: str) -> float | None:
        """For a module as the file names it."""
        settings, name = self.of_module(module)
        return settings._first(settings.alphas, name, settings.alpha)

    def rank_of(self, module: str) -> float | None:
        """For a module as the file names it."""
        settings, name = self.of_module(module)
        return settings._first(settings.ranks, name, settings.rank)

    def is_by_root(self, module: str) -> bool:
        return self.of_module(module)[0].by_root

    @staticmethod
    def _first(patterns: tuple[tuple[str, float], ...], name: str, otherwise: float | None) -> float | None:
        """PEFT's rule: the first pattern that fits the name or its end, from a dot on."""
        return next((value for pattern, value in patterns if fits(pattern, name)), otherwise)


def _refuse_unread(config: Mapping[str, Any], file: TensorFile) -> None:
    kind = config.get("peft_type")
    if isinstance(kind, str) and kind.upper() not in _READ:
        raise ModelFileError(
            "unknown_key",
            file.path,
            f"is an adapter of PEFT's kind {shorten(kind)}, which gesso does not read (it reads LoRA, LoHa and LoKr). "
            "Merge it into its model with PEFT's merge_and_unload, and use that model",
        )
    begins = str(config.get("init_lora_weights", "none")).lower()
    if begins not in _BEGINNINGS:
        raise ModelFileError(
            "unknown_key",
            file.path,
            f"is a LoRA with init_lora_weights {shorten(begins)!r}, which changes the model's own weights before it is "
            "trained. Save it with path_initial_model_for_weight_conversion in PEFT, which makes a plain LoRA of it",
        )
    for variant in _VARIANTS:
        if config.get(variant):
            raise ModelFileError(
                "unknown_key", file.path, f"is a LoRA with {variant}, which gesso does not read. Merge it with PEFT"
            )


def fits(pattern: str, name: str) -> bool:
    """Whether PEFT's pattern of modules fits a name: a regular expression for all of it, or for its end from a dot on.

    Of regular expressions characters, ".", "\\d", sets and "*", "+", "?" behind one are known, which can be matched in
    time linear in the name. A pattern with others fits nothing; `TrainerSettings.of` refuses it.
    """
    items = _parsed(pattern.removeprefix("^").removesuffix("$"))
    if items is None:
        return False
    starts = [0]
    if not pattern.startswith("^"):
        starts += [at + 1 for at, sign in enumerate(name) if sign == "."]
    return any(_takes(items, name[start:]) for start in starts)


def _items(pattern: str, file: TensorFile) -> None:
    if _parsed(pattern.removeprefix("^").removesuffix("$")) is None:
        raise ModelFileError(
            "metadata",
            file.path,
            f"has numbers for the modules {shorten(pattern)!r}, a regular expression of a kind that is not followed",
        )


_TOKEN = re.compile(r"(?P<one>\\[.d_\-]|\[[\w\-]{1,40}\]|[\w\-.])(?P<often>[*+?]?)", re.ASCII)


def _parsed(pattern: str) -> list[_Item] | None:
    """A pattern as items; None for one that this does not know."""
    items, at = [], 0
    while at < len(pattern) and len(pattern) <= MAX_PATTERN:
        match = _TOKEN.match(pattern, at)
        if match is None:
            return None
        one, often, at = match["one"], match["often"], match.end()
        items.append(_Item(_characters(one), often in ("*", "?") and bool(often), often in ("*", "+") and bool(often)))
    return items if at == len(pattern) else None


def _characters(one: str) -> frozenset[str] | None:
    if one == ".":
        return None
    if one == "\\d":
        return frozenset("0123456789")
    if one.startswith("["):
        found, signs = set[str](), one[1:-1]
        for at, sign in enumerate(signs):
            if sign == "-" and 0 < at < len(signs) - 1:
                found |= {chr(code) for code in range(ord(signs[at - 1]), ord(signs[at + 1]) + 1)}
            else:
                found.add(sign)
        return frozenset(found)
    return frozenset(one[-1])


def _takes(items: list[_Item], text: str) -> bool:
    """Whether the items take the whole text: all the places where they can stand at once, so no way is tried twice."""

    def past(places: set[int]) -> set[int]:
        for at in range(len(items)):
            if at in places and items[at].optional:
                places.add(at + 1)
        return places

    places = past({0})
    for sign in text:
        after = set[int]()
        for at in places:
            if at < len(items) and (items[at].characters is None or sign in (items[at].characters or ())):
                after.add(at + 1)
                if items[at].repeated:
                    after.add(at)
        if not after:
            return False
        # An item that may come again and has come is as good as optional.
        places = past(after)
    return len(items) in places

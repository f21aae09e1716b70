"""What trainers say about an adapter beside its tensors: PEFT's adapter_config.json, kohya's ss_network_args.

The numbers that scale a module's product (alpha, rank, rank-stabilised or not), and what makes an adapter one that
gesso does not read, which its tensors alone would not show.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from gesso.adapters.kinds import MAX_RANK
from gesso.checkpoints.config_json import read_object
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.tensor_file import TensorFile
from gesso.errors import shorten

MAX_PATTERNS, MAX_PATTERN = 4096, 300  # of alphas or ranks by module; characters of one
MAX_TERMS = 100  # of the series of an OFT; PEFT's default is 5
MAX_REPEATING = 256  # of them with "*", "+" or "?", each of which takes some 15 us a module
_READ = ("LORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT")  # PEFT's kinds that gesso reads
# Ways of beginning a LoRA that leave the model's own weights as they are; the others take something out of them first.
_BEGINNINGS = ("true", "false", "gaussian", "eva", "orthogonal", "none")
_VARIANTS = ("use_qalora", "use_bdlora", "alora_invocation_tokens", "kasa_config", "arrow_config", "monteclora_config")


@dataclass(frozen=True)
class TrainerSettings:
    """Numbers of an adapter by its modules, as the file names them.

    lycoris_root  the adapter is LyCORIS' rank-stabilised kind, which most of its alphas already say
    series        how an OFT's rotations are computed: (terms, bound) of `InputRotation`
    """

    alpha: float | None = None
    rank: float | None = None
    alphas: tuple[tuple[str, float], ...] = ()
    ranks: tuple[tuple[str, float], ...] = ()
    components: Mapping[str, "TrainerSettings"] = field(default_factory=dict)
    by_root: bool = False
    lycoris_root: bool = False
    series: tuple[int | None, float | None] | None = None

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
            found = {str(key): number(value) for key, value in patterns.items()} if isinstance(patterns, dict) else {}
            _refuse_patterns(found, file)
            return tuple((key, value) for key, value in found.items() if value is not None)

        return cls(
            alpha=number(own.get("lora_alpha", own.get("alpha"))),
            rank=number(own.get("r")),
            alphas=by_module("alpha_pattern"),
            ranks=by_module("rank_pattern"),
            by_root=own.get("use_rslora") is True,
            series=_series(own, file) if str(own.get("peft_type")).upper() == "OFT" else None,
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


def _series(config: Mapping[str, Any], file: TensorFile) -> tuple[int | None, float | None]:
    """Terms of the series and the bound of PEFT's OFT; its defaults where the settings leave something out."""
    series, terms = config.get("use_cayley_neumann", True), config.get("num_cayley_neumann_terms", 5)
    coft, eps = config.get("coft", False), config.get("eps", 6e-5)
    is_terms = isinstance(terms, int) and not isinstance(terms, bool) and 1 <= terms <= MAX_TERMS
    is_eps = isinstance(eps, int | float) and not isinstance(eps, bool) and 0 <= eps <= MAX_RANK
    for name, is_right, expected in (
        ("use_cayley_neumann", isinstance(series, bool), "true or false"),
        ("coft", isinstance(coft, bool), "true or false"),
        ("num_cayley_neumann_terms", is_terms, f"a whole number from 1 to {MAX_TERMS}"),
        ("eps", is_eps, f"a number from 0 to {MAX_RANK}"),
    ):
        if not is_right:
            found = shorten(repr(config.get(name)))
            message = f"adapter_config.json beside it says {name}: {found}, expected {expected}"
            raise ModelFileError("metadata", file.path, message)
    version = str(config.get("peft_version") or "0")
    if series and _release(version) < (0, 18):
        raise ModelFileError(
            "metadata",
            file.path,
            f"is an OFT of PEFT {shorten(version) if version != '0' else 'before 0.18'} with use_cayley_neumann, whose "
            "series PEFT 0.18 changed; gesso reads that of 0.18 and newer. Merge it into its model with the release "
            "that made it, and use that model",
        )
    return (int(terms) if series else None), (float(eps) if coft else None)


def _release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version; what is none is 0."""
    numbers = re.match(r"(\d{1,6})\.(\d{1,6})", version, re.ASCII)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def _refuse_unread(config: Mapping[str, Any], file: TensorFile) -> None:
    kind = config.get("peft_type")
    if isinstance(kind, str) and kind.upper() not in _READ:
        raise ModelFileError(
            "unknown_key",
            file.path,
            f"is an adapter of PEFT's kind {shorten(kind)}, which gesso does not read (it reads LoRA, LoHa, LoKr, "
            "IA3, OFT and BOFT). Merge it into its model with PEFT's merge_and_unload, and use that model",
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


def _refuse_patterns(patterns: Collection[str], file: TensorFile) -> None:
    if len(patterns) > MAX_PATTERNS or sum(map(_repeats, patterns)) > MAX_REPEATING:
        most = f"expected at most {MAX_PATTERNS}, of them {MAX_REPEATING} with *, + or ?"
        message = f"has numbers for {len(patterns)} patterns of modules, {most}"
        raise ModelFileError("metadata", file.path, message)
    for pattern in patterns:
        if _tokens(pattern) is None:
            message = (
                f"has numbers for the modules {shorten(pattern)!r}, a regular expression of a kind that is not followed"
            )
            raise ModelFileError("metadata", file.path, message)


def fits(pattern: str, name: str) -> bool:
    """Whether PEFT's pattern of modules fits a name: a regular expression for all of it, or for its end from a dot on.

    Of regular expressions characters, ".", "\\d", sets and "*", "+", "?" behind one are known, which can be matched in
    time linear in the name. A pattern with others fits nothing; `TrainerSettings.of` refuses it.
    """
    return _matcher(pattern)(name)


_TOKEN = re.compile(r"(?P<one>\\[.d_\-]|\[-?(?:\w-\w|\w){1,40}-?\]|[\w\-.])(?P<often>[*+?]?)", re.ASCII)


def _tokens(pattern: str) -> list[tuple[str, str]] | None:
    """Each character or set of a pattern, and the sign of how often; None for a pattern that this does not know."""
    body = pattern.removeprefix("^").removesuffix("$")
    found = list(_TOKEN.finditer(body[: MAX_PATTERN + 1]))
    if len(body) > MAX_PATTERN or "".join(match[0] for match in found) != body:
        return None
    try:
        re.compile(body)
    except re.error:  # a set from z to a
        return None
    return [(match["one"], match["often"]) for match in found]


def _repeats(pattern: str) -> bool:
    return any(often for _, often in _tokens(pattern) or ())


@lru_cache(maxsize=2 * MAX_PATTERNS)  # each is asked for every module
def _matcher(pattern: str) -> Callable[[str], bool]:
    tokens = _tokens(pattern)
    if tokens is None:
        return lambda name: False
    if _repeats(pattern):
        return _Repeating(tokens, anywhere=not pattern.startswith("^")).fits
    before = "" if pattern.startswith("^") else r"(?:.*\.)?"
    expression = re.compile(before + pattern.removeprefix("^").removesuffix("$"), re.ASCII)
    return lambda name: expression.fullmatch(name) is not None


class _Repeating:
    """A pattern whose items may come again, which Python's own expressions could take years to match.

    A number holds the places where a match can stand, a bit each, so that all of them go on at once.
    """

    def __init__(self, tokens: Sequence[tuple[str, str]], *, anywhere: bool) -> None:
        self.anywhere, self.end = anywhere, 1 << len(tokens)
        self.optional = sum(1 << at for at, (_, often) in enumerate(tokens) if often in ("*", "?"))
        self.repeated = sum(1 << at for at, (_, often) in enumerate(tokens) if often in ("*", "+"))
        self.ones = [re.compile(one, re.ASCII) for one, _ in tokens]
        self.taking: dict[str, int] = {}  # character -> the items that take it

    def fits(self, name: str) -> bool:
        places = begin = self._past(1)
        for sign in name:
            if sign not in self.taking:
                self.taking[sign] = sum(1 << at for at, one in enumerate(self.ones) if one.fullmatch(sign))
            taken = places & self.taking[sign]
            places = self._past(taken << 1 | taken & self.repeated)
            if sign == "." and self.anywhere:
                places |= begin
        return bool(places & self.end)

    def _past(self, places: int) -> int:
        """Also where those lead that leave optional items out: a sum carries each to the end of a row of such."""
        return places | ((places & self.optional) + self.optional) ^ self.optional

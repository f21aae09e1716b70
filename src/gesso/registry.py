"""Registries: tables of built-in rows, which plug-ins of installed packages extend. Imports no torch.

A package adds a row by an entry point in the table's group, named as users will call it:

    [project.entry-points."gesso.samplers"]
    leapfrog = "my_package.samplers:LEAPFROG"

Plug-ins are looked for when a name that is not built in is first asked for, or when the table is listed; importing
gesso imports none. GESSO_PLUGINS=0 in the environment switches all of them off. How to write one: docs/plugins.md.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gesso.arguments import check_text
from gesso.errors import GessoError, one_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

log = logging.getLogger(__name__)

SWITCH = "GESSO_PLUGINS"
_OFF = frozenset({"0", "off", "no", "false"})
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")  # of a plug-in's row; a recipe, a command line and a URL can carry it
_VALUE = re.compile(r"\s*[\w.]+\s*(:\s*[\w.]+\s*)?(\[.*\])?\s*")  # module:object, and extras

T = TypeVar("T")


class PluginError(GessoError):
    """A plug-in that cannot be used.

    group         of the entry point, such as gesso.samplers
    name          of the row
    distribution  name and version of the package that brings it
    """

    default_code = "plugin_unusable"

    def __init__(self, group: str, name: str, distribution: str, reason: str) -> None:
        super().__init__(
            f"plug-in {name!r} of {distribution} ({group}) cannot be used: {reason}",
            data={"group": group, "name": name, "distribution": distribution},
        )
        self.group, self.name, self.distribution = group, name, distribution


@dataclass(frozen=True)
class _Plugin:
    """An entry point, and why it is refused; refused: None where it may be loaded."""

    entry: "EntryPoint"
    refused: str | None = None

    @property
    def distribution(self) -> str:
        dist = self.entry.dist
        return f"{dist.name} {dist.version}" if dist is not None else "an unknown package"


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to rows: those built in, in their order, then those of plug-ins by name.

    kind     the class of every row; a plug-in that gives anything else is refused. A `name`, `label` or `aliases` that
             a row may have are what the table goes by; `check`, a method, raises for a row that cannot work
    group    of the entry points that add rows
    builtin  the rows of gesso itself; no plug-in can replace one

    Listing (iteration, `len`, `keys`) imports all plug-ins and leaves out those that fail, with one warning each in the
    log. Asking for one of them by name, by `in` too, raises PluginError, so that a user learns why it is missing; no
    other is imported. Any thread may look up names.
    """

    def __init__(self, kind: type[T], group: str, builtin: Mapping[str, T]) -> None:
        self.kind, self.group, self.builtin = kind, group, builtin
        self._entry_points: Mapping[str, _Plugin] | None = None
        self._loaded: dict[str, T | PluginError] = {}
        self._warned: dict[str, object] = {}  # plug-ins that a listing left out -> the listing that said so

    def __getitem__(self, name: str) -> T:
        if name in self.builtin:
            return self.builtin[name]
        row = self._load(name)
        if isinstance(row, PluginError):
            raise row
        return row

    def __iter__(self) -> Iterator[str]:
        yield from self.builtin
        for name, plugin in self._plugins().items():
            if name in self.builtin:
                continue
            if not isinstance(row := self._load(name), PluginError):
                yield name
            elif plugin.refused is None and self._warned.setdefault(name, listing := object()) is listing:
                log.warning("%s", row.one_line)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<Registry {self.group}: {', '.join(self)}>"

    def find(self, text: str) -> str | None:
        """The key of the row that a user or another tool means, by its name, label or an alias; None if there is none.

        Case, spaces, hyphens and underscores do not count: "DPM++ 2M", "dpm++_2m" and "dpmpp_2m" are one sampler.
        Raises PluginError for the name of a plug-in that fails.
        """
        check_text("text", text, "a name")
        plain = plain_name(text)
        if (name := self.find_builtin(text)) is not None:
            return name
        for name in self._plugins():
            if plain_name(name) == plain and name in self:  # of one that fails, `in` raises
                return name
        return next((name for name in self if plain in _names(name, self[name])), None)

    def find_builtin(self, text: str) -> str | None:
        """The same among the rows of gesso itself; looks for no plug-in."""
        if text in self.builtin:
            return text
        plain = plain_name(text)
        return next((name for name, row in self.builtin.items() if plain in _names(name, row)), None)

    def origin(self, name: str) -> str | None:
        """Name and version of the package whose plug-in a row is, such as "gesso-extras 1.2"; None: it is built in."""
        plugin = None if name in self.builtin else self._plugins().get(name)
        return plugin.distribution if plugin is not None else None

    @contextmanager
    def guard(self, name: str, *passes: type[Exception]) -> Iterator[None]:
        """Within the block the row's own code runs: what a plug-in raises there becomes a PluginError that names it.

        GessoErrors, errors of the classes `passes`, and whatever built-in rows raise, go through as they are; so does
        what stops the program or a generator, but not `sys.exit`.
        """
        through: tuple[type[BaseException], ...] = (GessoError, KeyboardInterrupt, GeneratorExit, *passes)
        try:
            yield
        except through:
            raise
        except BaseException as error:
            if (distribution := self.origin(name)) is None:
                raise
            raise PluginError(self.group, name, distribution, _reason(error)) from error

    def _plugins(self) -> Mapping[str, _Plugin]:
        """The entry points of the group by name, looked for once; none is loaded."""
        if self._entry_points is None:
            self._entry_points = {} if plugins_are_off() else self._look()
        return self._entry_points

    def _look(self) -> dict[str, _Plugin]:
        taken = {plain: name for name, row in self.builtin.items() for plain in _names(name, row)}
        plugins: dict[str, _Plugin] = {}
        for entry in sorted(_entry_points(self.group), key=lambda entry: (entry.name, entry.value)):
            plugin, name = _Plugin(entry), entry.name
            reason = None
            if not _NAME.fullmatch(name):
                reason = "expected a name of lower-case letters, digits, '_', '-' and '.'"
            elif plain_name(name) in taken:
                reason = f"the name belongs to the built-in {taken[plain_name(name)]!r}"
            elif not _VALUE.fullmatch(entry.value):
                reason = f"its entry point is {entry.value[:64]!r}, expected 'module:object'"
            elif name in plugins and plugins[name].entry.value != entry.value:
                reason = f"{plugins[name].distribution} has a plug-in of the same name; uninstall one of them"
            if reason is not None:
                log.warning("%s", PluginError(self.group, name[:64], plugin.distribution, reason).one_line)
            plugins[name] = _Plugin(entry, reason)
        return plugins

    def _load(self, name: str) -> "T | PluginError":
        """The row of a plug-in, or why there is none. Raises KeyError where no plug-in has the name."""
        if name not in self._loaded:
            plugin = self._plugins()[name]
            try:
                if plugin.refused is not None:
                    raise PluginError(self.group, name[:64], plugin.distribution, plugin.refused)
                row = plugin.entry.load()
                self._check(name, row)
            except PluginError as error:
                self._loaded.setdefault(name, error)
            except KeyboardInterrupt:  # of the user
                raise
            except BaseException as error:  # a stranger's module raises what it likes, and may end by sys.exit
                log.debug("the plug-in %r of %s failed", name, plugin.distribution, exc_info=error)
                broken = PluginError(self.group, name, plugin.distribution, _reason(error))
                self._loaded.setdefault(name, broken)
            else:
                log.info("loaded the plug-in %r of %s (%s)", name, plugin.distribution, self.group)
                self._loaded.setdefault(name, row)
        return self._loaded[name]

    def _check(self, name: str, row: object) -> None:
        """Raises TypeError or ValueError for what is no row of this table."""
        if not isinstance(row, self.kind):
            raise TypeError(f"it is a {type(row).__name__}, expected a {self.kind.__name__}")
        if (own := getattr(row, "name", name)) != name:
            raise ValueError(f"its name is {own!r}; give the entry point the same name")
        if not all(isinstance(text, str) for text in (getattr(row, "label", ""), *getattr(row, "aliases", ()))):
            raise TypeError("its label and aliases are not all text")
        for text in (getattr(row, "label", ""), *getattr(row, "aliases", ())):
            if (taken := self.find_builtin(text)) is not None:
                raise ValueError(f"its name {text[:64]!r} belongs to the built-in {taken!r}")
        if (check := getattr(row, "check", None)) is not None:
            check()


def _entry_points(group: str) -> "list[EntryPoint]":
    """The entry points of a group; packages whose list of them cannot be read are left out, with a warning."""
    from importlib.metadata import distributions, entry_points  # here: takes longer than the rest of this module

    try:
        return list(entry_points(group=group))
    except Exception:  # one bad line anywhere, and it reads none
        found: list[EntryPoint] = []
        seen: set[str] = set()
        for each in distributions():
            name = "an unknown package"
            try:
                name = each.metadata["Name"]
                if name not in seen:  # the first on the path counts
                    seen.add(name)
                    found += each.entry_points.select(group=group)
            except Exception as error:
                log.warning("the entry points of %s cannot be read: %s", name, one_line(_reason(error)))
        return found


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it ended the program (SystemExit: {error.code})"
    return f"{type(error).__name__}: {error}"


def plugins_are_off() -> bool:
    """Whether GESSO_PLUGINS in the environment switches all plug-ins off."""
    return os.environ.get(SWITCH, "").lower() in _OFF


def plain_name(text: str) -> str:
    """What is compared of a name: its letters and digits in lower case, "++" as "pp"."""
    return "".join(char for char in text.lower().replace("++", "pp") if char.isalnum())


def imported(reference: str) -> Any:
    """The object behind "module:name", imported when it is asked for: how tables name functions that need torch."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def missing_distributions(packages: Sequence[str]) -> list[str]:
    """Those of the packages in a recipe's environment ("gesso-extras 1.2") that are not installed, in any version."""
    return [text for text in packages if not _is_installed(text.rpartition(" ")[0])]


def _is_installed(distribution: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(distribution)
    except (PackageNotFoundError, ValueError):  # ValueError: an empty name
        return False
    return True


def _names(name: str, row: object) -> set[str]:
    """All that a row is called, in plain form."""
    texts = (name, getattr(row, "label", ""), *getattr(row, "aliases", ()))
    return {plain for text in texts if (plain := plain_name(text))}

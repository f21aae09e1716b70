"""Tables that plug-ins add to: what is found, what is refused, and when strangers' code runs at all."""

import importlib.metadata
import logging
import subprocess
import sys
import textwrap
from dataclasses import dataclass

import pytest

from gesso.errors import GessoError
from gesso.registry import PluginError, Registry, missing_distributions

GROUP = "gesso.tests"


@dataclass(frozen=True)
class Row:
    label: str
    aliases: tuple[str, ...] = ()


BUILTIN = {"plain_one": Row("Plain One", ("po",)), "plus_plus": Row("Plus++ 2")}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes an installed package of a module and entry points, without pip."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(distribution, entries, code="", version="1.0"):
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(
            "from tests.test_registry import Row\n" + textwrap.dedent(code), encoding="utf-8"
        )
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = [f"{name} = {module}:{value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]))
        return module

    yield make
    for name in [name for name in sys.modules if name.startswith("toy_")]:
        del sys.modules[name]


def table():
    return Registry(Row, GROUP, BUILTIN)


def test_built_in_rows_come_first_and_keep_their_order(package):
    package("toy-rows", {"zebra": "ROW", "apple": "ROW"}, 'ROW = Row("Toy", ("toy one",))')
    rows = table()
    assert list(rows) == ["plain_one", "plus_plus", "apple", "zebra"]
    assert len(rows) == 4
    assert rows["zebra"] == Row("Toy", ("toy one",))
    assert dict(rows.items())["plain_one"] is BUILTIN["plain_one"]
    assert "zebra" in rows
    assert "unheard_of" not in rows
    assert rows.get("unheard_of") is None
    with pytest.raises(KeyError):
        rows["unheard_of"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("plain_one", "plain_one"),
        ("Plain One", "plain_one"),
        ("PO", "plain_one"),
        ("plus++_2", "plus_plus"),
        ("Leap Frog", "leapfrog"),
        ("LEAP-FROG", "leapfrog"),
        ("frog", "leapfrog"),
        ("nobody", None),
        ("", None),
        ("?!", None),
    ],
)
def test_rows_are_found_by_any_name(package, text, name):
    package("toy-frog", {"leapfrog": "ROW"}, 'ROW = Row("A frog\'s", ("frog",))')
    assert table().find(text) == name


def test_nothing_is_looked_for_before_a_name_asks_for_it(package, monkeypatch):
    module = package("toy-lazy", {"lazy": "ROW", "other": "ROW"}, 'ROW = Row("Lazy")')
    asked = []
    real = importlib.metadata.entry_points
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **which: asked.append(which) or real(**which))
    rows = table()
    assert rows["plain_one"] == BUILTIN["plain_one"]
    assert "plus_plus" in rows
    assert rows.find("Plus++ 2") == "plus_plus"
    assert rows.origin("plain_one") is None
    assert asked == []
    assert "nobody" not in rows
    assert asked == [{"group": GROUP}]
    assert module not in sys.modules
    assert rows.origin("lazy") == "toy-lazy 1.0"
    assert module not in sys.modules
    assert rows["lazy"].label == "Lazy"
    assert module in sys.modules
    assert list(rows)[2:] == ["lazy", "other"]
    assert asked == [{"group": GROUP}]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module_of_toys", "No module named 'no_such_module_of_toys'"),
        ("raise RuntimeError('went wrong\\non two lines')", "RuntimeError: went wrong"),
        ("ROW = 3", "it is a int, expected a Row"),
        ("ROW = Row", "it is a type, expected a Row"),
        ("ROW = Row('Toy', (1,))", "its label and aliases are not all text"),
        ("class Named(Row):\n    name = 'other'\nROW = Named('Toy')", "its name is 'other'"),
        ("", "has no attribute 'ROW'"),
        ("import sys\nsys.exit(3)", "it ended the program (SystemExit: 3)"),
        ("class Stop(BaseException): pass\nraise Stop('here')", "Stop: here"),
        ("ROW = Row('Plain One')", "its name 'Plain One' belongs to the built-in 'plain_one'"),
        ("ROW = Row('Toy', ('toy', 'PO'))", "its name 'PO' belongs to the built-in 'plain_one'"),
    ],
)
def test_a_broken_plug_in_is_left_out_and_named_when_it_is_asked_for(package, caplog, code, reason):
    package("toy-broken", {"broken": "ROW"}, code, version="2.5")
    package("toy-good", {"good": "ROW"}, 'ROW = Row("Good")')
    rows = table()
    with caplog.at_level(logging.WARNING, logger="gesso"):
        assert list(rows) == ["plain_one", "plus_plus", "good"]
        assert rows.find("nobody") is None
    (record,) = caplog.records  # once, however often it is listed
    assert (record.name, record.levelname) == ("gesso.registry", "WARNING")
    for ask in (
        lambda: rows["broken"],
        lambda: "broken" in rows,
        lambda: rows.get("broken"),
        lambda: rows.find("Broken"),
    ):
        with pytest.raises(PluginError, match=r"plug-in 'broken' of toy-broken 2\.5 \(gesso\.tests\)") as caught:
            ask()
        assert reason in caught.value.message
        assert reason in record.getMessage()
    assert (caught.value.group, caught.value.name, caught.value.distribution) == (GROUP, "broken", "toy-broken 2.5")
    assert rows.find("good") == "good"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("plain_one", "the name belongs to the built-in 'plain_one'"),
        ("plain-one", "the name belongs to the built-in 'plain_one'"),
        ("po", "the name belongs to the built-in 'plain_one'"),
        ("Loud", "expected a name of lower-case letters"),
        ("a/b", "expected a name of lower-case letters"),
    ],
)
def test_a_plug_in_takes_no_name_of_gesso(package, caplog, name, reason):
    module = package("toy-thief", {name: "ROW"}, 'ROW = Row("Thief")')
    rows = table()
    assert list(rows) == list(BUILTIN)
    assert reason in caplog.text
    assert "toy-thief 1.0" in caplog.text
    assert rows["plain_one"] is BUILTIN["plain_one"]
    assert module not in sys.modules
    if name not in BUILTIN:
        with pytest.raises(PluginError, match=reason):
            rows[name]


def test_a_plug_in_that_is_asked_for_by_name_brings_no_other_and_warns_of_none(package, caplog):
    broken = package("toy-broken", {"broken": "ROW"}, "raise RuntimeError")
    package("toy-good", {"good": "ROW"}, 'ROW = Row("Good")')
    rows = table()
    with caplog.at_level(logging.WARNING, logger="gesso"):
        assert rows.find("Good") == "good"
        assert "good" in rows
        assert rows["good"].label == "Good"
        assert broken not in sys.modules
        with pytest.raises(PluginError):
            rows["broken"]  # the error says it, and no warning again
        assert caplog.records == []
        for _ in range(3):
            assert len(rows) == 3
    assert len(caplog.records) == 1


def test_a_stop_by_the_user_passes_through_the_import_of_a_plug_in(package):
    package("toy-slow", {"slow": "ROW"}, "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        table()["slow"]


def test_an_entry_point_that_is_malformed_is_named(package, caplog):
    module = package("toy-bad", {"bad": "a b c", "worse": ":", "good": "ROW"}, 'ROW = Row("Good")')
    rows = table()
    assert list(rows) == [*BUILTIN, "good"]
    with pytest.raises(PluginError, match=rf"'bad' of toy-bad .*its entry point is '{module}:a b c', expected 'module"):
        rows["bad"]


def test_a_package_whose_entry_points_cannot_be_read_harms_no_other(package, caplog, tmp_path):
    package("toy-mess", {"mess": "ROW"}, "")
    (tmp_path / "toy_mess-1.0.dist-info" / "entry_points.txt").write_text(f"[{GROUP}]\nno sign of equality\n")
    package("toy-good", {"good": "ROW"}, 'ROW = Row("Good")')
    assert list(table()) == [*BUILTIN, "good"]
    assert "the entry points of toy-mess cannot be read" in caplog.text


def test_two_packages_that_bring_one_name_are_both_refused(package, caplog):
    package("toy-one", {"same": "ROW"}, 'ROW = Row("One")')
    package("toy-two", {"same": "ROW"}, 'ROW = Row("Two")')
    rows = table()
    assert "same" not in list(rows)
    with pytest.raises(PluginError, match=r"toy-two 1\.0.*toy-one 1\.0 has a plug-in of the same name"):
        rows["same"]


@pytest.mark.parametrize("value", ["0", "off", "No", "FALSE"])
def test_plug_ins_can_be_switched_off(package, monkeypatch, value):
    package("toy-off", {"offered": "ROW"}, 'ROW = Row("Off")')
    monkeypatch.setenv("GESSO_PLUGINS", value)
    rows = table()
    assert "offered" not in rows
    assert list(rows) == list(BUILTIN)
    monkeypatch.setenv("GESSO_PLUGINS", "1")
    assert "offered" in table()


def test_what_a_plug_in_raises_names_it(package):
    package("toy-raising", {"raising": "ROW"}, 'ROW = Row("Raising")')
    rows = table()
    with (
        pytest.raises(PluginError, match=r"'raising' of toy-raising 1\.0 .*ZeroDivisionError") as caught,
        rows.guard("raising"),
    ):
        1 / 0  # noqa: B018
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError), rows.guard("plain_one"):
        1 / 0  # noqa: B018
    with pytest.raises(GessoError, match=r"^its own$"), rows.guard("raising"):
        raise GessoError("its own")
    with pytest.raises(PluginError, match="SystemExit: 4"), rows.guard("raising"):
        sys.exit(4)
    for passes in (KeyboardInterrupt, GeneratorExit):
        with pytest.raises(passes), rows.guard("raising"):
            raise passes


def test_what_is_missing_of_a_recipe(package):
    package("toy-there", {})
    assert missing_distributions(["toy-there 0.9", "toy-gone 1.2", "", "2"]) == ["toy-gone 1.2", "", "2"]


def test_the_tables_need_no_torch():
    code = """
        import sys
        from gesso.diffusion.sampler_table import SAMPLERS
        from gesso.diffusion.schedule_table import SCHEDULES
        from gesso.request.names import with_canonical_names
        from gesso.text.dialects import DIALECTS
        assert SAMPLERS.find("Euler a") == "euler_ancestral", SAMPLERS
        assert len(SAMPLERS) > 20 and len(SCHEDULES) > 10 and list(DIALECTS)[0] == "a1111"
        assert not {"torch", "numpy", "PIL"} & sys.modules.keys()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

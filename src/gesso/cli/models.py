"""`gesso models ...`: list, import, convert, verify and remove models."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from gesso.cli.model_option import OfflineOption
from gesso.errors import GessoError
from gesso.studio.home import is_offline, open_library
from gesso.terminal.help import App
from gesso.terminal.json_lines import JsonOption, json_line, notice_values
from gesso.terminal.progress import Bar
from gesso.terminal.results import path_values
from gesso.terminal.tables import matches
from gesso.terminal.words import in_options

if TYPE_CHECKING:
    from gesso.adapters.textual_inversion import Embedding
    from gesso.library import Library, LibraryEntry

app = App()

MAX_VALUE = 300  # characters of a metadata value; some hold whole pictures
MAX_CELL = 44  # of a cell of the table, where the terminal is narrow

QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Hide the progress bar and notices.")]
KindOption = Annotated[
    str | None,
    typer.Option("--kind", help="Kind of model: checkpoint, vae, lora, embedding, controlnet, taesd, upscaler, ..."),
]


@app.callback()
def models() -> None:
    """List, import, convert and verify models.

    The library is the folder $GESSO_HOME/models; the default for GESSO_HOME is in the system's folder for application
    data. Model folders of A1111, Forge and ComfyUI can be used in place.

    Examples:
        gesso models list
        gesso models import ~/Downloads/sdxl.safetensors
        gesso models add-folder ~/stable-diffusion-webui
        gesso models info sdxl
        gesso generate "a red car" -m sdxl
    """


# ---- list ------------------------------------------------------------------------------------------------------------


@app.command("list")
def list_models(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORD", help="Show only models that match all these words.")
    ] = None,
    kind: KindOption = None,
    family: Annotated[str | None, typer.Option("--family", help="Show only this family: sd15, gesso-mini, ...")] = None,
    paths: Annotated[bool, typer.Option("--paths", help="Show full paths.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List all models.

    Built-in models, imported ones, and those in registered folders.

    Examples:
        gesso models list
        gesso models list anime xl
        gesso models list --kind lora
        gesso models list --family sdxl --paths
    """
    from gesso.library.builtin import builtin_adapters
    from gesso.library.entry import KINDS

    _check_choice("--kind", kind, KINDS)
    library = open_library()
    listing = library.listing()
    entries = [
        entry
        for entry in sorted((*listing.entries, *builtin_adapters()), key=lambda entry: entry.origin != "carried")
        if kind in (None, entry.kind) and family in (None, entry.family) and _has(entry, words or ())
    ]
    for note in listing.notes:
        print(f"note: {_printable(note)}", file=sys.stderr)
    if as_json:
        print(json_line([entry.to_dict() for entry in entries]))
        return
    if entries:
        print("\n".join(_table(entries, listing.entries, paths=paths)))
    else:
        print("no models match")
    folders = [f"{folder.path} ({folder.layout})" for folder in library.folders()]
    print()
    print(_printable(f"library: {library.root}{'' if library.exists else ' (does not exist yet)'}"))
    if folders:
        print(_printable(f"folders: {', '.join(folders)}"))


def _has(entry: "LibraryEntry", words: Sequence[str]) -> bool:
    return matches(words, entry.name, str(entry.path), entry.family or "", entry.kind, entry.what)


def _table(entries: Sequence["LibraryEntry"], known: Sequence["LibraryEntry"], *, paths: bool) -> list[str]:
    rows = [
        ("NAME", "KIND", "FAMILY", "SIZE", "DTYPE", "HASH", "WHERE"),
        *(_cells(entry, known, paths) for entry in entries),
    ]
    clean = [[_printable(cell) for cell in row] for row in rows]
    if not paths:
        clean = [[*(_cut(cell, MAX_CELL) for cell in row[:-1]), row[-1]] for row in clean]
    widths = [max(len(row[column]) for row in clean) for column in range(len(rows[0]) - 1)]
    lines = []
    for row in clean:
        cells = [c.rjust(w) if i == 3 else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=False))]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return lines


def _cells(entry: "LibraryEntry", known: Sequence["LibraryEntry"], paths: bool) -> tuple[str, ...]:
    return (
        entry.name,
        entry.kind,
        entry.family or "-",
        _size(entry.nbytes),
        "+".join(entry.dtypes) or "-",
        entry.model_hash or "-",
        f"{entry.path if paths else _where(entry)}{_remark(entry, known)}",
    )


def _where(entry: "LibraryEntry") -> str:
    if entry.origin == "folder" and entry.folder is not None:
        below = entry.path.relative_to(entry.folder) if entry.path.is_relative_to(entry.folder) else entry.path
        return str(Path(entry.folder.name) / below)
    if entry.origin == "in place":
        return str(entry.path)
    if entry.origin == "linked":
        return f"link to {entry.source}"
    if entry.origin == "hub":
        return str(entry.source)
    return "built in" if entry.origin == "carried" else entry.origin


def _remark(entry: "LibraryEntry", known: Sequence["LibraryEntry"]) -> str:
    if entry.origin == "carried":
        own = [other for other in known if (other.kind, other.path.stem) == (entry.kind, entry.name) and other != entry]
        return f"  (yours comes before it: {own[0].path})" if own else ""
    if entry.problem:
        return f"  ({entry.problem})"
    if entry.layout == "pickle":
        return "  (PyTorch file: not read until used)"
    loads = entry.family is not None or entry.kind != "checkpoint"
    return "" if loads else f"  ({entry.what}: not supported)"


# ---- import, add-folder, remove --------------------------------------------------------------------------------------


@app.command("import")
def import_models(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="FILE_OR_FOLDER", help="Model files, diffusers folders, or hf:organisation/name."),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Name in the library.", show_default="the file's name")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the model into the library; so by default.")] = False,
    link: Annotated[bool, typer.Option("--link", help="Put a symbolic link into the library.")] = False,
    in_place: Annotated[bool, typer.Option("--in-place", help="Register the model where it is.")] = False,
    kind: KindOption = None,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Accept weights with NaN or infinity.")
    ] = False,
    update: Annotated[bool, typer.Option("--update", help="Check for a newer commit of hf: names.")] = False,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check models, hash them and add them to the library.

    Every file is read completely first; damaged files and weights with NaN or infinity are refused.

    Examples:
        gesso models import ~/Downloads/sdxl.safetensors
        gesso models import ~/Downloads/style.safetensors --kind lora
        gesso models import hf:stabilityai/sdxl-turbo --name turbo
        gesso models import /data/sdxl.safetensors --link
    """
    from gesso.library.entry import KINDS
    from gesso.library.importing import import_model

    _check_choice("--kind", kind, KINDS)
    if copy + link + in_place > 1:
        raise GessoError("give only one of --copy, --link and --in-place", code="usage")
    if name is not None and len(sources) > 1:
        raise GessoError(f"--name takes one model, but {len(sources)} are given", code="usage")
    if update and not any(source.startswith("hf:") for source in sources):
        raise GessoError("--update needs a model of the hub: hf:organisation/name", code="usage")
    way = "link" if link else "in-place" if in_place else "copy"
    library = open_library()
    with Bar(quiet=quiet) as bar:
        for source in sources:
            bar.stage(f"reading {_printable(Path(source).name)}")
            if source.startswith("hf:"):
                from gesso.library.hub import fetch

                progress = _reporter(bar, source)
                fetched = fetch(
                    library, source, offline=is_offline(offline), update=update, on_progress=progress, name=name
                )
                entry, new = fetched, True
            else:
                done = import_model(
                    library,
                    source,
                    name=name,
                    way=way,
                    kind=kind,
                    allow_nonfinite=allow_nonfinite,
                    on_progress=_reporter(bar, Path(source).name),
                )
                entry, new = done.entry, done.new
            if as_json:
                bar.result(json_line({**entry.to_dict(), "new": new}))
            else:
                bar.result(_printable(_imported_line(entry, new)))


def _imported_line(entry: "LibraryEntry", new: bool) -> str:
    what = f"{entry.name}: {entry.what}, {_size(entry.nbytes)}, hash {entry.model_hash}"
    return what if new else f"{what} (already in the library)"


@app.command("add-folder")
def add_folder(
    path: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of A1111, Forge or ComfyUI, or any folder of models.")
    ],
    layout: Annotated[
        str, typer.Option("--layout", help="Folder layout: a1111, comfyui, plain (any folder) or auto.")
    ] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Use the models in another tool's folder, in place.

    Models added to the folder later are included. Nothing is copied or changed.

    Examples:
        gesso models add-folder ~/stable-diffusion-webui
        gesso models add-folder ~/ComfyUI
        gesso models add-folder /data/models --layout plain
        gesso models list
    """
    from gesso.library.folders import LAYOUTS

    _check_choice("--layout", layout, LAYOUTS)
    library = open_library()
    folder = library.add_folder(path.expanduser(), layout)
    listing = library.listing()
    added = [entry for entry in listing.entries if entry.folder == folder.path]
    for note in listing.notes:
        print(f"note: {_printable(note)}", file=sys.stderr)
    if as_json:
        models = [entry.to_dict() for entry in added]
        values = {"folder": str(folder.path), "layout": folder.layout, "models": models}
        print(json_line(values | notice_values(listing.notes)))
        return
    kinds = [entry.kind for entry in added]
    counts = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
    print(_printable(f"{folder.path}: layout {folder.layout}, {', '.join(counts) or 'no models yet'}"))


@app.command()
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Models or registered folders.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Remove models or registered folders from the library.

    Files in the library are deleted; files used in place are only unregistered.

    Examples:
        gesso models remove sdxl
        gesso models remove sdxl style --yes
        gesso models remove ~/stable-diffusion-webui
        gesso models list --paths
    """
    from gesso.library.importing import remove as remove_entry

    library = open_library()
    for name in names:
        folder = next((f for f in library.folders() if f.path == Path(os.path.abspath(name))), None)
        if folder is not None:
            _confirm(f"Unregister the folder {folder.path}? Its files are kept.", yes)
            count = library.forget_folder(folder.path)
            line = f"{folder.path}: unregistered, with {count} models; the files are kept"
            values = {"name": None, "path": str(folder.path), "deleted": False, "models": count}
            print(json_line(values) if as_json else _printable(line))
            continue
        entry = _known_entry(name, library)
        deletes = entry.origin == "library"
        question = (
            f"Delete {entry.path} ({_size(entry.nbytes)})?"
            if deletes
            else f"Unregister {entry.name}? Its file is kept."
        )
        if entry.origin not in ("folder", "carried"):
            _confirm(question, yes)
        remove_entry(library, entry)
        if as_json:
            print(json_line({"name": entry.name, "path": str(entry.path), "deleted": deletes, "models": 1}))
        elif not quiet:
            print(_printable(f"{entry.name}: {'deleted' if deletes else 'unregistered; its file is kept'}"))


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise GessoError(f"{question} Not a terminal, so nothing was removed. Add --yes to confirm", code="usage")
    typer.confirm(_printable(question), abort=True, err=True)


# ---- verify ----------------------------------------------------------------------------------------------------------


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Models to verify.", show_default="all")
    ] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Record the files as they are now as correct.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Verify model files against their recorded hashes.

    Reads every byte. Exits with 0 if all files are unchanged, 2 if one is changed, damaged or missing. The hashes of
    models in registered folders are recorded the first time.

    Examples:
        gesso models verify
        gesso models verify sdxl
        gesso models verify sdxl --accept
        gesso models verify --json
    """
    from gesso.library.checking import verify as verify_entry

    library = open_library()
    entries = [_known_entry(name, library) for name in names] if names else list(library.entries())
    bad = 0
    results = []
    with Bar(quiet=quiet) as bar:
        for number, entry in enumerate(entries, 1):
            report = _reporter(bar, entry.name, prefix=f"{number}/{len(entries)} " if len(entries) > 1 else "")
            done, total = 0, entry.nbytes

            def on_bytes(count: int, report: Callable[[str, int, int], object] = report, total: int = total) -> None:
                nonlocal done
                done += count
                report("reading", done, total)

            for file in verify_entry(library, entry, accept=accept, on_bytes=on_bytes):
                bad += not file.good
                label = entry.name if len(entry.files) == 1 else f"{entry.name}/{file.name}"
                line = f"{file.status:<9}{label}{': ' + file.detail if file.detail else ''}"
                if as_json:
                    results.append(
                        {
                            "name": entry.name,
                            "file": file.name,
                            "path": str(file.path),
                            "status": file.status,
                            "sha256": file.sha256,
                            "detail": file.detail,
                        }
                    )
                else:
                    bar.result(_printable(line))
    if as_json:
        print(json_line(results))
    if bad:
        print(f"error: {bad} file{'' if bad == 1 else 's'} changed, damaged or missing", file=sys.stderr)
        raise typer.Exit(2)


# ---- convert ---------------------------------------------------------------------------------------------------------


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Model: a name, file or folder.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Output file; a folder for --to diffusers.")],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="LAYOUT",
            help="Target layout: ldm (single file), diffusers (folder), native (gesso's own) or safetensors (keeps the "
            "tensor names).",
            show_default="as TARGET ends: a folder is diffusers; a file keeps the names, of a folder it is ldm",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype", metavar="DTYPE", help="dtype of the output: fp32, fp16 or bf16.", show_default="unchanged"
        ),
    ] = None,
    family: Annotated[str | None, typer.Option("--family", help="Model family, if detection is wrong.")] = None,
    prediction: Annotated[
        str | None, typer.Option("--prediction", help="Prediction type, if detection is wrong: eps, v or x0.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Title to store in the file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing target.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Convert a model to another layout or dtype.

    Everything else is kept bit for bit.

    Examples:
        gesso models convert sdxl.safetensors small.safetensors --dtype fp16
        gesso models convert sdxl.safetensors sdxl-folder --to diffusers
        gesso models convert sdxl-folder sdxl.safetensors --to ldm
        gesso models convert old.ckpt new.safetensors --to safetensors
    """
    from gesso.library.converting import DTYPES, LAYOUTS
    from gesso.library.converting import convert as convert_model

    _check_choice("--to", to, LAYOUTS)
    path = _path_of(source, open_library())
    to = _layout(path, target) if to is None else to
    if to == "safetensors" and (family, prediction) != (None, None):
        option = "--family" if family is not None else "--prediction"
        raise GessoError(
            f"{option} has no effect where the tensor names are kept; give --to ldm or --to diffusers", code="usage"
        )
    _check_choice("--prediction", prediction, ("eps", "v", "x0"))
    typed, dtype = dtype, _short_dtype(dtype)
    _check_choice("--dtype", dtype if dtype in DTYPES else typed, tuple(DTYPES))
    with Bar(quiet=quiet) as bar:
        bar.stage(f"converting {_printable(Path(source).name)}")
        done = convert_model(
            path,
            target,
            to,
            dtype=dtype,
            overwrite=overwrite,
            title=title,
            family=family,
            prediction=cast(Any, prediction),
        )
        for note in done.notes:
            bar.note(f"note: {note}")
        if as_json:
            bar.result(
                json_line(
                    {
                        **path_values(done.path, absolute=False),
                        "layout": done.layout,
                        "dtypes": list(done.dtypes),
                        "bytes": done.nbytes,
                        "notes": list(done.notes),
                        **notice_values(done.notes),
                    }
                )
            )
        else:
            bar.result(_printable(f"{done.path}: {done.layout}, {'+'.join(done.dtypes)}, {_size(done.nbytes)}"))


def _layout(source: Path, target: Path) -> str:
    """The layout that the names of source and target speak for."""
    if target.suffix.lower() != ".safetensors":
        return "diffusers"
    return "ldm" if source.is_dir() else "safetensors"


def _short_dtype(name: str | None) -> str | None:
    """Both spellings are in use."""
    return {"float16": "fp16", "half": "fp16", "bfloat16": "bf16", "float32": "fp32"}.get(name or "", name)


# ---- info ------------------------------------------------------------------------------------------------------------


@app.command()
def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model, adapter or component: a name, file, folder or hash.")
    ] = "gesso-mini",
    as_json: JsonOption = False,
) -> None:
    """Show what a model file contains.

    Layout, family, components, sizes, hashes, metadata and, for gesso-mini, the objects that it can draw.

    Examples:
        gesso models info
        gesso models info sdxl.safetensors
        gesso models info sdxl --json
        gesso models info style.safetensors
    """
    from dataclasses import replace

    from gesso.checkpoints.detect import describe
    from gesso.library.examine import facts_of

    library = open_library()
    path = _path_of(model, library)
    description = describe(path)
    entry = _entry_of(path, library)
    if entry.kind == "other":  # a PyTorch file was opened for this once
        entry = replace(entry, kind=facts_of(description, None).kind)
    print(json_line(_info_table(description, entry)) if as_json else "\n".join(_lines(description, entry)))


def _entry_of(path: Path, library: "Library") -> "LibraryEntry":
    """The model as the library knows it, or looked at for this once; with its hashes."""
    from gesso.library.builtin import builtin_adapters
    from gesso.library.entry import IN_PLACE
    from gesso.library.library import make_entry

    entries = (*library.entries(), *builtin_adapters())
    known = next((entry for entry in entries if entry.path == Path(os.path.abspath(path))), None)
    return library.hashed(known or make_entry(path, None, IN_PLACE))


def _info_table(description: Any, entry: "LibraryEntry") -> dict[str, Any]:
    from gesso.library.entry import file_to_dict

    metadata = {file.path: file.metadata for file in description.files}
    return {
        **entry.to_dict(),
        "path": str(description.path),
        "layout": description.layout,
        "what": description.kind.what,
        "family": description.family,
        "tensors": description.num_tensors,
        "parameters": description.num_params,
        "bytes": description.nbytes,
        "parts": {
            part.name: {"tensors": part.num_tensors, "parameters": part.num_params, "dtypes": part.dtypes}
            for part in description.parts
        },
        "files": [
            {**file_to_dict(file), "path": str(file.path), "metadata": _plain(metadata.get(file.path, {}))}
            for file in entry.files
        ],
        "objects": _objects(description),
        "word": None
        if (word := _word(description, entry)) is None
        else {
            "spellings": list(word.spellings),
            "vectors": word.num_vectors,
            "widths": {part: vectors.shape[1] for part, vectors in word.vectors.items()},
        },
    }


def _word(description: Any, entry: "LibraryEntry") -> "Embedding | None":
    """The word that an embedding is; None for other files and for one that cannot be read."""
    from gesso.adapters.textual_inversion import read_embedding
    from gesso.checkpoints.weight_file import open_weights

    if entry.kind != "embedding" or description.path.is_dir():
        return None
    with suppress(GessoError):
        return read_embedding(open_weights(description.path), name=entry.name)
    return None


def _lines(description: Any, entry: "LibraryEntry") -> list[str]:
    word = _word(description, entry)
    loads = description.family or f"not supported: {in_options(description.kind.advice)}"
    lines = [
        f"name        {entry.name}",
        f"path        {description.path}",
        f"detected    {description.kind.what}",
        f"kind        {entry.kind}",
        f"layout      {description.layout}",
        f"family      {loads}" if word is None else f"word        {word.what}; in a prompt: {word.spellings[0]}",
        f"tensors     {description.num_tensors:,}",
        f"parameters  {description.num_params:,}",
        f"size        {description.nbytes:,} bytes",
    ]
    lines += [
        f"  {part.name:<10}{part.num_params:>14,} parameters in {part.num_tensors:,} tensors, {', '.join(part.dtypes)}"
        for part in description.parts
    ]
    if entry.source:
        lines.append(f"source      {entry.source}")
    if entry.added and entry.origin != "carried" and entry.source:
        lines.append(f"added       {entry.added}")
    for file in entry.files:
        name = f"{file.name}: " if len(entry.files) > 1 else ""
        lines.append(f"sha256      {name}{file.sha256}")
        lines.append(f"model hash  {name}{file.autov2} (AutoV2), {file.autov1} (AutoV1), {file.autov3 or '-'} (AutoV3)")
    metadata = [f"{key}: {value}" for file in description.files for key, value in sorted(_plain(file.metadata).items())]
    lines += dict.fromkeys(metadata)
    if objects := _objects(description):
        lines.append(f"draws {len(objects)} objects: {', '.join(objects)}")
    return [_printable(line) for line in lines]


def _plain(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata that people read, cut to a length that they can; our own configuration is shown in other lines."""
    return {
        key: value if len(value) <= MAX_VALUE else f"{value[:MAX_VALUE]}... ({len(value)} characters)"
        for key, value in metadata.items()
        if not key.startswith("gesso.")
    }


def _objects(description: Any) -> list[str]:
    """What a model with a vocabulary of its own can draw; empty for others."""
    from gesso.checkpoints.native import load_native
    from gesso.families.gesso_mini import family_from_config

    if description.layout != "native":
        return []
    return list(family_from_config(load_native(description.path).config, description.path).objects)


# ---- shared ----------------------------------------------------------------------------------------------------------


def _path_of(name: str, library: "Library") -> Path:
    """The path of what the user named: a path of any kind of file first, as elsewhere."""
    from gesso.library.builtin import builtin_adapters
    from gesso.library.resolving import is_path

    if "\0" not in name and name and not name.startswith("hf:") and is_path(name):
        return Path(name)
    entry = _entry(name, library) or next((one for one in builtin_adapters() if one.name == name), None)
    if entry is not None:
        return entry.path
    from gesso.library import resolve

    return Path(resolve(name, library, offline=True))


def _entry(name: str, library: "Library") -> "LibraryEntry | None":
    """The one entry of that name, path or hash."""
    from gesso.library.resolving import find

    by_path = Path(os.path.abspath(name)) if "\0" not in name else None
    entries = library.entries()
    return next((entry for entry in entries if entry.path == by_path), None) or find(name, entries, kinds=None)


def _known_entry(name: str, library: "Library") -> "LibraryEntry":
    entry = _entry(name, library)
    if entry is None:
        raise GessoError(f"{name}: not in the library; `gesso models list` shows its models", code="unknown_name")
    return entry


def _check_choice(option: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise GessoError(f"{option} {value[:40]}: expected one of {', '.join(known)}", code="invalid_value")


def _reporter(bar: Bar, label: str, prefix: str = "") -> Callable[[str, int, int], object]:
    """Bytes as steps of the bar, in MB: whole numbers that people can read."""

    def report(what: str, done: int, total: int) -> None:
        bar.step(f"{prefix}{what} {_cut(_printable(label), 40)}", done // 10**6, max(1, total // 10**6), "MB")

    return report


def _size(nbytes: int) -> str:
    value = float(nbytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.{0 if unit == 'B' or value >= 100 else 1}f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _printable(line: str) -> str:
    """Names and metadata come from strangers: control and direction characters must not reach the terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)

"""`gesso lora ...`: inspect, convert, merge, extract and resize LoRA files."""

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gesso.cli.model_option import OfflineOption
from gesso.errors import GessoError
from gesso.notices import Notice
from gesso.studio.home import open_library, resolve_model
from gesso.terminal.help import App
from gesso.terminal.json_lines import JsonOption, json_line, notice_values
from gesso.terminal.results import path_values
from gesso.terminal.words import in_options

if TYPE_CHECKING:
    from torch import nn

    from gesso.adapters.lora import Lora, ModuleChange
    from gesso.adapters.names import Target
    from gesso.checkpoints.tensor_file import TensorFile
    from gesso.families.parts import ModelParts

app = App()

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
MAX_WORDS, MAX_WORD = 20, 60
# What `architecture_of` says -> a family of that kind; sizes decide nothing more here.
_FAMILIES = {
    "Stable Diffusion 1": "sd15",
    "Stable Diffusion 2": "sd21",
    "Stable Diffusion XL": "sdxl",
    "the refiner of Stable Diffusion XL": "sdxl-refiner",
}

FileArgument = Annotated[str, typer.Argument(metavar="LORA", help="Adapter: a file, or a name in the library.")]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Output file (.safetensors).")]
BaseOption = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="Model that the adapter is for, if the file does not say."),
]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", metavar="DTYPE", help="dtype of the output: fp32, fp16 or bf16.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing file.")]
RankOption = Annotated[int | None, typer.Option("--rank", min=1, max=4096, help="Reduce to this rank.")]


@app.callback()
def lora() -> None:
    """Inspect, convert, merge, extract and resize LoRA files.

    Examples:
        gesso lora info style.safetensors
        gesso lora merge a.safetensors:0.8 b.safetensors -o both.safetensors
        gesso lora resize style.safetensors small.safetensors --rank 8
        gesso generate "a red car" --lora style:0.8
    """


# ---- info ------------------------------------------------------------------------------------------------------------


@app.command()
def info(file: FileArgument, model: BaseOption = None, as_json: JsonOption = False) -> None:
    """Show what an adapter contains.

    Format, kinds, ranks, changed layers, the model it is for, and the base model and trigger words in its metadata.

    Examples:
        gesso lora info style.safetensors
        gesso lora info comic
        gesso lora info style.safetensors --json
        gesso lora info style.safetensors -m sdxl
    """
    opened = _open(file)
    target = _target(opened, model)
    adapter = _read(opened, target)
    table = _table(adapter, opened, target)
    print(json_line(table) if as_json else "\n".join(_lines(table)))


def _table(adapter: "Lora", file: "TensorFile", target: "Target") -> dict[str, Any]:
    from gesso.adapters.architecture import architecture_of, declared_base
    from gesso.checkpoints.hashing import sha256_of
    from gesso.checkpoints.safetensors_file import SafetensorsFile, tensor_data_sha256

    changed = {part: sum(name.startswith(f"{part}.") for name in adapter.changes) for part in adapter.components}
    return {
        "name": adapter.name,
        "path": str(file.path),
        "sha256": sha256_of(file.path),
        "autov3": tensor_data_sha256(file)[:12] if isinstance(file, SafetensorsFile) else None,
        "made_for": architecture_of(file.tensors),
        "metadata_say": declared_base(file.metadata),
        "family": target.name,
        "dialects": list(adapter.dialects),
        "kinds": dict(adapter.kinds),
        "ranks": {str(rank): count for rank, count in adapter.ranks.items()},
        "alpha": file.metadata.get("ss_network_alpha"),
        "changes": changed,
        "unmatched": list(adapter.match.unmatched),
        "embeddings": [word.name for word in adapter.embeddings],
        "title": file.metadata.get("modelspec.title") or file.metadata.get("ss_output_name"),
        "words": trigger_words(file.metadata),
        "training": {key: file.metadata[name] for key, name in _TRAINING.items() if name in file.metadata},
    }


# What trainers say about a training -> the name here.
_TRAINING = {
    "model": "ss_sd_model_name",
    "model_sha256": "ss_new_sd_model_hash",
    "pictures": "ss_num_train_images",
    "class_pictures": "ss_num_reg_images",
    "steps": "ss_steps",
    "batch": "ss_total_batch_size",
    "rate": "ss_learning_rate",
    "optimizer": "ss_optimizer",
    "resolution": "ss_resolution",
    "seed": "ss_seed",
}


def _lines(table: Mapping[str, Any]) -> list[str]:
    def counted(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{name} ({count})" for name, count in counts.items()) or "none"

    base = f" (metadata: {table['metadata_say']})" if table["metadata_say"] else ""
    lines = [
        f"name        {table['name']}",
        f"path        {table['path']}",
        f"made for    {table['made_for']}{base}",
        f"format      {', '.join(table['dialects']) or 'none'}",
        f"kinds       {counted(table['kinds'])}",
        f"ranks       {counted(table['ranks'])}",
        f"changes     {counted(table['changes'])}",
        f"sha256      {table['sha256']}",
    ]
    if table["autov3"]:
        lines.append(f"autov3      {table['autov3']}")
    if table["alpha"]:
        lines.append(f"alpha       {table['alpha']}")
    if table["embeddings"]:
        lines.append(f"embeddings  {', '.join(table['embeddings'])}")
    if table["title"]:
        lines.append(f"title       {table['title']}")
    if table["words"]:
        lines.append(f"trigger     {', '.join(table['words'])}")
    trained = table["training"]
    lines += [f"{key:<12}{trained[key]}" for key in ("pictures", "steps", "rate", "resolution") if key in trained]
    if "model" in trained:
        digest = f" ({trained['model_sha256'][:16]})" if trained.get("model_sha256") else ""
        lines.append(f"trained on  {trained['model']}{digest}")
    return [_printable(line)[:1000] for line in lines]


def trigger_words(metadata: Mapping[str, str]) -> list[str]:
    """The trigger words of an adapter: the phrase in its metadata, else the most frequent tags of its training."""
    if phrase := metadata.get("modelspec.trigger_phrase"):
        return [phrase[: MAX_WORDS * MAX_WORD]]
    try:
        folders: Any = json.loads(metadata.get("ss_tag_frequency", "{}"))
    except (ValueError, RecursionError):
        return []
    counts: dict[str, int] = {}
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if isinstance(count, int) and tag.strip():
                counts[tag.strip()[:MAX_WORD]] = counts.get(tag.strip()[:MAX_WORD], 0) + count
    return sorted(counts, key=lambda tag: (-counts[tag], tag))[:MAX_WORDS]


# ---- convert and resize ----------------------------------------------------------------------------------------------


@app.command()
def convert(
    file: FileArgument,
    out: OutArgument,
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="Target format: kohya (most tools) or peft (diffusers).")
    ],
    model: BaseOption = None,
    dtype: DtypeOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert an adapter to another file format.

    Its effect stays the same.

    Examples:
        gesso lora convert style.safetensors for-diffusers.safetensors --to peft
        gesso lora convert adapter.safetensors style.safetensors --to kohya
        gesso lora convert big.safetensors fp16.safetensors --to kohya --dtype fp16
        gesso lora convert adapter.safetensors out.safetensors --to kohya -m sdxl
    """
    opened = _open(file)
    target = _target(opened, model)
    adapter = _read(opened, target)
    notices = _notices(opened, adapter)
    if adapter.embeddings:
        count = len(adapter.embeddings)
        notices.append(Notice(f"{count} embeddings in the file were left out", code="left_out", data={"count": count}))
        print(f"note: {notices[-1]}", file=sys.stderr)
    written = _write(adapter.changes, target, out, to, dtype, overwrite, adapter.metadata, opened.path)
    _print(written, notices, as_json)


@app.command()
def resize(
    file: FileArgument,
    out: OutArgument,
    rank: RankOption = None,
    energy: Annotated[
        float | None, typer.Option("--energy", help="Keep this fraction of each layer's energy, such as 0.95.")
    ] = None,
    model: BaseOption = None,
    dtype: DtypeOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Reduce the rank of an adapter.

    Keeps the largest singular values of each layer.

    Examples:
        gesso lora resize style.safetensors small.safetensors --rank 8
        gesso lora resize style.safetensors small.safetensors --energy 0.95
        gesso lora resize style.safetensors small.safetensors --rank 8 --dtype fp16
        gesso lora resize style.safetensors small.safetensors --rank 8 -m sdxl
    """
    from gesso.adapters.rewriting import resized

    if (rank is None) == (energy is None):
        raise GessoError("give either --rank or --energy", code="usage")
    if energy is not None and not 0 < energy <= 1:
        raise GessoError(f"--energy {energy:g}: expected more than 0 and at most 1", code="invalid_value")
    opened = _open(file)
    target = _target(opened, model)
    adapter = _read(opened, target)
    smaller = resized(adapter.changes, rank=rank, energy=energy)
    written = _write(smaller, target, out, "kohya", dtype, overwrite, adapter.metadata, opened.path)
    _print(written, _notices(opened, adapter), as_json)


# ---- merge -----------------------------------------------------------------------------------------------------------


@app.command()
def merge(
    files: Annotated[
        list[str], typer.Argument(metavar="LORA", help="Adapters, each with an optional :STRENGTH or :UNET:TEXT.")
    ],
    out: Annotated[Path, typer.Option("--output", "--out", "-o", metavar="OUT", help="Output file (.safetensors).")],
    into: Annotated[
        str | None, typer.Option("--into", metavar="MODEL", help="Merge into this model and save the whole model.")
    ] = None,
    rank: RankOption = None,
    model: BaseOption = None,
    dtype: DtypeOption = None,
    overwrite: OverwriteOption = False,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Merge adapters into one, or into a model.

    Without --rank the merge is exact: the ranks add up.

    Examples:
        gesso lora merge a.safetensors b.safetensors -o both.safetensors
        gesso lora merge a.safetensors:0.8 b.safetensors:0.5 -o both.safetensors
        gesso lora merge a.safetensors b.safetensors --rank 16 -o both.safetensors
        gesso lora merge a.safetensors --into sdxl.safetensors -o merged.safetensors
    """
    from gesso.adapters.rewriting import merged_loras

    named = [_with_strengths(text) for text in files]
    opened = [(_open(name), unet, text) for name, unet, text in named]
    if into is not None:
        if rank is not None:
            raise GessoError("--rank applies to adapters only; leave it out with --into", code="usage")
        if model is not None:
            raise GessoError("--into names the model already; leave out --model", code="usage")
        _merge_into(opened, into, out, dtype, overwrite, offline, as_json)
        return
    target = _target(opened[0][0], model)
    loras = [(_read(file, target), unet, text) for file, unet, text in opened]
    sources = [file.path for file, _, _ in opened]
    comment = {"ss_training_comment": "merged: " + ", ".join(path.name for path in sources)}
    kept = {key: value for key, value in opened[0][0].metadata.items() if key.startswith(("ss_base", "ss_v2"))}
    merged = merged_loras(loras, target, rank=rank)
    written = _write(merged, target, out, "kohya", dtype, overwrite, kept | comment, *sources)
    _print(written, _notices_of(opened, loras), as_json)


def _with_strengths(text: str) -> tuple[str, float, float]:
    """ "style.safetensors:0.8:0.5" -> file, strength for the UNet and for the text models."""
    numbers: list[float] = []
    name = text
    while len(numbers) < 2:
        before, colon, last = name.rpartition(":")
        try:
            number = float(last)
        except ValueError:
            break
        if not colon or not before or os.path.exists(name):
            break
        if not math.isfinite(number) or abs(number) > 1000:
            raise GessoError(f"{text[:200]}: strength {last}, expected -1000 to 1000", code="invalid_value")
        numbers.insert(0, number)
        name = before
    unet = numbers[0] if numbers else 1.0
    return name, unet, numbers[-1] if numbers else 1.0


def _merge_into(
    opened: Sequence[tuple["TensorFile", float, float]],
    into: str,
    out: Path,
    dtype: str | None,
    overwrite: bool,
    offline: bool,
    as_json: bool,
) -> None:
    import torch

    from gesso.adapters.attaching import attach
    from gesso.families.loading import load_parts

    path = Path(resolve_model(into, offline=offline))
    _check_out(out, overwrite, path, *(file.path for file, _, _ in opened))
    torch_dtype = None if _dtype(dtype) is None else getattr(torch, str(_dtype(dtype)))
    parts = load_parts(path, dtype=torch_dtype)
    target = _target_of(parts)
    loras = [(_read(file, target), unet, text) for file, unet, text in opened]
    with attach(target.networks, loras, merged=True) as attached:
        _save_whole(out, parts, path)
        count = attached.num_layers
    size = out.stat().st_size
    if as_json:
        values = {"model": path.name, "adapters": len(loras), "layers": count, "bytes": size}
        print(json_line(path_values(out, absolute=False) | values | notice_values(_notices_of(opened, loras))))
    else:
        print(_printable(f"{out}: {path.name} with {len(loras)} adapters merged into {count} layers, {size:,} bytes"))


def _save_whole(out: Path, parts: "ModelParts", source: Path) -> None:
    from gesso.checkpoints.native import save_native
    from gesso.families.gesso_mini import NAME, config_of
    from gesso.families.saving import save_ldm

    if parts.family.name != NAME:
        save_ldm(out, parts)
        return
    size = parts.family.output_size
    metadata = {"title": out.stem, "resolution": f"{size}x{size}", "merged_from": source.stem}
    dtype = next(parts.unet.parameters()).dtype
    save_native(out, dict(parts.networks), config_of(parts.family), parts.tokenizer.to_json(), metadata, dtype)


# ---- extract ---------------------------------------------------------------------------------------------------------


@app.command()
def extract(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Base model, which the adapter will be for.")],
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="Model fine-tuned from BASE.")],
    out: OutArgument,
    rank: Annotated[int, typer.Option("--rank", min=1, max=4096, help="Rank of the adapter.")] = 32,
    text: Annotated[bool, typer.Option("--text/--no-text", help="Include the changes of the text encoders.")] = True,
    dtype: DtypeOption = "fp16",
    overwrite: OverwriteOption = False,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Extract a LoRA from a fine-tuned model.

    The LoRA holds the difference between the fine-tuned model and its base.

    Examples:
        gesso lora extract sd15.safetensors tuned.safetensors lora.safetensors
        gesso lora extract sd15 tuned.safetensors lora.safetensors --rank 8
        gesso lora extract sdxl tuned-sdxl lora.safetensors --no-text
        gesso lora extract sdxl tuned-sdxl lora.safetensors --dtype bf16
    """
    from gesso.adapters.rewriting import extracted
    from gesso.families.loading import load_parts

    paths = [Path(resolve_model(name, offline=offline)) for name in (base, tuned)]
    _check_out(out, overwrite, *paths)
    one, other = (load_parts(path, dtype=None) for path in paths)
    changes = extracted(one.networks, other.networks, rank=rank, text=text)
    metadata = {
        "ss_training_comment": f"extracted: {paths[1].name} less {paths[0].name}",
        "ss_sd_model_name": paths[0].name,
    }
    _print(_write(changes, _target_of(one), out, "kohya", dtype, overwrite, metadata, *paths), (), as_json)


# ---- what the commands share -----------------------------------------------------------------------------------------


def _open(name: str) -> "TensorFile":
    """An adapter by its path, else by its name in the library, else by that of a built-in one, as `--lora` finds it."""
    from gesso.checkpoints.weight_file import open_weights
    from gesso.library import resolve
    from gesso.library.finder import LibraryFinder
    from gesso.request.embedded import embedded_extras

    path = Path(name)
    if name in embedded_extras("lora") and not path.is_file():
        path = LibraryFinder(open_library()).find("lora", name)
    elif "\0" in name or not path.is_file():
        path = Path(resolve(name, open_library(), kinds=("lora",), offline=True))
    return open_weights(path)


def _target(file: "TensorFile", model: str | None) -> "Target":
    """The model that an adapter is for, without its numbers unless the user names one."""
    from gesso.adapters.architecture import architecture_of, declared_base
    from gesso.adapters.lora import refuse_unread_kinds
    from gesso.adapters.names import Target
    from gesso.families.loading import load_parts
    from gesso.families.parts import empty_networks
    from gesso.families.registry import family_named
    from gesso.runtime.engine import EMBEDDED, find_model

    base = (declared_base(file.metadata) or "").partition("/")[0]
    if model is None and base in EMBEDDED:
        model = base
    if model is not None:
        return _target_of(load_parts(find_model(resolve_model(model)), dtype=None, check=False))
    refuse_unread_kinds(file)
    looks = architecture_of(file.tensors)
    if looks not in _FAMILIES:
        raise GessoError(
            f"{file.path}: made for {looks}; expected an adapter for {', '.join(_FAMILIES)}. "
            "If it is for another model of these kinds, name that with --model",
            code="architecture_mismatch",
        )
    family = family_named(_FAMILIES[looks])
    return Target(family.name, family.layout, empty_networks(family, file.path))


def _target_of(parts: "ModelParts") -> "Target":
    from gesso.adapters.names import Target

    networks: dict[str, nn.Module] = parts.networks
    return Target(parts.family.name, parts.family.layout, networks)


def _read(file: "TensorFile", target: "Target") -> "Lora":
    from gesso.adapters.lora import read_lora

    adapter = read_lora(file, target)
    for notice in _notices(file, adapter):
        print(in_options(_printable(f"note: {notice}")), file=sys.stderr)
    return adapter


def _dtype(name: str | None) -> str | None:
    if name is not None and name not in DTYPES:
        raise GessoError(f"--dtype {name[:40]}: expected one of {', '.join(DTYPES)}", code="invalid_value")
    return None if name is None else DTYPES[name]


def _check_out(out: Path, overwrite: bool, *sources: Path) -> None:
    if out.suffix.lower() != ".safetensors":
        raise GessoError(f"{out}: expected a file name ending in .safetensors", code="invalid_name")
    if any(out.resolve() == source.resolve() for source in sources):
        raise GessoError(f"{out} is also an input. Choose another name", code="name_taken")
    if out.exists() and (not overwrite or not out.is_file()):
        raise GessoError(
            f"{out} already exists; left unchanged. Choose another name, or add --overwrite", code="name_taken"
        )
    if not out.parent.is_dir():
        raise GessoError(f"{out.parent}: no such folder. Create it first", code="missing")


def _write(
    changes: Mapping[str, "ModuleChange"],
    target: "Target",
    out: Path,
    dialect: str,
    dtype: str | None,
    overwrite: bool,
    kept: Mapping[str, str],
    *sources: Path,
) -> dict[str, Any]:
    """Save the adapter, and say what was written. Raises GessoError."""
    import torch

    from gesso.adapters.rewriting import DIALECTS, file_metadata, file_tensors
    from gesso.checkpoints.safetensors_file import write_safetensors

    if dialect not in DIALECTS:
        raise GessoError(f"--to {dialect[:40]}: expected one of {', '.join(DIALECTS)}", code="invalid_value")
    _check_out(out, overwrite, *sources)
    dtype_name = _dtype(dtype)
    tensors = file_tensors(changes, target, dialect, None if dtype_name is None else getattr(torch, dtype_name))
    for name, tensor in tensors.items():
        if not bool(tensor.float().isfinite().all()):
            raise GessoError(f"{name}: values overflow {dtype_name}. Use --dtype bf16 or fp32", code="overflow")
    hashed = "modelspec.hash_sha256" if dialect == "kohya" else None
    write_safetensors(out, tensors, file_metadata(target, changes, dialect, kept), hash_key=hashed)
    return path_values(out, absolute=False) | {"format": dialect, "layers": len(changes), "bytes": out.stat().st_size}


def _print(written: Mapping[str, Any], notices: Sequence[Notice], as_json: bool) -> None:
    """The result: an adapter that was written."""
    if as_json:
        print(json_line(dict(written) | notice_values(notices)))
    else:
        print(_printable("{path}: {format}, {layers} layers, {bytes:,} bytes".format(**written)))


def _notices(file: "TensorFile", adapter: "Lora") -> list[Notice]:
    """What was told when an adapter was read."""
    return [notice.reworded(f"{file.path}: {notice}") for notice in adapter.notices]


def _notices_of(
    opened: Sequence[tuple["TensorFile", float, float]], loras: Sequence[tuple["Lora", float, float]]
) -> list[Notice]:
    return [line for (file, *_), (one, *_) in zip(opened, loras, strict=True) for line in _notices(file, one)]


def _printable(text: str) -> str:
    """Names and metadata come from outside and must not reach the terminal as escape sequences."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)

"""The data set that the user names: a folder, a shard or a TOML file of kohya's trainer: `read_dataset`."""

from dataclasses import replace
from pathlib import Path

from gesso.errors import GessoError
from gesso.tuning.dataset import PICTURES, DataSet, Defaults, read_folder, read_shards, with_reg
from gesso.tuning.kohya_toml import read_kohya_toml
from gesso.tuning.shards import is_shard

MAX_EXAMPLES = 20_000


def read_dataset(path: Path, defaults: Defaults) -> DataSet:
    """The data set in a folder, a shard or a kohya TOML file. Raises GessoError where there is none."""
    if path.suffix.lower() == ".toml":
        found = read_kohya_toml(path, defaults)
    elif is_shard(path):
        found = read_shards(path, [path], defaults)
    elif path.is_dir():
        found = read_folder(path, defaults)
    else:
        what = "not a folder" if path.exists() else "no such folder"
        raise GessoError(
            f"{path}: {what}. Expected a folder of pictures, a Parquet file or tar of them, or a data set's TOML file",
            code="missing",
            data={"path": str(path)},
        )
    roots = [path if path.is_dir() else path.parent]
    if defaults.reg is not None:
        found = with_reg(found, defaults.reg, defaults)
        roots.append(defaults.reg)
    if not any(not found.subsets[one.subset].is_reg for one in found.examples):
        hint = "; ".join(found.notes) or f"expected {', '.join(PICTURES)}"
        raise GessoError(f"{path}: no pictures to train on ({hint})", code="missing", data={"path": str(path)})
    if len(found.examples) > MAX_EXAMPLES:
        raise GessoError(
            f"{path}: {len(found.examples)} pictures, expected at most {MAX_EXAMPLES}",
            code="too_large",
            data={"path": str(path)},
        )
    return replace(found, roots=tuple(roots))

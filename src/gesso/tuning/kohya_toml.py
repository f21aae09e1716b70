"""Data sets described by the TOML files of kohya's trainer (sd-scripts): [general], [[datasets]], [[datasets.subsets]].

A key lower down overrules one above it. A key that gesso does not know, or whose effect it does not have, is refused by
name unless its value asks for nothing: a training that silently differs from what was asked for helps nobody.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gesso.errors import GessoError, short, shorten
from gesso.request.checks import nearest_name
from gesso.tuning.buckets import BucketRules
from gesso.tuning.captions import CaptionRules
from gesso.tuning.dataset import (
    CAPTIONS,
    MAX_TABLE_BYTES,
    DataSet,
    Defaults,
    Example,
    Subset,
    folder_examples,
    read_text,
)

_BOOL, _INT, _NUMBER, _TEXT = "true or false", "a whole number", "a number", "a text"
# Keys that gesso follows, and what their values are.
_SUBSET: Mapping[str, str] = {
    "image_dir": _TEXT,
    "class_tokens": _TEXT,
    "caption_extension": _TEXT,
    "num_repeats": _INT,
    "shuffle_caption": _BOOL,
    "keep_tokens": _INT,
    "keep_tokens_separator": _TEXT,
    "caption_separator": _TEXT,
    "caption_prefix": _TEXT,
    "caption_suffix": _TEXT,
    "caption_dropout_rate": _NUMBER,
    "caption_tag_dropout_rate": _NUMBER,
    "flip_aug": _BOOL,
    "is_reg": _BOOL,
    "conditioning_data_dir": _TEXT,
    "alpha_mask": _BOOL,
    "cache_info": _BOOL,
}
_DATASET: Mapping[str, str] = {
    "resolution": "a whole number, or [width, height]",
    "batch_size": _INT,
    "enable_bucket": _BOOL,
    "min_bucket_reso": _INT,
    "max_bucket_reso": _INT,
    "bucket_reso_steps": _INT,
    "bucket_no_upscale": _BOOL,
    "validation_split": _NUMBER,
    "validation_seed": _INT,
}
# Keys whose effect is not there: values that ask for nothing, and what to do otherwise.
_WITHOUT: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "enable_wildcard": ((False,), "write one caption a file"),
    "secondary_separator": (("",), "remove it"),
    "caption_dropout_every_n_epochs": ((0,), "use caption_dropout_rate"),
    "color_aug": ((False,), "colours of cached latents cannot change; make changed copies of the pictures"),
    "random_crop": ((False,), "the middle of a picture is cropped; crop the pictures yourself"),
    "face_crop_aug_range": ((), "crop the pictures yourself"),
    "metadata_file": ((), "write the captions beside the pictures, or into metadata.jsonl"),
    "token_warmup_min": ((1,), "remove it"),
    "token_warmup_step": ((0, 0.0), "remove it"),
    "network_multiplier": ((1, 1.0), "remove it"),
    "custom_attributes": ((), "remove it"),
    "resize_interpolation": (("lanczos",), "remove it; pictures are scaled with Lanczos' filter"),
    "skip_image_resolution": ((), "remove small pictures from the folder"),
}
_LIMITS: Mapping[str, tuple[float, float]] = {
    "num_repeats": (1, 10_000),
    "keep_tokens": (0, 1000),
    "caption_dropout_rate": (0, 1),
    "caption_tag_dropout_rate": (0, 1),
    "batch_size": (1, 1024),
    "min_bucket_reso": (8, 16_384),
    "max_bucket_reso": (8, 16_384),
    "bucket_reso_steps": (1, 1024),
    "validation_split": (0, 0.9),
}


def read_kohya_toml(path: Path, defaults: Defaults) -> DataSet:
    """The data set that a file describes. Raises GessoError, naming the key."""
    try:
        table = tomllib.loads(read_text(path, MAX_TABLE_BYTES)) if path.is_file() else None
    except tomllib.TOMLDecodeError as error:
        raise GessoError(
            f"{path}: is not TOML ({shorten(str(error))})", code="damaged", data={"path": str(path)}
        ) from None
    if table is None:
        raise GessoError(f"{path}: no such file", code="missing", data={"path": str(path)})
    if "datasets" not in table:
        raise GessoError(
            f"{path}: has no [[datasets]]. Expected a data set of kohya's trainer; settings of a training go to "
            "`config`",
            code="wrong_kind",
            field="config",
        )
    if unknown := [key for key in table if key not in ("general", "datasets")]:
        raise _unknown(path, unknown[0], "general, datasets")
    general = _table(path, table.get("general", {}), "[general]")
    _check(path, general, "[general]", {**_DATASET, **_SUBSET})
    subsets: list[Subset] = []
    examples: list[Example] = []
    notes: list[str] = []
    batch_sizes, shares = set(), set()
    for dataset in _tables(path, table["datasets"], "[[datasets]]"):
        inner = _tables(path, dataset.get("subsets", []), "[[datasets.subsets]]")
        own = {key: value for key, value in dataset.items() if key != "subsets"}
        _check(path, own, "[[datasets]]", {**_DATASET, **_SUBSET})
        above = {**general, **own}
        if "batch_size" in above:
            batch_sizes.add(above["batch_size"])
        if above.get("validation_split"):
            shares.add(float(above["validation_split"]))
        buckets = _buckets(path, above)
        for keys in inner:
            _check(path, keys, "[[datasets.subsets]]", _SUBSET)
            subset, some, said = _subset(path, {**above, **keys}, len(subsets), buckets, defaults)
            subsets.append(subset)
            examples += some
            notes += said
    if any("validation_seed" in keys for keys in (general, *table["datasets"])):
        notes.append("validation_seed has no effect: which pictures are held out follows from the seed of the training")
    if not subsets:
        raise GessoError(f"{path}: has no [[datasets.subsets]] with an image_dir", code="missing")
    for name, found in (("batch_size", batch_sizes), ("validation_split", shares)):
        if len(found) > 1:
            raise GessoError(
                f"{path}: {name} is {', '.join(map(str, sorted(found)))} in different [[datasets]]; gesso has one for "
                "all. Give one value",
                code="unsupported",
            )
    return DataSet(
        layout="kohya TOML",
        subsets=tuple(subsets),
        examples=tuple(examples),
        notes=tuple(notes),
        batch_size=next(iter(batch_sizes), None),
        held_share=next(iter(shares), None),
    )


def _subset(
    path: Path, keys: Mapping[str, Any], place: int, buckets: BucketRules | None, defaults: Defaults
) -> tuple[Subset, list[Example], list[str]]:
    if "image_dir" not in keys:
        raise GessoError(
            f"{path}: a [[datasets.subsets]] has no image_dir. Name the folder of its pictures", code="missing"
        )
    folder = _folder(path, keys["image_dir"])
    masks = _folder(path, keys["conditioning_data_dir"]) if keys.get("conditioning_data_dir") else None
    end = keys.get("caption_extension")
    endings = CAPTIONS if end is None else (end if end.startswith(".") else f".{end}",)
    some, said = folder_examples(folder, place, endings, keys.get("class_tokens") or defaults.caption, masks=masks)
    rules = CaptionRules(
        shuffle=keys.get("shuffle_caption", defaults.captions.shuffle),
        keep=keys.get("keep_tokens", defaults.captions.keep),
        keep_mark=keys.get("keep_tokens_separator", defaults.captions.keep_mark),
        separator=keys.get("caption_separator", defaults.captions.separator) or ",",
        prefix=keys.get("caption_prefix", ""),
        suffix=keys.get("caption_suffix", ""),
        dropout=float(keys.get("caption_dropout_rate", defaults.captions.dropout)),
        tag_dropout=float(keys.get("caption_tag_dropout_rate", defaults.captions.tag_dropout)),
    )
    subset = Subset(
        where=folder,
        repeats=keys.get("num_repeats", 1),
        is_reg=keys.get("is_reg", False),
        captions=rules,
        flip=keys.get("flip_aug", defaults.flip),
        use_alpha=keys.get("alpha_mask", False),
        buckets=buckets,
    )
    return subset, some, said


def _folder(path: Path, name: str) -> Path:
    """A folder that the file names: beside the file, or as kohya has it, from the current folder."""
    plain = Path(name).expanduser()
    folder = next((one for one in (path.parent / plain, plain) if one.is_dir()), None)
    if folder is None:
        raise GessoError(
            f"{path}: the folder {shorten(name)} does not exist", code="missing", data={"path": str(plain)}
        )
    return folder


def _buckets(path: Path, keys: Mapping[str, Any]) -> BucketRules | None:
    if "resolution" not in keys:
        asked = sorted(keys.keys() & {"enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps"})
        if asked:
            raise GessoError(f"{path}: {asked[0]} without a resolution. Give resolution too", code="mismatch")
        return None
    value = keys["resolution"]
    size = (value, value) if isinstance(value, int) else tuple(value)
    rules = BucketRules(
        resolution=(size[0], size[1]),
        enabled=keys.get("enable_bucket", False),
        low=keys.get("min_bucket_reso", 256),
        high=keys.get("max_bucket_reso", 1024),
        step=keys.get("bucket_reso_steps", 64),
        upscale=not keys.get("bucket_no_upscale", False),
    )
    if rules.enabled and rules.low > rules.high:
        raise GessoError(f"{path}: min_bucket_reso {rules.low} is above max_bucket_reso {rules.high}", code="mismatch")
    return rules


def _check(path: Path, keys: Mapping[str, Any], where: str, known: Mapping[str, str]) -> None:
    for key, value in keys.items():
        if key in _WITHOUT:
            neutral, advice = _WITHOUT[key]
            if not any(value == one and type(value) is type(one) for one in neutral):
                raise GessoError(
                    f"{path}: {where} has {key} = {short(value)}, which gesso does not have: {advice}",
                    code="unsupported",
                    data={"key": key},
                )
        elif key not in known:
            raise _unknown(path, key, ", ".join(sorted(known)), where)
        elif not _fits(key, value, known[key]):
            low, high = _LIMITS.get(key, (None, None))
            span = "" if low is None else f" from {low:g} to {high:g}"
            raise GessoError(
                f"{path}: {where} has {key} = {short(value)}, expected {known[key]}{span}",
                code="invalid_value",
                data={"key": key},
            )


def _fits(key: str, value: Any, kind: str) -> bool:
    if key == "resolution":
        sides = [value] if isinstance(value, int) else value
        good = isinstance(sides, list) and len(sides) in (1, 2) and (isinstance(value, int) or len(sides) == 2)
        return good and all(type(side) is int and 8 <= side <= 16_384 for side in sides)
    if kind == _BOOL:
        return isinstance(value, bool)
    if kind == _TEXT:
        return isinstance(value, str) and "\0" not in value
    if isinstance(value, bool) or not isinstance(value, int | float) or (kind == _INT and not isinstance(value, int)):
        return False
    low, high = _LIMITS.get(key, (-1e18, 1e18))
    return bool(low <= value <= high)


def _unknown(path: Path, key: str, known: str, where: str = "the file") -> GessoError:
    near = nearest_name(key, known.split(", "))
    hint = f"Did you mean {near}?" if near else f"Known: {known}"
    return GessoError(
        f"{path}: {where} has the unknown key {shorten(key)}. {hint}", code="unknown_name", data={"key": key}
    )


def _table(path: Path, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise GessoError(f"{path}: {where} is {short(value)}, expected a table", code="damaged")
    return value


def _tables(path: Path, value: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise GessoError(f"{path}: {where} is {short(value)}, expected tables in double brackets", code="damaged")
    return [_table(path, one, where) for one in value]

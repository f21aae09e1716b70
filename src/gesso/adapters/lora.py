"""LoRA (Hu et al. 2021, arXiv:2106.09685) and its relatives, read from any file: `read_lora`.

lora = read_lora(open_weights("style.safetensors"), Target("sd15", "sd1", networks))
with attach(networks, [(lora, 0.8, 1.0)]):
    ...
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from gesso.adapters.architecture import architecture_of, context_name, declared_base, has_layout_of, is_made_for
from gesso.adapters.changes import LowRank, WeightChange, qkv_part
from gesso.adapters.dialects import BUNDLED, MAX_WORDS, TensorName, is_raw, parse_tensor_name, part_of_module
from gesso.adapters.kinds import WITHOUT_ALPHA, Reader, build, foreign_kind, kind_of, label_of
from gesso.adapters.names import ModulePlace, Target
from gesso.adapters.settings import TrainerSettings
from gesso.adapters.textual_inversion import Embedding, embedding_from
from gesso.checkpoints.errors import ModelFileError, examples, shape_text
from gesso.checkpoints.tensor_file import TensorFile
from gesso.errors import shorten
from gesso.notices import Notice

EXAMPLES = 5
_WHOLE = ("weight", "bias", "base_layer.weight", "base_layer.bias")  # parameters themselves


@dataclass(frozen=True, eq=False)
class ModuleChange:
    """The change of one module.  weight, bias: None if not changed; bias [O]"""

    weight: WeightChange | None
    bias: Tensor | None = None


@dataclass(frozen=True)
class Match:
    """How many modules of a file exist in the model.

    matched    modules of the file that the model has
    unmatched  names in the file that have no place
    """

    matched: int
    unmatched: tuple[str, ...] = ()

    @property
    def notice(self) -> Notice | None:
        """A notice if some modules of the file do not exist in the model."""
        if not self.unmatched:
            return None
        names = examples(self.unmatched, EXAMPLES)
        text = f"{self.matched} modules fit, {len(self.unmatched)} do not exist in the model: {names}"
        data = {"matched": self.matched, "unmatched": len(self.unmatched)}
        return Notice(text, code="lora_incomplete", field="loras", data=data)


@dataclass(frozen=True, eq=False)
class Lora:
    """An adapter that was read for a model.

    changes     "<component>.<module>" by our names -> what happens to it
    kinds       what the file holds and how many modules of it, such as {"LoRA": 192}
    ranks       the same of ranks
    embeddings  embeddings (textual inversion) in the same file
    metadata    of the file: to be shown as text, not to be trusted
    alpha_known whether the file, or one beside it, says its alpha where its kind has one
    """

    name: str
    where: Path
    dialects: tuple[str, ...]
    changes: Mapping[str, ModuleChange]
    kinds: Mapping[str, int]
    ranks: Mapping[int, int]
    match: Match
    embeddings: tuple[Embedding, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    alpha_known: bool = True

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What the user should know: modules without a place, a strength that the file does not say."""
        found = [] if self.match.notice is None else [self.match.notice]
        if not self.alpha_known:
            text = (
                "PEFT's adapter_config.json is not beside it, so its alpha is unknown and taken to be its rank. Keep "
                "the two files together, or set the strength to alpha / rank"
            )
            found.append(Notice(text, code="lora_alpha_unknown", field="loras"))
        return tuple(found)

    @property
    def components(self) -> tuple[str, ...]:
        """The networks that it changes."""
        return tuple(dict.fromkeys(name.partition(".")[0] for name in self.changes))

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers of matrices and vectors, as the file holds them."""
        return sum(t.nbytes for change in self.changes.values() for t in _tensors(change))

    def cut(self, rank: int) -> "Lora":
        """The first `rank` columns of each low-rank product, as A1111's "dyn"; other kinds as they are."""

        def shorter(change: ModuleChange) -> ModuleChange:
            weight = change.weight
            if not isinstance(weight, LowRank) or weight.mid is not None:
                return change
            return replace(change, weight=replace(weight, up=weight.up[:, :rank], down=weight.down[:rank]))

        return replace(self, changes={name: shorter(change) for name, change in self.changes.items()})


def _tensors(change: object) -> Iterable[Tensor]:
    for value in vars(change).values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, WeightChange):
            yield from _tensors(value)


def read_lora(file: TensorFile, target: Target, *, name: str | None = None) -> Lora:
    """Reads an adapter for a model. Touches every number once.

    name: what to call it; the file's stem where None. Raises ModelFileError: architecture_mismatch where nothing fits,
    or what fits by name has other sizes, naming both; shape, nonfinite and duplicate_key for what makes no sense.
    """
    named, bundled, unmatched = _sorted_names(file.tensors, target)
    names: dict[ModulePlace, dict[str, str]] = {}
    spelled: dict[ModulePlace, str] = {}
    for tensor_name, parsed in named.items():
        assert parsed.place is not None
        parts_of = names.setdefault(parsed.place, {})
        if parsed.part in parts_of:
            message = f"{shorten(parts_of[parsed.part])} and {shorten(tensor_name)} change the same module"
            raise ModelFileError("duplicate_key", file.path, message)
        parts_of[parsed.part] = tensor_name
        spelled[parsed.place] = parsed.module
    _refuse_others(file, target, unmatched, spelled)
    if not names and not bundled:
        if is_made_for(architecture_of(file.tensors), target.layout, target.context_dim):
            message = (
                f"its tensors have names that gesso does not know, such as {examples(unmatched, 3)}. Please report them"
            )
            raise ModelFileError("unknown_key", file.path, message)
        raise _mismatch(file, target, "none of its modules exists in the model")
    settings = TrainerSettings.of(file)
    changes: dict[str, ModuleChange] = {}
    kinds: Counter[str] = Counter()
    ranks: Counter[int] = Counter()
    with file.reader() as reader:
        for place, parts_named in names.items():
            parts = {part: reader[tensor_name] for part, tensor_name in parts_named.items()}
            for part, tensor in parts.items():
                if part not in ("alpha", "on_input"):
                    _refuse_nonfinite(parts_named[part], tensor, file)
            module = spelled[place]
            changes_of = _changes(parts, place, module, file, target, settings)
            for changed, change in changes_of.items():
                if changed in changes:
                    message = f"{shorten(module)} changes a module that another tensor changes already"
                    raise ModelFileError("duplicate_key", file.path, message)
                changes[changed] = change
            kind = kind_of(parts)
            kinds[label_of(kind, parts) if kind else "bias"] += 1
            if "lora_down.weight" in parts:
                ranks[parts["lora_down.weight"].shape[0]] += 1
        groups = _bundled_groups(bundled)
        embeddings = tuple(
            embedding_from({part: reader[full] for part, full in tensors.items()}, file.path, name=word)
            for word, tensors in groups.items()
        )
    return Lora(
        name=name or file.path.stem,
        where=file.path,
        dialects=tuple(dict.fromkeys(parsed.dialect for parsed in named.values())),
        changes=changes,
        kinds=dict(kinds),
        ranks=dict(sorted(ranks.items())),
        match=Match(len(names), tuple(unmatched)),
        embeddings=embeddings,
        metadata=dict(file.metadata),
        alpha_known=settings.says_alpha
        or not any(is_raw(name) for name, one in named.items() if one.part not in WITHOUT_ALPHA),
    )


def _sorted_names(tensors: Mapping[str, object], target: Target) -> tuple[dict[str, TensorName], list[str], list[str]]:
    """Names with a place, names of bundled words, and modules or names without a place."""
    named: dict[str, TensorName] = {}
    bundled: list[str] = []
    unmatched: dict[str, None] = {}
    for name in tensors:
        if name.startswith(BUNDLED):
            bundled.append(name)
            continue
        parsed = parse_tensor_name(name, target)
        if parsed is not None and parsed.part == "weight" and parsed.dialect == "dotted":
            parsed = None  # the weight itself, not IA3's, which LyCORIS writes by kohya's names
        if parsed is None or parsed.place is None:
            unmatched[name if parsed is None else parsed.module] = None
        else:
            named[name] = parsed
    return named, bundled, list(unmatched)


def refuse_unread_kinds(file: TensorFile) -> None:
    """Raises ModelFileError for an adapter of a kind that gesso does not read, by the names of its tensors alone."""
    for name in file.tensors:
        for word in name.split(".")[1:MAX_WORDS]:
            if kind := foreign_kind(word):
                raise _unread(file, kind, name)


def _unread(file: TensorFile, kind: str, name: str) -> ModelFileError:
    return ModelFileError(
        "unknown_key",
        file.path,
        f"is an adapter of a kind that gesso does not read: {kind} ({shorten(name)}). Merge it into its model with the "
        "tool that made it, and use that model",
    )


def _refuse_others(file: TensorFile, target: Target, unmatched: Sequence[str], read: Mapping[ModulePlace, str]) -> None:
    """Raises ModelFileError where tensors of modules that the model has are of no kind that gesso reads."""
    kinds: dict[str, str] = {}
    whole = []
    for name in unmatched:
        module, part = part_of_module(name, target) or ("", "")
        if part in _WHOLE:
            whole.append(name)
        elif module:
            kinds.setdefault(foreign_kind(part) or f"with tensors {shorten(part)!r}", name)
    for kind, name in kinds.items():
        raise _unread(file, kind, name)
    if whole and read:
        raise ModelFileError(
            "unknown_key",
            file.path,
            f"holds {len(whole)} whole weights and biases beside the adapter (PEFT's bias or modules_to_save), which "
            f"gesso does not apply: {examples(whole, 3)}. Merge the adapter into its model, and use that model",
        )
    if whole:
        raise ModelFileError(
            "unknown_key",
            file.path,
            f"holds whole weights and no adapter ({examples(whole, 3)}): a model or a part of one, which cannot be "
            "used as a LoRA",
        )


def _mismatch(file: TensorFile, target: Target, why: str) -> ModelFileError:
    looks = architecture_of(file.tensors)
    if is_made_for(looks, target.layout, target.context_dim):
        message = (
            f"is made for {looks}, as the model {target.name!r} is, but {why}. The file is damaged, or made for a "
            "variant of that model"
        )
        return ModelFileError("architecture_mismatch", file.path, message)
    base = declared_base(file.metadata)
    declared = f" (its metadata says {shorten(base)})" if base else ""
    model = repr(target.name)
    if has_layout_of(looks, target.layout) and target.context_dim is not None:  # a smaller model with the same names
        model += f" ({context_name(target.context_dim)})"
    message = (
        f"is made for {looks}{declared}, the model is {model}: {why}. Use an adapter made for this kind of "
        "model, or the model that the adapter was made for"
    )
    return ModelFileError("architecture_mismatch", file.path, message)


def _changes(
    parts: Mapping[str, Tensor],
    place: ModulePlace,
    module: str,
    file: TensorFile,
    target: Target,
    settings: TrainerSettings,
) -> dict[str, ModuleChange]:
    """The changes of one module of the file: one of our modules, or three that it stacks."""
    network = target.networks[place.component]
    owners = [network.get_submodule(name) for name in place.modules]
    weight = getattr(owners[0], "weight", None)
    if weight is None:
        raise _mismatch(file, target, f"{shorten(module)} is not a layer of the model")
    shape = tuple(weight.shape)
    if len(owners) > 1:
        shape = (len(owners) * shape[0], *shape[1:])
    reader = Reader(
        file.path,
        module,
        shape,
        alpha=settings.alpha_of(module),
        rank=settings.rank_of(module),
        by_root=settings.is_by_root(module),
        lycoris_root=settings.lycoris_root,
        has_bias=getattr(owners[0], "bias", None) is not None,
        series=settings.series,
    )
    change = build(parts, reader)
    bias = next((parts[part].flatten() for part in ("diff_b", "b_norm") if part in parts), None)
    if isinstance(change, LowRank) and "lora_up.bias" in parts:  # of PEFT's lora_bias
        bias = parts["lora_up.bias"].flatten().float() * change.scale
    if bias is not None and bias.numel() != shape[0]:
        raise _mismatch(file, target, f"the bias of {shorten(module)} is {bias.numel()}, the model's is {shape[0]}")
    if change is not None:
        _check_fit(change, shape, module, file, target)
    if len(owners) == 1:
        return {f"{place.component}.{place.modules[0]}": ModuleChange(change, bias)}
    changes = {}
    for index, name in enumerate(place.modules):
        try:
            part = None if change is None else qkv_part(change, index)
        except ValueError as error:
            raise reader.refuse(
                f"changes query, key and value as one weight, which this kind of adapter cannot: {error}"
            ) from None
        changes[f"{place.component}.{name}"] = ModuleChange(part, None if bias is None else bias.chunk(3)[index])
    return changes


def _check_fit(change: WeightChange, shape: tuple[int, ...], module: str, file: TensorFile, target: Target) -> None:
    """Computes shapes alone, on the meta device."""
    if isinstance(change, LowRank) and change.mid is None:
        if _fits(change, shape):
            return
        sizes = f"[{change.up.shape[0]}, {', '.join(str(side) for side in change.down.shape[1:])}]"
        raise _mismatch(file, target, f"{shorten(module)} is {sizes} in the file, {shape_text(shape)} in the model")
    try:
        delta = change.to("meta").delta(torch.empty(shape, device="meta"))
    except (RuntimeError, ValueError, IndexError):
        raise _mismatch(
            file, target, f"{shorten(module)} does not make {shape_text(shape)}, the model's shape"
        ) from None
    assert tuple(delta.shape) == shape


def _fits(change: LowRank, shape: tuple[int, ...]) -> bool:
    def matrix(tensor: Tensor) -> bool:
        return tensor.ndim == 2 or (tensor.ndim == 4 and tensor.shape[2:] == (1, 1))

    up, down = change.up, change.down
    if down.ndim not in (2, 4) or not matrix(up) or up.shape[1] != down.shape[0] or up.shape[0] != shape[0]:
        return False
    kernel = shape[2:] if shape[2:] != (1, 1) else ()
    return down.shape[1] == shape[1] and (matrix(down) if not kernel else tuple(down.shape[2:]) == kernel)


def _refuse_nonfinite(name: str, tensor: Tensor, file: TensorFile) -> None:
    if not tensor.is_floating_point():
        raise ModelFileError("dtype", file.path, f"{shorten(name)} is {tensor.dtype}, expected floating-point numbers")
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    if wide.numel() and not bool(torch.stack(wide.aminmax()).isfinite().all()):
        raise ModelFileError("nonfinite", file.path, f"{shorten(name)} holds NaN or infinity; the file is damaged")


def _bundled_groups(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """bundle_emb.<word>.<tensor> -> word -> tensor -> whole name. A word may hold dots, a tensor's name none."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        rest = name.removeprefix(BUNDLED)
        if ".string_to_param." in rest:
            word, _, _ = rest.partition(".string_to_param.")
            groups.setdefault(word, {})["emb_params"] = name
        else:
            word, _, part = rest.rpartition(".")
            groups.setdefault(word or part, {})[part] = name
    return groups

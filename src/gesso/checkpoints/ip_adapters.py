"""IP-Adapter files: their tensor names, and the config from a file's header."""

import re
from collections.abc import Mapping

from gesso.checkpoints.errors import ModelFileError, shape_text
from gesso.checkpoints.keymap import Rule, Shape
from gesso.models.ip_adapter import IPAdapterConfig

MAX_TOKENS, MAX_LAYERS, MAX_WIDTH = 1024, 64, 8192
_FACE = ("image_proj.perceiver_resampler.", "image_proj.proj.0.weight")
_LAYER = re.compile(r"ip_adapter\.(\d{1,4})\.to_k_ip\.weight")


def is_ip_adapter(shapes: Mapping[str, Shape]) -> bool:
    """Whether a header is of an IP-Adapter."""
    return any(name.startswith(("image_proj.", "ip_adapter.")) for name in shapes)


def ip_adapter_config(shapes: Mapping[str, Shape], where: object) -> tuple[IPAdapterConfig, tuple[int, ...]]:
    """Sizes of an IP-Adapter, and the widths of the attentions that it is for, in their order.

    Raises ModelFileError; FaceID variants are named, which need a network that recognises faces.
    """
    places = sorted(int(match[1]) for name in shapes if (match := _LAYER.fullmatch(name)))
    if not 1 <= len(places) <= 10 * MAX_LAYERS or places != list(range(1, 2 * len(places), 2)):
        raise ModelFileError("architecture_mismatch", str(where), f"has {len(places)} attentions with odd numbers")
    keys = [_matrix(shapes, f"ip_adapter.{place}.to_k_ip.weight", where) for place in places]
    context_dim = keys[0][1]
    if "image_proj.proj.weight" in shapes:
        rows, encoder_dim = _matrix(shapes, "image_proj.proj.weight", where)
        if rows % context_dim:
            raise ModelFileError("shape", str(where), f"{rows} numbers are no whole tokens of {context_dim}")
        config = IPAdapterConfig(
            kind="base", encoder_dim=encoder_dim, context_dim=context_dim, num_tokens=rows // context_dim
        )
    elif "image_proj.latents" in shapes:
        queries = shapes["image_proj.latents"]
        if len(queries) != 3 or queries[0] != 1:
            raise ModelFileError("shape", str(where), f"image_proj.latents is {shape_text(queries)}")
        layers = sum(bool(re.fullmatch(r"image_proj\.layers\.\d{1,3}\.0\.to_q\.weight", name)) for name in shapes)
        config = IPAdapterConfig(
            kind="plus",
            encoder_dim=_matrix(shapes, "image_proj.proj_in.weight", where)[1],
            context_dim=context_dim,
            num_tokens=queries[1],
            dim=queries[2],
            num_layers=layers,
        )
    elif "image_proj.proj.3.weight" in shapes:
        config = IPAdapterConfig(
            kind="full",
            encoder_dim=_matrix(shapes, "image_proj.proj.0.weight", where)[1],
            context_dim=context_dim,
            num_tokens=0,  # as many as the encoder gives
        )
    elif any(name.startswith(_FACE) for name in shapes):
        message = "is a FaceID adapter: it needs a face recognition network, which gesso does not have"
        raise ModelFileError("architecture_mismatch", str(where), f"{message}; take a plus-face adapter")
    else:
        raise ModelFileError("architecture_mismatch", str(where), "is an unknown kind of IP-Adapter")
    sizes = (config.num_tokens, config.num_layers)
    if sizes[0] > MAX_TOKENS or sizes[1] > MAX_LAYERS or max(config.dim, config.encoder_dim) > MAX_WIDTH:
        raise ModelFileError("shape", str(where), f"{sizes[0]} tokens through {sizes[1]} layers of {config.dim}")
    return config, tuple(key[0] for key in keys)


def ip_adapter_rules(config: IPAdapterConfig, count: int) -> list[Rule]:
    """The table of an IP-Adapter for `count` attentions."""
    rules = [
        rule
        for number in range(count)
        for rule in (
            Rule(f"ip_adapter.{2 * number + 1}.to_k_ip.weight", f"to_k.{number}.weight"),
            Rule(f"ip_adapter.{2 * number + 1}.to_v_ip.weight", f"to_v.{number}.weight"),
        )
    ]
    if config.kind == "base":
        return [
            *rules,
            Rule("image_proj.proj.{p}", "projection.proj.{p}"),
            Rule("image_proj.norm.{p}", "projection.norm.{p}"),
        ]
    if config.kind == "full":
        return [
            *rules,
            Rule("image_proj.proj.0.{p}", "projection.fc1.{p}"),
            Rule("image_proj.proj.2.{p}", "projection.fc2.{p}"),
            Rule("image_proj.proj.3.{p}", "projection.norm.{p}"),
        ]
    layer = {
        "0.norm1": "norm_picture",
        "0.norm2": "norm_queries",
        "0.to_q": "to_q",
        "0.to_kv": "to_kv",
        "0.to_out": "to_out",
        "1.0": "norm",
        "1.1": "fc1",
        "1.3": "fc2",
    }
    return [
        *rules,
        Rule("image_proj.latents", "projection.queries"),
        *(Rule(f"image_proj.{name}.{{p}}", f"projection.{name}.{{p}}") for name in ("proj_in", "proj_out", "norm_out")),
        *(
            Rule(f"image_proj.layers.{{i}}.{file}.{{p}}", f"projection.layers.{{i}}.{native}.{{p}}")
            for file, native in layer.items()
        ),
    ]


def _matrix(shapes: Mapping[str, Shape], name: str, where: object) -> tuple[int, int]:
    shape = shapes.get(name, ())
    if len(shape) != 2 or 0 in shape:
        message = f"{name} is {shape_text(shape) if shape else 'missing'}, expected a matrix"
        raise ModelFileError("shape", str(where), message)
    return shape[0], shape[1]

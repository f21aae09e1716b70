"""CLIP's image encoder in transformers' layout: its tensor names, and its config from a file's header."""

from collections.abc import Mapping

from gesso.checkpoints.errors import ModelFileError, shape_text
from gesso.checkpoints.keymap import Rule, Shape, nest
from gesso.models.clip_vision import CLIPVisionConfig

MAX_LAYERS, MAX_WIDTH = 64, 8192
_HEADS = {1024: 16, 1280: 16, 1664: 16, 768: 12}  # by width: ViT-L/14, ViT-H/14, ViT-bigG/14, ViT-B
_QUICK = (1024, 768)  # widths of OpenAI's own models, which have the approximate GELU
_PREFIX = "vision_model."
_LAYER = "encoder.layers.{i}."


def clip_vision_config(shapes: Mapping[str, Shape], where: object) -> CLIPVisionConfig:
    """Sizes of the encoder in a file; what shapes do not show (heads, activation) follows from its width.

    Raises ModelFileError.
    """
    patch = _shape(shapes, f"{_PREFIX}embeddings.patch_embedding.weight", 4, where)
    places = _shape(shapes, f"{_PREFIX}embeddings.position_embedding.weight", 2, where)
    projection = _shape(shapes, "visual_projection.weight", 2, where)
    mlp = _shape(shapes, f"{_PREFIX}encoder.layers.0.mlp.fc1.weight", 2, where)
    layers = sum(name.startswith(f"{_PREFIX}encoder.layers.") and name.endswith(".mlp.fc1.weight") for name in shapes)
    dim, side = patch[0], round((places[0] - 1) ** 0.5)
    if side**2 != places[0] - 1 or not 1 <= layers <= MAX_LAYERS or max(dim, mlp[0], projection[0]) > MAX_WIDTH:
        message = f"{places[0]} places, {layers} layers of {dim}: these are not the sizes of an image encoder"
        raise ModelFileError("shape", str(where), message)
    heads = _HEADS.get(dim, max(dim // 64, 1))
    if dim % heads:
        raise ModelFileError("shape", str(where), f"a width of {dim} does not divide into {heads} heads")
    return CLIPVisionConfig(
        image_size=side * patch[2],
        patch_size=patch[2],
        dim=dim,
        num_layers=layers,
        num_heads=heads,
        mlp_dim=mlp[0],
        activation="quick_gelu" if dim in _QUICK else "gelu",
        projection_dim=projection[0],
    )


def clip_vision_rules() -> list[Rule]:
    """The table; the spelling of the first norm is theirs."""
    inner = [
        Rule("embeddings.class_embedding", "class_embedding"),
        Rule("embeddings.patch_embedding.weight", "patch_embedding.weight"),
        Rule("embeddings.position_embedding.weight", "position_embedding.weight"),
        Rule("embeddings.position_ids", None),
        Rule("pre_layrnorm.{p}", "norm_in.{p}"),
        Rule(f"{_LAYER}layer_norm1.{{p}}", "layers.{i}.norm1.{p}"),
        *(
            Rule(f"{_LAYER}self_attn.{file}.{{p}}", f"layers.{{i}}.attention.{native}.{{p}}")
            for file, native in (("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("out_proj", "to_out"))
        ),
        Rule(f"{_LAYER}layer_norm2.{{p}}", "layers.{i}.norm2.{p}"),
        Rule(f"{_LAYER}mlp.fc1.{{p}}", "layers.{i}.fc1.{p}"),
        Rule(f"{_LAYER}mlp.fc2.{{p}}", "layers.{i}.fc2.{p}"),
        Rule("post_layernorm.{p}", "norm.{p}"),
    ]
    return [*nest(inner, _PREFIX, ""), Rule("visual_projection.weight", "projection.weight")]


def _shape(shapes: Mapping[str, Shape], name: str, dims: int, where: object) -> Shape:
    shape = shapes.get(name, ())
    if len(shape) != dims or 0 in shape:
        message = f"{name} is {shape_text(shape) if shape else 'missing'}: not an image encoder of CLIP"
        raise ModelFileError("architecture_mismatch", str(where), message)
    return shape

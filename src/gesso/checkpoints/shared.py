"""Tables of tensor names that several file layouts share, one per block."""

from gesso.checkpoints.keymap import CONV1X1, LINEAR, STACKED_QKV, TRANSPOSE, Rule, nest


def transformer_rules(*, linear: bool) -> list[Rule]:
    """A UNet's transformer over positions. linear: whether the file's projections are linear (SD 2, SDXL) or 1x1
    convolutions (SD 1)."""
    projection = LINEAR if linear else CONV1X1
    block = [  # q, k, v have no bias
        Rule("attn1.to_q.weight", "self_attention.to_q.weight"),
        Rule("attn1.to_k.weight", "self_attention.to_k.weight"),
        Rule("attn1.to_v.weight", "self_attention.to_v.weight"),
        Rule("attn1.to_out.0.{p}", "self_attention.to_out.{p}"),
        Rule("attn2.to_q.weight", "cross_attention.to_q.weight"),
        Rule("attn2.to_k.weight", "cross_attention.to_k.weight"),
        Rule("attn2.to_v.weight", "cross_attention.to_v.weight"),
        Rule("attn2.to_out.0.{p}", "cross_attention.to_out.{p}"),
        Rule("ff.net.0.proj.{p}", "feed_forward.proj.{p}"),
        Rule("ff.net.2.{p}", "feed_forward.out.{p}"),
        Rule("norm1.{p}", "norm1.{p}"),
        Rule("norm2.{p}", "norm2.{p}"),
        Rule("norm3.{p}", "norm3.{p}"),
    ]
    return [
        Rule("norm.{p}", "norm.{p}"),
        Rule("proj_in.weight", "proj_in.weight", projection),
        Rule("proj_in.bias", "proj_in.bias"),
        *nest(block, "transformer_blocks.{k}.", "blocks.{k}."),
        Rule("proj_out.weight", "proj_out.weight", projection),
        Rule("proj_out.bias", "proj_out.bias"),
    ]


_CLIP = [
    Rule("embeddings.token_embedding.weight", "token_embedding.weight"),
    Rule("embeddings.position_embedding.weight", "position_embedding.weight"),
    Rule("encoder.layers.{i}.layer_norm1.{p}", "layers.{i}.norm1.{p}"),
    Rule("encoder.layers.{i}.self_attn.q_proj.{p}", "layers.{i}.attention.to_q.{p}"),
    Rule("encoder.layers.{i}.self_attn.k_proj.{p}", "layers.{i}.attention.to_k.{p}"),
    Rule("encoder.layers.{i}.self_attn.v_proj.{p}", "layers.{i}.attention.to_v.{p}"),
    Rule("encoder.layers.{i}.self_attn.out_proj.{p}", "layers.{i}.attention.to_out.{p}"),
    Rule("encoder.layers.{i}.layer_norm2.{p}", "layers.{i}.norm2.{p}"),
    Rule("encoder.layers.{i}.mlp.fc1.{p}", "layers.{i}.fc1.{p}"),
    Rule("encoder.layers.{i}.mlp.fc2.{p}", "layers.{i}.fc2.{p}"),
    Rule("final_layer_norm.{p}", "norm.{p}"),
]


def clip_rules() -> list[Rule]:
    """CLIP's text transformer as its published files name it.

    Some merges ("NAI" layout) and some writers leave the prefix "text_model." out. position_ids is 0, 1, 2, ...: it
    carries nothing, and files exist in which half precision has spoilt it.
    """
    without = [Rule(rule.file, rule.native, rule.transform, load_only=True) for rule in _CLIP]
    return [
        *nest(_CLIP, "text_model.", ""),
        Rule("text_model.embeddings.position_ids", None),
        *without,
        Rule("embeddings.position_ids", None),
    ]


def _qkv(kind: str) -> tuple[str, ...]:
    return tuple(f"layers.{{i}}.attention.to_{name}.{kind}" for name in "qkv")


def openclip_rules() -> list[Rule]:
    """OpenCLIP's text transformer, as the single files of SD 2 and SDXL name it.

    text_projection is used as `x @ P` there and as a linear layer here: it is turned over. That of bigG is square, so
    nothing but the numbers would show it if it were not.
    """
    return [
        Rule("token_embedding.weight", "token_embedding.weight"),
        Rule("positional_embedding", "position_embedding.weight"),
        Rule("transformer.resblocks.{i}.ln_1.{p}", "layers.{i}.norm1.{p}"),
        Rule("transformer.resblocks.{i}.attn.in_proj_weight", _qkv("weight"), STACKED_QKV),
        Rule("transformer.resblocks.{i}.attn.in_proj_bias", _qkv("bias"), STACKED_QKV),
        Rule("transformer.resblocks.{i}.attn.out_proj.{p}", "layers.{i}.attention.to_out.{p}"),
        Rule("transformer.resblocks.{i}.ln_2.{p}", "layers.{i}.norm2.{p}"),
        Rule("transformer.resblocks.{i}.mlp.c_fc.{p}", "layers.{i}.fc1.{p}"),
        Rule("transformer.resblocks.{i}.mlp.c_proj.{p}", "layers.{i}.fc2.{p}"),
        Rule("ln_final.{p}", "norm.{p}"),
        Rule("text_projection", "projection.weight", TRANSPOSE),
        Rule("logit_scale", None),  # the temperature of CLIP's own training
        Rule("attn_mask", None),  # what causal attention is, written out
    ]

"""Learned words: every form of file, found in prompts by their ids, gone after the request."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from adapters.files import kohya, lora_parts, randn, read, saved, target_of
from gesso.adapters.textual_inversion import Embedding, attach_embeddings, read_embedding
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.weight_file import open_weights
from gesso.families.encoding import Reading, encode_prompt
from gesso.text.chunks import Chunks, chunk
from gesso.text.prompt import WeightedText
from tiny_sd import TINY_REFINER, TINY_SD, TINY_SDXL, clip_tokenizer, tiny_parts

VECTORS = 0.5 * torch.randn(3, 32, generator=torch.Generator().manual_seed(4))


def opened(path: Path, tensors: dict[str, Tensor]) -> Embedding:
    return read_embedding(open_weights(saved(path, tensors)))


def a1111(path: Path, parameters: object) -> Embedding:
    content = {"string_to_token": {"*": 265}, "string_to_param": parameters, "name": "x", "step": 5}
    torch.save(content, path)
    return read_embedding(open_weights(path))


@pytest.mark.parametrize("form", ["emb_params", "diffusers", "one vector", "pt", "pt of a module", "bin"])
def test_forms_of_files(form: str, tmp_path: Path) -> None:
    vectors, token = VECTORS, None
    if form == "pt":
        found = a1111(tmp_path / "cat.pt", {"*": VECTORS})
    elif form == "pt of a module":
        found = a1111(tmp_path / "cat.pt", nn.ParameterDict({"*": nn.Parameter(VECTORS)}))
    elif form == "bin":
        torch.save({"<cat-toy>": VECTORS}, tmp_path / "cat.bin")
        found, token = read_embedding(open_weights(tmp_path / "cat.bin")), "<cat-toy>"
    elif form == "emb_params":
        found = opened(tmp_path / "cat.safetensors", {"emb_params": VECTORS})
    else:
        vectors = VECTORS[:1] if form == "one vector" else VECTORS
        stored = VECTORS[0] if form == "one vector" else VECTORS
        found, token = opened(tmp_path / "cat.safetensors", {"<cat-toy>": stored}), "<cat-toy>"
    assert (found.name, found.token, found.num_vectors) == ("cat", token, len(vectors))
    assert torch.equal(found.vectors[""], vectors)


def test_the_form_of_sdxl_and_what_is_bundled(tmp_path: Path) -> None:
    both = {"clip_l": VECTORS, "clip_g": randn(3, 48)}
    pivotal = {"text_encoders_0": both["clip_l"], "text_encoders_1": both["clip_g"]}  # diffusers' advanced DreamBooth
    for tensors in (both, pivotal, pivotal | {"text_encoders_2": randn(3, 64)}):
        found = opened(tmp_path / "xl.safetensors", tensors)
        assert torch.equal(found.vectors["text"], both["clip_l"])
        assert torch.equal(found.vectors["text_2"], both["clip_g"])
    target = target_of(TINY_SDXL)
    tensors = kohya(target, lora_parts, nn.Linear)
    tensors |= {f"bundle_emb.my.word.{name}": tensor for name, tensor in both.items()}
    tensors["bundle_emb.other.string_to_param.*"] = VECTORS.clone()
    lora = read(tmp_path / "lora.safetensors", tensors, target)
    assert [(word.name, word.num_vectors) for word in lora.embeddings] == [("my.word", 3), ("other", 3)]
    assert lora.match.unmatched == ()


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"emb_params": torch.ones(76, 32)}, "shape"),
        ({"emb_params": torch.ones(0, 32)}, "shape"),
        ({"emb_params": torch.ones(1, 2, 32)}, "shape"),
        ({"emb_params": torch.full((1, 32), torch.nan)}, "nonfinite"),
        ({"emb_params": torch.ones(1, 32, dtype=torch.int64)}, "dtype"),
        ({"clip_l": torch.ones(1, 32), "clip_g": torch.ones(2, 48)}, "shape"),
        ({"one": torch.ones(1, 32), "two": torch.ones(1, 32)}, "unknown_key"),
    ],
)
def test_what_makes_no_sense(tensors: dict[str, Tensor], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        opened(tmp_path / "bad.safetensors", tensors)
    assert caught.value.reason == reason


def embedding(name: str, vectors: Tensor, **others: Tensor) -> Embedding:
    return Embedding(name, {"": vectors} if not others else {"text": vectors, **others}, Path(name))


def chunked(text: str, tokens) -> Chunks:
    return chunk([WeightedText(text)], clip_tokenizer(), embeddings=tokens)


@torch.no_grad()
def test_vectors_stand_where_the_word_stood() -> None:
    """The states are those of a text whose embeddings were put in by hand."""
    model, tokenizer = tiny_parts(TINY_SD).text, clip_tokenizer()
    plain = chunked("a photo of a cat", ())
    before = model(plain.ids)
    with attach_embeddings({"text": model}, [embedding("mycat", VECTORS)], tokenizer) as attached:
        chunks = chunked("a photo of mycat, sleeping", attached.tokens)
        found = model(chunks.ids)
        assert torch.equal(model(plain.ids).last, before.last)  # other prompts do not change
    position = chunks.placements[0].position
    assert chunks.placements[0].num_vectors == 3 and position == 4
    blank = chunks.ids.clone()
    blank[0, position : position + 3] = 320
    by_hand = model.token_embedding(blank) + model.position_embedding.weight
    by_hand[0, position : position + 3] = VECTORS + model.position_embedding.weight[position : position + 3]
    torch.testing.assert_close(found.hidden[0], by_hand)
    for layer in model.layers:
        by_hand = layer(by_hand)
    torch.testing.assert_close(found.last, model.norm(by_hand))
    end = position + 3 + 2  # the comma and a word, then the end
    torch.testing.assert_close(found.pooled, model.norm(by_hand)[:, end])
    assert torch.equal(model(plain.ids).last, before.last)
    assert not model.token_embedding._forward_hooks and not model.token_embedding._forward_pre_hooks


def test_the_longest_spelling_wins_and_every_spelling_counts() -> None:
    model, tokenizer = tiny_parts(TINY_SD).text, clip_tokenizer()
    given = [embedding("my", VECTORS[:1]), embedding("my cat", VECTORS[:2])]
    given.append(Embedding("toy", {"": VECTORS}, Path("toy"), token="<cat-toy>"))
    with attach_embeddings({"text": model}, given, tokenizer) as attached:
        text = "my dog, my cat, embedding:my, <cat-toy> toy"
        found = [(place.name, place.num_vectors) for place in chunked(text, attached.tokens).placements]
    assert found == [("my", 1), ("my cat", 2), ("my", 1), ("toy", 3), ("toy", 3)]


@torch.no_grad()
def test_two_text_models_share_the_words() -> None:
    parts = tiny_parts(TINY_SDXL)
    word = embedding("mycat", VECTORS, text_2=randn(3, 48))
    with attach_embeddings({"text": parts.text, "text_2": parts.text_2}, [word], clip_tokenizer()) as attached:
        ids = chunked("mycat", attached.tokens).ids
        for model, vectors in ((parts.text, VECTORS), (parts.text_2, word.vectors["text_2"])):
            found = model(ids).hidden[0] - model.position_embedding.weight
            torch.testing.assert_close(found[0, 1:4], vectors)
    refiner = tiny_parts(TINY_REFINER).text
    with attach_embeddings({"text": refiner}, [word], clip_tokenizer()) as attached:
        found = refiner(ids).hidden[0] - refiner.position_embedding.weight
        torch.testing.assert_close(found[0, 1:4], word.vectors["text_2"])


@torch.no_grad()
def test_a_prompt_of_a_whole_model_finds_the_words() -> None:
    """Through `encode_prompt`, weights and all; SDXL's two models each take their own vectors."""
    parts = tiny_parts(TINY_SDXL)
    models = {"text": parts.text, "text_2": parts.text_2}
    word = embedding("mycat", VECTORS, text_2=randn(3, 48))
    said = {"clip_skip": 1, "width": 64, "height": 64}
    pieces = [WeightedText("a photo of "), WeightedText("mycat", 1.2)]
    before = encode_prompt(parts, pieces, **said)
    with attach_embeddings(models, [word], clip_tokenizer()) as attached:
        found = encode_prompt(parts, pieces, **said, reading=Reading(embeddings=attached.tokens))
        assert found.chunks.num_tokens == (6,) and before.chunks.num_tokens == (5,)
        assert (found.context - before.context).abs().max() > 1e-3
        assert torch.equal(encode_prompt(parts, pieces, **said).context, before.context)
    assert torch.equal(encode_prompt(parts, pieces, **said).context, before.context)


def test_another_width_is_named() -> None:
    model = tiny_parts(TINY_SD).text
    with pytest.raises(ModelFileError, match=r"1024 wide \(Stable Diffusion 2\), this model's text encoders take 32"):
        attach_embeddings({"text": model}, [embedding("x", torch.ones(1, 1024))], clip_tokenizer())
    parts = tiny_parts(TINY_SDXL)
    models = {"text": parts.text, "text_2": parts.text_2}
    with pytest.raises(ModelFileError, match="wide"):
        attach_embeddings(models, [embedding("x", VECTORS)], clip_tokenizer())

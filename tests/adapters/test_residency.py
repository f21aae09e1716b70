"""Adapters on networks that lie in a mapped file, rest, settle and stream."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapters.files import kohya, lora_parts, read
from gesso.adapters.attaching import attach
from gesso.adapters.names import Target
from gesso.families.loading import load_parts
from gesso.runtime.residency import Residency, Stay
from tiny_sd import TINY_SD, save_tiny_folder


# Five runs of the network each.
@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.bfloat16])
def test_however_the_network_lies(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = save_tiny_folder(tmp_path / "tiny", TINY_SD)
    content = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    parts = load_parts(folder, dtype=None, check=False)
    target = Target("sd15", "sd1", parts.networks)
    torch.manual_seed(6)
    lora = read(tmp_path / "lora.safetensors", kohya(target, lora_parts), target)
    residency = Residency(parts, torch.device("cpu"), dict.fromkeys(parts.networks, dtype), folder)
    x, context = torch.randn(1, 4, 16, 16).to(dtype), torch.randn(1, 77, 32).to(dtype)

    @torch.inference_mode()
    def predict(stay: Stay = "resident") -> Tensor:
        residency.use("unet", stay=stay)
        found: Tensor = parts.unet(x, torch.tensor([500.0]), context)
        return found

    before = predict()
    residency.offload_all()
    with attach(target.networks, [(lora, 0.5, 0.5)]):
        settled = predict()
        residency.offload_all()
        streamed = predict("stream")
        again = predict()
    assert torch.equal(streamed, settled) and torch.equal(again, settled)
    assert (settled - before).abs().max() > 0.05
    with attach(target.networks, [(lora, 0.5, 0.5)], merged=True):
        merged = predict()
    # Of bfloat16, 8 bits: the weights are rounded once more, and sums of a hundred layers in another order.
    gap = (merged - settled).abs().max() / settled.abs().max()
    assert gap < (1e-5 if dtype == torch.float32 else 0.05), gap
    assert torch.equal(predict(), before)
    with attach(target.networks, [(lora, 0.5, 0.5)], merged=True):
        residency.offload_all()  # who lets go of the numbers lets go of what was merged into them
        assert torch.equal(predict(), before)
    assert torch.equal(predict(), before)
    assert all(path.read_bytes() == old for path, old in content.items())  # nothing was written into the mapped files

"""gesso beside its peers on a CPU: seconds of a step, a decode, a text, a load and a picture, on the same weights.

    python benchmarks/peers.py prepare --folder /tmp/peers          once: weights, and the peers' own formats
    python benchmarks/peers.py run --folder /tmp/peers --only step-512-2 --peers gesso diffusers-bfloat16
    python benchmarks/peers.py table --folder /tmp/peers            the table of docs/performance.md, from all runs

Random weights of Stable Diffusion 1.5 at its full size, float16 on the disk, the same for all. Each peer is a process
of its own, pinned to the same cores, and stays loaded; the processes take turns, so whatever else the machine does hits
all of them, and ratios are formed turn by turn. Each output is compared with float32 before anything is timed: a peer
that is further off than its number format allows is told and left out, and so is one that is not installed (the extra
`peers`; gesso itself needs none of them).

Parts: step-SIZE-BATCH, decode-SIZE, text, picture-SIZE-STEPS (text, guided steps of Euler, decode), and matrix. Loading
and the peak of memory come with every part. A part of two peers fits in three minutes, `prepare` takes ten.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Relative root mean square of the difference to float32, over the numbers of an output. They tell rounding from a
# wrong result, no more: OpenVINO's file keeps all constants in float16, so its float32 is 0.004 off, its bfloat16 0.05.
# Fewer calls draw another picture by intent: how far off it is, is its price, and stands in the table.
BOUNDS = {"float32": 1e-2, "bfloat16": 1e-1, "int8": 2e-1, "fewer": float("inf")}
FACTOR = 8  # pixels a side of a latent position
LATENT_SCALE = 0.18215
START, END = "<!-- peers: begin -->", "<!-- peers: end -->"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

Array = Any


class Peer:
    """One way to compute the networks. Arrays in and out are float32 of numpy."""

    dtype = "float32"
    needs: Sequence[str] = ()
    guided = 1.0  # share of a picture's steps that have guidance

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.threads = folder, threads

    def load(self, parts: Sequence[str]) -> None:
        raise NotImplementedError

    def begin(self) -> None:
        """Before each picture."""

    def text(self, ids: Array) -> Array:
        raise NotImplementedError

    def step(self, x: Array, timestep: float, context: Array) -> Array:
        raise NotImplementedError

    def decode(self, latents: Array) -> Array:
        raise NotImplementedError


class Gesso(Peer):
    """As the engine does it: own kernels and packed weights where it chooses them."""

    dtype = "bfloat16"
    deep: Any = None

    def load(self, parts: Sequence[str]) -> None:
        import torch

        from gesso.runtime.conditioning import Conditioning
        from gesso.runtime.engine import Engine

        self.torch, self.conditioning = torch, Conditioning
        dtype = "bfloat16" if self.dtype == "fewer" else self.dtype
        self.model = Engine("cpu", dtype, speeds=self.folder / "speed.json").load(self.folder / "model")

    def text(self, ids: Array) -> Array:
        with self.torch.inference_mode(), self.model.using("text"):
            encoding = self.model.parts.text(self.torch.from_numpy(ids))
            return encoding.last.float().numpy()

    def step(self, x: Array, timestep: float, context: Array) -> Array:
        torch = self.torch
        with torch.inference_mode():
            conditioning = self.conditioning(context=torch.from_numpy(context))
            times = torch.full((len(x),), float(timestep))
            return self.model.predict(torch.from_numpy(x), times, conditioning, deep=self.deep).float().numpy()

    def decode(self, latents: Array) -> Array:
        with self.torch.inference_mode():
            return self.model.decode(self.torch.from_numpy(latents)).float().numpy()


class GessoFloat32(Gesso):
    dtype = "float32"


class GessoInt8(Gesso):
    """--dtype int8; its list of layers is measured in the first load, and kept."""

    dtype = "int8"


class GessoFewer(Gesso):
    """--deep-cache 3 --guidance-until 0.6"""

    dtype = "fewer"
    guided = 0.6

    def begin(self) -> None:
        from gesso.runtime.deep_features import DeepFeatures

        self.deep = DeepFeatures(3)


class Diffusers(Peer):
    """Channels last, inference mode, torch's fused attention."""

    dtype = "bfloat16"
    needs = ("diffusers", "transformers")
    compiled = False

    def load(self, parts: Sequence[str]) -> None:
        import diffusers
        import torch
        import transformers

        self.torch, self.number = torch, getattr(torch, self.dtype)
        folder, how = str(self.folder / "model"), {"torch_dtype": self.number, "local_files_only": True}
        if "text" in parts:
            self.text_model = transformers.CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", **how).eval()
        if "step" in parts:
            self.unet = diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet", **how).eval()
            self.unet.to(memory_format=torch.channels_last)
            if self.compiled:
                torch._inductor.config.freezing = True
                self.unet = torch.compile(self.unet)
        if "decode" in parts:
            self.vae = diffusers.AutoencoderKL.from_pretrained(folder, subfolder="vae", **how).eval()
            self.vae.to(memory_format=torch.channels_last)

    def text(self, ids: Array) -> Array:
        with self.torch.inference_mode():
            return self.text_model(self.torch.from_numpy(ids)).last_hidden_state.float().numpy()

    def _in(self, x: Array) -> Any:
        return self.torch.from_numpy(x).to(self.number).contiguous(memory_format=self.torch.channels_last)

    def step(self, x: Array, timestep: float, context: Array) -> Array:
        with self.torch.inference_mode():
            words = self.torch.from_numpy(context).to(self.number)
            return self.unet(self._in(x), timestep, words).sample.float().numpy()

    def decode(self, latents: Array) -> Array:
        with self.torch.inference_mode():
            return self.vae.decode(self._in(latents / LATENT_SCALE)).sample.float().numpy()


class DiffusersFloat32(Diffusers):
    dtype = "float32"


class DiffusersCompiled(Diffusers):
    """torch.compile with frozen weights. The first call takes minutes."""

    compiled = True


class OpenVINO(Peer):
    """The diffusers networks as OpenVINO converts them, weights stored in float16, one compiled model a shape."""

    needs = ("openvino",)
    dtype = "bfloat16"
    weights = "f16"

    def load(self, parts: Sequence[str]) -> None:
        import openvino

        self.core, self.compiled = openvino.Core(), {}
        self.settings = {
            "INFERENCE_PRECISION_HINT": "f32" if self.dtype == "float32" else "bf16",
            "INFERENCE_NUM_THREADS": self.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        }

    def _call(self, name: str, *inputs: Array) -> Array:
        key = (name, *(np.shape(each) for each in inputs))
        if key not in self.compiled:
            model = self.core.read_model(self.folder / "openvino" / f"{name}-{self.weights}.xml")
            model.reshape({i: list(np.shape(each)) for i, each in enumerate(inputs)})
            self.compiled[key] = self.core.compile_model(model, "CPU", self.settings)
        return np.asarray(self.compiled[key](inputs)[0], dtype=np.float32)

    def text(self, ids: Array) -> Array:
        return self._call("text", ids)

    def step(self, x: Array, timestep: float, context: Array) -> Array:
        return self._call("unet", x, np.array([timestep], dtype=np.float32), context)

    def decode(self, latents: Array) -> Array:
        return self._call("vae", latents / np.float32(LATENT_SCALE))


class OpenVINOFloat32(OpenVINO):
    dtype = "float32"


class OpenVINOInt8(OpenVINO):
    """Weights of 8 bits by NNCF, products in bfloat16."""

    needs = ("openvino", "nncf")
    dtype = "int8"
    weights = "int8"


class ONNXRuntime(Peer):
    needs = ("onnxruntime",)

    def load(self, parts: Sequence[str]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        self.sessions = {
            name: onnxruntime.InferenceSession(self.folder / "onnx" / name / "model.onnx", options)
            for name, part in (("unet", "step"), ("vae", "decode"))
            if part in parts
        }

    def _call(self, name: str, *inputs: Array) -> Array:
        session = self.sessions[name]
        return session.run(None, {put.name: value for put, value in zip(session.get_inputs(), inputs, strict=True)})[0]

    def step(self, x: Array, timestep: float, context: Array) -> Array:
        return self._call("unet", x, np.array([timestep], dtype=np.float32), context)

    def decode(self, latents: Array) -> Array:
        return self._call("vae", latents / np.float32(LATENT_SCALE))


PEERS: dict[str, type[Peer]] = {
    "gesso": Gesso,
    "gesso-float32": GessoFloat32,
    "gesso-int8": GessoInt8,
    "gesso-fewer": GessoFewer,
    "diffusers-bfloat16": Diffusers,
    "diffusers-float32": DiffusersFloat32,
    "diffusers-compiled": DiffusersCompiled,
    "openvino-bfloat16": OpenVINO,
    "openvino-float32": OpenVINOFloat32,
    "openvino-int8": OpenVINOInt8,
    "onnxruntime-float32": ONNXRuntime,
}
USUAL = [name for name in PEERS if name != "diffusers-compiled"]


def missing(name: str) -> list[str]:
    """Packages that a peer needs and that are not installed."""
    absent = []
    for package in PEERS[name].needs:
        try:
            importlib.import_module(package)
        except ImportError:
            absent.append(package)
    return absent


# The parts ------------------------------------------------------------------------------------------------------------


def noise(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def work_of(part: str) -> tuple[list[str], Callable[[Peer], Array]]:
    """The networks that a part needs, and what computes it."""
    kind, *numbers = part.split("-")
    sizes = [int(number) for number in numbers]
    if kind == "text":
        ids = np.random.default_rng(0).integers(1, 49000, (2, 77))
        ids[:, -1] = 49407
        return ["text"], lambda peer: peer.text(ids)
    side = sizes[0] // FACTOR
    if kind == "decode":
        latents = noise(1, 4, side, side, seed=1) * np.float32(LATENT_SCALE)
        return ["decode"], lambda peer: peer.decode(latents)
    if kind == "step":
        x, context = noise(sizes[1], 4, side, side, seed=2), noise(sizes[1], 77, 768, seed=3)
        return ["step"], lambda peer: peer.step(x, 500.0, context)
    if kind == "picture":
        return ["text", "step", "decode"], lambda peer: picture(peer, side, sizes[1])
    raise SystemExit(
        f"--only {part}: unknown part; known: step-SIZE-BATCH, decode-SIZE, text, picture-SIZE-STEPS, matrix"
    )


def picture(peer: Peer, side: int, steps: int) -> Array:
    """Text, guided steps of Euler, decode: the same arithmetic for all."""
    ids = np.full((2, 77), 49407)
    ids[:, 0] = 49406
    ids[1, 1:9] = np.arange(320, 328)
    peer.begin()
    context = peer.text(ids)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    total = np.sqrt((1 - np.cumprod(1 - betas)) / np.cumprod(1 - betas))
    times = np.linspace(999, 0, steps)
    sigmas = np.append(np.interp(times, np.arange(1000), total), 0).astype(np.float32)
    x = noise(1, 4, side, side, seed=4) * sigmas[0]
    for i, t in enumerate(times):
        scaled = x / np.sqrt(sigmas[i] ** 2 + 1)
        if i < peer.guided * steps:
            negative, positive = peer.step(np.repeat(scaled, 2, axis=0), float(t), context)
            eps = negative + np.float32(7.5) * (positive - negative)
        else:
            eps = peer.step(scaled, float(t), context[1:])[0]
        x = x + (sigmas[i + 1] - sigmas[i]) * eps
    return peer.decode(x.astype(np.float32))


def distance(found: Array, expected: Array) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


def serve(name: str, folder: Path, cores: Sequence[int], parts: Sequence[str], pipe: Any) -> None:
    """The process of a peer: loads, then computes whenever it is asked to, and says how long it took."""
    os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = str(len(cores))
    import torch

    torch.set_num_threads(len(cores))
    try:
        for package in PEERS[name].needs:
            importlib.import_module(package)
        began, peer = time.perf_counter(), PEERS[name](folder, len(cores))
        peer.load(sorted({network for part in parts for network in work_of(part)[0]}))
        pipe.send(time.perf_counter() - began)
        for part, keep in iter(pipe.recv, None):
            _, compute = work_of(part)
            wall, cpu = time.perf_counter(), time.process_time()
            output = compute(peer)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            pipe.send((wall, cpu, output if keep else None))
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


class Running:
    """A peer's process, as the main one sees it."""

    def __init__(self, name: str, folder: Path, cores: Sequence[int], parts: Sequence[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(name, folder, cores, parts, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.load_s = self._answer()

    def _answer(self) -> Any:
        answer = self.pipe.recv()
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer

    def compute(self, part: str, *, keep: bool = False) -> tuple[float, float, Array | None]:
        self.pipe.send((part, keep))
        return self._answer()

    def end(self) -> float:
        """-> GiB at its peak"""
        self.pipe.send(None)
        peak = self._answer()
        self.process.join()
        return peak


def expected(folder: Path, part: str, cores: Sequence[int]) -> Array:
    """The float32 output, computed once by gesso and kept."""
    path = folder / "expected" / f"{part}.npy"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        running = Running("gesso-float32", folder, cores, [part])
        np.save(path, running.compute(part, keep=True)[2])
        running.end()
    return np.load(path)


def run(arguments: argparse.Namespace) -> None:
    folder, cores = Path(arguments.folder), sorted(os.sched_getaffinity(0))[: arguments.threads]
    if arguments.only == "matrix":
        record(folder, matrix(cores))
        return
    part = arguments.only
    truth = expected(folder, part, cores)
    running: dict[str, Running] = {}
    apart: dict[str, float] = {}
    for name in arguments.peers:
        if absent := missing(name):
            print(f"{name}: left out, {' and '.join(absent)} not installed", file=sys.stderr)
            continue
        try:
            process = Running(name, folder, cores, [part])
            output = process.compute(part, keep=True)[2]
        except (RuntimeError, EOFError) as error:
            print(f"{name}: left out, {str(error)[:300]}", file=sys.stderr)
            continue
        gap = distance(output, truth)
        # Errors of the steps add up in a picture, so that bound is wider.
        if not gap < BOUNDS[PEERS[name].dtype] * (4 if part.startswith("picture") else 1):
            print(f"{name}: left out, its output is {gap:.3g} off float32", file=sys.stderr)
            process.end()
            continue
        running[name], apart[name] = process, gap
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
    for turn in range(arguments.repeats):
        for name in sorted(running, reverse=bool(turn % 2)):
            times[name].append(running[name].compute(part)[:2])
    for name, process in running.items():
        first = next(iter(running))
        ratios = [mine[0] / other[0] for mine, other in zip(times[name], times[first], strict=True)]
        cpu = [mine[1] / other[1] for mine, other in zip(times[name], times[first], strict=True)]
        record(
            folder,
            {
                "part": part,
                "peer": name,
                "threads": len(cores),
                "s": round(statistics.median(wall for wall, _ in times[name]), 4),
                "s_range": [round(pick(wall for wall, _ in times[name]), 4) for pick in (min, max)],
                "cpu_s": round(statistics.median(cpu for _, cpu in times[name]), 4),
                f"by_{first}": round(statistics.median(ratios), 3),
                f"cpu_by_{first}": round(statistics.median(cpu), 3),
                "off_float32": round(apart[name], 5),
                "load_s": round(process.load_s, 2),
                "peak_gib": round(process.end(), 2),
                "repeats": arguments.repeats,
                "load_average": round(os.getloadavg()[0], 1),
                **machine(),
            },
        )


def matrix(cores: Sequence[int]) -> dict[str, Any]:
    """GFLOP/s of a product of 2048 x 2048 through torch."""
    import torch

    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    found: dict[str, Any] = {"part": "matrix", "peer": "torch", "threads": len(cores), **machine()}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(2048, 2048).to(dtype)
        best = float("inf")
        for _ in range(7):
            began = time.perf_counter()
            a @ a
            best = min(best, time.perf_counter() - began)
        found[str(dtype).removeprefix("torch.")] = round(2 * 2048**3 / best / 1e9)
    return found


def machine() -> dict[str, str]:
    import torch

    name, flags = platform.processor(), ""
    if Path("/proc/cpuinfo").exists():
        lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in lines.items()}
        name, flags = fields.get("model name", name), fields.get("flags", "")
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
    return {"cpu": name, "has": " ".join(flag for flag in wanted if flag in flags.split()), "torch": torch.__version__}


def record(folder: Path, row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)
    with open(folder / "results.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


# Weights, and the formats of the peers --------------------------------------------------------------------------------


def prepare(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model" / "model_index.json").exists():
        make_weights(folder / "model")
    wanted = arguments.formats
    if "openvino" in wanted and not missing("openvino-bfloat16"):
        convert(folder, "openvino")
        if not missing("openvino-int8"):
            convert_int8(folder)
    if "onnx" in wanted and not missing("onnxruntime-float32"):
        convert(folder, "onnx")


def make_weights(path: Path) -> None:
    """A diffusers folder of Stable Diffusion 1.5 in float16, with numbers that keep activations near 1."""
    import torch

    from gesso.checkpoints.keymap import shapes_of
    from gesso.families.parts import ModelParts, empty_networks, fill
    from gesso.families.saving import save_diffusers
    from gesso.families.sd15 import SD15
    from gesso.text.tokenizer import Tokenizer
    from unet_step import random_weights

    networks: dict[str, Any] = {"upscaler": None, "text_2": None, **empty_networks(SD15, "benchmark")}
    for network in networks.values():
        if network is not None:
            weights = {name: w.half() for name, w in random_weights(shapes_of(network.state_dict())).items()}
            fill(network, weights, "benchmark", device="cpu", dtype=None, check=False)
    with torch.inference_mode():
        save_diffusers(path, ModelParts(family=SD15, tokenizer=Tokenizer.clip(), files=(), **networks))


def convert(folder: Path, form: str) -> None:
    """The networks as diffusers has them, traced."""
    import torch

    peer = DiffusersFloat32(folder, 1)
    peer.load(["text", "step", "decode"])

    class Text(torch.nn.Module):
        def forward(self, ids: Any) -> Any:
            return peer.text_model(ids).last_hidden_state

    class Unet(torch.nn.Module):
        def forward(self, x: Any, timestep: Any, context: Any) -> Any:
            return peer.unet(x, timestep, context).sample

    class Decoder(torch.nn.Module):
        def forward(self, latents: Any) -> Any:
            return peer.vae.decode(latents).sample

    x = torch.zeros(2, 4, 32, 32)
    for name, module, inner, inputs in (
        ("unet", Unet(), peer.unet, (x, torch.tensor([500.0]), torch.zeros(2, 77, 768))),
        ("vae", Decoder(), peer.vae, (x[:1],)),
        ("text", Text(), peer.text_model, (torch.zeros(2, 77, dtype=torch.int64),)),
    ):
        module.inner = inner
        with torch.no_grad():
            if form == "openvino":
                import openvino

                path = folder / "openvino" / f"{name}-f16.xml"
                if not path.exists():
                    path.parent.mkdir(exist_ok=True)
                    model = openvino.convert_model(module.eval(), example_input=inputs)
                    openvino.save_model(model, path, compress_to_fp16=True)
            elif name != "text":
                path = folder / "onnx" / name / "model.onnx"
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    axes = {0: {0: "batch", 2: "height", 3: "width"}, 2: {0: "batch"}}
                    names = [f"input{i}" for i in range(len(inputs))]
                    torch.onnx.export(
                        module.eval(),
                        inputs,
                        path,
                        input_names=names,
                        dynamo=False,
                        dynamic_axes={names[i]: axes[i] for i in range(len(inputs)) if i in axes},
                    )
        print(f"{form}: {name}", flush=True)


def convert_int8(folder: Path) -> None:
    import nncf
    import openvino

    for name in ("unet", "vae", "text"):
        path = folder / "openvino" / f"{name}-int8.xml"
        if not path.exists():
            model = openvino.Core().read_model(folder / "openvino" / f"{name}-f16.xml")
            openvino.save_model(nncf.compress_weights(model), path)


# The page -------------------------------------------------------------------------------------------------------------


def table(arguments: argparse.Namespace) -> None:
    """Writes the table of the page from the last run of each part, peer and number of threads."""
    rows: dict[tuple[str, int, str], dict[str, Any]] = {}
    for line in (Path(arguments.folder) / "results.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows[row["part"], row["threads"], row["peer"]] = row
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(START)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n\n{markdown(rows)}\n{END}{after}", encoding="utf-8")


def markdown(rows: dict[tuple[str, int, str], dict[str, Any]]) -> str:
    lines = []
    rates = [row for row in rows.values() if row["part"] == "matrix"]
    some = next(iter(rows.values()))
    lines.append(f"{some['cpu']}: {some['has']}; torch {some['torch']}.")
    lines += [
        f"Product of matrices through torch, {row['threads']} thread{'s' * (row['threads'] > 1)}: float32 "
        f"{row['float32']}, bfloat16 {row['bfloat16']} GFLOP/s."
        for row in rates
    ]
    lines += [
        "",
        "| part | threads | peer | CPU s | gesso by it | wall s, median (range) | off float32 | load, s | GiB |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    order = list(PEERS)
    for part, threads, name in sorted(
        (key for key in rows if key[0] != "matrix"), key=lambda k: (*k[:2], order.index(k[2]))
    ):
        row = rows[part, threads, name]
        ratio = row.get("cpu_by_gesso")
        least, most = row["s_range"]
        lines.append(
            f"| {part} | {threads} | {name} | {row['cpu_s']:.3g} | {f'{1 / ratio:.2f}' if ratio else ''} | "
            f"{row['s']:.3g} ({least:.3g} to {most:.3g}) | {row['off_float32']:.2g} | {row['load_s']} | "
            f"{row['peak_gib']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="gesso beside its peers on a CPU.")
    commands = parser.add_subparsers(required=True)
    for name, function in (("prepare", prepare), ("run", run), ("table", table)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("--folder", required=True, help="weights, converted models and results")
        if name == "prepare":
            command.add_argument("--formats", nargs="*", default=["openvino"], choices=["openvino", "onnx"])
        if name == "run":
            command.add_argument("--only", required=True, help="the part: step-512-2, decode-512, text, ...")
            command.add_argument("--peers", nargs="+", default=USUAL, choices=PEERS, help="the first is the measure")
            command.add_argument("--threads", type=int, default=1)
            command.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()

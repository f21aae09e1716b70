"""How much a command imports before it draws, in modules: seconds differ from machine to machine."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gesso.runtime.compiled import has_kernels


def run(code: str, folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


GENERATE = """
    import sys
    from gesso.cli.main import main
    sys.argv = ["gesso", "generate", "a red car", "--steps", "1", "-S", "1", "-o", "x.png", "--quiet", {more}]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    names = set(sys.modules)
    print(len([name for name in names if name.split(".")[0] == "gesso"]))
    print(int("activate_meta" in vars(sys.modules["torch._meta_registrations"])))
    print(*sorted(name for name in names if "." not in name))
"""
# Of the server, of training, and of other kinds of files: not for a picture of the default model.
ELSEWHERE = {
    *("sqlalchemy", "fastapi", "starlette", "uvicorn", "gguf", "huggingface_hub", "yaml", "cv2", "emoji"),
    *("transformers", "diffusers", "torchvision", "scipy", "pandas", "matplotlib"),
}


def test_a_picture_imports_what_it_needs(tmp_path: Path):
    count, whole, names = run(GENERATE.format(more=""), tmp_path)[-3:]
    assert int(count) < 290  # 274 on 2026-11-30
    assert ELSEWHERE & set(names.split()) == set()
    assert whole == "0"  # shapes without numbers, a quarter of torch's import
    assert (tmp_path / "x.png").stat().st_size > 0


@pytest.mark.slow
def test_a_memory_plan_gets_the_rest_of_torch(tmp_path: Path):
    whole = run(GENERATE.format(more='"--memory", "2GiB"'), tmp_path)[-2]
    assert whole == "1"


@pytest.mark.slow
def test_it_is_put_off_and_not_left_out(tmp_path: Path):
    run(
        """
        import sys
        from gesso.terminal.torch_import import put_off_meta
        put_off_meta()
        import torch
        put_off_meta()  # too late: nothing happens
        placeholder = sys.modules["torch._meta_registrations"]
        from torch._meta_registrations import activate_meta
        assert callable(activate_meta)
        assert sys.modules["torch._meta_registrations"] is not placeholder
        x = torch.empty(2, 3, 8, 8, device="meta")
        assert torch.nn.functional.conv2d(x, torch.empty(4, 3, 3, 3, device="meta")).shape == (2, 4, 6, 6)
        """,
        tmp_path,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is loaded by the import alone")
@pytest.mark.slow
def test_the_library_of_torch_is_loaded_beside_other_imports(tmp_path: Path):
    loaded = run(
        """
        import sys, time
        from gesso.terminal.torch_import import load_beside
        load_beside()
        def is_there():
            return "libtorch_cpu.so" in open("/proc/self/maps").read()
        end = time.monotonic() + 60
        while not is_there() and time.monotonic() < end:
            time.sleep(0.01)
        print("torch" in sys.modules, is_there())
        import torch
        from gesso.runtime.compiled import has_kernels
        print(has_kernels())
        """,
        tmp_path,
    )
    assert loaded[0] == "False True"
    assert loaded[1] == str(has_kernels())  # the functions of OpenMP are found as ever

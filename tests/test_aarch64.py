"""The engine on 64-bit ARM, in an emulator: the tokens and the logits are those of this machine.

Debian's packages are g++-aarch64-linux-gnu and qemu-user.
"""

import os
import re
import subprocess
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

import aarch64
import maskprobe
from native_build import C_COMPILER, PROJECT, compile_c

COMPLETE, MANY = PROJECT / "examples" / "complete.c", PROJECT / "examples" / "many.c"
LOGIT_ROWS = PROJECT / "tests" / "logit_rows.c"
PROMPTS = (
    "import os\n\ndef read_lines(path):\n",
    "class Stack:\n    def __init__(self):\n",
    "def add(a, b):\n    return a + b\n\ndef sub(a, b):\n",
    "for i in range(10):\n",
)
KERNELS = {"cortex-a72": "NEON", "neoverse-n1": "NEON-dotprod", "max": "NEON-i8mm"}  # the best of each processor
K_FORMATS = {"width": 256, "head_dim": 64, "ffn": 512}  # their blocks need rows of 256 weights
LIBRARIES = str(Path(llama_cpp.__file__).parent / "lib")


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    made = aarch64.problem() or aarch64.build_for_arm(tmp_path_factory.mktemp("arm"))
    if isinstance(made, str):
        pytest.skip(made)
    return made


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """run(source, arguments): what a program prints on this machine."""
    if not C_COMPILER:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("here")

    def printed(source: Path, *arguments) -> bytes:
        program = folder / source.stem
        if not program.exists():
            compile_c(source, program, Path(maskprobe.prefix()), f"-Wl,-rpath-link,{LIBRARIES}")
        settings = {**os.environ, "LD_LIBRARY_PATH": LIBRARIES}
        done = subprocess.run([program, *arguments], capture_output=True, env=settings, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return printed


@pytest.fixture(scope="module")
def x86_kernels(bundled_model_path):
    """Those that round as the ARM kernels do: the plain ones have no fused multiply-add on this machine."""
    info = maskprobe.Model(bundled_model_path, kernels="ours").info
    if info.kernels == "portable":
        pytest.skip("this processor has no fused multiply-add")
    return info.kernels


def test_complete_gives_the_same_text(arm, here, x86_kernels, bundled_model_path):
    arguments = [bundled_model_path, PROMPTS[0], "40"]
    done = arm.run("max", "", COMPLETE, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout == here(COMPLETE, *arguments)


@pytest.mark.parametrize(("processor", "kernels"), [*((name, "") for name in KERNELS), ("max", "portable")])
def test_many_gives_the_same_texts(arm, here, x86_kernels, bundled_model_path, processor, kernels):
    done = arm.run(processor, kernels, MANY, bundled_model_path, *PROMPTS)
    assert done.returncode == 0, done.stderr
    both = (done.stdout, here(MANY, bundled_model_path, *PROMPTS))
    ours, expected = (sorted(re.split(rb"\n(?=[1-4]: )", out.removesuffix(b"\n"))) for out in both)
    assert ours == expected and len(ours) == len(PROMPTS)


@pytest.mark.parametrize("model", ["bundled", "tiny-llama q4_k", "tiny-qwen3 f16"])
@pytest.mark.parametrize(("processor", "kernels"), [*KERNELS.items(), ("cortex-a72", "portable")])
def test_logits_are_the_same_bits(
    arm, here, x86_kernels, bundled_model_path, tiny_model_path, processor, kernels, model
):
    path = bundled_model_path
    if model != "bundled":
        shape, weight_type = model.split()
        path = tiny_model_path(shape, weight_type=weight_type, **(K_FORMATS if weight_type == "q4_k" else {}))
    done = arm.run(processor, kernels.lower(), LOGIT_ROWS, path, "ours")
    assert done.returncode == 0 and done.stderr.decode().startswith(f"{kernels}: "), done.stderr
    ours, expected = (np.frombuffer(out, np.float32) for out in (done.stdout, here(LOGIT_ROWS, path, "ours")))
    assert np.isfinite(expected).all() and expected.std() > 0
    np.testing.assert_array_equal(ours, expected)

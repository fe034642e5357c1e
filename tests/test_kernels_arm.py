"""The kernels for 64-bit ARM: compiled by a cross compiler and run in an emulator, on processors with and without them.

tests/ggml_stand_in.cpp takes the place of ggml, which is not installed for that machine. Debian's packages are
g++-aarch64-linux-gnu and qemu-user.
"""

import ctypes
import os
import platform
import shutil
import subprocess
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

PROJECT = Path(__file__).parent.parent
TESTS = PROJECT / "tests"
CSRC = PROJECT / "csrc"
PACKAGE = Path(llama_cpp.__file__).parent
OPTIONS = ["-O3", "-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{PACKAGE.parent / 'include'}"]

CXX_COMPILER = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
CROSS_COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")

# What the emulated processors have.
SETS = {
    "cortex-a72": {"portable", "NEON"},
    "neoverse-n1": {"portable", "NEON", "NEON-dotprod"},
    "max": {"portable", "NEON", "NEON-dotprod", "NEON-i8mm"},
}


def compile_program(target, compiler, *arguments):
    command = [compiler, *OPTIONS, "-o", target, *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return target


def cross_compile(target, *sources):
    if platform.machine() in ("aarch64", "arm64"):
        pytest.skip("this is an ARM machine: the other tests run these kernels")
    if not CROSS_COMPILER or not EMULATOR:
        pytest.skip("no aarch64-linux-gnu-g++ or no qemu-aarch64")
    return compile_program(
        target, CROSS_COMPILER, "-static", "-DMP_GGML_STAND_IN", f"-I{CSRC}", *sources, TESTS / "ggml_stand_in.cpp"
    )


def emulate(program, processor):
    command = [EMULATOR, "-cpu", processor, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    target = tmp_path_factory.mktemp("arm") / "kernels_gemm"
    return cross_compile(target, TESTS / "kernels_gemm.cpp", *sorted((CSRC / "kernels" / "gemm").glob("gemm*.cpp")))


@pytest.mark.parametrize("processor", SETS)
def test_quantised_products(products, processor):
    printed = emulate(products, processor)
    assert {line.split()[0] for line in printed.splitlines()[:-1]} == SETS[processor]


@pytest.fixture(scope="module")
def attention(tmp_path_factory):
    target = tmp_path_factory.mktemp("arm") / "kernels_attention"
    sources = [*TESTS.glob("kernels_attention*.cpp"), *(CSRC / "kernels" / "attention").glob("attention*.cpp")]
    return cross_compile(target, *sorted(sources))


def test_attention(attention):
    """On a processor that has nothing but the basic instructions."""
    printed = emulate(attention, "cortex-a72")
    assert {line.split()[0] for line in printed.splitlines()[:-1]} == {"portable", "neon"}


# --- the stand-in for ggml -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stand_in_and_ggml(tmp_path_factory):
    if not CXX_COMPILER:
        pytest.skip("no C++ compiler")
    target = tmp_path_factory.mktemp("stand_in") / "stand_in.so"
    compile_program(target, CXX_COMPILER, "-shared", "-fPIC", "-Wl,-Bsymbolic", TESTS / "ggml_stand_in.cpp")
    ggml = next(path for path in (PACKAGE / "lib").glob("libggml-base.*") if path.suffix in (".so", ".dylib"))
    return ctypes.CDLL(str(target)), ctypes.CDLL(str(ggml))


TYPES = {
    "F32": 0,
    "F16": 1,
    "BF16": 30,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q5_0": 6,
    "Q5_1": 7,
    "Q8_0": 8,
    "Q2_K": 10,
    "Q3_K": 11,
    "Q4_K": 12,
    "Q5_K": 13,
    "Q6_K": 14,
    "IQ4_NL": 20,
    "IQ4_XS": 23,
    "MXFP4": 39,
}


class TypeTraits(ctypes.Structure):
    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    ]


def traits_of(library, ggml_type):
    library.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
    return library.ggml_get_type_traits(ggml_type).contents


@pytest.mark.parametrize("name", [name for name in TYPES if name != "F32"])
def test_stand_in_dequantises_as_ggml(stand_in_and_ggml, name):
    """Random bytes: every code, every scale, NaN and infinities among them."""
    both = [traits_of(library, TYPES[name]) for library in stand_in_and_ggml]
    ours, ggml = both
    assert (ours.type_name, ours.blck_size, ours.type_size) == (ggml.type_name, ggml.blck_size, ggml.type_size)
    n_blocks = 65536 // ours.blck_size
    blocks = np.random.default_rng(0).integers(0, 256, n_blocks * ours.type_size, np.uint8)
    if ours.type_size == 2:
        blocks = np.arange(65536, dtype=np.uint16).view(np.uint8)
    values = np.zeros((2, n_blocks * ours.blck_size), np.float32)
    for traits, row in zip(both, values, strict=True):
        traits.to_float(blocks.ctypes.data, row.ctypes.data, row.size)
    np.testing.assert_array_equal(*values)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0"])
def test_stand_in_quantises_as_ggml(stand_in_and_ggml, name):
    rng = np.random.default_rng(1)
    values = (rng.standard_normal(1 << 16) * np.exp2(rng.integers(-28, 10, 1 << 16))).astype(np.float32)
    quantised = []
    for library in stand_in_and_ggml:
        function = library.ggml_quantize_chunk
        function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
        function.restype = ctypes.c_size_t
        target = np.zeros(values.nbytes, np.uint8)
        size = function(TYPES[name], values.ctypes.data, target.ctypes.data, 0, 1, values.size, None)
        quantised.append(target[:size])
    np.testing.assert_array_equal(*quantised)

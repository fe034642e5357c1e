"""The kernels as a module that any program of llama.cpp can load: here plain llama-cpp-python, without maskprobe."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import maskprobe

PLUGIN = Path(maskprobe.prefix(), "lib", "libggml-maskprobe.so")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="libraries have other names here")
PROMPT = [5, 9, 20, 7, 31, 44]

PROGRAM = """
import ctypes, json, sys
import llama_cpp
plugin, model = sys.argv[1:]
if plugin:
    ggml = ctypes.CDLL("libggml.so.0")  # the copy that llama_cpp has loaded; its path would be another one
    ggml.ggml_backend_load.restype = ctypes.c_void_p
    ggml.ggml_backend_load.argtypes = [ctypes.c_char_p]
    assert ggml.ggml_backend_load(plugin.encode()), "the module was refused"
threads = {"n_threads": 1, "n_threads_batch": 2}
llama = llama_cpp.Llama(model, n_ctx=128, logits_all=True, **threads, flash_attn=True, verbose=True)
llama.eval(%r)
llama.eval([3])
assert "maskprobe" not in sys.modules
print(json.dumps(llama.scores[: llama.n_tokens].tolist()))
"""


def logits_and_log(plugin, model, **environment):
    command = [sys.executable, "-c", PROGRAM % PROMPT, str(plugin), str(model)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment or None)


@pytest.mark.parametrize("weight_type", ["q8_0", "q4_0"])
def test_another_program_computes_with_the_kernels(tiny_model_path, weight_type):
    model = tiny_model_path("tiny-llama", weight_type=weight_type)
    runs = [logits_and_log(plugin, model) for plugin in ("", PLUGIN)]
    assert all(done.returncode == 0 for done in runs), runs[1].stderr[-2000:]
    assert ["MaskProbe model buffer size" in done.stderr for done in runs] == [False, True]
    stock, ours = (np.array(json.loads(done.stdout.splitlines()[-1])) for done in runs)
    assert stock.shape == ours.shape == (len(PROMPT) + 1, stock.shape[1])
    assert np.abs(stock - ours).max() < 0.1 * stock.std() and not np.array_equal(stock, ours)


def test_an_unknown_instruction_set_is_refused(tiny_model_path):
    model = tiny_model_path("tiny-llama", weight_type="q8_0")
    done = logits_and_log(PLUGIN, model, MASKPROBE_ISA="sse9")
    assert done.returncode == 1 and "MASKPROBE_ISA is 'sse9'" in done.stderr


def test_the_module_exports_its_entry_points_only():
    symbols = subprocess.run(["nm", "-D", "--defined-only", str(PLUGIN)], capture_output=True, text=True, check=False)
    if symbols.returncode != 0:
        pytest.skip("no nm")
    names = {line.split()[-1] for line in symbols.stdout.splitlines() if " T " in line}
    assert names == {"ggml_backend_init", "ggml_backend_score"}

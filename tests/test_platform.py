"""What the core does to the process that it is in: where its threads run, and when it catches failed assertions."""

import ctypes
import os
import subprocess
import sys
import threading

import pytest

import cxx
from maskprobe import Model, Session, TokenTree


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no affinity")
def test_the_pool_moves_its_own_threads_only(tmp_path):
    sources = ["tests/pool_affinity.cpp", "csrc/platform/worker_pool.cpp", "csrc/platform/core_placement.cpp"]
    done = subprocess.run(cxx.build(tmp_path / "pool_affinity", sources), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="there is no affinity")
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_passes_leave_the_callers_affinity_alone(tiny_model_path, n_threads):
    """Also of a caller that is bound to one core already."""
    model = Model(tiny_model_path("tiny-llama", weight_type="q8_0"))
    at_start = os.sched_getaffinity(0)
    session = Session(model, n_ctx=256, n_threads=n_threads)
    for allowed in (at_start, {min(at_start)}):
        os.sched_setaffinity(0, allowed)
        try:
            session.set_prefix(list(range(3, 90)))
            for token in range(3, 40):
                session.decode(TokenTree(token))
                session.commit([0])
            assert os.sched_getaffinity(0) == allowed
        finally:
            os.sched_setaffinity(0, at_start)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libraries have other names here")
def test_failed_assertions_are_caught_while_loading_only(tiny_model_path):
    """In a pass they end the process, as ggml has it: what they leave behind is not fit for use."""
    ggml = ctypes.CDLL("libggml-base.so.0")  # the copy that is loaded; its path would be another one
    ggml.ggml_set_abort_callback.restype = ctypes.c_void_p
    ggml.ggml_set_abort_callback.argtypes = [ctypes.c_void_p]

    def is_caught() -> bool:
        callback = ggml.ggml_set_abort_callback(None)
        ggml.ggml_set_abort_callback(callback)
        return callback is not None

    while_loading = []
    model = Model(tiny_model_path("tiny-llama"), progress=lambda _: while_loading.append(is_caught()) or True)
    assert while_loading and all(while_loading)
    session = Session(model, n_ctx=256)
    done = threading.Event()
    while_decoding = []

    def look() -> None:
        while not done.is_set():
            while_decoding.append(is_caught())

    observer = threading.Thread(target=look)
    observer.start()
    while len(while_decoding) <= 20 and observer.is_alive():  # on a busy machine its turn comes late
        session.set_prefix([])
        session.set_prefix(list(range(3, 200)))
        for token in range(3, 40):
            session.decode(TokenTree(token))
            session.commit([0])
    done.set()
    observer.join()
    assert len(while_decoding) > 20 and not any(while_decoding)

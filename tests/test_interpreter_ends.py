"""The end of the interpreter while threads generate: it ends, without a word."""

import subprocess
import sys

import pytest

TIMEOUT_S = 120

EXITS = """
import asyncio, atexit, random, sys, threading, time
from maskprobe import Engine, Error, Model, SamplingParams, Session
path, what, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = Model(path, n_threads=1, kernels=["ours", "stock"][seed % 2])
engine = Engine(model, n_ctx=1024, n_parallel=3, n_threads=1)

class Watches:
    def allowed(self):
        sum(range(100))

def endless(constraint=None):
    return engine.generate([1, 2, 3], SamplingParams(temp=0.0), ignore_eos=True, constraint=constraint)

def iterates(constraint=None):
    while True:
        for _ in endless(constraint() if constraint else None):
            pass

def decodes():
    session = Session(model, n_ctx=512, n_threads=1)
    while True:
        session.set_prefix([])
        session.set_prefix([1] * 400)

async def reads():
    while True:
        async for _ in engine.generate_async([1, 2, 3], SamplingParams(), ignore_eos=True, constraint=Watches()):
            pass

targets = {
    "callbacks": lambda: iterates(Watches),
    "plain": iterates,
    "by hand": decodes,
    "loop": lambda: asyncio.run(reads()),
    "joined": lambda: [r.token for _, r in zip(range(60), endless(Watches()))],
}

def works():
    try:
        targets[what]()
    except Error as error:  # the one error that may come: atexit closes the model
        if "closed" not in str(error):
            raise

threads = [threading.Thread(target=works, daemon=what != "joined") for _ in range(3)]
for thread in threads:
    thread.start()
left = [endless(), endless(Watches())]
next(left[0])
if seed % 3 == 0:
    atexit.register(lambda: [x.close() for x in (left[0], model)])
time.sleep(random.Random(seed).uniform(0.0, 0.2))
if seed % 4 == 0:
    raise SystemExit(0)
"""


@pytest.mark.parametrize("what", ["callbacks", "plain", "by hand", "loop", "joined"])
def test_the_interpreter_ends_while_threads_generate(tiny_model_path, what):
    path = tiny_model_path("tiny-llama")
    for seed in range(4):
        command = [sys.executable, "-c", EXITS, str(path), what, str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert (done.returncode, done.stderr) == (0, ""), seed

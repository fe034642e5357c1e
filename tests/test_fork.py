"""Forked children: where something had run before, every call says so at once; the parent goes on unharmed."""

import json
import subprocess
import sys

import pytest

TIMEOUT_S = 120
SAID = 'start processes by spawn instead (in Python multiprocessing.set_start_method("spawn"))'

# What follows is run by processes of their own: here threads have run, and a child that hangs must not hang the tests.
COMMON = """
import asyncio, contextlib, json, multiprocessing, os, subprocess, sys, threading
import maskprobe
from maskprobe import Context, Engine, Model, Sampler, SamplingParams, Session, TokenTree, devices
from maskprobe.model import measure_machine

path, kernels, n_threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
GREEDY, PROMPT = SamplingParams(temp=0.0), [1, 40, 41, 42]

def opened():
    return Model(path, kernels=kernels, n_threads=n_threads)

def engine_on(model, **settings):
    return Engine(model, n_ctx=256, n_threads=n_threads, **settings)

def text(engine, n=12):
    return [r.token for r in engine.generate(PROMPT, GREEDY, max_tokens=n, ignore_eos=True)]

def outcome(call):
    try:
        return ["done", call()]
    except BaseException as error:
        return [getattr(error, "status", type(error).__name__), str(error)]

def in_child(work, leave=sys.exit):
    # What work() gives in a forked child that ends as leave() does, and how that ended.
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(send, json.dumps(work()).encode())
        os.close(send)
        leave(0)
    os.close(send)
    with open(receive, "rb") as pipe:
        result = json.loads(pipe.read() or b"null")
    return result, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(code: str, path, kernels: str = "ours", n_threads: int = 1):
    """What the code prints as JSON; it must end by itself, and silently."""
    command = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        COMMON + code,
        str(path),
        kernels,
        str(n_threads),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def path(tiny_model_path):
    return tiny_model_path("tiny-llama")


EVERY_CALL = """
model = opened()
facts = lambda: [model.tokenize("a b"), model.token_bytes(5).hex(), model.is_end(2), model.metadata("general.name"),
                 model.embedding_rows([3]).tolist(), model.detokenize([5, 6]).hex(), len(model.end_tokens)]
expected_facts = facts()
engine = engine_on(model, n_parallel=2)
expected = text(engine) if USED else None
context = Context(model, n_ctx=256, n_sessions_max=2, n_threads=n_threads)
session, sampler = context.session(), Sampler(model, GREEDY)
if USED:
    session.set_prefix(PROMPT)
generation = engine.generate(PROMPT, GREEDY, max_tokens=12, ignore_eos=True)
endless = engine.generate_async(PROMPT, GREEDY)
first = [next(generation).token for _ in range(3)] if USED else []

async def step():
    return (await anext(endless)).token

refused = {
    "a new model": opened,
    "a context": lambda: Context(model, n_ctx=256),
    "a session": lambda: Session(model, n_ctx=256),
    "a session of an old context": context.session,
    "an engine": lambda: engine_on(model),
    "a sampler": lambda: Sampler(model, GREEDY),
    "generate": lambda: engine.generate(PROMPT),
    "a new text": lambda: text(engine),
    "next": lambda: next(generation),
    "anext": lambda: asyncio.run(step()),
    "pass_us": lambda: engine.pass_us(1),
    "note": lambda: engine.note,
    "prefix": lambda: session.set_prefix([1, 2]),
    "decode": lambda: session.decode(TokenTree(7)),
    "decode of a context": lambda: context.decode([(session, TokenTree(7))]),
    "commit": session.rollback,
    "fork": session.fork,
    "n_past": lambda: session.n_past,
    "logits": lambda: session.logits(0),
    "parts": context.parts,
    "prime": lambda: sampler.prime([1]),
    "sample": lambda: sampler.sample(session, 0),
    "measure_machine": measure_machine,
    "devices": devices,
}
harmless = {
    "cancel": lambda: [context.cancel(), generation.cancel(), session.cancel()],
    "stats": lambda: generation.stats.n_gen >= len(first),
    "close": lambda: [x.close() for x in (generation, session, sampler, context, engine, model)],
    "close twice": lambda: [x.close() for x in (generation, session, sampler, context, engine, model)],
    "all is closed": lambda: [x.closed for x in (generation, session, sampler, context, engine, model)],
}

def work():
    results = {name: outcome(call) for name, call in refused.items()}
    results["facts"] = ["done", facts() == expected_facts]
    grandchild, code = in_child(lambda: {name: outcome(call) for name, call in list(refused.items())[:8]}, os._exit)
    results |= {"grandchild: " + name: result for name, result in grandchild.items()}
    return results | {name: outcome(call) for name, call in harmless.items()}

results, code = in_child(work, LEAVE)
rest = [r.token for r in generation]
as_before = expected is None or first + rest == text(engine) == expected
print(json.dumps([results, code, list(harmless), as_before, text(engine_on(opened())) == text(engine)]))
"""


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("kernels", ["ours", "stock"])
@pytest.mark.parametrize(("used", "leave"), [(True, "sys.exit"), (False, "sys.exit"), (True, "os._exit")])
def test_every_call_of_a_child(path, kernels, n_threads, used, leave):
    code = EVERY_CALL.replace("USED", str(used)).replace("LEAVE", leave)
    results, code, harmless, as_before, opens_anew = run(code, path, kernels, n_threads)
    assert code == 0 and as_before and opens_anew
    assert results.pop("facts") == ["done", True]
    assert results["all is closed"] == ["done", [True] * 6]
    for name in harmless:
        assert results.pop(name)[0] == "done", name
    for name, (status, message) in results.items():
        assert status == "state" and SAID in message and "\n" not in message, (name, message)


@pytest.mark.parametrize(
    "before", ["", "devices(); maskprobe.set_verbose(False)", "outcome(lambda: Model('missing.gguf'))"]
)
def test_a_parent_in_which_nothing_ran(path, before):
    """Its children are processes like any other, one after another; so is it itself. Their children are refused."""
    code = (
        before
        + """
def work():
    model = opened()
    engine = engine_on(model)
    tokens = text(engine)
    return tokens, in_child(lambda: outcome(opened))[0]

children = [in_child(work) for _ in range(3)]
print(json.dumps([children, text(engine_on(opened()))]))
"""
    )
    children, expected = run(code, path)
    for (tokens, (status, message)), code in children:
        assert tokens == expected and code == 0 and status == "state" and SAID in message


WHILE_BUSY = """
model = opened()
engine = engine_on(model, n_parallel=3)
expected = text(engine, 60)
context = Context(model, n_ctx=512, n_sessions_max=2, n_threads=1)
session = context.session()
stop, wrong = threading.Event(), []

def generates():
    while not stop.is_set():
        if text(engine, 60) != expected:
            wrong.append("text")

def decodes():
    while not stop.is_set():
        session.set_prefix([])
        session.set_prefix(PROMPT * 50)

def opens():
    while not stop.is_set():
        opened().close()

def looks():
    generation = engine.generate(PROMPT, GREEDY)
    while not stop.is_set():
        generation.stats, model.tokenize("a"), model.metadata("general.name")

def work():
    one = engine.generate  # refused before a lock is taken
    calls = [opened, lambda: text(engine), lambda: one(PROMPT), lambda: session.set_prefix([2]), context.session,
             lambda: engine.pass_us(1), lambda: engine.note, devices, lambda: Sampler(model, GREEDY)]
    results = [outcome(call) for call in calls]
    texts = model.tokenize("a"), model.metadata("general.architecture")
    for x in (session, context, engine, model):
        x.close()
    return results

threads = [threading.Thread(target=target) for target in (generates, generates, decodes, opens, looks)]
for thread in threads:
    thread.start()
children = [in_child(work) for _ in range(20)]
stop.set()
for thread in threads:
    thread.join()
print(json.dumps([children, wrong, text(engine, 60) == expected]))
"""


@pytest.mark.parametrize("kernels", ["ours", "stock"])
def test_forks_while_threads_are_inside(path, kernels):
    """Whatever locks other threads held at that moment."""
    children, wrong, as_before = run(WHILE_BUSY, path, kernels)
    assert wrong == [] and as_before
    for results, code in children:
        assert code == 0
        for status, message in results:
            assert status == "state" and SAID in message, message


def test_a_child_made_in_a_callback(path):
    """It comes back into the call that its parent is in: that fails there, and goes on in the parent."""
    code = """
parent, seen = os.getpid(), []

def forks_once(fraction=1.0):
    if fraction > 0.5 and not seen:
        seen.append(os.fork())

class Forks:
    def allowed(self):
        forks_once()

what = outcome(lambda: Model(path, kernels=kernels, n_threads=2, progress=forks_once).info.arch)
if os.getpid() != parent:
    os._exit(0 if what[0] == "state" else 1)
codes = [os.waitstatus_to_exitcode(os.waitpid(seen.pop(), 0)[1])]

engine = engine_on(opened())
tokens = lambda: [r.token for r in engine.generate(PROMPT, GREEDY, max_tokens=9, ignore_eos=True, constraint=Forks())]
what = [what[0], outcome(tokens)]
if os.getpid() != parent:
    os._exit(0 if what[1][0] == "state" else 1)
codes.append(os.waitstatus_to_exitcode(os.waitpid(seen[0], 0)[1]))
print(json.dumps([codes, what, tokens()]))
"""
    codes, (loaded, (status, tokens)), again = run(code, path)
    assert codes == [0, 0] and loaded == status == "done" and tokens == again


PROCESSES = """
def generates(queue):
    queue.put(outcome(lambda: text(engine_on(opened()))))

if __name__ == "__main__":
    engine = engine_on(opened())
    results = []
    for method in ("spawn", "forkserver", "fork"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=generates, args=(queue,))
        process.start()
        results.append(queue.get(timeout=60))
        process.join()
        results.append(process.exitcode)
    done = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, text=True)
    print(json.dumps([results, done.stdout, text(engine)]))
"""


def test_processes_of_the_standard_library(path, tmp_path):
    script = tmp_path / "script.py"  # spawned processes import it
    script.write_text(COMMON + PROCESSES)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(script), str(path), "ours", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stderr) == (0, "")
    (spawned, code, served, code_served, (status, message), code_forked), printed, expected = json.loads(done.stdout)
    assert spawned == served == ["done", expected] and code == code_served == code_forked == 0
    assert status == "state" and SAID in message and printed == "1\n"

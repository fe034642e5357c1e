"""A server under load: many clients, some of which go away, some with schemas; and the same answers alone.

    python bench/serve_load.py -m MODEL -n 64 -np 64 -s 300 --alone 60
    python bench/serve_load.py -m MODEL -n 64 -np 64 -s 300 --alone 60 --server llama-cpp-python
    python bench/serve_load.py -m MODEL -n 64 -s 300 --url http://127.0.0.1:8080 --pid 1234    of one that runs already

Prompts have 50 to 1500 tokens, answers 20 to 300. A tenth of the clients' requests is given up under way, a tenth has a
JSON schema, half are greedy, half are seeded. One client comes first, with other requests of the same kind. Afterwards
a sample of the answers is asked for again, alone. Exit status 1 where an answer failed, a text differs, or memory
grows.

--server names who is started: maskprobe; llama-cpp-python, its own server (pip install "llama-cpp-python[server]"); or
xllamacpp, which is llama-server in a Python package, with -np slots. --server-python names the interpreter that has it.
All get the same texts, as text. A server that takes no JSON schema gets none, and the table says so.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
from load_requests import Request, Texts, known_response_format, requests
from load_servers import SERVERS, Server, Setting

from maskprobe import Model, resolve_model

GIVEN_UP = 0.1
WARM_UP = 0.4  # of the time: from then on memory must be flat
FLAT = 0.02
REQUEST_LIMIT_S = 3600  # a server that answers one after another lets the last of 64 wait long
MIB = 1 << 20


@dataclass
class Found:
    """What came of a load."""

    kinds: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    answers: list[tuple[Request, str]] = field(default_factory=list)  # of those that were finished
    first_token_s: list[float] = field(default_factory=list)
    n_tokens: int = 0
    rss: list[tuple[float, int]] = field(default_factory=list)  # seconds since the start, bytes
    seconds: float = 0.0


async def ask(
    client: httpx.AsyncClient, request: Request, texts: Texts, found: Found, stops_at: int | None
) -> str | None:
    """The text; None where it was given up after `stops_at` pieces, or failed."""
    started, pieces, usage, reason = time.perf_counter(), [], None, None
    async with client.stream("POST", request.route, json=request.body) as answer:
        if answer.status_code != 200:
            found.errors.append(f"{answer.status_code} {(await answer.aread())[:200]!r}")
            return None
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                found.errors.append(str(chunk["error"])[:200])
                return None
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                piece = choice.get("text") or choice.get("delta", {}).get("content") or ""
                if piece and not pieces:
                    found.first_token_s.append(time.perf_counter() - started)
                pieces += [piece] * bool(piece)
                reason = choice["finish_reason"] or reason
            if stops_at is not None and len(pieces) >= stops_at:
                found.kinds["given up"] += 1
                return None
    if reason is None:
        found.errors.append("the stream ended before its end")
        return None
    text = "".join(pieces)
    n_tokens = usage["completion_tokens"] if usage else texts.n_tokens(text)
    found.n_tokens += n_tokens
    if usage and reason == "length" and n_tokens < request.body["max_tokens"]:
        found.errors.append("an answer was cut at the server's time limit")
        return None
    if request.kind == "with a schema" and reason == "stop":
        json.loads(text)
    return text


async def run_load(
    url: str, coming: Iterator[Request], texts: Texts, n_clients: int, seconds: float, pid: int | None
) -> Found:
    found = Found()
    started = time.perf_counter()
    draw, limits = random.Random(n_clients), httpx.Limits(max_connections=None)

    async def one(client: httpx.AsyncClient) -> None:
        while time.perf_counter() - started < seconds:
            request = next(coming)
            stops_at = draw.randint(1, 10) if draw.random() < GIVEN_UP else None
            try:
                text = await ask(client, request, texts, found, stops_at)
            except (httpx.HTTPError, ValueError) as error:
                found.errors.append(f"{type(error).__name__}: {error}")
                continue
            if text is not None:
                found.kinds[request.kind] += 1
                found.answers.append((request, text))

    async def watch() -> None:
        while True:
            if pid is not None:
                found.rss.append((time.perf_counter() - started, rss_of(pid)))
            await asyncio.sleep(1)

    async with httpx.AsyncClient(base_url=url, timeout=REQUEST_LIMIT_S, limits=limits) as client:
        watcher = asyncio.create_task(watch())
        await asyncio.gather(*(one(client) for _ in range(n_clients)))
        watcher.cancel()
    found.seconds = time.perf_counter() - started
    return found


async def differences(url: str, answers: list[tuple[Request, str]], texts: Texts) -> int:
    """How many of these are other texts when they are asked for alone."""
    n, limits = 0, httpx.Limits(max_keepalive_connections=0)  # llama-server closes those that waited
    async with httpx.AsyncClient(base_url=url, timeout=REQUEST_LIMIT_S, limits=limits) as client:
        for request, text in answers:
            n += await ask(client, request, texts, Found(), None) != text
    return n


def rss_of(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(found: Found) -> float | None:
    """Of memory, between the second fifth and the last one."""
    early = [rss for at, rss in found.rss if WARM_UP * found.seconds <= at <= (WARM_UP + 0.2) * found.seconds]
    late = [rss for at, rss in found.rss if at >= 0.8 * found.seconds]
    return max(late) / max(early) - 1 if early and late else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="a GGUF file or a known model's name; with --url that server's")
    parser.add_argument("--server", choices=SERVERS, default="maskprobe", help="who is started (default: maskprobe)")
    parser.add_argument("--server-python", metavar="FILE", default=sys.executable, help="the Python that has it")
    parser.add_argument("--url", help="of a server that runs already, instead of one that is started")
    parser.add_argument("--pid", type=int, help="its process, whose memory is looked at")
    parser.add_argument("-n", "--clients", type=int, default=16)
    parser.add_argument("-s", "--seconds", type=float, default=60)
    parser.add_argument("--alone", metavar="S", type=float, help="seconds of one client; default: a third of -s")
    parser.add_argument("-np", "--parallel", type=int, default=8, help="texts at once, of a server that has these")
    parser.add_argument("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the server")
    parser.add_argument("--sample", type=int, default=30, help="answers that are asked for again, alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("options", nargs="*", help="of the server, after --")
    args = parser.parse_args()
    path = resolve_model(args.model)
    with Model(path, kernels="stock") as model:
        texts = Texts(model)
        if args.url:
            return measure(args, args.url, args.pid, texts)
        setting = Setting(str(path), args.parallel, args.threads, args.options)
        with Server(args.server, args.server_python, setting) as server:
            return measure(args, server.url, server.pid, texts)


def measure(args: argparse.Namespace, url: str, pid: int | None, texts: Texts) -> int:
    form = known_response_format(url)
    seconds = args.seconds / 3 if args.alone is None else args.alone
    alone = asyncio.run(run_load(url, requests(texts, args.seed, form), texts, 1, seconds, None))
    found = asyncio.run(run_load(url, requests(texts, args.seed + 1, form), texts, args.clients, args.seconds, pid))
    sample = random.Random(args.seed).sample(found.answers, min(args.sample, len(found.answers)))
    n_different = asyncio.run(differences(url, sample, texts))
    return report(
        args, alone, found, len(sample), n_different, "none: it takes no schema" if form is None else form["type"]
    )


def middle_and_95(found: Found) -> str:
    waits = sorted(found.first_token_s)
    return f"{waits[len(waits) // 2]:.2f}, {waits[int(0.95 * len(waits))]:.2f}" if waits else "-"


def report(args: argparse.Namespace, alone: Found, found: Found, n_sample: int, n_different: int, schemas: str) -> int:
    grown = growth(found)
    rate, rate_alone = found.n_tokens / found.seconds, alone.n_tokens / alone.seconds
    rows = [
        ("server", args.url or args.server),
        ("clients", args.clients),
        ("seconds", f"{found.seconds:.0f}"),
        ("answers", ", ".join(f"{n} {kind}" for kind, n in sorted(found.kinds.items()))),
        ("schemas, as response_format", schemas),
        ("errors", len(found.errors)),
        ("asked again alone, other text", f"{n_different} of {n_sample}"),
        ("tokens/s", f"{rate:.1f}"),
        ("tokens/s of one client", f"{rate_alone:.1f}"),
        ("ratio", f"{rate / rate_alone:.2f}" if rate_alone else "-"),
        ("first token, median and 95 %, s", middle_and_95(found)),
        ("of one client", middle_and_95(alone)),
        ("memory, MiB", f"{max(rss for _, rss in found.rss) / MIB:.0f}" if found.rss else "-"),
        ("growth of memory", "-" if grown is None else f"{100 * grown:.1f} %"),
    ]
    print("| | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    for error, n in Counter(found.errors + alone.errors).most_common(5):
        print(f"{n} x {error}", file=sys.stderr)
    return int(bool(found.errors or alone.errors or n_different or (grown or 0) > FLAT))


if __name__ == "__main__":
    sys.exit(main())

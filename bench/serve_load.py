"""maskprobe-serve under load: many clients, some of which go away, some with schemas; and the same answers alone.

    python bench/serve_load.py -m MODEL -n 16 -s 60
    python bench/serve_load.py --url http://127.0.0.1:8080 -n 64 -s 600     of a server that runs already

Prompts have 50 to 1500 tokens, answers 20 to 300. A tenth of the clients' requests is given up under way, a tenth has a
JSON schema, half are greedy, half are seeded. Afterwards a sample of the answers is asked for again, alone. Exit status
1 where an answer failed, a text differs, or memory grows.
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

PROMPTS = Path(__file__).parent / "prompts"
PROMPT_TOKENS, ANSWER_TOKENS = (50, 1500), (20, 300)
GIVEN_UP, WITH_SCHEMA = 0.1, 0.1
WARM_UP = 0.4  # of the time: from then on memory must be flat
FLAT = 0.02
MIB = 1 << 20
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 60},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 4},
        "year": {"type": "integer", "minimum": 1900, "maximum": 2100},
    },
    "required": ["title", "tags", "year"],
    "additionalProperties": False,
}


@dataclass
class Found:
    """What came of a load."""

    kinds: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    answers: list[tuple[dict[str, Any], str]] = field(
        default_factory=list
    )  # request, text; of those that were finished
    first_token_s: list[float] = field(default_factory=list)
    n_tokens: int = 0
    rss: list[tuple[float, int]] = field(default_factory=list)  # seconds since the start, bytes
    seconds: float = 0.0


class Requests:
    """Made-up requests, the same for the same seed."""

    def __init__(self, tokens: list[int], seed: int) -> None:
        self._tokens, self._random = tokens, random.Random(seed)

    def next(self) -> dict[str, Any]:
        draw = self._random
        n = draw.randint(*PROMPT_TOKENS)
        begin = draw.randrange(max(1, len(self._tokens) - n))
        body: dict[str, Any] = {"max_tokens": draw.randint(*ANSWER_TOKENS), "stream": True}
        body["stream_options"] = {"include_usage": True}
        if draw.random() < 0.5:
            body["temperature"] = 0
        else:
            body |= {"temperature": 0.8, "seed": draw.randrange(2**31)}
        if draw.random() < WITH_SCHEMA:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "book", "schema": SCHEMA}}
            body["messages"] = [{"role": "user", "content": "Describe a book as JSON."}]
        else:
            body["prompt"] = self._tokens[begin : begin + n]
        return body

    def gives_up(self) -> bool:
        return self._random.random() < GIVEN_UP


async def ask(client: httpx.AsyncClient, body: dict[str, Any], found: Found, stops_at: int | None) -> str | None:
    """The text; None where it was given up after `stops_at` pieces, or failed."""
    route = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    started, pieces, usage, reason = time.perf_counter(), [], None, None
    async with client.stream("POST", route, json=body) as answer:
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
                if not pieces:
                    found.first_token_s.append(time.perf_counter() - started)
                pieces.append(choice.get("text") or choice.get("delta", {}).get("content") or "")
                reason = choice["finish_reason"] or reason
            if stops_at is not None and len(pieces) >= stops_at:
                found.kinds["given up"] += 1
                return None
    if usage is None or reason is None:
        found.errors.append("the stream ended before its end")
        return None
    found.n_tokens += usage["completion_tokens"]
    if "messages" in body and reason == "stop":
        json.loads("".join(pieces))
    return "".join(pieces)


async def run_load(url: str, requests: Requests, n_clients: int, seconds: float, pid: int | None) -> Found:
    found = Found()
    started = time.perf_counter()
    limits = httpx.Limits(max_connections=None)

    async def one(client: httpx.AsyncClient) -> None:
        while time.perf_counter() - started < seconds:
            body = requests.next()
            stops_at = random.randint(1, 10) if requests.gives_up() else None
            try:
                text = await ask(client, body, found, stops_at)
            except (httpx.HTTPError, ValueError) as error:
                found.errors.append(f"{type(error).__name__}: {error}")
                continue
            if text is not None:
                found.kinds[
                    "with a schema" if "messages" in body else "greedy" if not body["temperature"] else "seeded"
                ] += 1
                found.answers.append((body, text))

    async def watch() -> None:
        while True:
            if pid is not None:
                found.rss.append((time.perf_counter() - started, rss_of(pid)))
            await asyncio.sleep(1)

    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        watcher = asyncio.create_task(watch())
        await asyncio.gather(*(one(client) for _ in range(n_clients)))
        watcher.cancel()
    found.seconds = time.perf_counter() - started
    return found


async def differences(url: str, answers: list[tuple[dict[str, Any], str]]) -> int:
    """How many of these are other texts when they are asked for alone."""
    n = 0
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        for body, text in answers:
            n += await ask(client, body, Found(), None) != text
    return n


def rss_of(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(found: Found) -> float | None:
    """Of memory, between the second fifth and the last one."""
    early = [rss for at, rss in found.rss if WARM_UP * found.seconds <= at <= (WARM_UP + 0.2) * found.seconds]
    late = [rss for at, rss in found.rss if at >= 0.8 * found.seconds]
    return max(late) / max(early) - 1 if early and late else None


def start(args: argparse.Namespace) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "maskprobe.cli.serve", "-m", args.model, "--port", "0", "-c", "2048", "--no-state"]
    server = subprocess.Popen([*command, "-np", str(args.parallel), *args.options], stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if listening := re.search(r"listening at (\S+)", line):
            threading.Thread(target=server.stderr.read, daemon=True).start()  # its log, which nobody reads
            return server, listening[1]
    raise SystemExit("the server did not start")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2")
    parser.add_argument("--url", help="of a server that runs already; its memory is not looked at")
    parser.add_argument("-n", "--clients", type=int, default=16)
    parser.add_argument("-s", "--seconds", type=float, default=60)
    parser.add_argument("-np", "--parallel", type=int, default=8)
    parser.add_argument("--sample", type=int, default=30, help="answers that are asked for again, alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("options", nargs="*", help="of the server, after --")
    args = parser.parse_args()
    server, url = (None, args.url) if args.url else start(args)
    try:
        texts = "\n".join(path.read_text(encoding="utf-8") for path in sorted(PROMPTS.glob("*.txt")))
        tokens = httpx.post(f"{url}/tokenize", json={"content": texts}, timeout=600).json()["tokens"]
        tokens = (tokens * (1 + 4 * PROMPT_TOKENS[1] // len(tokens)))[: 64 * PROMPT_TOKENS[1]]
        alone = asyncio.run(run_load(url, Requests(tokens, args.seed), 1, args.seconds / 3, None))
        pid = None if server is None else server.pid
        found = asyncio.run(run_load(url, Requests(tokens, args.seed + 1), args.clients, args.seconds, pid))
        sample = random.Random(args.seed).sample(found.answers, min(args.sample, len(found.answers)))
        n_different = asyncio.run(differences(url, sample))
    finally:
        if server is not None:
            server.terminate()
            server.wait(120)
    return report(args, alone, found, len(sample), n_different)


def report(args: argparse.Namespace, alone: Found, found: Found, n_sample: int, n_different: int) -> int:
    grown = growth(found)
    waits = sorted(found.first_token_s) or [0.0]
    rate, rate_alone = found.n_tokens / found.seconds, alone.n_tokens / alone.seconds
    rows = [
        ("clients", args.clients),
        ("seconds", f"{found.seconds:.0f}"),
        ("answers", ", ".join(f"{n} {kind}" for kind, n in sorted(found.kinds.items()))),
        ("errors", len(found.errors)),
        ("asked again alone, other text", f"{n_different} of {n_sample}"),
        ("tokens/s", f"{rate:.1f}"),
        ("tokens/s of one client", f"{rate_alone:.1f}"),
        ("ratio", f"{rate / rate_alone:.2f}" if rate_alone else "-"),
        ("first token, median and 95 %, s", f"{waits[len(waits) // 2]:.2f}, {waits[int(0.95 * len(waits))]:.2f}"),
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

"""Stands in for xllamacpp: its names, as far as bench_peer_worker.py uses them. With ngram-simple every second token is
said to be an accepted draft; draft-mtp cannot start."""

import enum
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import greedy

TYPES = ["NONE", "DRAFT_SIMPLE", "DRAFT_MTP", "NGRAM_SIMPLE", "COUNT"]
common_speculative_type = enum.IntEnum(
    "common_speculative_type", {f"COMMON_SPECULATIVE_TYPE_{name}": i for i, name in enumerate(TYPES)}
)
llama_flash_attn_type = SimpleNamespace(LLAMA_FLASH_ATTN_TYPE_DISABLED=0)


class CommonParams:
    def __init__(self):
        self.model = SimpleNamespace(path="")
        self.cpuparams, self.cpuparams_batch = SimpleNamespace(n_threads=0), SimpleNamespace(n_threads=0)
        self.speculative = SimpleNamespace(types=[], ngram_simple=SimpleNamespace(size_m=48))
        self.n_ctx = self.n_parallel = 0


class Server:
    def __init__(self, params):
        (kind,) = params.speculative.types
        if kind == common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_MTP:
            raise RuntimeError("Failed to init server")
        drafts = kind == common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE
        size_m = params.speculative.ngram_simple.size_m
        llama = greedy.opened(params.model.path, params.n_ctx, params.cpuparams.n_threads)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                assert self.path == "/completion"
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                tokens = generated(llama, body["prompt"], body["n_predict"])
                times = {"predicted_n": len(tokens), "predicted_ms": 10.0 * (len(tokens) - 1)}
                if drafts:
                    accepted = (len(tokens) - 1) // 2
                    times |= {"draft_n": accepted + size_m, "draft_n_accepted": accepted}
                ends = tokens[-1] == llama.token_eos()
                data = json.dumps({"tokens": tokens[:-1] if ends else tokens, "timings": times}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        http = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        self.listening_address = f"http://127.0.0.1:{http.server_port}"


def generated(llama, prompt, n):
    llama.reset()
    llama.eval(prompt)
    tokens = []
    while len(tokens) < n and llama.token_eos() not in tokens:
        tokens.append(greedy.draw(llama))
        llama.eval(tokens[-1:])
    return tokens

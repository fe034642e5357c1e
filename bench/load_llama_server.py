"""llama-server, as xllamacpp has it, in this process: started by load_servers.py, ends with its standard input.

    python bench/load_llama_server.py '{"model": FILE, "n_ctx": 2048, "n_parallel": 8, "n_threads": 2}'

n_ctx is that of each slot. The rest are llama-server's defaults: continuous batching, its prompt cache.
"""

import json
import sys

import xllamacpp


def main() -> None:
    asked = json.loads(sys.argv[1])
    params = xllamacpp.CommonParams()
    params.model.path = asked["model"]
    params.n_parallel = asked["n_parallel"]
    params.n_ctx = asked["n_ctx"] * asked["n_parallel"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked["n_threads"]
    params.n_threads_http = asked["n_parallel"] + 2  # a thread for each answer that streams
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(f"listening at {server.listening_address}", file=sys.stderr, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()

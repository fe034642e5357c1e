"""Downloads, against a local server that speaks the few endpoints of the Hub that are needed."""

import functools
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from maskprobe import hub
from maskprobe.llama_hub import fetch_model

huggingface_hub = pytest.importorskip("huggingface_hub")

DEAD_LINE = [0] * 6  # huggingface_hub asks once and again five times
BLOCK = 4096

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/tiny-GGUF"


def content(name: str, size: int = 20_000) -> bytes:
    """Bytes that differ from place to place, so that a resume at a wrong place is seen."""
    blocks = (hashlib.sha256(f"{name}/{i}".encode()).digest() for i in range(size // 32 + 1))
    return b"".join(blocks)[:size]


class FakeHub(ThreadingHTTPServer):
    """Serves one repository. `limits`: after how many bytes the line breaks in the next answers; then it holds."""

    daemon_threads = True

    def __init__(self, names: list[str]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {name: content(name) for name in names}
        self.limits: list[int] = []
        self.ignore_range = False
        self.gated = False
        self.ranges: list[str | None] = []  # of each GET of a file

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == f"/api/models/{REPO}":
            self.answer(200, json.dumps(self.description()).encode(), {"Content-Type": "application/json"})
        elif path.startswith(prefix := f"/{REPO}/resolve/{COMMIT}/") and path[len(prefix) :] in self.server.files:
            self.send_file(self.server.files[path[len(prefix) :]])
        elif path == "/api/models/someone/gated":
            self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        else:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    def description(self) -> dict:
        siblings = [
            {
                "rfilename": name,
                "size": len(data),
                "blobId": "0" * 40,
                "lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 100},
            }
            for name, data in self.server.files.items()
        ]
        return {"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": "README.md", "size": 3}, *siblings]}

    def send_file(self, data: bytes) -> None:
        if self.server.gated:
            self.answer(401, b"", {"X-Error-Code": "GatedRepo"})
            return
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        headers = {"ETag": '"' + hashlib.sha256(data).hexdigest() + '"', "X-Repo-Commit": COMMIT}
        if wanted is not None and not self.server.ignore_range:
            start, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
            headers["Content-Range"] = f"bytes {start}-{last}/{len(data)}"
            self.answer(206, data[start : last + 1], headers)
            return
        self.answer(200, data, headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        limit = self.server.limits.pop(0) if "ETag" in headers and self.server.limits else None
        self.wfile.write(body[:limit])
        self.close_connection = limit is not None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """serve(names...) -> a running FakeHub; downloads land under tmp_path."""
    servers = []

    def start(*names: str) -> FakeHub:
        servers.append(FakeHub(list(names)))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1]

    in_tmp = functools.partial(huggingface_hub.cached_assets_path, assets_dir=tmp_path)
    monkeypatch.setattr(huggingface_hub, "cached_assets_path", in_tmp)
    monkeypatch.setattr(hub, "FIRST_BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(hub, "MAX_BLOCK_BYTES", BLOCK)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_complete_download(serve):
    server = serve("tiny-Q8_0.gguf", "tiny-Q4_K_M.gguf", "mmproj-tiny-Q4_K_M.gguf")
    seen = []
    path = hub.download(REPO, endpoint=server.endpoint, progress=lambda done, total: seen.append((done, total)))
    assert path.name == "tiny-Q4_K_M.gguf"
    assert path.read_bytes() == server.files["tiny-Q4_K_M.gguf"]
    assert seen == sorted(seen)
    assert seen[-1] == (20_000, 20_000)
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".part"] == []


def test_second_call_downloads_nothing(serve):
    server = serve("tiny-Q8_0.gguf")
    first = hub.download(REPO, endpoint=server.endpoint)
    n_requests = len(server.ranges)
    assert hub.download(f"{REPO}:q8_0", endpoint=server.endpoint) == first
    assert len(server.ranges) == n_requests


def test_blocks_grow_on_a_fast_line(serve, monkeypatch):
    monkeypatch.setattr(hub, "MAX_BLOCK_BYTES", 2 * BLOCK)
    server = serve("tiny-Q8_0.gguf")
    hub.download(REPO, endpoint=server.endpoint)
    assert server.ranges == ["bytes=0-4095", "bytes=4096-12287", "bytes=12288-19999"]


def test_resumes_in_the_next_call(serve):
    server = serve("tiny-Q8_0.gguf")
    server.limits = [BLOCK, BLOCK, 100, *DEAD_LINE]
    with pytest.raises(hub.DownloadError, match="broke off, the same command resumes it") as caught:
        hub.download(REPO, endpoint=server.endpoint)
    assert "\n" not in str(caught.value)
    server.limits.clear()
    server.ranges.clear()
    seen = []
    path = hub.download(REPO, endpoint=server.endpoint, progress=lambda done, total: seen.append(done))
    assert path.read_bytes() == server.files["tiny-Q8_0.gguf"]
    assert server.ranges[0] == f"bytes={2 * BLOCK}-{3 * BLOCK - 1}"
    assert seen == [3 * BLOCK, 4 * BLOCK, 20_000]


def test_goes_on_when_the_line_breaks_for_a_moment(serve):
    server = serve("tiny-Q8_0.gguf")
    server.limits = [BLOCK, 2000, 0]
    path = hub.download(REPO, endpoint=server.endpoint)
    assert path.read_bytes() == server.files["tiny-Q8_0.gguf"]


def test_server_without_ranges_is_refused(serve):
    server = serve("tiny-Q8_0.gguf")
    server.ignore_range = True
    with pytest.raises(hub.DownloadError, match="whole files only"):
        hub.download(REPO, endpoint=server.endpoint)


def test_gated_file_is_refused(serve):
    server = serve("tiny-Q8_0.gguf")
    server.gated = True
    with pytest.raises(hub.DownloadError, match="licence"):
        hub.download(REPO, endpoint=server.endpoint)


def iter_parts(server: FakeHub):
    folder = huggingface_hub.cached_assets_path("maskprobe", namespace="models", subfolder=REPO)
    yield from folder.glob("*/*.part")


def test_damaged_content_is_refused_and_removed(serve):
    server = serve("tiny-Q8_0.gguf")
    server.limits = DEAD_LINE.copy()
    with pytest.raises(hub.DownloadError):
        hub.download(REPO, endpoint=server.endpoint)
    next(iter_parts(server)).write_bytes(b"x" * 7000)
    server.limits.clear()
    with pytest.raises(hub.DownloadError, match="not what the Hub announced"):
        hub.download(REPO, endpoint=server.endpoint)
    assert list(iter_parts(server)) == []
    path = hub.download(REPO, endpoint=server.endpoint)
    assert path.read_bytes() == server.files["tiny-Q8_0.gguf"]


def test_split_model_is_fetched_whole(serve):
    names = [f"Q4_0/tiny-Q4_0-{i:05d}-of-00003.gguf" for i in (1, 2, 3)]
    server = serve("tiny-F16.gguf", *reversed(names))
    path = hub.download(f"{REPO}:Q4_0", endpoint=server.endpoint)
    assert path.name == "tiny-Q4_0-00001-of-00003.gguf"
    for name in names:
        assert (path.parent / name.rpartition("/")[2]).read_bytes() == server.files[name]


def test_new_upload_is_fetched_again(serve):
    server = serve("tiny-Q8_0.gguf")
    old = hub.download(REPO, endpoint=server.endpoint)
    server.files["tiny-Q8_0.gguf"] = content("another upload")
    new = hub.download(REPO, endpoint=server.endpoint)
    assert new != old
    assert new.read_bytes() == server.files["tiny-Q8_0.gguf"]


def test_without_network_the_kept_copy_serves(serve):
    server = serve("tiny-Q8_0.gguf")
    path = hub.download(REPO, endpoint=server.endpoint)
    nowhere = "http://127.0.0.1:9"  # the discard port: nobody listens
    assert hub.download(REPO, endpoint=nowhere) == path
    assert hub.download(f"{REPO}:Q8_0", endpoint=nowhere) == path
    for spec in (f"{REPO}:Q4_0", "someone/never-seen"):
        with pytest.raises(hub.DownloadError, match="cannot reach the Hub") as caught:
            hub.download(spec, endpoint=nowhere)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("someone/missing", "there is no repository someone/missing"),
        ("someone/gated", "licence"),
        (f"{REPO}:Q2_K", "has no Q2_K; it has BF16, Q4_K_M, UD-IQ2_XXS"),
        (f"{REPO}:F16", "has no F16"),
        (f"{REPO}:Q4_K", "has no Q4_K"),
        ("justaname", "not of the form user/repo"),
        ("a/b/c", "not of the form user/repo"),
        (f"{REPO}:", "not of the form user/repo"),
        ("some..one/x", "not a repository name"),
    ],
)
def test_refusals(serve, spec, message):
    server = serve("tiny-Q4_K_M.gguf", "tiny-BF16.gguf", "tiny-UD-IQ2_XXS.gguf")
    with pytest.raises(hub.DownloadError, match=re.escape(message)) as caught:
        hub.download(spec, endpoint=server.endpoint)
    assert "\n" not in str(caught.value)
    assert server.ranges == []


def test_the_hub_goes_away_between_the_list_and_the_file(monkeypatch):
    def gone(*_args, **_settings):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_args, **_settings: ["m.gguf"])
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gone)
    with pytest.raises(hub.DownloadError, match="is not here: no connection"):
        fetch_model("some/repo", "m.gguf", (), None, None)


def test_repository_without_a_model(serve):
    server = serve("mmproj-x.gguf", "model.safetensors")
    with pytest.raises(hub.DownloadError, match="no GGUF model"):
        hub.download(REPO, endpoint=server.endpoint)


@pytest.mark.parametrize(
    ("names", "quant", "chosen"),
    [
        (["a-F16.gguf", "a-Q8_0.gguf", "a-Q4_K_M.gguf"], None, "a-Q4_K_M.gguf"),
        (["a-F16.gguf", "a-Q8_0.gguf"], None, "a-Q8_0.gguf"),
        (["b.gguf", "a.gguf", "mmproj-a.gguf"], None, "a.gguf"),
        (["a-BF16.gguf", "a-F16.gguf"], "f16", "a-F16.gguf"),
        (["a-UD-Q4_K_M.gguf", "a-Q4_K_M.gguf"], "Q4_K_M", "a-Q4_K_M.gguf"),
        (["a-Q4_0_4_4.gguf", "a-IQ4_0.gguf", "a.Q4_0.gguf"], "Q4_0", "a.Q4_0.gguf"),
    ],
)
def test_choice(names, quant, chosen):
    assert hub.choose(names, quant, REPO) == [chosen]


def test_split_model_with_a_missing_part():
    with pytest.raises(hub.DownloadError, match=r"lacks a-00002-of-00002\.gguf"):
        hub.choose(["a-00001-of-00002.gguf"], None, REPO)

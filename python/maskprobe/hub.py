"""Models from the Hugging Face Hub: `download("user/repo:quant")` gives the path of a local GGUF file.

huggingface_hub does the talking (endpoint, token, mirrors, retries). The file is put together here, because its own
download drops what it has when the process ends, and a model is large and a line may be slow:

    <assets cache>/maskprobe/models/user--repo/<version>/<name>.gguf        complete and checked
    <assets cache>/maskprobe/models/user--repo/<version>/<name>.gguf.part   the next call goes on from here

<version> is made of the files' hashes, so a new upload is a new folder and a new README is not. The parts of a split
model lie side by side, as llama.cpp wants them.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .errors import ModelError

# Which quantisation is taken when none is asked for, llama.cpp's choice.
PREFERRED_QUANTS = ("Q4_K_M", "Q8_0")

# Files that end in .gguf and are no language model.
NOT_A_MODEL = re.compile(r"mmproj|imatrix|(?<![a-z0-9])ggml-vocab", re.IGNORECASE)

SPEC = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?::(?P<quant>[\w.-]+))?")
SPLIT = re.compile(r"-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf$")
QUANT_TAG = re.compile(r"(?<![A-Z0-9])(?:(?:UD-)?[IT]?Q\d(?:_[A-Z0-9]+)*|MXFP4(?:_MOE)?|BF16|FP?16|FP?32)(?![A-Z0-9_])")

LICENCE = "{} wants its licence accepted: do so on its page, then `hf auth login`"

TIMEOUT_S = 15.0  # of silence on the line

# One request each. They grow while a block takes less than a second: an interrupt loses little, and so does latency.
FIRST_BLOCK_BYTES = 1 << 20
MAX_BLOCK_BYTES = 64 << 20

# Bytes done so far and bytes in all, over all files of the model.
Progress = Callable[[int, int], None]


class DownloadError(ModelError):
    """The model could not be fetched."""

    status = "file"


@dataclass(frozen=True)
class RemoteFile:
    name: str  # path inside the repository
    size: int
    sha256: str

    @property
    def local_name(self) -> str:
        return PurePosixPath(self.name).name  # without the folders, so that no name leads outside


def download(repo_spec: str, *, progress: Progress | None = None, endpoint: str | None = None) -> Path:
    """Fetches "user/repo[:quant]" unless it is here already, and returns the GGUF file (of a split model: its first).

    An interrupted download goes on where it stopped. Without a network the copy fetched earlier is used.
    """
    repo, quant = parse_spec(repo_spec)
    import huggingface_hub  # here, because it takes a while and is seldom needed
    from huggingface_hub.errors import GatedRepoError, HTTPError

    folder = huggingface_hub.cached_assets_path("maskprobe", namespace="models", subfolder=repo)
    try:
        commit, remote = list_files(repo, endpoint)
    except (HTTPError, OSError) as error:
        kept = newest_local(folder, quant)
        if kept is None:
            raise DownloadError(f"cannot reach the Hub for {repo}, and no copy is here: {one_line(error)}") from None
        return kept
    files = [remote[name] for name in choose(list(remote), quant, repo)]

    cached = [huggingface_hub.try_to_load_from_cache(repo, file.name, revision=commit) for file in files]
    here = [path for path in cached if isinstance(path, str)]
    if len(here) == len(files):
        return Path(here[0])  # another program on this machine has it already

    target = folder / hashlib.sha256(" ".join(file.sha256 for file in files).encode()).hexdigest()[:16]
    target.mkdir(parents=True, exist_ok=True)
    finished, total = 0, sum(file.size for file in files)
    for file in files:
        url = huggingface_hub.hf_hub_url(repo, file.name, revision=commit, endpoint=endpoint)
        try:
            for have in fetch(url, file, target):
                if progress is not None:
                    progress(finished + have, total)
        except GatedRepoError:  # such a repository shows its list to everybody
            raise DownloadError(LICENCE.format(repo)) from None
        except (HTTPError, OSError) as error:
            why = f"the download of {file.local_name} broke off, the same command resumes it: {one_line(error)}"
            raise DownloadError(why) from None
        finished += file.size
    return target / files[0].local_name


def list_files(repo: str, endpoint: str | None) -> tuple[str, dict[str, RemoteFile]]:
    """The newest commit of a repository and its large files by name. Network failures pass through as they are."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        hub = huggingface_hub.HfApi(endpoint=endpoint, library_name="maskprobe")
        info = hub.model_info(repo, files_metadata=True, timeout=TIMEOUT_S)
    except HFValidationError as error:
        raise DownloadError(f"'{repo}' is not a repository name: {one_line(error)}") from None
    except GatedRepoError:
        raise DownloadError(LICENCE.format(repo)) from None
    except RepositoryNotFoundError:
        raise DownloadError(f"there is no repository {repo} on the Hub, or it is private: `hf auth login`") from None
    return info.sha or "main", {
        file.rfilename: RemoteFile(file.rfilename, file.lfs.size, file.lfs.sha256)
        for file in info.siblings or []
        if file.lfs is not None  # as every model is
    }


def parse_spec(repo_spec: str) -> tuple[str, str | None]:
    match = SPEC.fullmatch(repo_spec)
    if match is None:
        raise DownloadError(f"'{repo_spec}' is not of the form user/repo[:quant]")
    return match["repo"], match["quant"]


def choose(names: list[str], quant: str | None, repo: str) -> list[str]:
    """The files of the one model that is meant: a single GGUF, or all parts of a split one in their order."""
    models = [name for name in names if name.lower().endswith(".gguf") and not NOT_A_MODEL.search(name)]
    firsts = sorted((name for name in models if split_index(name) <= 1), key=lambda name: (len(name), name))
    if not firsts:
        raise DownloadError(f"there is no GGUF model in {repo}")

    first = next((found for tag in ([quant] if quant else PREFERRED_QUANTS) if (found := with_tag(firsts, tag))), None)
    if first is None and quant is not None:
        present = sorted({tag for name in firsts for tag in QUANT_TAG.findall(name.upper())} or set(firsts))
        raise DownloadError(f"{repo} has no {quant}; it has {', '.join(present)}")
    if first is None:
        first = min(firsts)

    match = SPLIT.search(first)
    if match is None:
        return [first]
    parts = [f"{first[: match.start()]}-{i:05d}-of-{match['count']}.gguf" for i in range(1, int(match["count"]) + 1)]
    missing = sorted(set(parts) - set(models))
    if missing:
        raise DownloadError(f"{repo} lacks {missing[0]}, a part of a split model")
    return parts


def split_index(name: str) -> int:
    match = SPLIT.search(name)
    return int(match["index"]) if match else 0


def with_tag(names: list[str], tag: str) -> str | None:
    """The first name that carries the tag as a word: Q4_K is not in "x-Q4_K_M.gguf", nor F16 in "x-BF16.gguf"."""
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(tag)}(?![A-Za-z0-9_])", re.IGNORECASE)
    return next((name for name in names if word.search(name)), None)


def newest_local(folder: Path, quant: str | None) -> Path | None:
    """What an earlier call fetched, for use without a network."""
    for version in sorted((path for path in folder.iterdir() if path.is_dir()), key=os.path.getmtime, reverse=True):
        try:
            return version / choose([path.name for path in version.glob("*.gguf")], quant, folder.name)[0]
        except DownloadError:
            continue
    return None


def fetch(url: str, file: RemoteFile, target: Path) -> Iterator[int]:
    """One file into `target`, block by block after what is there of it; compared with its hash, it gets its name.

    Yields the number of bytes that are there.
    """
    from huggingface_hub.utils import WeakFileLock, build_hf_headers, hf_raise_for_status, http_backoff

    complete = target / file.local_name
    part = target / f"{file.local_name}.part"
    with WeakFileLock(target / f"{file.local_name}.lock"):  # two commands at once would write into one file
        if complete.exists():
            return
        headers = {**build_hf_headers(library_name="maskprobe"), "Accept-Encoding": "identity"}
        with part.open("ab") as out:
            if out.tell() > file.size:
                out.truncate(0)
            block = FIRST_BLOCK_BYTES
            while (have := out.tell()) < file.size:
                started = time.monotonic()
                headers["Range"] = f"bytes={have}-{min(have + block, file.size) - 1}"
                response = http_backoff("GET", url, headers=headers, timeout=TIMEOUT_S)
                hf_raise_for_status(response)
                if len(response.content) > block:
                    raise OSError("the server sends whole files only")
                out.write(response.content)
                yield out.tell()
                if time.monotonic() - started < 1.0 and block < MAX_BLOCK_BYTES:
                    block *= 2
        if sha256_of(part) != file.sha256:
            part.unlink()
            raise OSError("its content is not what the Hub announced; it was removed")
        part.replace(complete)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__

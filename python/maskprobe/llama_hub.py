"""Llama.from_pretrained(): a file of a repository on the Hugging Face Hub, by name or pattern."""

import fnmatch
import os
from collections.abc import Sequence
from typing import Any

from .hub import DownloadError, download, one_line


def fetch_model(
    repo_id: str,
    filename: str | None,
    additional_files: Sequence[str],
    local_dir: str | os.PathLike[str] | None,
    cache_dir: str | os.PathLike[str] | None,
) -> str:
    """The path of the one file that `filename` fits, in huggingface_hub's cache or in `local_dir`; the additional files
    lie beside it. Without a filename: what hub.download() takes. Raises ModelError.

    Where the Hub cannot be reached, a file that is there by its exact name is used."""
    if filename is None:
        return os.fspath(download(repo_id))
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError

    names, why = None, ""
    try:
        names = huggingface_hub.HfApi(library_name="maskprobe").list_repo_files(repo_id)
    except HFValidationError as error:
        raise DownloadError(f"'{repo_id}' is not a repository name: {one_line(error)}") from None
    except (HTTPError, OSError) as error:
        why = one_line(error)
    where: dict[str, Any] = {"local_dir": local_dir, "cache_dir": cache_dir, "local_files_only": names is None}
    paths = []
    for pattern in (filename, *additional_files):
        try:
            name = pattern if names is None else only_match(names, pattern, repo_id)
            paths.append(str(huggingface_hub.hf_hub_download(repo_id, name, **where)))
        except LocalEntryNotFoundError as error:  # or the Hub went away after it was asked
            why = why or one_line(error)
            raise DownloadError(f"cannot reach the Hub for {repo_id}, and {pattern} is not here: {why}") from None
        except (HTTPError, OSError) as error:
            raise DownloadError(f"{name} of {repo_id} cannot be fetched: {one_line(error)}") from None
    return paths[0]


def only_match(names: Sequence[str], pattern: str, repo_id: str) -> str:
    """The one name that a pattern fits."""
    found = [name for name in names if fnmatch.fnmatch(name, pattern)]
    if len(found) != 1:
        models = ", ".join(found or [name for name in names if name.endswith(".gguf")] or ["no GGUF file"])
        what = f"{len(found)} files that fit" if found else "no file that fits"
        raise DownloadError(f"{repo_id} has {what} {pattern!r}: {models}")
    return found[0]

"""Where the benchmarks find what the installed package does not have, and where they keep what they make once."""

from pathlib import Path

import huggingface_hub


def checkout_file(relative: str) -> Path | None:
    """A file of the checkout that this is run in, or that this package lies in."""
    here = Path(__file__).resolve()
    for folder in (Path.cwd(), *Path.cwd().parents, *here.parents):
        if (path := folder / relative).is_file():
            return path
    return None


def cache_folder(name: str) -> Path:
    """A folder for files that can be made again; it is made if it does not exist."""
    folder = Path(huggingface_hub.cached_assets_path("maskprobe", namespace="bench", subfolder=name))
    folder.mkdir(parents=True, exist_ok=True)
    return folder

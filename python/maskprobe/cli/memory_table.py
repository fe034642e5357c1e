"""--memory: what a model, its context and its sessions will take, and whether that fits."""

from pathlib import Path

from ..memory import Memory

MIB = 1 << 20


def table(path: Path, found: Memory, n_parallel: int) -> str:
    """The figures, a line each; what is 0 is left out, but for the weights."""
    sessions = f"{n_parallel} x {found.n_ctx} tokens"
    rows = [
        ("weights, mapped from the file", found.mapped, "dropped and read again where memory is short"),
        ("weights, packed or read", found.packed, f"{found.kernels}: {found.note}"),
        ("cache", found.cache, sessions),
        ("compute buffers", found.compute, ""),
        ("logits", found.logits, ""),
        ("what is learned", found.tables, ""),
        ("adapters, heads, masks", found.files, ""),
        ("in all", found.total, ""),
        ("this process so far", found.process, "with the vocabulary; it comes on top"),
        ("on a GPU or other hosts", found.on_gpu, "beside all that"),
    ]
    lines = [f"{path.name}:"]
    for name, size, what in rows:
        if size or name.startswith(("weights", "in all")):
            lines.append(f"  {name:30} {size / MIB:9.1f} MiB  {what}".rstrip())
    free = "not known" if found.free < 0 else f"{found.free / MIB:9.1f} MiB"
    lines.append(f"  {'free for this process':30} {free}")
    return "\n".join([*lines, f"  {found.problem}" if found.problem else "  it fits", ""])

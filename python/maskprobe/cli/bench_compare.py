"""Two reports beside each other: what this machine has of what the other one has."""

from .bench_decoders import DECODERS, DRAFTED, LLAMA_CPP, PLAIN
from .bench_report_page import OURS, passes_of
from .bench_table import Column, Row, markdown

SHAPES = (8, 16, 32)  # rows of passes that are told beside one row

COLUMNS: list[Column] = [
    ("", lambda row: row["what"]),
    ("here", lambda row: shown(row["here"])),
    ("there", lambda row: shown(row["there"])),
    ("here / there", lambda row: f"{row['here'] / row['there']:.2f}" if row["there"] else "-"),
]


def shown(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def comparison(here: Row, there: Row) -> str:
    """Markdown: what differs in how they were made, then the figures that both have."""
    same = is_same_model(here, there)
    known, others = figures(here, same), figures(there, same)
    rows = [{"what": what, "here": value, "there": others[what]} for what, value in known.items() if what in others]
    notes = [*differences(here, there), *(expectations(here, there) if same else [])]
    title = f"## Beside {told(there)}\n\n"
    return title + "".join(f"{note}  \n" for note in notes) + "\n" * bool(notes) + markdown(rows, COLUMNS)


def told(report: Row) -> str:
    machine = report["machine"]
    return f"{machine['cpu_info']}, {machine['n_cpus']} processors, {machine['system']}"


def is_same_model(here: Row, there: Row) -> bool:
    return all(here["model"][key] == there["model"][key] for key in ("description", "size", "n_params"))


def figures(report: Row, with_model: bool) -> dict[str, float]:
    """By what they are, those of the model only where they are asked for."""
    found: dict[str, float] = {}
    for threads, speed in report["machine"]["ceilings"].items():
        counted = f"{threads} thread" + "s" * (threads != "1")
        found[f"reads, {counted}, GB/s"] = speed["read_bytes_per_second"] / 1e9
        found[f"computes, {counted}, GMAC/s"] = speed["int8_macs_per_second"] / 1e9
    if not with_model:
        return found
    for row in passes_of(report):
        for kernels in (name for name in row if name != "n_rows"):
            whose = "ours" if kernels == OURS else LLAMA_CPP
            if row["n_rows"] == 1:
                found[f"pass of 1 row, {whose}, ms"] = row[kernels]["median_ns"] / 1e6
            elif row["n_rows"] in SHAPES and row[kernels]["of_one_row"] is not None:
                found[f"T({row['n_rows']})/T(1), {whose}"] = row[kernels]["of_one_row"]
    for row in report["speed"]:
        at = f"temperature {row['temp']:g}"
        found |= {f"{name}, {at}, t/s": row["ts"][name] for name in DECODERS}
        found[f"{DRAFTED}, {at}, over llama.cpp"] = row["over_llama_cpp"]
        found[f"{DRAFTED}, {at}, tokens per pass"] = row["tokens_per_step"]
        joules = row["joules_per_token"]
        found |= {f"{name}, {at}, J/token": joules[name] for name in DECODERS if joules[name] is not None}
    return found


def differences(here: Row, there: Row) -> list[str]:
    """What else than the machine is not the same."""
    lines = []
    for key, name in (("maskprobe", "maskprobe"), ("llama_cpp_python", "llama-cpp-python"), ("compiler", "compiler")):
        if (mine := here["machine"][key]) != (other := there["machine"][key]):
            lines.append(f"{name}: {mine} here, {other} there")
    if not is_same_model(here, there):
        names = [f"{report['model']['name']} ({report['model']['description']})" for report in (here, there)]
        return [*lines, f"Another model: {names[0]} here, {names[1]} there, so only the machines are compared"]
    if (mine := here["model"]["kernels"]) != (other := there["model"]["kernels"]):
        lines.append(f"our kernels: {mine} here, {other} there")
    for key, name in (("n_threads", "threads"), ("n_predict", "tokens per prompt"), ("template", "chat template")):
        if (mine := here["settings"][key]) != (other := there["settings"][key]):
            lines.append(f"{name}: {mine} here, {other} there")
    return lines


def expectations(here: Row, there: Row) -> list[str]:
    """What the memory lets expect of plain decoding, which reads all weights for each token; and the texts."""
    reads = [
        report["machine"]["ceilings"][str(report["settings"]["n_threads"])]["read_bytes_per_second"]
        for report in (here, there)
    ]
    speeds = [greedy(report)["ts"][PLAIN] for report in (here, there)]
    lines = [
        f"Our plain decoding has {speeds[0] / speeds[1]:.2f} of the speed there; what the memory reads is "
        f"{reads[0] / reads[1]:.2f} of that there"
    ]
    mine, others = digests(here), digests(there)
    both = mine.keys() & others.keys()
    if both:
        n_same = sum(mine[key] == others[key] for key in both)
        lines.append(f"Greedy texts of our plain decoding: {n_same} of {len(both)} have the same tokens on both")
    return lines


def greedy(report: Row) -> Row:
    return min(report["speed"], key=lambda row: row["temp"])


def digests(report: Row) -> dict[tuple[str, str, int], str]:
    """Of the greedy texts, by their prompts and the most tokens that they may have."""
    return {
        (row["task"], row["prompt"], report["settings"]["n_predict"]): row["digest"]
        for row in report["runs"]
        if row["decoder"] == PLAIN and row["temp"] == 0.0
    }

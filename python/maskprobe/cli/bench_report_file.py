"""The report of one machine as a JSON file. It is read with care: it comes from others."""

import json
from pathlib import Path
from typing import Any

from .. import ArgumentError
from .bench_compare import comparison
from .bench_report_page import as_markdown
from .bench_table import Row
from .values import printable

FORMAT = "maskprobe_report"  # the key of the version of the format
VERSION = 1


def as_text(report: Row) -> str:
    """The JSON, each pass and run on a line of its own."""
    lines = []
    for key, value in report.items():
        if isinstance(value, list):
            rows = ",\n".join(f"  {json.dumps(row, allow_nan=False)}" for row in value)
            lines.append(f" {json.dumps(key)}: [\n{rows}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_report(path: Path) -> Row:
    """Raises ArgumentError for a file that is no whole report, or one of another version."""
    try:
        report = json.loads(path.read_bytes(), object_hook=with_printable_texts)
    except OSError as error:
        raise ArgumentError(f"cannot read the report '{path}': {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ArgumentError(f"'{path}' is no report: it is not JSON") from None
    if not isinstance(report, dict) or FORMAT not in report:
        raise ArgumentError(f"'{path}' is no report of maskprobe-bench: it has no key {FORMAT}")
    if report[FORMAT] != VERSION:
        raise ArgumentError(f"'{path}' is a report of version {report[FORMAT]}: this program reads {VERSION}")
    try:
        as_markdown(report) + comparison(report, report)  # these ask for all that anybody asks for
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError):
        raise ArgumentError(f"the report '{path}' is not whole: make it again") from None
    return report


def with_printable_texts(found: dict[str, Any]) -> dict[str, Any]:
    return {key: printable(value) if isinstance(value, str) else value for key, value in found.items()}

"""Writes a GGUF file anew with other weight types, by llama.cpp's own quantiser.

    python models/quantise.py models/maskprobe-py-10m-q8_0.gguf py-q4_k_m.gguf q4_k_m

A quantised file is quantised again: good enough to compare kernels on, worse than quantising the original.
"""

import argparse
import os
from pathlib import Path

import llama_cpp

FILE_TYPES = {
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}


def quantise(source: str | os.PathLike[str], target: str | os.PathLike[str], file_type: str) -> Path:
    """Writes `source` to `target` in one of FILE_TYPES. Raises OSError where llama.cpp cannot."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type]
    params.allow_requantize = True
    params.nthread = 1
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), params) != 0:
        raise OSError(f"llama.cpp could not write {os.fspath(source)} as {file_type} to {os.fspath(target)}")
    return Path(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("type", choices=FILE_TYPES)
    arguments = parser.parse_args()
    quantise(arguments.source, arguments.target, arguments.type)


if __name__ == "__main__":
    main()

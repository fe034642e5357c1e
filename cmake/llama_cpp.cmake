# Which llama.cpp the core is built against: what is installed in MASKPROBE_LLAMA_DIR, or else the sources in
# MASKPROBE_LLAMA_SOURCE, which become part of this build, or else the copy of llama-cpp-python.
#
#   MASKPROBE_LLAMA_INCLUDE     its headers
#   MASKPROBE_LLAMA_LIBRARIES   what to link
#   MASKPROBE_LLAMA_LIB_DIR     where its libraries lie
#   MASKPROBE_LLAMA_IS_SHARED   libllama.so, or libllama.a, which becomes part of the core
#   MASKPROBE_LLAMA_NAME        for messages: what to install

set(MASKPROBE_LLAMA_CPP_PYTHON 0.3.36) # the exact release; python/maskprobe/_capi.py and pyproject.toml name it too
set(MASKPROBE_LLAMA_VERSION 0.5.0)     # of the llama.cpp in it,
set(MASKPROBE_GGML_VERSION 0.25.3)     # and of its ggml

set(MASKPROBE_LLAMA_DIR "" CACHE PATH "Prefix of an installed llama.cpp (cmake --install); empty: llama-cpp-python's copy")
set(MASKPROBE_LLAMA_SOURCE "" CACHE PATH "Sources of llama.cpp, to be compiled as archives into this build")

# Of an installed package `name` in lib/cmake; a suffix like "-dev" is left out.
function(read_package_version name folder out)
    file(STRINGS ${folder}/${name}-config-version.cmake line REGEX "^set\\(PACKAGE_VERSION \"")
    string(REGEX REPLACE ".*\"([0-9.]*)[^\"]*\".*" "\\1" version "${line}")
    set(${out} ${version} PARENT_SCOPE)
endfunction()

# Of the sources: "set(LLAMA_VERSION_MAJOR 0)" and so on.
function(read_source_version prefix folder out)
    set(version "")
    foreach(part MAJOR MINOR PATCH)
        file(STRINGS ${folder}/CMakeLists.txt line REGEX "^set\\(${prefix}_VERSION_${part} ")
        string(REGEX REPLACE ".* ([0-9]+).*" "\\1" number "${line}")
        list(APPEND version ${number})
    endforeach()
    list(JOIN version "." version)
    set(${out} ${version} PARENT_SCOPE)
endfunction()

function(check_versions llama ggml where advice)
    if(NOT llama STREQUAL MASKPROBE_LLAMA_VERSION OR NOT ggml STREQUAL MASKPROBE_GGML_VERSION)
        message(FATAL_ERROR
            "maskprobe ${PROJECT_VERSION} is made for llama.cpp ${MASKPROBE_LLAMA_VERSION} with ggml ${MASKPROBE_GGML_VERSION}, "
            "but ${where} is of llama.cpp ${llama} with ggml ${ggml}: ${advice}")
    endif()
endfunction()

function(check_llama_version llama_folder ggml_folder advice)
    read_package_version(llama ${llama_folder} llama)
    read_package_version(ggml ${ggml_folder} ggml)
    check_versions("${llama}" "${ggml}" ${llama_folder} ${advice})
endfunction()

# The libraries alone, as archives: what is built of maskprobe takes them in. Options of llama.cpp and ggml (GGML_METAL,
# GGML_OPENMP, ...) are given as in a build of its own.
function(add_llama_source)
    set(BUILD_SHARED_LIBS OFF)
    set(CMAKE_POSITION_INDEPENDENT_CODE ON)
    foreach(part COMMON TESTS EXAMPLES TOOLS SERVER APP)
        set(LLAMA_BUILD_${part} OFF)
    endforeach()
    add_subdirectory(${MASKPROBE_LLAMA_SOURCE} llama.cpp EXCLUDE_FROM_ALL)
endfunction()

if(MASKPROBE_LLAMA_DIR)
    foreach(entry llama_DIR ggml_DIR llama_LIBRARY) # of another prefix, if there was one before
        unset(${entry} CACHE)
    endforeach()
    list(PREPEND CMAKE_PREFIX_PATH ${MASKPROBE_LLAMA_DIR}) # its package looks for ggml there
    find_package(llama CONFIG QUIET PATHS ${MASKPROBE_LLAMA_DIR} NO_DEFAULT_PATH)
    if(NOT llama_FOUND)
        message(FATAL_ERROR
            "there is no CMake package of llama.cpp in MASKPROBE_LLAMA_DIR = ${MASKPROBE_LLAMA_DIR}: "
            "name the prefix of its `cmake --install`, which holds lib/cmake/llama")
    endif()
    check_llama_version(${llama_DIR} ${ggml_DIR} "install the pinned one, that of llama-cpp-python ${MASKPROBE_LLAMA_CPP_PYTHON}")
    set(MASKPROBE_LLAMA_NAME "llama.cpp ${MASKPROBE_LLAMA_VERSION}")
    set(MASKPROBE_LLAMA_INCLUDE ${LLAMA_INCLUDE_DIR})
    set(MASKPROBE_LLAMA_LIB_DIR ${LLAMA_LIB_DIR})
    set(MASKPROBE_LLAMA_LIBRARIES llama ggml::ggml ggml::ggml-base)
    set(MASKPROBE_LLAMA_IS_SHARED ${LLAMA_SHARED_LIB})
elseif(MASKPROBE_LLAMA_SOURCE)
    if(NOT EXISTS ${MASKPROBE_LLAMA_SOURCE}/ggml/CMakeLists.txt)
        message(FATAL_ERROR "there are no sources of llama.cpp in MASKPROBE_LLAMA_SOURCE = ${MASKPROBE_LLAMA_SOURCE}: "
                            "unpack those of llama-cpp-python ${MASKPROBE_LLAMA_CPP_PYTHON} and name vendor/llama.cpp")
    endif()
    read_source_version(LLAMA ${MASKPROBE_LLAMA_SOURCE} llama)
    read_source_version(GGML ${MASKPROBE_LLAMA_SOURCE}/ggml ggml)
    check_versions("${llama}" "${ggml}" ${MASKPROBE_LLAMA_SOURCE}
                   "take those of llama-cpp-python ${MASKPROBE_LLAMA_CPP_PYTHON}")
    add_llama_source()
    set(MASKPROBE_LLAMA_NAME "llama.cpp ${MASKPROBE_LLAMA_VERSION}")
    set(MASKPROBE_LLAMA_INCLUDE ${MASKPROBE_LLAMA_SOURCE}/include ${MASKPROBE_LLAMA_SOURCE}/ggml/include)
    set(MASKPROBE_LLAMA_LIB_DIR "")
    set(MASKPROBE_LLAMA_LIBRARIES llama ggml ggml-base)
    set(MASKPROBE_LLAMA_IS_SHARED OFF)
else()
    # Headers and CMake files lie at the top of site-packages (CMAKE_PREFIX_PATH). Libraries are linked from llama_cpp/lib,
    # the copy that `import llama_cpp` loads: the other one, in lib/, would be a second ggml in the process.
    find_path(MASKPROBE_WHEEL_INCLUDE llama.h REQUIRED PATH_SUFFIXES include)
    get_filename_component(site_packages ${MASKPROBE_WHEEL_INCLUDE} DIRECTORY)
    check_llama_version(${site_packages}/lib/cmake/llama ${site_packages}/lib/cmake/ggml
                        "install llama-cpp-python ${MASKPROBE_LLAMA_CPP_PYTHON}")
    set(MASKPROBE_LLAMA_NAME "llama-cpp-python ${MASKPROBE_LLAMA_CPP_PYTHON}")
    set(MASKPROBE_LLAMA_INCLUDE ${MASKPROBE_WHEEL_INCLUDE})
    set(MASKPROBE_LLAMA_LIB_DIR ${site_packages}/llama_cpp/lib)
    set(MASKPROBE_LLAMA_LIBRARIES "")
    foreach(name llama ggml ggml-base)
        find_library(MASKPROBE_WHEEL_${name} ${name} PATHS ${MASKPROBE_LLAMA_LIB_DIR} NO_DEFAULT_PATH REQUIRED)
        list(APPEND MASKPROBE_LLAMA_LIBRARIES ${MASKPROBE_WHEEL_${name}})
    endforeach()
    set(MASKPROBE_LLAMA_IS_SHARED ON)
endif()

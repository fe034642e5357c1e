# MASKPROBE_SANITIZE: the core with sanitizers, and the programs of tests/ that exercise it.

if(MASKPROBE_SANITIZE STREQUAL "address")
    set(flags -fsanitize=address,undefined -fno-sanitize-recover=undefined)
elseif(MASKPROBE_SANITIZE STREQUAL "thread")
    set(flags -fsanitize=thread)
else()
    message(FATAL_ERROR "MASKPROBE_SANITIZE = ${MASKPROBE_SANITIZE} is neither address nor thread")
endif()
foreach(target ${targets})
    target_compile_options(${target} PRIVATE ${flags} -fno-omit-frame-pointer -g)
    target_link_options(${target} PRIVATE ${flags})
endforeach()

# The program of tests/NAME.cpp with all that it is linked with.
function(add_exercise name)
    add_executable(${name} tests/${name}.cpp)
    target_compile_features(${name} PRIVATE cxx_std_17)
    target_include_directories(${name} PRIVATE csrc ${MASKPROBE_LLAMA_INCLUDE})
    target_compile_options(${name} PRIVATE ${flags} -fno-omit-frame-pointer -g)
    target_link_options(${name} PRIVATE ${flags} -Wl,-rpath,${MASKPROBE_LLAMA_LIB_DIR})
    target_link_libraries(${name} PRIVATE ${ARGN} Threads::Threads ${CMAKE_DL_LIBS})
endfunction()

if(MASKPROBE_SANITIZE STREQUAL "address")
    add_exercise(core_exercise maskprobe)
    target_sources(core_exercise PRIVATE csrc/platform/amx_check.cpp) # it is tested by itself
else()
    add_exercise(engine_threads maskprobe)
    add_exercise(kernels_threads maskprobe_kernels ${MASKPROBE_LLAMA_LIBRARIES})
endif()

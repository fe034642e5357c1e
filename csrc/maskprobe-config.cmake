# find_package(maskprobe) with CMAKE_PREFIX_PATH = what `python -c "import maskprobe; print(maskprobe.prefix())"` prints.
get_filename_component(MASKPROBE_PREFIX ${CMAKE_CURRENT_LIST_DIR}/../../.. ABSOLUTE)
if(NOT TARGET maskprobe::maskprobe)
    add_library(maskprobe::maskprobe SHARED IMPORTED)
    set_target_properties(maskprobe::maskprobe PROPERTIES
        IMPORTED_LOCATION ${MASKPROBE_PREFIX}/lib/${CMAKE_SHARED_LIBRARY_PREFIX}maskprobe${CMAKE_SHARED_LIBRARY_SUFFIX}
        INTERFACE_INCLUDE_DIRECTORIES ${MASKPROBE_PREFIX}/include)
endif()

# Compilers for ARM fuse a * b + c where those for x86-64 round twice, unless the processor is named. llama.cpp's rows of
# Q4_1, Q5_1 and most K formats would come out of its embedding table with other last bits. Fused operations that the code
# asks for stay.
set(CMAKE_C_FLAGS_INIT -ffp-contract=off)
set(CMAKE_CXX_FLAGS_INIT -ffp-contract=off)

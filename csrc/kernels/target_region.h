// Functions between MP_TARGET_BEGIN("avx2,fma") and MP_TARGET_END may use these instructions. What is included there is
// compiled for them as well: headers that other files share must come before.
#pragma once

#define MP_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#    define MP_TARGET_BEGIN(names) MP_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#    define MP_TARGET_END MP_PRAGMA(clang attribute pop)
#else
#    define MP_TARGET_BEGIN(names) MP_PRAGMA(GCC push_options) MP_PRAGMA(GCC target(names))
#    define MP_TARGET_END MP_PRAGMA(GCC pop_options)
#endif

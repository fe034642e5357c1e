#include "maskprobe.h" // beside this file in the XCFramework; on Linux where pkg-config says

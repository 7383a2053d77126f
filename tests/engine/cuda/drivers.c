// A driver library that answers what it is told to at compile time: what detection meets on other people's machines.
#include <stddef.h>
#include <string.h>

#ifndef INIT
#define INIT 0
#endif
#ifndef VERSION
#define VERSION 13000
#endif
#ifndef COUNT
#define COUNT 1
#endif
#ifndef MAJOR
#define MAJOR 9
#endif

int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
#ifndef WITHOUT_INIT
int cuInit(unsigned flags) { return INIT; }
#endif
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Test GPU", size); return 0; }
int cuDeviceComputeCapability(int *major, int *minor, int device) {
    // Of two devices the second is the newer.
    *major = MAJOR + device;
    *minor = 0;
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 8000000000; return 0; }
int cuGetErrorString(int status, const char **text) {
    *text = status == 34 ? "CUDA driver is a stub library" : status == 803 ? "unsupported display driver" : NULL;
    return *text ? 0 : 1;
}

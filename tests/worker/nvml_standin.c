/* Stands for libnvidia-ml.so.1: two GPUs, the second divided into two MIG instances. What it answers is read anew at
 * each call from the file that NVML_STANDIN names, lines of "key value"; so a test changes a GPU while it is watched.
 *   lost 1          every call about a GPU: GPU is lost
 *   first_version 1 the second version of the memory call: function not found
 *   bare 1          no sensor is supported, as on a card for displays
 *   hidden 1        of a process no memory is told, as in a container
 *   used N          bytes in use
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       FUNCTION_NOT_FOUND = 13, LOST = 15 };

typedef struct gpu { const char *uuid, *name; unsigned long long total, reserved; int instances; struct gpu *whole; } gpu;
typedef struct { unsigned long long total, free, used; } memory_v1;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct { unsigned gpu, memory; } rates;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process;

static gpu gpus[2] = {
    {"GPU-11111111-0000-0000-0000-000000000000", "Stand-in 1", 80ull << 30, 512ull << 20, 0, NULL},
    {"GPU-22222222-0000-0000-0000-000000000000", "Stand-in 2", 80ull << 30, 512ull << 20, 2, NULL},
};
static gpu instances[2] = {
    {"MIG-aaaaaaaa-0000-0000-0000-000000000000", "Stand-in 2 MIG 3g.40gb", 40ull << 30, 64ull << 20, 0, &gpus[1]},
    {"MIG-bbbbbbbb-0000-0000-0000-000000000000", "Stand-in 2 MIG 3g.40gb", 40ull << 30, 64ull << 20, 0, &gpus[1]},
};

static unsigned long long told(const char *key, unsigned long long otherwise) {
    const char *path = getenv("NVML_STANDIN");
    FILE *file = path ? fopen(path, "r") : NULL;
    char name[64];
    unsigned long long value;
    if (!file) return otherwise;
    while (fscanf(file, "%63s %llu", name, &value) == 2)
        if (!strcmp(name, key)) otherwise = value;
    fclose(file);
    return otherwise;
}

static int checked(gpu *one, int of_the_whole) {
    if (!one) return INVALID_ARGUMENT;
    if (told("lost", 0)) return LOST;
    return of_the_whole && (one->whole || told("bare", 0)) ? NOT_SUPPORTED : SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return "an error of the stand-in"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu **found) {
    if (index > 1) return INVALID_ARGUMENT;
    *found = &gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, gpu **found) {
    for (int i = 0; i < 2; i++) {
        if (!strcmp(uuid, gpus[i].uuid)) { *found = &gpus[i]; return SUCCESS; }
        if (!strcmp(uuid, instances[i].uuid)) { *found = &instances[i]; return SUCCESS; }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(gpu *one, char *text, unsigned size) { snprintf(text, size, "%s", one->uuid); return SUCCESS; }
int nvmlDeviceGetName(gpu *one, char *text, unsigned size) { snprintf(text, size, "%s", one->name); return SUCCESS; }

int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "580.00.01"); return SUCCESS; }

int nvmlDeviceGetMigMode(gpu *one, unsigned *current, unsigned *pending) {
    *current = *pending = one->instances > 0;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(gpu *one, unsigned *count) { *count = one->instances ? 7 : 0; return SUCCESS; }

int nvmlDeviceGetMigDeviceHandleByIndex(gpu *one, unsigned index, gpu **found) {
    if ((int)index >= one->instances) return NOT_FOUND;
    *found = &instances[index];
    return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(gpu *one, gpu **whole) {
    if (!one->whole) return INVALID_ARGUMENT;
    *whole = one->whole;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(gpu *one, memory_v1 *found) {
    int code = checked(one, 0);
    if (code) return code;
    found->total = one->total;
    found->used = told("used", 1ull << 30) + one->reserved;
    found->free = found->total - found->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(gpu *one, memory_v2 *found) {
    int code = checked(one, 0);
    if (code) return code;
    if (told("first_version", 0)) return FUNCTION_NOT_FOUND;
    if (found->version != 0x02000028) return INVALID_ARGUMENT;
    found->total = one->total;
    found->reserved = one->reserved;
    found->used = told("used", 1ull << 30);
    found->free = found->total - found->used - found->reserved;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(gpu *one, rates *found) {
    int code = checked(one, 1);
    if (!code) *found = (rates){37, 12};
    return code;
}

int nvmlDeviceGetTemperature(gpu *one, unsigned sensor, unsigned *degrees) {
    int code = checked(one, 1);
    if (!code) *degrees = 61;
    return code;
}

int nvmlDeviceGetPowerUsage(gpu *one, unsigned *milliwatts) {
    int code = checked(one, 1);
    if (!code) *milliwatts = 312500;
    return code;
}

int nvmlDeviceGetTotalEnergyConsumption(gpu *one, unsigned long long *millijoules) {
    int code = checked(one, 1);
    if (!code) *millijoules = 9876543;
    return code;
}

int nvmlDeviceGetTotalEccErrors(gpu *one, unsigned kind, unsigned counter, unsigned long long *count) {
    int code = checked(one, 1);
    if (!code) *count = kind == 1 && counter == 0 ? 3 : 0; /* uncorrected, since the driver was loaded */
    return code;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(gpu *one, unsigned long long *mask) {
    int code = checked(one, 1);
    if (!code) *mask = 0x1 | 0x4 | 0x40; /* idle, software power cap, hardware thermal slowdown */
    return code;
}

int nvmlDeviceGetComputeRunningProcesses_v3(gpu *one, unsigned *count, process *found) {
    int code = checked(one, 0);
    if (code) return code;
    if (told("bare", 0)) return NOT_SUPPORTED;
    if (!found || *count < 1) { *count = 1; return INSUFFICIENT_SIZE; }
    *count = 1;
    found[0] = (process){4711, told("hidden", 0) ? ~0ull : 3ull << 30, 0, 0};
    return SUCCESS;
}

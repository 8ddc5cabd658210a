/* Finding CUPTI: the one that is loaded, else the one that fits the driver. */
#define _GNU_SOURCE
#include "library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

struct cupti cupti;

static void *library(void) {
    static const char *const names[] = {"libcupti.so.13", "libcupti.so.12", "libcupti.so"};
    const char *asked = getenv("WARPLINE_CUPTI");
    void *found = asked ? dlopen(asked, RTLD_NOW) : NULL;
    for (int i = 0; !found && i < 3; i++) found = dlopen(names[i], RTLD_NOW | RTLD_NOLOAD);
    int version = 0;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    int (*driver_version)(int *) = NULL;
    if (driver) *(void **)&driver_version = dlsym(driver, "cuDriverGetVersion");
    if (driver_version) driver_version(&version);
    ring.header->simulated = driver && dlsym(driver, "warpline_double_busy_ns");
    ring.header->driver_version = (uint32_t)version;
    for (int i = version && version < 13000; !found && i < 3; i++) found = dlopen(names[i], RTLD_NOW);
    return found;
}

const char *cupti_find(void) {
    static char text[160];
    void *from = library();
    if (!from) return "no libcupti.so.12 or .13 is in the process's library path; set WARPLINE_CUPTI to its path";
    const struct {
        const char *name;
        void *into;
    } wanted[] = {
        {"cuptiGetVersion", &cupti.get_version},
        {"cuptiGetResultString", &cupti.get_result_string},
        {"cuptiSubscribe", &cupti.subscribe},
        {"cuptiUnsubscribe", &cupti.unsubscribe},
        {"cuptiEnableCallback", &cupti.enable_callback},
        {"cuptiActivityEnable", &cupti.activity_enable},
        {"cuptiActivityDisable", &cupti.activity_disable},
        {"cuptiActivityRegisterCallbacks", &cupti.activity_register},
        {"cuptiActivityRegisterTimestampCallback", &cupti.activity_timestamp},
        {"cuptiActivityFlushAll", &cupti.activity_flush},
        {"cuptiActivityFlushPeriod", &cupti.activity_flush_period},
        {"cuptiActivityGetNextRecord", &cupti.activity_next},
        {"cuptiActivityGetNumDroppedRecords", &cupti.activity_dropped},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *found = dlsym(from, wanted[i].name);
        if (!found) {
            snprintf(text, sizeof text, "the process's CUPTI has no %s; it needs CUDA 12.0 or later", wanted[i].name);
            return text;
        }
        *(void **)wanted[i].into = found;
    }
    uint32_t version = 0;
    int result = cupti.get_version(&version);
    if (result != CUPTI_OK) return cupti_text(result);
    ring.header->cupti_version = version;
    if (version >= CUPTI_OLDEST) return NULL;
    snprintf(text, sizeof text, "CUPTI is of API version %u, older than CUDA 12.0's (%d)", version, CUPTI_OLDEST);
    return text;
}

const char *cupti_text(int result) {
    static char text[200];
    const char *name = NULL;
    if (cupti.get_result_string) cupti.get_result_string(result, &name);
    if (result == CUPTI_MULTIPLE_SUBSCRIBERS)
        snprintf(text, sizeof text, "another tool (a profiler such as Nsight or PyTorch's) holds CUPTI in this process");
    else
        snprintf(text, sizeof text, "CUPTI refused: %s (%d)", name ? name : "unknown error", result);
    return text;
}

/* Say that the limit of open descriptors is 2**30, where it cannot be set: for LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

static rlim_t said(void)
{
    const char *limit = getenv("SAID_LIMIT");
    return limit ? strtoull(limit, NULL, 10) : 0;
}

int getrlimit64(__rlimit_resource_t resource, struct rlimit64 *limit)
{
    int (*original)(__rlimit_resource_t, struct rlimit64 *) = dlsym(RTLD_NEXT, "getrlimit64");
    int result = original(resource, limit);
    if (result == 0 && resource == RLIMIT_NOFILE && said())
        limit->rlim_cur = limit->rlim_max = said();
    return result;
}

int getrlimit(__rlimit_resource_t resource, struct rlimit *limit)
{
    return getrlimit64(resource, (struct rlimit64 *)limit);
}

long sysconf(int name)
{
    long (*original)(int) = dlsym(RTLD_NEXT, "sysconf");
    return name == _SC_OPEN_MAX && said() ? (long)said() : original(name);
}

/* Preloaded below valgrind: what a start asks for, and valgrind 3.19 does not know or shows of itself.
 *
 * pidfd_open(2) gives a pipe that stays empty, pidfd_send_signal(2) becomes kill(2), and the
 * descriptors that valgrind has opened are shown as closed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NUMBERS 1024
#define OURS 900

static pid_t pids[NUMBERS];
static int ends[2] = {-1, -1};

static int open_pidfd(pid_t pid)
{
    int fd, made[2];

    if (kill(pid, 0) < 0)
        return -1;
    if (ends[0] < 0) {
        if (pipe2(made, O_CLOEXEC) < 0)
            return -1;
        for (fd = 0; fd < 2; fd++) {
            ends[fd] = fcntl(made[fd], F_DUPFD_CLOEXEC, OURS);
            close(made[fd]);
        }
    }
    fd = fcntl(ends[0], F_DUPFD_CLOEXEC, 0);
    if (fd >= 0 && fd < NUMBERS)
        pids[fd] = pid;
    return fd;
}

long syscall(long number, ...)
{
    static long (*system)(long, ...);
    long a[6];
    va_list list;
    int i;

    va_start(list, number);
    for (i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_pidfd_open)
        return open_pidfd(a[0]);
    if (number == SYS_pidfd_send_signal)
        return kill(pids[a[0]], a[1]);
    if (!system)
        system = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return system(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int fcntl64(int fd, int command, ...)
{
    static int (*system)(int, int, ...);
    va_list list;
    void *argument;

    va_start(list, command);
    argument = va_arg(list, void *);
    va_end(list);
    if (command == F_GETFD && fd >= OURS) {
        errno = EBADF;
        return -1;
    }
    if (!system)
        system = (int (*)(int, int, ...))dlsym(RTLD_NEXT, "fcntl64");
    return system(fd, command, argument);
}

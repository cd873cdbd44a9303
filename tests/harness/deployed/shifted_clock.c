/* A clock that is ahead by the seconds in the file SHIFTED_CLOCK, for tests: preloaded into a process, which then reads
   it wherever it asks for the time of day. Clocks that nobody sets (CLOCK_MONOTONIC) stay as they are. Where the
   command line has the text SHIFTED_CLOCK_NOT, the clock is right: gRPC waits in the kernel until moments of the day. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long long none = 0;
static const volatile long long *ahead = 0;

static int left_out(void) {
    char line[4096] = "";
    const char *text = getenv("SHIFTED_CLOCK_NOT");
    int file = open("/proc/self/cmdline", O_RDONLY);
    if (text == 0 || file < 0) return 0;
    ssize_t size = read(file, line, sizeof line - 1);
    close(file);
    return size > 0 && memmem(line, (size_t) size, text, strlen(text)) != 0;
}

static long long shift(void) {
    if (ahead == 0) {
        const char *path = getenv("SHIFTED_CLOCK");
        int file = path == 0 || left_out() ? -1 : open(path, O_RDONLY);
        void *at = file < 0 ? MAP_FAILED : mmap(0, sizeof(long long), PROT_READ, MAP_SHARED, file, 0);
        if (file >= 0) close(file);
        ahead = at == MAP_FAILED ? &none : (const volatile long long *) at;
    }
    return *ahead;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *) = 0;
    if (real == 0) *(void **) &real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(which, now);
    if (result == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void) zone;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return (time_t) -1;
    if (to != 0) *to = exact.tv_sec;
    return exact.tv_sec;
}

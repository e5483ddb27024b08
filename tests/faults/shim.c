/* A disk that fails: loaded before libc (LD_PRELOAD), it counts the calls that change files below a
 * root, writes each into a trace, and makes one of them (or all from one on) fail, or the last.
 *
 * A record of the trace: kind (after a - if it failed) NUL path NUL second path NUL offset NUL length NUL newline, then as
 * many bytes as were written. The harness is one thread that forks; nothing here is for more. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum mode { TRACE, ONCE, FULL, GONE, SHORT, KILL, HALF, INTERRUPT };

static char root[PATH_MAX];
static size_t root_length;
static long calls, at;
static int mode, code, log_fd = -1;

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* Count from here on what happens below `where`. */
void faults_arm(const char *where, long when, int what, int error, int trace) {
    strncpy(root, where, sizeof root - 1);
    root_length = strlen(root);
    calls = 0, at = when, mode = what, code = error, log_fd = trace;
}

long faults_calls(void) { return calls; }

static int ours(const char *path) {
    return root_length && !strncmp(path, root, root_length) &&
           (path[root_length] == '/' || !path[root_length]);
}

static void of_fd(int fd, char *path) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = root_length ? readlink(link, path, PATH_MAX - 1) : 0;
    path[length > 0 ? length : 0] = 0;
}

static void of_name(int directory, const char *name, char *path) {
    path[0] = 0;
    if (!root_length || !name) return;
    if (name[0] != '/') {
        if (directory == AT_FDCWD) {
            if (!getcwd(path, PATH_MAX)) return;
        } else {
            of_fd(directory, path);
        }
        strcat(path, "/");
    }
    strncat(path, name, PATH_MAX - 1 - strlen(path));
}

static int writable(int fd) { return (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY; }

static void record(int failed, const char *kind, const char *path, const char *other, long offset,
                   const void *data, size_t length) {
    REAL(write);
    char line[3 * PATH_MAX];
    int n = snprintf(line, sizeof line, "%s%s%c%s%c%s%c%ld%c%zu%c\n", failed ? "-" : "", kind, 0, path, 0, other, 0,
                     offset, 0, length, 0);
    if (log_fd < 0) return;
    real(log_fd, line, n);
    for (size_t done = 0; done < length;) done += real(log_fd, (const char *)data + done, length - done);
}

static int takes_room(const char *kind) {
    return !strcmp(kind, "write") || !strcmp(kind, "open") || !strcmp(kind, "mkdir") ||
           !strcmp(kind, "link") || !strcmp(kind, "symlink");
}

/* What to do in place of a call: 0 make it, -1 fail with errno, 1 half of it (then fail or die). */
static int fate(const char *kind) {
    int here = ++calls == at, after = at && calls > at;
    int partial = !strcmp(kind, "write");
    switch (mode) {
    case ONCE:
        if (!here) return 0;
        break;
    case FULL:
        if (!(here || after) || !takes_room(kind)) return 0;
        if (here && partial) return 1;
        break;
    case GONE:
        if (!here && !after) return 0;
        break;
    case SHORT:
    case HALF:
        return here && partial ? 1 : 0;
    case KILL:
        if (here) kill(getpid(), SIGKILL);
        return 0;
    case INTERRUPT:
        if (here) raise(SIGINT);
        return 0;
    default:
        return 0;
    }
    errno = code;
    return -1;
}

#define PASS(kind, path, other, call)                  \
    do {                                               \
        if (!ours(path)) return call;                  \
        if (fate(kind) < 0) return -1;                 \
        __typeof__(call) result = call;                \
        int saved = errno;                             \
        record(result < 0, kind, path, other, 0, "", 0); \
        errno = saved;                                 \
        return result;                                 \
    } while (0)

/* -------------------------------------------------------------------------------------- opening */

static int opened(int (*real)(int, const char *, int, ...), int directory, const char *name,
                  int flags, mode_t bits) {
    char path[PATH_MAX];
    of_name(directory, name, path);
    int changing = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
    if (!changing || !ours(path)) return real(directory, name, flags, bits);
    int was = access(path, F_OK) == 0;
    if (fate("open") < 0) return -1;
    int fd = real(directory, name, flags, bits), saved = errno;
    record(fd < 0, !was ? "create" : flags & O_TRUNC ? "truncate" : "open", path, "", 0, "", 0);
    errno = saved;
    return fd;
}

#define OPEN(name)                                                    \
    int name(const char *path, int flags, ...) {                      \
        __typeof__(openat) *real = dlsym(RTLD_NEXT, "openat64");      \
        va_list list;                                                 \
        va_start(list, flags);                                        \
        mode_t bits = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0; \
        va_end(list);                                                 \
        return opened((void *)real, AT_FDCWD, path, flags, bits);     \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                  \
    int name(int directory, const char *path, int flags, ...) {       \
        __typeof__(openat) *real = dlsym(RTLD_NEXT, "openat64");      \
        va_list list;                                                 \
        va_start(list, flags);                                        \
        mode_t bits = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0; \
        va_end(list);                                                 \
        return opened((void *)real, directory, path, flags, bits);    \
    }
OPENAT(openat)
OPENAT(openat64)

/* --------------------------------------------------------------------------------- open files */

static long position(int fd) {
    if (fcntl(fd, F_GETFL) & O_APPEND) {
        struct stat status;
        return fstat(fd, &status) ? 0 : (long)status.st_size;
    }
    return (long)lseek(fd, 0, SEEK_CUR);
}

ssize_t write(int fd, const void *data, size_t length) {
    REAL(write);
    char path[PATH_MAX];
    of_fd(fd, path);
    if (!ours(path)) return real(fd, data, length);
    int what = fate("write");
    if (what < 0) return -1;
    if (what > 0 && mode == FULL && length < 2) return errno = ENOSPC, -1;
    long offset = position(fd);
    ssize_t result = real(fd, data, what > 0 && length > 1 ? length / 2 : length);
    if (what > 0 && mode == HALF) kill(getpid(), SIGKILL);
    int saved = errno;
    record(result < 0, "write", path, "", offset, data, result < 0 ? 0 : result);
    errno = saved;
    return result;
}

/* Nothing here writes in these ways; one that did would be counted, and end the process. */
#define UNEXPECTED(path, name)                                             \
    if (ours(path)) {                                                      \
        dprintf(2, "shim: " name " on %s is a way to write that it does not know\n", path); \
        _exit(70);                                                         \
    }

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    REAL(pwrite64);
    char path[PATH_MAX];
    of_fd(fd, path);
    UNEXPECTED(path, "pwrite")
    return real(fd, data, length, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    char path[PATH_MAX];
    of_fd(fd, path);
    UNEXPECTED(path, "writev")
    return real(fd, parts, count);
}

int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    char path[PATH_MAX];
    of_fd(fd, path);
    UNEXPECTED(path, "ftruncate")
    return real(fd, length);
}

/* As where there is none: shutil then reads and writes. */
ssize_t sendfile64(int to, int from, off64_t *offset, size_t length) {
    REAL(sendfile64);
    char path[PATH_MAX];
    of_fd(to, path);
    if (ours(path)) return errno = ENOTSOCK, -1;
    return real(to, from, offset, length);
}

int fsync(int fd) {
    REAL(fsync);
    char path[PATH_MAX];
    of_fd(fd, path);
    PASS("fsync", path, "", real(fd));
}

int close(int fd) {
    REAL(close);
    char path[PATH_MAX];
    of_fd(fd, path);
    if (!ours(path) || !writable(fd)) return real(fd);
    int what = fate("close");
    int result = real(fd), saved = what < 0 ? code : errno;
    record(0, "close", path, "", 0, "", 0);
    errno = saved;
    return what < 0 ? -1 : result;
}

int fchmod(int fd, mode_t bits) {
    REAL(fchmod);
    char path[PATH_MAX];
    of_fd(fd, path);
    PASS("chmod", path, "", real(fd, bits));
}

int futimens(int fd, const struct timespec times[2]) {
    REAL(futimens);
    char path[PATH_MAX];
    of_fd(fd, path);
    PASS("utime", path, "", real(fd, times));
}

/* --------------------------------------------------------------------------------------- names */

#define ONE(name, kind, parameters, directory, path, arguments)            \
    int name parameters {                                                  \
        REAL(name);                                                        \
        char full[PATH_MAX];                                               \
        of_name(directory, path, full);                                    \
        PASS(kind, full, "", real arguments);                              \
    }
#define TWO(name, kind, parameters, d1, p1, d2, p2, arguments)             \
    int name parameters {                                                  \
        REAL(name);                                                        \
        char full[PATH_MAX], other[PATH_MAX];                              \
        of_name(d1, p1, full);                                             \
        of_name(d2, p2, other);                                            \
        PASS(kind, other, full, real arguments);                           \
    }
#define CWD AT_FDCWD

ONE(mkdir, "mkdir", (const char *p, mode_t m), CWD, p, (p, m))
ONE(mkdirat, "mkdir", (int d, const char *p, mode_t m), d, p, (d, p, m))
ONE(rmdir, "rmdir", (const char *p), CWD, p, (p))
ONE(unlink, "unlink", (const char *p), CWD, p, (p))
ONE(unlinkat, f & AT_REMOVEDIR ? "rmdir" : "unlink", (int d, const char *p, int f), d, p, (d, p, f))
ONE(chmod, "chmod", (const char *p, mode_t m), CWD, p, (p, m))
ONE(fchmodat, "chmod", (int d, const char *p, mode_t m, int f), d, p, (d, p, m, f))
ONE(utimensat, "utime", (int d, const char *p, const struct timespec t[2], int f), d, p,
    (d, p, t, f))
ONE(setxattr, "xattr", (const char *p, const char *n, const void *v, size_t s, int f), CWD, p,
    (p, n, v, s, f))
ONE(lsetxattr, "xattr", (const char *p, const char *n, const void *v, size_t s, int f), CWD, p,
    (p, n, v, s, f))
ONE(symlink, "symlink", (const char *t, const char *p), CWD, p, (t, p))
ONE(symlinkat, "symlink", (const char *t, int d, const char *p), d, p, (t, d, p))
TWO(rename, "rename", (const char *a, const char *b), CWD, a, CWD, b, (a, b))
TWO(renameat, "rename", (int d, const char *a, int e, const char *b), d, a, e, b, (d, a, e, b))
TWO(link, "link", (const char *a, const char *b), CWD, a, CWD, b, (a, b))
TWO(linkat, "link", (int d, const char *a, int e, const char *b, int f), d, a, e, b,
    (d, a, e, b, f))

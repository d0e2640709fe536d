/* A disk that fails: while the file EIO_WHILE exists, what opens or changes a path under EIO_UNDER gets EIO. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int fails(const char *path) {
    const char *under = getenv("EIO_UNDER"), *flag = getenv("EIO_WHILE");
    if (!path || !under || !flag || strncmp(path, under, strlen(under)))
        return 0;
    char next = path[strlen(under)];
    if (next && next != '/' && next != '-')
        return 0;
    int (*real)(const char *, int) = dlsym(RTLD_NEXT, "access");
    if (real(flag, F_OK))
        return 0;
    errno = EIO;
    return 1;
}

#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        va_list rest;                                                     \
        va_start(rest, flags);                                            \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                     \
        if (fails(path))                                                  \
            return -1;                                                    \
        int (*real)(const char *, int, mode_t) = dlsym(RTLD_NEXT, #name); \
        return real(path, flags, mode);                                   \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                           \
    int name(int at, const char *path, int flags, ...) {                       \
        va_list rest;                                                          \
        va_start(rest, flags);                                                 \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                          \
        if (fails(path))                                                       \
            return -1;                                                         \
        int (*real)(int, const char *, int, mode_t) = dlsym(RTLD_NEXT, #name); \
        return real(at, path, flags, mode);                                    \
    }
OPENAT(openat)
OPENAT(openat64)

DIR *opendir(const char *path) {
    if (fails(path))
        return NULL;
    DIR *(*real)(const char *) = dlsym(RTLD_NEXT, "opendir");
    return real(path);
}

#define STAT(name, type)                                              \
    int name(const char *path, type *into) {                          \
        if (fails(path))                                              \
            return -1;                                                \
        int (*real)(const char *, type *) = dlsym(RTLD_NEXT, #name);  \
        return real(path, into);                                      \
    }
STAT(stat, struct stat)
STAT(stat64, struct stat64)
STAT(lstat, struct stat)
STAT(lstat64, struct stat64)

int mkdir(const char *path, mode_t mode) {
    if (fails(path))
        return -1;
    int (*real)(const char *, mode_t) = dlsym(RTLD_NEXT, "mkdir");
    return real(path, mode);
}

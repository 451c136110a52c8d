/* Lets the n-th call of a process to the C library fail that touches files below a folder, TensorFlow's and HDF5's too.

   cc -shared -fPIC -o faults.so native_faults.c -ldl; LD_PRELOAD=./faults.so python ...; see native_faults.py. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 100000

enum kind { OPEN, WRITE, SYNC, RENAME, MKDIR, LINK };

static struct { enum kind kind; char *place; } calls[MOST];
static int count, number = -1, error, lasting, failed, armed;
static char root[PATH_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* For the tests, by ctypes. */

void faults_begin(const char *folder, int which, int with, int lasts) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < count; i++) free(calls[i].place);
  count = failed = 0;
  number = which, error = with, lasting = lasts;
  snprintf(root, sizeof root, "%s", folder);
  armed = 1;
  pthread_mutex_unlock(&lock);
}

void faults_end(void) { armed = 0; }
int faults_count(void) { return count; }
int faults_failed(void) { return failed; }
int faults_kind(int i) { return calls[i].kind; }
const char *faults_place(int i) { return calls[i].place; }

/* Counts a call; returns whether it must fail, with errno set. */
static int fails(enum kind kind, const char *place) {
  size_t size = strlen(root);
  if (!armed || strncmp(place, root, size) || (place[size] && place[size] != '/')) return 0;
  pthread_mutex_lock(&lock);
  int mine = count, result = 0;
  if (mine < MOST) {
    calls[mine].kind = kind, calls[mine].place = strdup(place + size), count++;
    result = number >= 0 && (mine == number || (mine > number && lasting && calls[number].kind == kind));
    failed += result;
  }
  pthread_mutex_unlock(&lock);
  if (result) errno = error;
  return result;
}

static int fails_at(enum kind kind, int folder, const char *path) {
  if (!armed || !path) return 0;
  char place[2 * PATH_MAX] = "";
  if (*path != '/') {
    char link[64];
    if (folder == AT_FDCWD) {
      if (!getcwd(place, PATH_MAX)) return 0;
    } else {
      snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
      ssize_t size = readlink(link, place, PATH_MAX - 1);
      if (size < 0) return 0;
      place[size] = 0;
    }
    strcat(place, "/");
  }
  strncat(place, path, PATH_MAX - 1);
  return fails(kind, place);
}

static int fails_of(enum kind kind, int descriptor) {
  if (!armed) return 0;
  char link[64], place[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t size = readlink(link, place, sizeof place - 1);
  if (size < 0) return 0;
  place[size] = 0;
  return fails(kind, place);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT))
#define MODE mode_t mode = 0; \
  if (flags & (O_CREAT | __O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }

#define OPENS(name) int name(const char *path, int flags, ...) { \
  MODE REAL(name); return WRITES(flags) && fails_at(OPEN, AT_FDCWD, path) ? -1 : real(path, flags, mode); }
OPENS(open)
OPENS(open64)
#define OPENS_AT(name) int name(int folder, const char *path, int flags, ...) { \
  MODE REAL(name); return WRITES(flags) && fails_at(OPEN, folder, path) ? -1 : real(folder, path, flags, mode); }
OPENS_AT(openat)
OPENS_AT(openat64)
#define FOPENS(name) FILE *name(const char *path, const char *mode) { \
  REAL(name); return strpbrk(mode, "wa+") && fails_at(OPEN, AT_FDCWD, path) ? NULL : real(path, mode); }
FOPENS(fopen)
FOPENS(fopen64)

ssize_t write(int fd, const void *data, size_t size) { REAL(write); return fails_of(WRITE, fd) ? -1 : real(fd, data, size); }
ssize_t writev(int fd, const struct iovec *data, int n) { REAL(writev); return fails_of(WRITE, fd) ? -1 : real(fd, data, n); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
  REAL(pwrite); return fails_of(WRITE, fd) ? -1 : real(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  REAL(pwrite64); return fails_of(WRITE, fd) ? -1 : real(fd, data, size, at); }
int ftruncate(int fd, off_t size) { REAL(ftruncate); return fails_of(WRITE, fd) ? -1 : real(fd, size); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); return fails_of(WRITE, fd) ? -1 : real(fd, size); }
size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
  REAL(fwrite); return fails_of(WRITE, fileno(file)) ? 0 : real(data, size, n, file); }
int fflush(FILE *file) { REAL(fflush); return file && fails_of(WRITE, fileno(file)) ? EOF : real(file); }
int fsync(int fd) { REAL(fsync); return fails_of(SYNC, fd) ? -1 : real(fd); }
int fdatasync(int fd) { REAL(fdatasync); return fails_of(SYNC, fd) ? -1 : real(fd); }
int rename(const char *from, const char *to) {
  REAL(rename); return fails_at(RENAME, AT_FDCWD, to) ? -1 : real(from, to); }
int renameat(int a, const char *from, int b, const char *to) {
  REAL(renameat); return fails_at(RENAME, b, to) ? -1 : real(a, from, b, to); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); return fails_at(MKDIR, AT_FDCWD, path) ? -1 : real(path, mode); }
int link(const char *from, const char *to) { REAL(link); return fails_at(LINK, AT_FDCWD, to) ? -1 : real(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
  REAL(linkat); return fails_at(LINK, b, to) ? -1 : real(a, from, b, to, flags); }

/* Preloaded into a server, it shows the time of day CLOCK_SHIFT_SECONDS later. Monotonic clocks are as they are. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
  int result = (int)syscall(SYS_clock_gettime, clock, time);
  const char *shift = getenv("CLOCK_SHIFT_SECONDS");
  if (result == 0 && clock == CLOCK_REALTIME && shift != NULL) {
    time->tv_sec += atol(shift);
  }
  return result;
}

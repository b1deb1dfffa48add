#include "base/usage.h"

#include <math.h>
#include <stdio.h>

static double begin_bytes = NAN, peak_bytes = NAN;

static double pss_bytes(void)
{
    char line[256];
    unsigned long long kib;
    double bytes = NAN;
    FILE *file = fopen("/proc/self/smaps_rollup", "re");
    while (file && isnan(bytes) && fgets(line, sizeof line, file))
        if (sscanf(line, "Pss: %llu kB", &kib) == 1)
            bytes = 1024.0 * (double)kib;
    if (file)
        fclose(file);
    return bytes;
}

void stm_usage_begin(void)
{
    begin_bytes = pss_bytes();
    peak_bytes = NAN;
}

double stm_usage_sample(void)
{
    const double bytes = pss_bytes() - begin_bytes;
    peak_bytes = fmax(peak_bytes, bytes); /* of a number and NAN the number */
    return bytes;
}

double stm_usage_peak_bytes(void)
{
    return peak_bytes;
}

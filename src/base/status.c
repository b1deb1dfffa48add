#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[2048];

stm_status stm_fail(stm_status code, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    return code;
}

stm_status stm_fail_context(stm_status code, const char *format, ...)
{
    char before[sizeof message], whole[2 * sizeof message + 2];
    va_list list;
    va_start(list, format);
    vsnprintf(before, sizeof before, format, list);
    va_end(list);
    snprintf(whole, sizeof whole, "%s: %s", before, message);
    memcpy(message, whole, sizeof message - 1);
    message[sizeof message - 1] = 0;
    return code;
}

stm_status stm_fail_memory_of(stm_status code, const char *what, const char *remedy)
{
    return code == STM_ERR_MEMORY ? stm_fail_context(code, "memory for %s (%s takes less)", what, remedy) : code;
}

const char *stm_failure(void)
{
    return message;
}

int stm_exit_code(stm_status status)
{
    return status == STM_OK ? 0 : status == STM_ERR_INPUT ? 2 : 1;
}

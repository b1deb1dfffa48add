/* A description of a machine; what is taken is printed, which must read back the same. */
#include "config/machine.h"

#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    stm_machine machine = {0}, copy = {0};
    char *yaml = NULL, *again = NULL;
    if (fuzz_took(stm_machine_read_text("machine.yaml", (const char *)data, size, &machine)) &&
        fuzz_took(stm_machine_print(&machine, &yaml))) {
        fuzz_expect(stm_machine_read_text("printed", yaml, strlen(yaml), &copy) == STM_OK,
                    "what was printed is not read back");
        fuzz_took(stm_machine_print(&copy, &again));
        fuzz_expect(again && strcmp(yaml, again) == 0, "what was printed reads back otherwise");
    }
    stm_machine_clear(&machine);
    stm_machine_clear(&copy);
    free(yaml);
    free(again);
    return 0;
}

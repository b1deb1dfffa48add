/* An input file and, each after a zero byte, arguments of the command line; what is taken is printed as YAML, which
 * must read back the same. */
#include "config/options.h"

#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"

enum { N_ARGUMENTS = 4 };

static void print(const stm_options *options)
{
    char *yaml = NULL, *again = NULL;
    stm_options copy;
    fuzz_expect(stm_options_init(&copy) == STM_OK, "no options");
    if (fuzz_took(stm_options_print(options, STM_COMMAND_TRAIN, &yaml))) {
        fuzz_expect(stm_options_read_text(&copy, STM_COMMAND_TRAIN, "printed", yaml, strlen(yaml)) == STM_OK,
                    "what was printed is not read back");
        fuzz_took(stm_options_print(&copy, STM_COMMAND_TRAIN, &again));
        fuzz_expect(again && strcmp(yaml, again) == 0, "what was printed reads back otherwise");
    }
    free(yaml);
    free(again);
    stm_options_clear(&copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *texts[1 + N_ARGUMENTS];
    char *memory = fuzz_texts(data, size, texts, 1 + N_ARGUMENTS), *arguments[N_ARGUMENTS];
    int n = 0;
    stm_options options;
    fuzz_expect(stm_options_init(&options) == STM_OK, "no options");
    for (size_t i = 1; i <= N_ARGUMENTS && texts[i]; i++)
        arguments[n++] = (char *)texts[i];
    if (fuzz_took(stm_options_read_text(&options, STM_COMMAND_TRAIN, "input.yaml", texts[0], strlen(texts[0]))) &&
        fuzz_took(stm_options_read_arguments(&options, STM_COMMAND_TRAIN, n, arguments))) {
        fuzz_took(stm_options_check(&options, STM_COMMAND_TRAIN));
        print(&options);
    }
    stm_options_clear(&options);
    free(memory);
    return 0;
}

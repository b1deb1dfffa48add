/* config.json -> stm_model_config: both spellings, the defaults of each family, and what is refused. */
#include "backend/backend.h"
#include "model/layout.h"
#include "support/model.h"

static void the_text_of_a_test_model_gives_its_configuration(void **state)
{
    (void)state;
    for (size_t i = 0; i < STM_TEST_N_CONFIGS; i++) {
        stm_model_config parsed;
        char *text = stm_test_config_text(&stm_test_configs[i]);
        assert_ok(stm_model_config_parse("m/config.json", text, NULL, &parsed));
        assert_memory_equal(&parsed, &stm_test_configs[i], sizeof parsed);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_text_of_a_test_model_gives_its_configuration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

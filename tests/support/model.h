/* tests/support/model.h: small models for tests. A failure ends the test with its message. */
#ifndef STM_TESTS_MODEL_H
#define STM_TESTS_MODEL_H

#include "model/model.h"
#include "support/support.h"

/* Tiny configurations, of sizes that few numbers divide: the families, tied and not. */
typedef enum {
    STM_TEST_LLAMA,      /* GQA */
    STM_TEST_LLAMA_TIED, /* one KV head for all; llama3-scaled rope */
    STM_TEST_MISTRAL,    /* as many KV heads as query heads, own head_dim; one layer */
    STM_TEST_QWEN2,      /* biases */
    STM_TEST_QWEN3,      /* q/k norm, own head_dim, tied */
    STM_TEST_N_CONFIGS
} stm_test_config;
extern const stm_model_config stm_test_configs[STM_TEST_N_CONFIGS];

/* The config.json of a configuration; parsed it gives the same. The caller frees. */
char *stm_test_config_text(const stm_model_config *config);

/* A model with that text and random weights, equal in each precision: scores have a deviation of about 2, so that
 * attention is far from uniform; norms are away from 1, biases from 0. The caller destroys it. */
stm_model *stm_test_model(const stm_backend *backend, stm_stream *stream, const stm_model_config *config,
                          uint64_t seed);

/* Opens the model of stm_fixture(name), such as "parity/llama". The caller destroys it. */
stm_model *stm_test_open(const stm_backend *backend, stm_stream *stream, const char *name);

/* All parameters as doubles, [n_parameters] in the layout of the buffer. The caller frees. */
double *stm_test_weights(const stm_model *model);

/* The parameter of that name. */
const stm_parameter *stm_test_parameter(const stm_model *model, const char *name);

#endif

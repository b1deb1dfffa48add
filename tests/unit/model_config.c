/* config.json -> stm_model_config: both spellings, the defaults of each family, what is refused; RoPE's frequencies. */
#include "backend/backend.h"
#include "base/random.h"
#include "model/layout.h"
#include "support/model.h"

/* Text -> configuration; both with ' for ". */
static stm_status parse_quoted(const char *config, const char *generation, stm_model_config *out)
{
    char texts[2][4096];
    snprintf(texts[0], sizeof texts[0], "%s", config);
    snprintf(texts[1], sizeof texts[1], "%s", generation ? generation : "");
    for (size_t i = 0; i < 2; i++) {
        for (char *at = texts[i]; (at = strchr(at, '\'')); at++)
            *at = '"';
    }
    memset(out, 0, sizeof *out);
    return stm_model_config_parse("m/config.json", texts[0], generation ? texts[1] : NULL, out);
}

static stm_model_config parsed(const char *config, const char *generation)
{
    stm_model_config out;
    assert_ok(parse_quoted(config, generation, &out));
    return out;
}

/* Members before which a test puts its own; the last of two equal keys counts. */
#define SMALL                                                                                                          \
    "'vocab_size': 100, 'hidden_size': 32, 'intermediate_size': 40, 'num_hidden_layers': 2, 'num_attention_heads': 4," \
    "'num_key_value_heads': 2, 'head_dim': 8, 'max_position_embeddings': 256"
#define LLAMA(members) "{'model_type': 'llama', " SMALL ", " members "}"
#define MISTRAL(members) "{'model_type': 'mistral', " SMALL ", " members "}"
#define QWEN2(members) "{'model_type': 'qwen2', " SMALL ", " members "}"
#define QWEN3(members) "{'model_type': 'qwen3', " SMALL ", " members "}"

static void the_text_of_a_test_model_gives_its_configuration(void **state)
{
    (void)state;
    for (size_t i = 0; i < STM_TEST_N_CONFIGS; i++) {
        stm_model_config out;
        char *text = stm_test_config_text(&stm_test_configs[i]);
        assert_ok(stm_model_config_parse("m/config.json", text, NULL, &out));
        assert_memory_equal(&out, &stm_test_configs[i], sizeof out);
        free(text);
    }
}

static void both_spellings_mean_the_same(void **state)
{
    (void)state;
    const char *pairs[][2] = {
        {LLAMA("'rope_theta': 500000.0, 'rope_scaling': null, 'torch_dtype': 'bfloat16'"),
         LLAMA("'rope_parameters': {'rope_type': 'default', 'rope_theta': 500000.0}, 'dtype': 'bfloat16'")},
        {LLAMA("'rope_theta': 10000, 'rope_scaling': {'type': 'linear', 'factor': 4}"),
         LLAMA("'rope_parameters': {'rope_type': 'linear', 'factor': 4.0, 'rope_theta': 10000.0}")},
        {LLAMA("'rope_theta': 500000.0, 'rope_scaling': {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0,"
               "'high_freq_factor': 4.0, 'original_max_position_embeddings': 64}"),
         LLAMA("'rope_parameters': {'rope_type': 'llama3', 'rope_theta': 500000.0, 'factor': 8.0,"
               "'low_freq_factor': 1.0, 'high_freq_factor': 4.0, 'original_max_position_embeddings': 64}")},
        /* Where both stand, rope_scaling is the one that counts, with the theta outside of it. */
        {LLAMA("'rope_theta': 500000.0, 'rope_scaling': {'type': 'linear', 'factor': 2.0}"),
         LLAMA("'rope_theta': 500000.0, 'rope_scaling': {'type': 'linear', 'factor': 2.0},"
               "'rope_parameters': {'rope_type': 'default', 'rope_theta': 10000.0}")},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const stm_model_config a = parsed(pairs[i][0], NULL), b = parsed(pairs[i][1], NULL);
        assert_memory_equal(&a, &b, sizeof a);
    }
    const stm_model_config scaled = parsed(pairs[2][0], NULL);
    assert_int_equal(scaled.rope, STM_ROPE_LLAMA3);
    assert_near(scaled.rope_theta, 500000.0, 0);
    assert_near(scaled.rope_factor, 8, 0);
    assert_near(scaled.rope_high_freq_factor, 4, 0);
    assert_int_equal(scaled.rope_original_positions, 64);
    assert_near(parsed(pairs[3][1], NULL).rope_theta, 500000.0, 0);
}

/* The values are those of the configuration classes of transformers 5.24. */
static void missing_keys_have_the_defaults_of_the_family(void **state)
{
    (void)state;
    const struct {
        const char *text;
        stm_model_config expected;
    } cases[] = {
        {"{'model_type': 'llama'}",
         {"llama", 32000, 4096, 11008, 32, 32, 32, 128, 2048, .n_eos = 1, .eos = {2}, .bos = 1}},
        {"{'model_type': 'mistral', 'sliding_window': null}",
         {"mistral", 32000, 4096, 14336, 32, 32, 8, 128, 131072, .n_eos = 1, .eos = {2}, .bos = 1}},
        {"{'model_type': 'qwen2'}",
         {"qwen2", 151936, 4096, 22016, 32, 32, 32, 128, 32768, .qkv_bias = true, .bos = -1}},
        {"{'model_type': 'qwen3', 'hidden_size': 1024, 'num_attention_heads': 32}",
         {"qwen3", 151936, 1024, 22016, 32, 32, 32, 128, 32768, .qk_norm = true, .bos = -1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const stm_model_config found = parsed(cases[i].text, NULL);
        stm_model_config expected = cases[i].expected;
        expected.rms_eps = 1e-6;
        expected.rope_theta = 10000;
        expected.initializer_range = 0.02;
        expected.rope_factor = expected.rope_low_freq_factor = expected.rope_high_freq_factor = 1;
        expected.rope_original_positions = expected.max_positions;
        assert_memory_equal(&found, &expected, sizeof found);
    }
}

static void head_counts_and_sizes_follow_from_what_is_given(void **state)
{
    (void)state;
    const stm_model_config all = parsed("{'model_type': 'llama', 'hidden_size': 60, 'num_attention_heads': 6}", NULL);
    assert_int_equal(all.n_kv_heads, 6);
    assert_int_equal(all.head_dim, 10);
    const stm_model_config null = parsed(MISTRAL("'sliding_window': null, 'num_key_value_heads': null"), NULL);
    assert_int_equal(null.n_kv_heads, 4);
    const stm_model_config tied = parsed(QWEN3("'tie_word_embeddings': true, 'head_dim': 20"), NULL);
    assert_true(tied.tied);
    assert_int_equal(tied.head_dim, 20);
    assert_int_equal(parsed(QWEN2("'head_dim': null"), NULL).head_dim, 8);
}

static void a_window_that_hides_nothing_is_accepted(void **state)
{
    (void)state;
    const char *accepted[] = {
        MISTRAL("'sliding_window': null"),
        MISTRAL("'sliding_window': 256"), /* position p sees p - 255 .. p */
        MISTRAL("'max_position_embeddings': 4096"),
        QWEN2("'sliding_window': 8"),
        QWEN2("'sliding_window': 8, 'use_sliding_window': false, 'max_window_layers': 0"),
        QWEN2("'sliding_window': 8, 'use_sliding_window': true, 'max_window_layers': 2"),
        QWEN2("'sliding_window': 8, 'use_sliding_window': true"), /* from layer 28 on, and there are 2 */
        QWEN2("'sliding_window': null, 'use_sliding_window': true, 'max_window_layers': 0"),
        QWEN3("'sliding_window': 256, 'use_sliding_window': true, 'max_window_layers': 0"),
        QWEN3("'sliding_window': 8, 'use_sliding_window': true, 'max_window_layers': 0,"
              "'layer_types': ['full_attention', 'full_attention']"),
        LLAMA("'sliding_window': 8"), /* this class has no such key */
    };
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++)
        parsed(accepted[i], NULL);
}

static void end_ids_come_from_generation_config_then_from_config(void **state)
{
    (void)state;
    const stm_model_config list = parsed(LLAMA("'eos_token_id': 5"), "{'eos_token_id': [7, 9, 7]}");
    assert_int_equal(list.n_eos, 2);
    assert_int_equal(list.eos[0], 7);
    assert_int_equal(list.eos[1], 9);
    const stm_model_config without = parsed(LLAMA("'eos_token_id': [5, 6]"), "{'eos_token_id': null}");
    assert_int_equal(without.n_eos, 2);
    assert_int_equal(without.eos[0], 5);
    assert_int_equal(without.eos[1], 6);
    assert_int_equal(parsed(LLAMA("'eos_token_id': 5"), "{'temperature': 0.6}").eos[0], 5);
    assert_int_equal(parsed(LLAMA("'eos_token_id': null"), NULL).n_eos, 0);
    assert_int_equal(parsed(LLAMA("'eos_token_id': -1"), NULL).n_eos, 0);
    assert_int_equal(parsed(QWEN2("'eos_token_id': 151645"), NULL).n_eos, 0); /* beyond the vocabulary of 100 */
    assert_int_equal(parsed(QWEN2("'bos_token_id': 0"), NULL).bos, 0);
    assert_int_equal(parsed(LLAMA("'bos_token_id': null"), NULL).bos, -1);
}

static void what_is_not_computed_is_refused_by_name(void **state)
{
    (void)state;
    const char *cases[][2] = {
        {"{", "m/config.json: line 1: not JSON"},
        {"[1]", "m/config.json: found a JSON value of another kind, expected an object"},
        {"{}", "m/config.json: model_type: found nothing, expected llama, mistral, qwen2 or qwen3"},
        {"{'model_type': 'gemma2'}", "model_type: found \"gemma2\", expected llama, mistral, qwen2 or qwen3"},
        {LLAMA("'architectures': ['LlamaForSequenceClassification']"),
         "architectures: found [\"LlamaForSequenceClassification\"], expected [\"LlamaForCausalLM\"]"},
        {LLAMA("'hidden_act': 'gelu'"), "hidden_act: found \"gelu\", expected silu"},
        {LLAMA("'attention_bias': true"), "attention_bias: found true, expected false"},
        {QWEN3("'attention_bias': true"), "attention_bias: found true, expected false"},
        {LLAMA("'mlp_bias': true"), "mlp_bias: found true, expected false"},
        {LLAMA("'rope_scaling': {'rope_type': 'yarn', 'factor': 4.0}"),
         "rope_scaling.rope_type: found \"yarn\", expected default, linear or llama3"},
        {LLAMA("'rope_scaling': {'type': 'dynamic', 'factor': 4.0}"),
         "rope_scaling.type: found \"dynamic\", expected default, linear or llama3"},
        {LLAMA("'rope_parameters': {'rope_type': 'longrope', 'rope_theta': 1e4}"),
         "rope_parameters.rope_type: found \"longrope\", expected default, linear or llama3"},
        {LLAMA("'rope_parameters': {'full_attention': {'rope_type': 'default'}}"),
         "rope_parameters.full_attention: found {\"rope_type\":\"default\"}, expected one set of parameters"},
        {LLAMA("'rope_scaling': 2"), "rope_scaling: found 2, expected an object or null"},
        {LLAMA("'rope_scaling': {'type': 'linear'}"), "rope_scaling.factor: found nothing, expected a positive number"},
        {LLAMA("'rope_scaling': {'type': 'llama3', 'factor': 8, 'low_freq_factor': 4, 'high_freq_factor': 4}"),
         "rope_scaling.high_freq_factor: found 4, expected more than low_freq_factor, 4"},
        {LLAMA("'rope_theta': -1"), "rope_theta: found -1, expected a positive number"},
        {LLAMA("'rope_theta': '1e4'"), "rope_theta: found \"1e4\", expected a positive number"},
        {LLAMA("'partial_rotary_factor': 0.5"), "partial_rotary_factor: found 0.5, expected 1"},
        {MISTRAL("'sliding_window': 255"),
         "sliding_window: found 255, expected null, or at least max_position_embeddings, 256"},
        {"{'model_type': 'mistral'}", "sliding_window: found nothing, expected null, or at least"},
        {QWEN2("'sliding_window': 8, 'use_sliding_window': true, 'max_window_layers': 1"), "sliding_window: found 8"},
        {QWEN3("'sliding_window': 8, 'use_sliding_window': true,"
               "'layer_types': ['full_attention', 'sliding_attention']"),
         "sliding_window: found 8"},
        {QWEN3("'layer_types': ['linear_attention']"),
         "layer_types: found [\"linear_attention\"], expected full_attention in all layers"},
        {LLAMA("'quantization_config': {'bits': 4}"), "quantization_config: found {\"bits\":4}, expected nothing"},
        {LLAMA("'hidden_size': 0"), "hidden_size: found 0, expected an integer from 1 to"},
        {LLAMA("'hidden_size': 32.5"), "hidden_size: found 32.5, expected an integer"},
        {LLAMA("'num_key_value_heads': 3"), "num_key_value_heads: found 3, expected a divisor of num_attention_heads"},
        {QWEN2("'num_key_value_heads': null, 'num_attention_heads': 5, 'head_dim': null"),
         "num_attention_heads: found 5, expected a divisor of hidden_size, 32"},
        {"{'model_type': 'qwen2', 'num_attention_heads': 8}",
         "num_key_value_heads: found nothing, expected a divisor of num_attention_heads, 8 (a missing key means 32"},
        {LLAMA("'head_dim': 7"), "head_dim: found 7, expected an even number"},
        {LLAMA("'rms_norm_eps': 0"), "rms_norm_eps: found 0, expected a positive number"},
        {LLAMA("'tie_word_embeddings': 1"), "tie_word_embeddings: found 1, expected true or false"},
        {LLAMA("'eos_token_id': 'x'"), "m/config.json: eos_token_id: found \"x\", expected an id, a list of ids"},
        {LLAMA("'bos_token_id': [1]"), "bos_token_id: found [1], expected an id or null"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        stm_model_config out;
        assert_fails(parse_quoted(cases[i][0], NULL, &out), STM_ERR_INPUT, cases[i][1]);
    }
    stm_model_config out;
    assert_fails(parse_quoted(LLAMA("'eos_token_id': 1"), "{'eos_token_id': ['a']}", &out), STM_ERR_INPUT,
                 "m/generation_config.json: eos_token_id: found");
    assert_fails(parse_quoted(LLAMA("'eos_token_id': 1"), "nonsense", &out), STM_ERR_INPUT,
                 "m/generation_config.json: line 1: not JSON");
}

/* Recorded from transformers 5.24 (ROPE_INIT_FUNCTIONS) with its float32 replaced by float64. */
static void frequencies_are_those_of_transformers(void **state)
{
    (void)state;
    double f[64];
    const struct {
        size_t i;
        double value;
    } llama31[] = {{0, 1},
                   {1, 0.81461723385654472},
                   {28, 0.0032114459947525913}, /* the last that is kept */
                   {29, 0.0021665707635033591}, /* blended */
                   {32, 0.00052484616099295468},
                   {34, 0.00017850781276799638},
                   {35, 9.5562123539646833e-05}, /* stretched */
                   {63, 3.0689259889145111e-07}};
    const stm_model_config llama = parsed(
        LLAMA("'head_dim': 128, 'max_position_embeddings': 131072, 'rope_theta': 500000.0, 'rope_scaling': {'type':"
              "'llama3', 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,"
              "'original_max_position_embeddings': 8192}"),
        NULL);
    stm_rope_frequencies(&llama, f);
    for (size_t i = 0; i < sizeof llama31 / sizeof *llama31; i++)
        assert_true(fabs(f[llama31[i].i] / llama31[i].value - 1) < 1e-14);

    const double expected[] = {0.25,
                               0.053860867250797098,
                               0.01160397208403195,
                               0.0025000000000000001,
                               0.00053860867250797107,
                               0.00011603972084031942};
    const stm_model_config linear =
        parsed(LLAMA("'head_dim': 12, 'rope_theta': 10000.0, 'rope_scaling': {'type': 'linear', 'factor': 4.0}"), NULL);
    stm_rope_frequencies(&linear, f);
    for (size_t i = 0; i < 6; i++)
        assert_true(fabs(f[i] / expected[i] - 1) < 1e-14);
}

static void tables_hold_cosine_and_sine_of_position_times_frequency(void **state)
{
    (void)state;
    stm_model_config config = stm_test_configs[STM_TEST_LLAMA_TIED];
    config.max_positions = 1300; /* more than are computed at once, and no multiple */
    double frequencies[2];
    stm_rope_frequencies(&config, frequencies);
    for (size_t bytes = 4; bytes <= 8; bytes += 4) {
        const stm_backend *backend;
        stm_stream *stream;
        stm_model *model;
        assert_ok(stm_backend_find("cpu", bytes == 8 ? STM_FLOAT64 : STM_FLOAT32, &backend));
        assert_ok(backend->open(1, &stream));
        assert_ok(stm_model_create(&config, backend, stream, &model));
        const double tolerance = bytes == 8 ? 0 : 0x1p-24;
        for (size_t p = 0; p < config.max_positions; p++) {
            for (size_t i = 0; i < 2; i++) {
                const size_t at = p * 2 + i;
                const double angle = (double)p * frequencies[i];
                const double c = bytes == 8 ? ((double *)model->cosine)[at] : (double)((float *)model->cosine)[at];
                const double s = bytes == 8 ? ((double *)model->sine)[at] : (double)((float *)model->sine)[at];
                assert_true(fabs(c - cos(angle)) <= tolerance && fabs(s - sin(angle)) <= tolerance);
            }
        }
        stm_model_destroy(model);
        backend->close(stream);
    }
}

/* Random edits of a good text: each is refused with a message, or means a model that can be computed. */
static void random_damage_is_refused_or_harmless(void **state)
{
    (void)state;
    const char pieces[] = "0123456789-.e{}[],:\" truefalsnu";
    size_t n_refused = 0;
    for (uint32_t trial = 0; trial < 5000; trial++) {
        char *text = stm_test_config_text(&stm_test_configs[trial % STM_TEST_N_CONFIGS]);
        for (uint32_t e = 0; e <= trial % 3; e++) {
            const stm_random_key where = {.seed = 21, .use = STM_RANDOM_INIT, .slot = trial, .token = 2 * e};
            const stm_random_key what = {.seed = 21, .use = STM_RANDOM_INIT, .slot = trial, .token = 2 * e + 1};
            const size_t piece = (size_t)(stm_random_uniform(&what) * (sizeof pieces - 1));
            text[(size_t)(stm_random_uniform(&where) * (double)strlen(text))] = pieces[piece];
        }
        stm_model_config c;
        if (stm_model_config_parse("m/config.json", text, NULL, &c) != STM_OK) {
            assert_non_null(strstr(stm_failure(), "m/config.json: "));
            n_refused++;
        } else {
            assert_true(c.n_kv_heads > 0 && c.n_heads % c.n_kv_heads == 0 && c.head_dim > 0 && c.head_dim % 2 == 0);
            assert_true(c.vocab_size > 0 && c.hidden_size > 0 && c.n_layers > 0 && c.rms_eps > 0 && c.rope_theta > 0);
        }
        free(text);
    }
    assert_in_range(n_refused, 1000, 4900);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_text_of_a_test_model_gives_its_configuration),
        cmocka_unit_test(both_spellings_mean_the_same),
        cmocka_unit_test(missing_keys_have_the_defaults_of_the_family),
        cmocka_unit_test(head_counts_and_sizes_follow_from_what_is_given),
        cmocka_unit_test(a_window_that_hides_nothing_is_accepted),
        cmocka_unit_test(end_ids_come_from_generation_config_then_from_config),
        cmocka_unit_test(what_is_not_computed_is_refused_by_name),
        cmocka_unit_test(random_damage_is_refused_or_harmless),
        cmocka_unit_test(frequencies_are_those_of_transformers),
        cmocka_unit_test(tables_hold_cosine_and_sine_of_position_times_frequency),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

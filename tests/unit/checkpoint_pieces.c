/* Which rank writes which bytes of a checkpoint, and who reads them back. */
#include "checkpoint/hashes.h"
#include "checkpoint/pieces.h"
#include "model/layout.h"
#include "model/stages.h"
#include "support/device.h"
#include "support/model.h"

/* `owners` [n_parameters] is counted up where a piece lies. */
static void count_owners(const stm_model *model, const stm_shards *shards, int rank, size_t real_bytes, int *owners)
{
    stm_piece *pieces;
    size_t n, packed = 0;
    assert_ok(stm_pieces_list(model, shards, rank, real_bytes, &pieces, &n));
    assert_int_equal(n, stm_pieces(model, shards, rank, real_bytes, NULL));
    for (size_t i = 0; i < n; i++) {
        const stm_parameter *in = &model->tensors[pieces[i].tensor];
        assert_true(pieces[i].n > 0 && pieces[i].n * real_bytes <= STM_BLOCK_BYTES);
        assert_true(pieces[i].first + pieces[i].n <= in->n);
        assert_int_equal(pieces[i].packed, packed);
        packed += pieces[i].n;
        for (size_t e = 0; e < pieces[i].n; e++)
            owners[in->offset + pieces[i].first + e]++;
    }
    assert_int_equal(packed, stm_shards_count(shards, rank));
    free(pieces);
}

static void assert_each_has_one_owner(const int *owners, size_t n)
{
    size_t n_wrong = 0;
    for (size_t i = 0; i < n; i++)
        n_wrong += owners[i] != 1;
    assert_int_equal(n_wrong, 0);
}

static void pieces_of_all_ranks_hold_every_element_once(void **state)
{
    (void)state;
    device d;
    device_open(&d, "cpu", 4, 1);
    stm_model_config large = stm_test_configs[STM_TEST_LLAMA];
    large.vocab_size = 5000011 / large.hidden_size; /* more than a block, in float32 too */
    const stm_model_config *const configs[] = {&stm_test_configs[STM_TEST_QWEN2], &stm_test_configs[STM_TEST_QWEN3],
                                               &large};
    for (size_t c = 0; c < 3; c++) {
        stm_model *model;
        assert_ok(stm_model_create(configs[c], d.backend, d.stream, &model));
        int *owners = calloc(model->n_parameters, sizeof *owners);
        const size_t buckets[] = {1, 97, 1000, (size_t)1 << 23};
        for (size_t b = c == 2 ? 2 : 0; b < 4; b++)
            for (int n_ranks = 1; n_ranks <= 5; n_ranks++) {
                const stm_shards shards = {.n = model->n_parameters, .bucket_n = buckets[b], .n_ranks = n_ranks};
                memset(owners, 0, model->n_parameters * sizeof *owners);
                for (int r = 0; r < n_ranks; r++)
                    count_owners(model, &shards, r, n_ranks % 2 ? 4 : 8, owners);
                assert_each_has_one_owner(owners, model->n_parameters);
            }
        free(owners);
        stm_model_destroy(model);
    }
    device_close(&d);
}

static void pieces_of_all_stages_hold_every_element_once(void **state)
{
    (void)state;
    for (stm_test_config c = 0; c < STM_TEST_N_CONFIGS; c++) {
        stm_model_config config = stm_test_configs[c];
        stm_model *model;
        config.n_layers = 5;
        assert_ok(stm_model_lay_out(&config, &model));
        int *owners = calloc(model->n_parameters, sizeof *owners);
        for (int n_stages = 1; n_stages <= 5; n_stages++)
            for (int stage_size = 1; stage_size <= 3; stage_size++) {
                const int n_ranks = n_stages * stage_size, caller = n_ranks / 2; /* any rank lists those of all */
                stm_model_hold_stage(model, (size_t)n_stages, (size_t)(caller / stage_size));
                const stm_shards mine = {
                    .first = model->own.first, .n = model->own.n, .bucket_n = 313, .n_ranks = stage_size};
                memset(owners, 0, model->n_parameters * sizeof *owners);
                for (int r = 0; r < n_ranks; r++) {
                    int place;
                    const stm_shards shards = stm_shards_of(model, &mine, n_ranks, r, &place);
                    assert_int_equal(place, r % stage_size);
                    count_owners(model, &shards, place, 8, owners);
                }
                assert_each_has_one_owner(owners, model->n_parameters);
            }
        free(owners);
        stm_model_destroy(model);
    }
}

static void another_node_reads_back_where_there_is_one(void **state)
{
    (void)state;
    /* cyclic, in blocks, uneven, in any order */
    const int layouts[][7] = {{0, 1, 0, 1, 0, 1, 0}, {0, 0, 0, 3, 3, 3, 6}, {0, 1, 1, 1, 1, 1, 1},
                              {5, 5, 5, 5, 0, 0, 5}, {6, 5, 4, 3, 2, 1, 0}, {9, 2, 9, 2, 4, 4, 4}};
    for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++)
        for (int r = 0; r < 7; r++) {
            const int verifier = stm_verifier_of(layouts[l], 7, r);
            assert_true(verifier >= 0 && verifier < 7);
            assert_int_not_equal(layouts[l][verifier], layouts[l][r]);
        }
}

static void equal_nodes_share_the_reading_evenly(void **state)
{
    (void)state;
    const int layouts[][6] = {{0, 0, 0, 0, 0, 0}, {0, 0, 0, 3, 3, 3}, {0, 1, 2, 0, 1, 2}, {4, 4, 1, 1, 3, 3}};
    for (size_t l = 0; l < 4; l++) {
        int seen[6] = {0};
        for (int r = 0; r < 6; r++) {
            const int verifier = stm_verifier_of(layouts[l], 6, r);
            assert_int_not_equal(verifier, r);
            seen[verifier]++;
        }
        for (int r = 0; r < 6; r++)
            assert_int_equal(seen[r], 1);
    }
    assert_int_equal(stm_verifier_of(layouts[0], 1, 0), 0); /* alone */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_of_all_ranks_hold_every_element_once),
        cmocka_unit_test(pieces_of_all_stages_hold_every_element_once),
        cmocka_unit_test(another_node_reads_back_where_there_is_one),
        cmocka_unit_test(equal_nodes_share_the_reading_evenly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

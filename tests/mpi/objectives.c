/* Objectives of every scope on any layout: loss and gradient are those of one rank that shares nothing. */
#include "support/batch.h"
#include "support/model.h"
#include "support/mpi.h"

enum { MOST = 8 };

static const char *const objectives[][MOST] = {
    {"objective.name=grpo", "objective.advantage_scale=whiten", "objective.advantage_baseline=none",
     "objective.kl_in=reward-to-go", "objective.kl_coef=0.01"},
    {"objective.name=grpo", "objective.is_correction=truncate", "objective.is_level=sequence",
     "objective.aggregate=control-split", "objective.seed_alpha=0.4"},
    {"objective.name=grpo", "objective.reward_combine=normalize-then-sum", "objective.surrogate=cispo"},
    {"objective.name=grpo", "objective.ratio_level=sequence", "objective.aggregate=sequence-mean",
     "objective.kl_unbiased=true"},
    {"objective.name=grpo", "objective.ratio_level=trajectory", "objective.proximal_coef=0.1",
     "objective.surrogate=none"},
    {"objective.name=grpo", "objective.surrogate=geometric", "objective.clip_low=0.4"},
    {"objective.name=grpo", "objective.token_weight_alpha=1.7", "objective.ratio_level=sequence"},
    {"objective.name=grpo", "objective.token_weight_alpha=0.4", "objective.kl_coef=0",
     "objective.skip_equal_groups=true"},
    {"objective.name=mdpo_regression", "objective.tau=0.3"},
    {"objective.name=direct_advantage", "objective.beta=0.5"},
    {"objective.name=disco", "objective.tau=10", "objective.penalty_coef=2"},
    {"objective.name=disco", "objective.tau=1", "objective.score=lratio", "objective.penalty_coef=0"},
    {"objective.name=copg", "objective.kl_coef=0.1"},
    {"objective.name=dpo", "objective.score=win_rate", "objective.pairing=every", "objective.label=bt",
     "objective.reference={ref: 0.3, old: 0.7}", "objective.kl_coef=0.1", "objective.kl_form=sequence-loo",
     "objective.explore_coef=0.01"},
    {"objective.name=dpo", "objective.loss=hinge", "objective.pairing=all", "objective.pair_filter=2",
     "objective.chase_coef=0.2", "objective.kl_coef=0", "objective.length=mean"},
    {"objective.name=orpo", "objective.pairing=halves", "objective.sft_coef=1"},
    {"objective.name=kto", "objective.undesirable_weight=1.3"},
    {"objective.name=self_play", "objective.prox_eta=0.5", "objective.opponent=other"},
    {"objective.name=self_play", "objective.oracle=reward", "objective.kl_form=sequence-loo"},
    {"objective.name=p3o", "objective.kl_coef=0.01"},
    {"objective.name=p3o", "objective.variant=joint", "objective.score=win_rate"},
    {"objective.name=fdpg", "objective.target_beta=0.5"},
    {"objective.name=fdpg", "objective.target=constraint", "objective.target_threshold=0.2", "objective.divergence=tv"},
    {"objective.name=dpo", "objective.loss=robust", "objective.label_smoothing=0.1", "objective.sft_coef=0.2",
     "objective.sft_form=mean", "objective.pair_aggregate=prompt-mean"},
    {"objective.name=dpo", "objective.loss=ipo", "objective.label_smoothing=0", "objective.reference={}",
     "objective.length=mean", "objective.pairing=origin"},
    {"objective.name=grpo", "objective.dual_clip=3", "objective.clip_high=0.1", "objective.kl_coef=0.04",
     "objective.kl_estimator=k2", "objective.min_advantage=0.01"},
    {"objective.name=grpo", "objective.advantage_baseline=leave-one-out", "objective.kl_in=reward",
     "objective.kl_coef=0.05", "objective.aggregate=fixed-length", "objective.max_tokens=9"},
    {"objective.name=sft"},
};
enum { N_OBJECTIVES = sizeof objectives / sizeof *objectives };

typedef struct {
    stm_stream *stream;
    stm_model *model;
    stm_batch batch;
    stm_test_result alone[N_OBJECTIVES]; /* by one rank that shares nothing */
} fixture;

static void give_preferences(stm_group *group)
{
    const size_t n = group->n_responses;
    assert_ok(stm_alloc(n * n, sizeof(double), &group->preferences));
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            const double p = i == j ? 0.5 : 0.1 + 0.1 * (double)((3 * i + j) % 8);
            group->preferences[i * n + j] = p;
            group->preferences[j * n + i] = 1 - p;
        }
}

/* What some objectives read beside log-probs and rewards; a pure function of the batch's shape. */
static void give_notes(stm_batch *batch)
{
    for (size_t g = 0; g < batch->n_groups; g++) {
        give_preferences(&batch->groups[g]);
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            stm_response *r = &batch->groups[g].responses[i];
            assert_ok(stm_alloc(1, sizeof *r->notes, &r->notes));
            stm_response_notes *notes = r->notes;
            notes->cluster = (int64_t)(i % 2);
            notes->has_cluster = true;
            notes->off_policy = (g + i) % 5 == 4;
            notes->other_origin = i % 3 == 1;
            notes->n_parts = 2;
            notes->n_steps = 2;
            assert_ok(stm_alloc(2, sizeof(double), &notes->reward_parts));
            assert_ok(stm_alloc(2, sizeof(double), &notes->step_advantages));
            assert_ok(stm_alloc(r->n, sizeof(double), &notes->sampler_logprobs));
            assert_ok(stm_alloc(r->n, sizeof(double), &notes->token_weights));
            assert_ok(stm_alloc(r->n, sizeof *notes->step, &notes->step));
            assert_ok(stm_alloc(r->n, sizeof(double), &notes->twin_logprobs));
            assert_ok(stm_alloc(r->n, sizeof(double), &notes->target_logprobs));
            notes->reward_parts[0] = r->reward;
            notes->reward_parts[1] = 0.1 * (double)(r->n % 7);
            notes->step_advantages[0] = 0.3;
            notes->step_advantages[1] = -0.2;
            if (!r->old_logprobs)
                assert_ok(stm_alloc(r->n, sizeof(double), &r->old_logprobs));
            for (size_t k = 0; k < r->n; k++) {
                r->old_logprobs[k] = r->ref_logprobs[k] - 0.1 * (double)((k + i) % 3);
                notes->sampler_logprobs[k] = r->old_logprobs[k] + 0.2 * (double)(k % 3) - 0.1;
                notes->token_weights[k] = 1.0 + 0.1 * (double)(k % 4);
                notes->step[k] = k >= r->n / 2;
                notes->twin_logprobs[k] = r->ref_logprobs[k] + 0.1 * (double)((k + g) % 2);
                notes->target_logprobs[k] = r->ref_logprobs[k] - 0.05 * (double)(k % 5);
            }
        }
    }
}

/* The objective's options, then those of the layout. */
static void with_options(const char *const *objective, const char *const *layout, stm_options *options)
{
    const char *all[2 * MOST];
    size_t n = 0;
    for (size_t i = 0; i < MOST && objective[i]; i++)
        all[n++] = objective[i];
    for (size_t i = 0; i < MOST && layout[i]; i++)
        all[n++] = layout[i];
    stm_test_options(options, all, n);
}

static void set_up(fixture *f)
{
    assert_ok(stm_backend_cpu_f64.open(1, &f->stream));
    f->model = stm_test_model(&stm_backend_cpu_f64, f->stream, &stm_test_configs[STM_TEST_LLAMA], 5);
    stm_test_batch(3, 7, f->model->config.vocab_size, &f->batch);
    give_notes(&f->batch);
    for (size_t i = 0; i < N_OBJECTIVES; i++) {
        stm_options options;
        with_options(objectives[i], (const char *const[MOST]){"--forward=repeated"}, &options);
        stm_test_gradient(MPI_COMM_SELF, f->model, &f->batch, &options, &f->alone[i]);
        stm_options_clear(&options);
        assert_true(f->alone[i].loss != 0);
    }
}

static void tear_down(fixture *f)
{
    for (size_t i = 0; i < N_OBJECTIVES; i++)
        stm_test_result_clear(&f->alone[i]);
    stm_batch_clear(&f->batch);
    stm_model_destroy(f->model);
    stm_backend_cpu_f64.close(f->stream);
}

static void compare(const fixture *f, const char *const *layout, MPI_Comm comm)
{
    for (size_t i = 0; i < N_OBJECTIVES; i++) {
        const stm_test_result *a = &f->alone[i];
        stm_options options;
        stm_test_result b;
        with_options(objectives[i], layout, &options);
        stm_test_gradient(comm, f->model, &f->batch, &options, &b);
        assert_near(b.loss, a->loss, 1e-12);
        assert_near(b.sums.n_tokens, a->sums.n_tokens, 1e-15);
        assert_near(b.sums.n_pairs, a->sums.n_pairs, 1e-15);
        assert_near(b.sums.h_samples, a->sums.h_samples, 1e-12);
        assert_near(b.sums.spread, a->sums.spread, 1e-12);
        assert_near(b.sums.n_clipped, a->sums.n_clipped, 1e-15);
        assert_true(stm_test_gradient_difference(f->model, b.gradient, a->gradient) < 1e-12);
        stm_test_result_clear(&b);
        stm_options_clear(&options);
    }
}

static void every_objective_gives_the_same_on_trees_and_teams(void **state)
{
    (void)state;
    int n_ranks;
    char suffix[64];
    fixture f;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    snprintf(suffix, sizeof suffix, "parallel.suffix=%d", n_ranks);
    set_up(&f);
    compare(&f, (const char *const[MOST]){"--forward=tree", suffix}, MPI_COMM_WORLD);
    compare(&f,
            (const char *const[MOST]){"--forward=tree", suffix, "memory.chunk_tokens=16", "tree.min_shared_tokens=3",
                                      "memory.recompute=always"},
            MPI_COMM_WORLD);
    compare(&f, (const char *const[MOST]){"--forward=prompt", "parallel.suffix=1"}, MPI_COMM_WORLD);
    tear_down(&f);
}

static void every_objective_gives_the_same_on_a_pipeline_of_two(void **state)
{
    (void)state;
    int n_ranks;
    fixture f;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    if (n_ranks % 2 != 0)
        return;
    set_up(&f);
    compare(&f, (const char *const[MOST]){"parallel.pipeline=2", "memory.chunk_tokens=24"}, MPI_COMM_WORLD);
    tear_down(&f);
}

/* Scope response has no second forward: the head alone runs twice, within the pass. Scope group has another pass. */
static void only_what_couples_responses_takes_another_pass(void **state)
{
    (void)state;
    static const char *const none[MOST] = {NULL};
    static const char *const names[3][MOST] = {
        {"objective.name=grpo"}, {"objective.name=grpo", "objective.ratio_level=sequence"}, {"objective.name=copg"}};
    double active[3];
    fixture f;
    set_up(&f);
    for (size_t i = 0; i < 3; i++) {
        stm_options options;
        stm_test_result result;
        with_options(names[i], none, &options);
        stm_test_gradient(MPI_COMM_SELF, f.model, &f.batch, &options, &result);
        active[i] = result.counts.rows_active;
        stm_test_result_clear(&result);
        stm_options_clear(&options);
    }
    assert_true(active[0] > 0 && active[1] == 2 * active[0] && active[2] == active[0]);
    tear_down(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_objective_gives_the_same_on_trees_and_teams),
        cmocka_unit_test(every_objective_gives_the_same_on_a_pipeline_of_two),
        cmocka_unit_test(only_what_couples_responses_takes_another_pass),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}

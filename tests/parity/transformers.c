/* Log-probs, entropies, losses and gradients against those that Hugging Face transformers and PyTorch's autograd gave
 * in float64 (fixtures/parity/record.py), by every way to compute them. */
#include <hdf5.h>
#include <mpi.h>

#include "data/groups_file.h"
#include "rollout/rollout.h"
#include "support/batch.h"
#include "support/model.h"

/* The recorded values are float64 throughout, but for old and reference log-probs, which torch.tensor rounds. */
static const double float64_tolerance = 1e-10, float32_tolerance = 1e-4;

/* Operands are rounded at 2^-9, and a gradient passes some dozens of products. */
static const double bfloat16_score_tolerance = 0.01, bfloat16_gradient_tolerance = 0.05;

static const char *const forwards[] = {"--forward=tree", "--forward=prompt", "--forward=repeated"};

typedef struct {
    char folder[512]; /* under parity/ */
    stm_stream *stream;
    stm_model *model;
    stm_batch batch;
    double tolerance;
} fixture;

/* A model folder and the folder of what was recorded of it; false if they are not on this machine. */
static bool set_up(fixture *f, const char *model, const char *folder, const stm_backend *backend)
{
    *f = (fixture){.tolerance = backend->real_bytes == 8 ? float64_tolerance : float32_tolerance};
    snprintf(f->folder, sizeof f->folder, "parity/%s", folder);
    if (!stm_fixture(model))
        return false;
    assert_ok(backend->open(1, &f->stream));
    f->model = stm_test_open(backend, f->stream, model);
    char name[1024], *text;
    size_t n;
    snprintf(name, sizeof name, "%s/groups.jsonl", f->folder);
    const stm_text_context context = {.vocab_size = f->model->config.vocab_size,
                                      .max_positions = f->model->config.max_positions};
    assert_ok(stm_read_file(stm_fixture(name), &text, &n));
    assert_ok(stm_groups_read(name, text, n, &context, 0, &f->batch));
    free(text);
    stm_batch_round_recorded(&f->batch); /* as the recording did, and `stemma grad` does */
    return true;
}

static void tear_down(fixture *f)
{
    const stm_backend *backend = f->model->backend;
    stm_batch_clear(&f->batch);
    stm_model_destroy(f->model);
    backend->close(f->stream);
}

static double *read_numbers(hid_t file, const char *name, size_t n)
{
    double *out;
    const hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    assert_true(set >= 0);
    const hid_t space = H5Dget_space(set);
    assert_int_equal(H5Sget_simple_extent_npoints(space), n);
    assert_ok(stm_alloc(n, sizeof *out, &out));
    if (n > 0)
        assert_true(H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) >= 0);
    H5Sclose(space);
    H5Dclose(set);
    return out;
}

static hid_t open_recorded(const fixture *f, const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", f->folder, name);
    const char *found = stm_fixture(path);
    return found ? H5Fopen(found, H5F_ACC_RDONLY, H5P_DEFAULT) : -1;
}

static void compare_scores(const fixture *f, hid_t file, const char *prefix, const stm_scores *scores)
{
    for (size_t g = 0; g < f->batch.n_groups; g++)
        for (size_t i = 0; i < f->batch.groups[g].n_responses; i++) {
            char name[256];
            const size_t first = scores->first[scores->response_0[g] + i], n = f->batch.groups[g].responses[i].n;
            snprintf(name, sizeof name, "%s/groups/%zu/%zu/logprobs", prefix, g, i);
            double *logp = read_numbers(file, name, n);
            snprintf(name, sizeof name, "%s/groups/%zu/%zu/entropy", prefix, g, i);
            double *entropy = read_numbers(file, name, n);
            assert_true(n == 0 || stm_relative_difference(scores->logp + first, logp, n) < f->tolerance);
            assert_true(n == 0 || stm_relative_difference(scores->entropy + first, entropy, n) < f->tolerance);
            free(logp);
            free(entropy);
        }
}

static void check_scores(fixture *f)
{
    static const struct {
        double temperature;
        const char *prefix;
    } cases[] = {{1, ""}, {0.7, "/temperature_0.7"}};
    const hid_t file = open_recorded(f, "score.h5");
    assert_true(file >= 0);
    for (size_t c = 0; c < 2; c++) {
        if (*cases[c].prefix && H5Lexists(file, cases[c].prefix, H5P_DEFAULT) <= 0)
            continue;
        for (size_t g = 0; g < f->batch.n_groups; g++)
            f->batch.groups[g].temperature = cases[c].temperature;
        for (size_t m = 0; m < 3; m++) {
            stm_options options;
            stm_scores scores;
            stm_test_options(&options, &forwards[m], 1);
            stm_test_scores(MPI_COMM_SELF, f->model, &f->batch, &options, &scores);
            compare_scores(f, file, cases[c].prefix, &scores);
            stm_scores_clear(&scores);
            stm_options_clear(&options);
        }
    }
    for (size_t g = 0; g < f->batch.n_groups; g++)
        f->batch.groups[g].temperature = 1;
    H5Fclose(file);
}

/* The options that the recording used, one key=value a line, and one of the three forwards. */
static void read_options(hid_t file, const char *forward, stm_options *options)
{
    char *text, *overrides[32];
    int n = 0;
    const hid_t attribute = H5Aopen(file, "options", H5P_DEFAULT), type = H5Aget_type(attribute);
    assert_true(H5Aread(attribute, type, &text) >= 0);
    overrides[n++] = (char *)(size_t)forward;
    for (char *word = strtok(text, "\n"); word; word = strtok(NULL, "\n"))
        overrides[n++] = word;
    assert_ok(stm_options_init(options));
    assert_ok(stm_options_read_arguments(options, STM_COMMAND_GRAD, n, overrides));
    H5free_memory(text);
    H5Tclose(type);
    H5Aclose(attribute);
}

/* The recorded gradient in the layout of the buffer. */
static double *read_gradient(const fixture *f, hid_t file)
{
    double *all;
    assert_ok(stm_alloc(f->model->n_parameters, sizeof *all, &all));
    for (size_t t = 0; t < f->model->n_tensors; t++) {
        char name[256];
        snprintf(name, sizeof name, "/grad/%s", f->model->tensors[t].name);
        double *one = read_numbers(file, name, f->model->tensors[t].n);
        memcpy(all + f->model->tensors[t].offset, one, f->model->tensors[t].n * sizeof *one);
        free(one);
    }
    return all;
}

static bool check_gradient(const fixture *f, const char *name)
{
    const hid_t file = open_recorded(f, name);
    if (file < 0)
        return false;
    double *expected = read_gradient(f, file), *loss = read_numbers(file, "/loss", 1);
    for (size_t m = 0; m < 3; m++) {
        stm_options options;
        stm_test_result result;
        read_options(file, forwards[m], &options);
        stm_test_gradient(MPI_COMM_SELF, f->model, &f->batch, &options, &result);
        assert_near(result.loss, *loss, f->tolerance);
        assert_true(stm_test_gradient_difference(f->model, result.gradient, expected) < f->tolerance);
        stm_test_result_clear(&result);
        stm_options_clear(&options);
    }
    free(expected);
    free(loss);
    H5Fclose(file);
    return true;
}

static void check_folder(const char *name, const stm_backend *backend, int n_gradients)
{
    char model[512];
    fixture f;
    snprintf(model, sizeof model, "parity/%s", name);
    assert_true(set_up(&f, model, name, backend));
    check_scores(&f);
    n_gradients -= check_gradient(&f, "grad_grpo.h5");
    n_gradients -= check_gradient(&f, "grad_dapo.h5");
    n_gradients -= check_gradient(&f, "grad_sft.h5");
    assert_int_equal(n_gradients, 0);
    tear_down(&f);
}

static void check_models(const stm_backend *backend)
{
    check_folder("llama", backend, 3);
    check_folder("llama3_rope", backend, 1);
    check_folder("mistral", backend, 1);
    check_folder("qwen2", backend, 1);
    check_folder("qwen3", backend, 3);
    check_folder("across_groups", backend, 1);
    check_folder("edge_cases", backend, 1);
}

static void float64_agrees_with_transformers_and_autograd(void **state)
{
    (void)state;
    check_models(&stm_backend_cpu_f64);
}

static void float32_agrees_to_its_precision(void **state)
{
    (void)state;
    check_models(&stm_backend_cpu_f32);
}

/* The gradient of sft alone: those of clipped objectives step where a ratio passes the clip, as rounding makes some. */
static void bfloat16_agrees_to_its_precision(void **state)
{
    static const char *const folders[] = {"llama", "llama3_rope", "mistral", "qwen2", "qwen3"};
    (void)state;
    const stm_backend *backend;
    if (stm_backend_find("cpu", STM_BFLOAT16, &backend) != STM_OK) {
        print_message("skipped: %s\n", stm_failure());
        skip();
    }
    int n_gradients = 0;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char model[512];
        fixture f;
        snprintf(model, sizeof model, "parity/%s", folders[i]);
        assert_true(set_up(&f, model, folders[i], backend));
        f.tolerance = bfloat16_score_tolerance;
        check_scores(&f);
        f.tolerance = bfloat16_gradient_tolerance;
        n_gradients += check_gradient(&f, "grad_sft.h5");
        tear_down(&f);
    }
    assert_int_equal(n_gradients, 2);
}

/* The pretrained model is not ours to copy: checked where it lies beside the repository. */
static void the_pretrained_model_agrees(void **state)
{
    (void)state;
    fixture f;
    if (!set_up(&f, "models/TinyStories-656K", "tinystories656k", &stm_backend_cpu_f64))
        return;
    check_scores(&f);
    tear_down(&f);
}

static void the_pretrained_model_writes_the_recorded_greedy_text(void **state)
{
    (void)state;
    fixture f;
    if (!set_up(&f, "models/TinyStories-656K", "tinystories656k", &stm_backend_cpu_f32))
        return;
    char *text;
    size_t n;
    assert_ok(stm_read_file(stm_fixture("parity/tinystories656k/greedy.json"), &text, &n));
    json_t *recorded = json_loads(text, 0, NULL), *prompt = json_object_get(recorded, "prompt_ids"),
           *ids = json_object_get(recorded, "greedy_ids");
    stm_group group = {.n_prompt = json_array_size(prompt)};
    stm_batch batch = {1, &group};
    assert_ok(stm_alloc(group.n_prompt, sizeof(int32_t), &group.prompt));
    for (size_t i = 0; i < group.n_prompt; i++)
        group.prompt[i] = (int32_t)json_integer_value(json_array_get(prompt, i));
    stm_options options;
    stm_grid grid;
    stm_engine *engine;
    assert_ok(stm_options_init(&options));
    assert_ok(stm_grid_create(MPI_COMM_SELF, &(stm_axes){1, STM_AUTO, STM_AUTO}, 1, &grid));
    assert_ok(stm_engine_create(f.model, &grid, &options, 0, &engine));
    const stm_sampling sampling = {
        .group_size = 2, .temperature = 0, .top_p = 1, .max_new_tokens = json_array_size(ids), .slots = 2};
    assert_ok(stm_rollout(engine, f.model, &grid, &sampling, &batch, NULL));
    for (size_t i = 0; i < sampling.max_new_tokens; i++)
        assert_int_equal(group.responses[1].ids[i], json_integer_value(json_array_get(ids, i)));
    stm_engine_destroy(engine);
    stm_grid_destroy(&grid);
    stm_options_clear(&options);
    free(group.prompt);
    json_decref(recorded);
    free(text);
    tear_down(&f);
}

int main(void)
{
    int provided;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float64_agrees_with_transformers_and_autograd),
        cmocka_unit_test(float32_agrees_to_its_precision),
        cmocka_unit_test(bfloat16_agrees_to_its_precision),
        cmocka_unit_test(the_pretrained_model_agrees),
        cmocka_unit_test(the_pretrained_model_writes_the_recorded_greedy_text),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    MPI_Finalize();
    return failed;
}

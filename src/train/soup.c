#include "train/soup.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/open.h"

stm_status stm_soup_check_config(const char *path, const stm_model_config *a, const stm_model_config *b)
{
    const struct {
        const char *name;
        double found, expected;
    } numbers[] = {
        {"vocab_size", (double)a->vocab_size, (double)b->vocab_size},
        {"hidden_size", (double)a->hidden_size, (double)b->hidden_size},
        {"intermediate_size", (double)a->intermediate_size, (double)b->intermediate_size},
        {"num_hidden_layers", (double)a->n_layers, (double)b->n_layers},
        {"num_attention_heads", (double)a->n_heads, (double)b->n_heads},
        {"num_key_value_heads", (double)a->n_kv_heads, (double)b->n_kv_heads},
        {"head_dim", (double)a->head_dim, (double)b->head_dim},
        {"rms_norm_eps", a->rms_eps, b->rms_eps},
        {"rope_theta", a->rope_theta, b->rope_theta},
        {"rope_type", (double)a->rope, (double)b->rope},
        {"rope factor", a->rope_factor, b->rope_factor},
        {"rope low_freq_factor", a->rope_low_freq_factor, b->rope_low_freq_factor},
        {"rope high_freq_factor", a->rope_high_freq_factor, b->rope_high_freq_factor},
        {"original_max_position_embeddings", (double)a->rope_original_positions, (double)b->rope_original_positions},
        {"tie_word_embeddings", a->tied, b->tied},
        {"biases of q, k, v", a->qkv_bias, b->qkv_bias},
        {"norms of q and k", a->qk_norm, b->qk_norm},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].found != numbers[i].expected)
            return stm_fail(STM_ERR_INPUT, "reference.paths: %s: config.json: %s: found %g, expected %g, the model's",
                            path, numbers[i].name, numbers[i].found, numbers[i].expected);
    return STM_OK;
}

/* The file's name of a tied matrix may be another one than the model's: it is read under its own. */
static stm_status read_weights(const stm_policy *policy, const char *path, const stm_model *described)
{
    stm_model *model = policy->model;
    const stm_parameter first = model->tensors[0];
    memcpy(model->tensors[0].name, described->tensors[0].name, sizeof first.name);
    const stm_status status = stm_model_load_on(policy->grid->world, path, model);
    model->tensors[0] = first;
    return status;
}

/* One of the models into the policy's place. */
static stm_status read_model(const stm_policy *policy, const char *path)
{
    stm_model *described;
    STM_TRY(stm_model_describe_on(policy->grid->world, path, &described));
    stm_status status =
        stm_agree(policy->grid, stm_soup_check_config(path, &described->config, &policy->model->config));
    if (status == STM_OK)
        status = read_weights(policy, path, described);
    stm_model_destroy(described);
    return status;
}

static double share_of(const stm_options *o, size_t i)
{
    double sum = 0;
    for (size_t k = 0; k < o->reference.weights.n; k++)
        sum += o->reference.weights.items[k];
    return o->reference.weights.n > 0 ? o->reference.weights.items[i] / sum : 1.0 / (double)o->reference.paths.n;
}

static stm_status add_models(const stm_policy *policy, stm_parameter_set *set, uint64_t *hash)
{
    const stm_options *o = policy->options;
    struct {
        uint64_t before, model;
        double share;
    } hashed = {0};
    for (size_t i = 0; i < o->reference.paths.n; i++) {
        const double share = share_of(o, i);
        STM_TRY(read_model(policy, o->reference.paths.items[i]));
        STM_TRY(stm_agree(policy->grid, stm_parameter_set_blend(set, i > 0, share)));
        hashed.model = policy->model->hash;
        hashed.share = share;
        hashed.before = stm_hash(&hashed, sizeof hashed);
    }
    *hash = hashed.before;
    return STM_OK;
}

stm_status stm_soup_form(const stm_policy *policy, size_t bucket_n, stm_parameter_set *set, uint64_t *hash)
{
    stm_parameter_set *kept;
    const uint64_t own_hash = policy->model->hash;
    STM_TRY(stm_agree(policy->grid, stm_parameter_set_create(policy->model, policy->grid, bucket_n, &kept)));
    stm_status status = add_models(policy, set, hash);
    policy->model->hash = own_hash;
    const stm_status restored = stm_parameter_set_exchange(kept);
    stm_parameter_set_destroy(kept);
    return restored == STM_OK ? status : restored;
}

/* The program: finds the command, reads its options, runs it, and turns its status into one message and an exit code.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/crash.h"
#include "base/helper.h"
#include "base/memory.h"
#include "base/pulse.h"
#include "base/usage.h"
#include "cli/commands.h"
#include "cli/world.h"
#include "mpi/grid.h"
#include "mpi/heartbeat.h"
#include "mpi/relay.h"
#include "objective/objective.h"
#include "reward/answers.h"
#include "reward/reward.h"

static const stm_command commands[] = {
    {.name = "options",
     .run = stm_cli_options,
     .bit = STM_COMMAND_OPTIONS,
     .arguments = "",
     .usage = "[--markdown]",
     .summary = "print every option with its default and range"},
    {.name = "score",
     .run = stm_cli_score,
     .bit = STM_COMMAND_SCORE,
     .arguments = "MODEL GROUPS.jsonl",
     .usage = "--out F.h5 [--temperature T] [section.key=value ...]",
     .summary = "log-probs and entropies of given responses",
     .uses_ranks = true},
    {.name = "grad",
     .run = stm_cli_grad,
     .bit = STM_COMMAND_GRAD,
     .arguments = "MODEL GROUPS.jsonl",
     .usage = "--out F.h5 [objective.key=value ...]",
     .summary = "loss and the gradient of every parameter, no update; or of recorded log-probs",
     .uses_ranks = true},
    {.name = "generate",
     .run = stm_cli_generate,
     .bit = STM_COMMAND_GENERATE,
     .arguments = "MODEL PROMPTS.jsonl",
     .usage = "--out F.jsonl [rollout.key=value ...]",
     .summary = "sample a group of responses to each prompt",
     .uses_ranks = true},
    {.name = "train",
     .run = stm_cli_train,
     .bit = STM_COMMAND_TRAIN,
     .arguments = "INPUT.yaml",
     .usage = "[section.key=value ...]",
     .summary = "train a model; goes on where the run folder has a checkpoint",
     .uses_ranks = true,
     .reads_input = true},
    {.name = "eval",
     .run = stm_cli_eval,
     .bit = STM_COMMAND_EVAL,
     .arguments = "INPUT.yaml",
     .usage = "[section.key=value ...]",
     .summary = "print mean reward, pass@1 and pass@k of a model on a set of prompts",
     .uses_ranks = true,
     .reads_input = true},
    {.name = "bench",
     .run = stm_cli_bench,
     .bit = STM_COMMAND_BENCH,
     .arguments = "",
     .usage = "--out F.json [--model DIR [--groups GROUPS.jsonl]] [bench.key=value ...]",
     .summary = "measure updates by tree and repeated, and sampling, over shapes",
     .uses_ranks = true},
    {.name = "plan",
     .run = stm_cli_plan,
     .bit = STM_COMMAND_PLAN,
     .arguments = "INPUT.yaml",
     .usage = "--machine F.yaml [--nodes N] [--out F.json] [section.key=value ...]",
     .summary = "tell a step's time, memory and messages, and the best layout, for any number of nodes",
     .uses_ranks = true,
     .reads_input = true},
    {.name = "calibrate",
     .run = stm_cli_calibrate,
     .bit = STM_COMMAND_CALIBRATE,
     .arguments = "",
     .usage = "--out F.yaml",
     .summary = "measure a node for `stemma plan`, under mpirun with all its ranks, or two nodes",
     .uses_ranks = true},
    {.name = "tokenize",
     .run = stm_cli_tokenize,
     .bit = STM_COMMAND_TOKENIZE,
     .arguments = "MODEL TEXTS.jsonl",
     .usage = "--out F.jsonl [--special]",
     .summary = "write token ids and decoded text of each line's \"text\""},
    {.name = "inspect",
     .run = stm_cli_inspect,
     .bit = STM_COMMAND_INSPECT,
     .arguments = "F.h5",
     .usage = "",
     .summary = "look into a checkpoint, or into what score and grad wrote"},
    {.name = "export",
     .run = stm_cli_export,
     .bit = STM_COMMAND_EXPORT,
     .arguments = "CKPT.h5",
     .usage = "--to DIR [--dtype bfloat16|float32]",
     .summary = "write a checkpoint as a Hugging Face folder"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

/* Help */

static void print_overview(void)
{
    printf("stemma %s trains language models with GRPO; each token that rollouts share is computed once.\n\n",
           STEMMA_VERSION);
    printf("usage: stemma COMMAND ARGUMENTS, alone or under mpirun or srun\n\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        printf("  %-10s  %s\n", commands[i].name, commands[i].summary);
    printf("\n`stemma COMMAND --help` lists what a command takes, `stemma --version` prints the version.\n");
}

/* What stands between a command's arguments and the rest of its usage. */
static const char *gap(const stm_command *command)
{
    return *command->arguments && *command->usage ? " " : "";
}

static stm_status print_help(const stm_command *command)
{
    char *text;
    STM_TRY(stm_options_help(command->bit, stm_objective_readers, &text));
    printf("stemma %s: %s\n\nusage: stemma %s %s%s%s\n%s", command->name, command->summary, command->name,
           command->arguments, gap(command), command->usage, text);
    free(text);
    return STM_OK;
}

static bool asks_for_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

/* Finding the command */

static const stm_command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static stm_status unknown_command(const char *name)
{
    const char *names[N_COMMANDS];
    for (size_t i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i].name;
    const char *near = stm_nearest_name(name, names, N_COMMANDS);
    return stm_fail(STM_ERR_INPUT, "%s: unknown command%s%s%s; `stemma --help` lists them", name,
                    near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
}

/* Running it */

static size_t count_words(const char *text)
{
    size_t n = 0;
    for (; *text; text += strspn(text, " ")) {
        n++;
        text += strcspn(text, " ");
    }
    return n;
}

static stm_status check_arguments(const stm_command *command, const stm_options *options)
{
    const size_t expected = *options->objective_only ? 0 : count_words(command->arguments);
    const size_t found = options->arguments.n;
    if (found == expected)
        return STM_OK;
    if (found > expected)
        return stm_fail(STM_ERR_INPUT, "command line: found `%s`, expected only %s %s%s%s",
                        options->arguments.items[expected], command->name, command->arguments, gap(command),
                        command->usage);
    return stm_fail(STM_ERR_INPUT, "command line: found %zu argument%s, expected stemma %s %s%s%s", found,
                    found == 1 ? "" : "s", command->name, command->arguments, gap(command), command->usage);
}

/* Whether some reward compares responses. */
static bool compares(const stm_options *options)
{
    bool any = false;
    for (size_t i = 0; i < options->reward.n; i++)
        any = any || strcmp(options->reward.items[i].name, "preference") == 0;
    return any;
}

/* What the table of options cannot tell, for the registries know it: names of objectives, and rewards with their
 * patterns. */
static stm_status check_registered(const stm_options *options, stm_command_bit command)
{
    STM_TRY(stm_objective_check_name(options->objective.name));
    STM_TRY(stm_objective_check_options(options));
    if (command == STM_COMMAND_TRAIN && !*options->data.groups)
        STM_TRY(stm_objective_check_online(&options->objective, compares(options), options->reference.samples > 0));
    if (command == STM_COMMAND_TRAIN && options->reference.paths.n > 0 &&
        !stm_objective_has_reference(&options->objective))
        return stm_fail(STM_ERR_INPUT,
                        "reference.paths: found %zu, expected none, since objective %s reads no reference with these "
                        "options",
                        options->reference.paths.n, options->objective.name);
    if (command == STM_COMMAND_TRAIN && options->reference.samples > 0 &&
        !(stm_objective_has_reference(&options->objective) && stm_objective_reads_origins(&options->objective)))
        return stm_fail(STM_ERR_INPUT,
                        "reference.samples: found %lld, expected 0, since objective %s reads no reference or does not "
                        "ask who sampled with these options",
                        (long long)options->reference.samples, options->objective.name);
    stm_reward_set *rewards;
    STM_TRY(stm_reward_set_create(options->reward.items, options->reward.n, &rewards));
    stm_reward_set_destroy(rewards);
    stm_answers *answers;
    STM_TRY(stm_answers_create(options->rollout.answer, options->rollout.answer_extract, &answers));
    stm_answers_destroy(answers);
    return STM_OK;
}

/* Rank 0 reads, all have the text. Collective over the world. */
static stm_status read_for_all(const char *path, char **text, size_t *n)
{
    return stm_broadcast_file(MPI_COMM_WORLD, path, text, n);
}

/* Command line first, since it names the input file; what it gave wins over the file. Collective where the command uses
 * ranks; the same status everywhere, for every rank reads the same text. */
static stm_status read_options(const stm_command *command, int n, char *const *argv, stm_options *options)
{
    STM_TRY(stm_options_read_arguments(options, command->bit, n, argv));
    STM_TRY(check_arguments(command, options));
    if (command->reads_input)
        STM_TRY(stm_options_read_file(options, command->bit, options->arguments.items[0], read_for_all));
    STM_TRY(stm_options_check(options, command->bit));
    return check_registered(options, command->bit);
}

/* Rewards and environments may take as long as they were allowed, and a plan, which one rank makes while the others
 * wait, as it takes. */
static void watch(const stm_command *command, const stm_options *options)
{
    double rewards_s = 0;
    for (size_t i = 0; i < options->reward.n; i++)
        if (*options->reward.items[i].command)
            rewards_s += options->reward.items[i].timeout_s;
    if (*options->rollout.environment)
        rewards_s = STM_MAX(rewards_s, options->rollout.environment_timeout_s);
    stm_heartbeat_set(options->fault.timeout_s, STM_MAX(options->fault.io_timeout_s, 1.5 * rewards_s));
    if (command->bit == STM_COMMAND_PLAN)
        stm_pulse_rest();
}

/* runs: false on a rank that only checks what it was given, so that all exit alike. */
static stm_status run_command(const stm_command *command, int n, char *const *argv, bool runs)
{
    stm_options options;
    STM_TRY(stm_options_init(&options));
    stm_status status = read_options(command, n, argv, &options);
    if (status == STM_OK)
        watch(command, &options);
    if (status == STM_OK && runs)
        status = command->run(&options);
    stm_options_clear(&options);
    return status;
}

/* The worst status of all ranks, on every rank, with its message. A command returns the same one everywhere, and this
 * costs nothing; but a rank that failed alone must not wait for others that wait for it. So it gives them some seconds
 * to come here too, and then ends them all. */
static stm_status end_together(stm_status status)
{
    enum { PATIENCE_S = 10 };
    int mine = status != STM_OK, failed = 0, arrived = 0;
    MPI_Request request;
    stm_pulse_rest();
    STM_MPI(MPI_Iallreduce(&mine, &failed, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD, &request));
    for (const double start = stm_now_s(); !arrived;) {
        STM_MPI(MPI_Test(&request, &arrived, MPI_STATUS_IGNORE));
        if (arrived)
            break;
        if (status != STM_OK && stm_now_s() - start > PATIENCE_S) {
            char what[STM_PULSE_TEXT_BYTES];
            stm_pulse_text(stm_pulse_own, what);
            fprintf(stderr, "stemma: rank %d on %s: %s (%s)\n", (int)stm_pulse_own->rank, stm_pulse_own->host,
                    stm_failure(), what);
            (void)stm_helper_speaks_first();
            stm_mpi_end_job();
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return failed ? stm_agree_on(MPI_COMM_WORLD, status) : STM_OK;
}

/* Only rank 0 speaks: every rank holds the same message. */
static void report(stm_status status, int rank)
{
    fflush(stdout);
    if (status != STM_OK && rank == 0)
        fprintf(stderr, "stemma: %s\n", stm_failure());
}

/* Who this process is, for what is said when it fails. */
static void introduce(int rank)
{
    stm_pulse *pulse = stm_pulse_own;
    pulse->rank = rank;
    gethostname(pulse->host, sizeof pulse->host - 1);
}

/* MPI, with what watches over it. */
static stm_status begin_mpi(int launched, int *rank)
{
    int provided, n_ranks;
    STM_TRY(stm_world_check_launch());
    introduce(launched);
    STM_TRY(stm_helper_begin());
    introduce(launched); /* in what it shares */
    stm_pulse_elsewhere("start");
    stm_relay_prepare();
    STM_MPI(MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided));
    stm_usage_begin();
    STM_MPI(MPI_Comm_rank(MPI_COMM_WORLD, rank));
    introduce(*rank);
    stm_crash_catch();
    STM_MPI(MPI_Comm_size(MPI_COMM_WORLD, &n_ranks));
    const stm_status status = stm_world_check_size(n_ranks);
    if (status != STM_OK) {
        *rank = launched; /* each is rank 0 of its own world, and one of them speaks */
        MPI_Finalize();
        stm_helper_end();
        return status;
    }
    if (!stm_heartbeat_start(provided) && *rank == 0)
        fprintf(stderr, "stemma: warning: this MPI lets one thread call it alone: a rank that hangs is not noticed\n");
    return STM_OK;
}

static void end_mpi(void)
{
    stm_heartbeat_stop();
    stm_pulse_elsewhere("end");
    MPI_Finalize();
    stm_helper_end();
}

static int run_on_ranks(const stm_command *command, int launched, int n, char **argv)
{
    int rank = launched;
    stm_status status = begin_mpi(launched, &rank);
    if (status == STM_OK) {
        stm_pulse_elsewhere("load");
        status = end_together(run_command(command, n, argv, true));
        report(status, rank); /* all leave MPI together, and a launcher that sees another fail then ends this one */
        end_mpi();
    } else {
        report(status, rank);
    }
    return stm_exit_code(status);
}

int main(int argc, char **argv)
{
    stm_memory_return_freed();
    signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is then a failed write, with a message */
    const int rank = stm_world_launched_rank();
    const char *word = argc > 1 ? argv[1] : "--help";
    const bool help = strcmp(word, "help") == 0, version = strcmp(word, "--version") == 0;
    const stm_command *command = find_command(help && argc > 2 ? argv[2] : word);
    bool wants_help = help && command;
    for (int i = 2; i < argc && !help; i++)
        wants_help = wants_help || asks_for_help(argv[i]);
    stm_status status = STM_OK;
    if (!command && (asks_for_help(word) || version || (help && argc == 2))) {
        if (rank == 0 && version)
            printf("stemma %s\n", STEMMA_VERSION);
        else if (rank == 0)
            print_overview();
    } else if (!command) {
        status = unknown_command(help ? argv[2] : word);
    } else if (wants_help) {
        status = rank == 0 ? print_help(command) : STM_OK;
    } else if (command->uses_ranks) {
        return run_on_ranks(command, rank, argc - 2, argv + 2);
    } else { /* one process does it; the others would only write the same file */
        status = run_command(command, argc - 2, argv + 2, rank == 0);
    }
    report(status, rank);
    return stm_exit_code(status);
}

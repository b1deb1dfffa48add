/* src/config/machine.h: the description of a machine that `stemma plan` reads and `stemma calibrate` writes.
 *
 * Rates are those of a whole node, its ranks together; a rank has a share of them (plan/cost.h). One table (machine.c)
 * feeds the parser, its messages and the writer, as for the options. Local, all of it. */
#ifndef STM_CONFIG_MACHINE_H
#define STM_CONFIG_MACHINE_H

#include "config/options.h"

enum { STM_N_PRECISIONS = 3 };

/* Of one precision. gemm: FLOP/s of products whose left matrix has so many rows (stm_machine.rows); attention: of its
 * forward and its backward, counted as group/flops.h does; elementwise: bytes per second of what reads and writes
 * rows once (norms, activations), each byte read or written counted. */
typedef struct {
    stm_numbers gemm, attention;
    double elementwise;
} stm_machine_rates;

typedef struct {
    char *name, *source;     /* where the numbers are from */
    int64_t cores, devices;  /* of a node; devices: accelerators, of which a rank has one; 0: none, ranks share cores */
    int64_t memory_bytes;    /* of a node for its ranks; that of its devices where it has some */
    int64_t ranks;           /* of a node, where the user says nothing */
    double memory_bandwidth; /* bytes/s */
    double operation_s;      /* to begin an operation on an array */
    stm_numbers rows;        /* ascending */
    stm_machine_rates rates[STM_N_PRECISIONS]; /* by stm_precision; those that are not known are empty, or 0 */
    struct {
        double latency_s, bandwidth; /* of a message; bytes/s */
    } inside, between; /* bandwidth: of one rank to another of its node; of a node to others, all its links */
} stm_machine;

/* Reads a file. The caller clears *out, also after a failure. Fails: STM_ERR_INPUT "file:line: key: found .., expected
 * ..", also where a key is missing, or lists do not fit each other; STM_ERR_MEMORY. */
stm_status stm_machine_read(const char *path, stm_machine *out);
stm_status stm_machine_read_text(const char *path, const char *text, size_t n, stm_machine *out);
void stm_machine_clear(stm_machine *machine);

/* As YAML that reads back the same. The caller frees. Fails: STM_ERR_MEMORY. */
stm_status stm_machine_print(const stm_machine *machine, char **yaml);

/* Whether the rates of a precision are known. */
bool stm_machine_knows(const stm_machine *machine, stm_precision precision);

#endif

/* tests/support/options.h: options of training, read from texts. */
#ifndef STM_TESTS_OPTIONS_H
#define STM_TESTS_OPTIONS_H

#include "config/options.h"
#include "support/support.h"

/* What every input file needs. */
#define NEEDED "run: {folder: f}\nmodel: {path: m}\ndata: {prompts: p}\nreward: [{name: exact}]\n"

/* A whole input file, as people write it. */
extern const char stm_test_input[];

/* Reads a text as the input file in.yaml into options that are there. */
stm_status stm_test_read_options(stm_options *o, const char *text);

/* Options of `text`; the caller clears them. */
void stm_test_given(stm_options *o, const char *text);

/* One word of a command line, which must be accepted. */
void stm_test_argument(stm_options *o, stm_command_bit command, const char *argument);

/* The text, as the input file in.yaml, is refused with exactly this message; and a word of a command line, of train or
 * of another command. */
void stm_test_file_refused(const char *text, const char *message);
void stm_test_line_refused(const char *argument, const char *message);
void stm_test_line_refused_by(stm_command_bit command, const char *argument, const char *message);

#endif

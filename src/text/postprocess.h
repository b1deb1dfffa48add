/* src/text/postprocess.h: the "post_processor" of tokenizer.json: which special tokens stand around a text.
 * TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel (offsets only, so nothing here) and Sequences of
 * them. Local, all of it. */
#ifndef STM_TEXT_POSTPROCESS_H
#define STM_TEXT_POSTPROCESS_H

#include "text/subwords.h"

typedef struct {
    stm_ids before, after;
} stm_frame;

/* Fills *frame, which starts as {0}; stm_frame_free in any case. Fails: STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_frame_read(const json_t *json, stm_frame *frame);
void stm_frame_free(stm_frame *frame);

#endif

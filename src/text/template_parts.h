/* src/text/template_parts.h: what a chat template is made of; for template.c and recognise.c only. */
#ifndef STM_TEXT_TEMPLATE_PARTS_H
#define STM_TEXT_TEMPLATE_PARTS_H

#include "text/template.h"

struct stm_template {
    const struct stm_template_kind *kind; /* a row of the table in template.c */
    char *system;                         /* default system message of this one, NULL: the kind's */
};

#endif

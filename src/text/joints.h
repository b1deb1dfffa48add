/* src/text/joints.h: which two characters, side by side, a merge of byte pairs can join.
 *
 * A token that spans the place between two characters came from a chain of merges, one of which joined its left and
 * its right half exactly there. So where no merge has its joint between these two characters no token spans the place,
 * and what lies left and right of it can be encoded apart, with the same ids. Local, all of it. */
#ifndef STM_TEXT_JOINTS_H
#define STM_TEXT_JOINTS_H

#include "text/utf8.h"

/* pairs: of whole characters, by hash (two may share a bit: then a place is not cut that could be); bytes: of halves
 * that end or begin inside a character, by their last and first byte. */
typedef struct {
    uint64_t pairs[1 << 14];
    uint64_t bytes[1 << 10];
} stm_joints;

/* Notes the joint of a merge; n_left, n_right > 0 bytes that need not be whole characters. */
void stm_joints_add(stm_joints *joints, const char *left, size_t n_left, const char *right, size_t n_right);

/* The end of the part of well-formed text[0..n) that begins at `at` < n: the next place that no token spans, or n. */
size_t stm_joints_end(const stm_joints *joints, const char *text, size_t n, size_t at);

#endif

/* tests/support/folder.h: a temporary folder and files in it. A failure ends the test with its message. */
#ifndef STM_TESTS_FOLDER_H
#define STM_TESTS_FOLDER_H

#include "support/support.h"

/* Makes an empty folder under $TMPDIR; its name is the caller's until remove, which deletes folder and name. */
char *stm_test_folder_create(void);
void stm_test_folder_remove(char *folder);

/* "folder/name", in one of a few buffers that later calls use again. */
const char *stm_test_path(const char *folder, const char *name);

void stm_test_write(const char *path, const void *bytes, size_t n);
void stm_test_write_text(const char *path, const char *text);
bool stm_test_exists(const char *path);
size_t stm_test_count_files(const char *folder); /* of any kind, but for . and .. */

#endif

#include "support/folder.h"

#include <dirent.h>
#include <unistd.h>

char *stm_test_folder_create(void)
{
    const char *parent = getenv("TMPDIR");
    char *folder = calloc(1, 4096);
    assert_non_null(folder);
    snprintf(folder, 4096, "%s/stemma-test-XXXXXX", parent ? parent : "/tmp");
    if (!mkdtemp(folder))
        fail_msg("%s: cannot be made", folder);
    return folder;
}

void stm_test_folder_remove(char *folder)
{
    char command[4200];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0)
        print_error("%s was not removed\n", folder);
    free(folder);
}

const char *stm_test_path(const char *folder, const char *name)
{
    static char paths[8][4096];
    static size_t next;
    char *path = paths[next++ % (sizeof paths / sizeof *paths)];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

void stm_test_write(const char *path, const void *bytes, size_t n)
{
    unlink(path); /* a file that is cut to nothing and filled again is flushed by some file systems: slow */
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, n, file) != n || fclose(file) != 0)
        fail_msg("%s: cannot be written", path);
}

void stm_test_write_text(const char *path, const char *text)
{
    stm_test_write(path, text, strlen(text));
}

bool stm_test_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

size_t stm_test_count_files(const char *folder)
{
    struct dirent **entries = NULL;
    const int n = scandir(folder, &entries, NULL, NULL);
    if (n < 2)
        fail_msg("%s: cannot be listed", folder);
    for (int i = 0; i < n; i++)
        free(entries[i]);
    free(entries);
    return (size_t)n - 2;
}

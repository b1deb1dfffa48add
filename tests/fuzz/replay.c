/* Runs the files of a corpus (folder argv[1]) through a target, without libFuzzer. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"

__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    return 0;
}

int main(int argc, char **argv)
{
    struct dirent **entries;
    const int n = argc == 2 ? scandir(argv[1], &entries, NULL, alphasort) : -1;
    int n_run = 0;
    if (n < 0)
        return fprintf(stderr, "usage: %s CORPUS\n", argv[0]), 2;
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 0; i < n; i++) {
        char *path, *text;
        size_t size;
        if (entries[i]->d_name[0] != '.') {
            if (stm_format(&path, "%s/%s", argv[1], entries[i]->d_name) != STM_OK ||
                stm_read_file(path, &text, &size) != STM_OK)
                return fprintf(stderr, "%s\n", stm_failure()), 1;
            printf("%s\n", entries[i]->d_name);
            fflush(stdout); /* a crash is the last one named */
            LLVMFuzzerTestOneInput((const uint8_t *)text, size);
            free(text);
            free(path);
            n_run++;
        }
        free(entries[i]);
    }
    free(entries);
    return n_run > 0 ? 0 : 1;
}

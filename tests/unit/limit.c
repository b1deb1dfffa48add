/* The memory that control groups leave, from made-up files. */
#include "base/limit.h"

#include "support/folder.h"

/* root/proc/self/cgroup, and a limit in a file of sys/fs/cgroup. */
static void write_groups(const char *root, const char *text)
{
    assert_ok(stm_make_folders(stm_test_path(root, "proc/self")));
    stm_test_write_text(stm_test_path(root, "proc/self/cgroup"), text);
}

static void write_limit(const char *root, const char *group, const char *file, const char *text)
{
    char name[200];
    snprintf(name, sizeof name, "sys/fs/cgroup%s", group);
    assert_ok(stm_make_folders(stm_test_path(root, name)));
    snprintf(name, sizeof name, "sys/fs/cgroup%s/%s", group, file);
    stm_test_write_text(stm_test_path(root, name), text);
}

static void the_least_limit_of_all_groups_above_counts(void **state)
{
    (void)state;
    char *root = stm_test_folder_create();
    assert_true(stm_cgroup_bytes(root) == SIZE_MAX); /* no control groups at all */
    write_groups(root, "0::/job/step/task\n");
    assert_true(stm_cgroup_bytes(root) == SIZE_MAX);
    write_limit(root, "/job/step/task", "memory.max", "max\n");
    assert_true(stm_cgroup_bytes(root) == SIZE_MAX);
    write_limit(root, "/job", "memory.max", "5000000000\n");
    assert_int_equal(stm_cgroup_bytes(root), 5000000000);
    write_limit(root, "/job/step/task", "memory.max", "6000000000\n");
    assert_int_equal(stm_cgroup_bytes(root), 5000000000);
    write_limit(root, "/job/step", "memory.max", "4000000000\n");
    assert_int_equal(stm_cgroup_bytes(root), 4000000000);
    write_limit(root, "", "memory.max", "3000000000\n"); /* a container's own, seen as the root */
    assert_int_equal(stm_cgroup_bytes(root), 3000000000);
    stm_test_folder_remove(root);
}

static void version_1_is_read_where_the_memory_controller_is(void **state)
{
    (void)state;
    char *root = stm_test_folder_create();
    write_groups(root, "9:name=systemd:/elsewhere\n4:cpu,memory,pids:/job/1\n3:memoryless:/elsewhere\n0::/\n");
    write_limit(root, "/memory/elsewhere", "memory.limit_in_bytes", "1000\n");
    write_limit(root, "/memory/job/1", "memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    assert_int_equal(stm_cgroup_bytes(root), 9223372036854771712u);
    write_limit(root, "/memory/job", "memory.limit_in_bytes", "7000000000\n");
    assert_int_equal(stm_cgroup_bytes(root), 7000000000);
    write_limit(root, "", "memory.max", "6500000000\n"); /* both versions at once */
    assert_int_equal(stm_cgroup_bytes(root), 6500000000);
    stm_test_folder_remove(root);
}

static void the_machine_has_memory(void **state)
{
    (void)state;
    const size_t found = stm_memory_bytes();
    assert_true(found > (size_t)100 << 20 && found <= stm_cgroup_bytes(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_least_limit_of_all_groups_above_counts),
        cmocka_unit_test(version_1_is_read_where_the_memory_controller_is),
        cmocka_unit_test(the_machine_has_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

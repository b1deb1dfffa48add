/* tests/emulated/unchecked/unchecked.cpp: takes no notice. */
#include "checks.h"

namespace emulated
{
void note_array(const void *, size_t)
{
}

void note_end_of_array(const void *)
{
}

void note_copy(void *, const void *, size_t)
{
}

void note_set(void *, size_t)
{
}

void note_product_reads(const void *, size_t)
{
}

void note_product_writes(const void *, size_t)
{
}

void note_read(const void *, size_t, const void *)
{
}

void note_copy_begun(void *, const void *)
{
}

void note_copy_ended(void *, const void *)
{
}

void note_registers_opened()
{
}

void check_registers(const void *, size_t)
{
}

void note_grid()
{
}
} // namespace emulated

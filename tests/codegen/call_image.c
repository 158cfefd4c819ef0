/* Loads a CPU image as the runtime does (a copy, then read and execute permission), calls one kernel, writes its buffers back.
   call_image IMAGE OFFSET BEGIN END SCRATCH_BYTES [i BITS | f FILE]...   one pair per argument slot */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static void *read_file(const char *path, size_t *size, int executable) {
    FILE *file = fopen(path, "rb");
    if (!file) { perror(path); exit(2); }
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    void *data;
    if (executable)
        data = mmap(NULL, *size + 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    else
        data = aligned_alloc(64, (*size + 64) / 64 * 64);
    if (fread(data, 1, *size, file) != *size) { perror(path); exit(2); }
    fclose(file);
    if (executable) {
        __builtin___clear_cache((char *)data, (char *)data + *size);
        if (mprotect(data, *size, PROT_READ | PROT_EXEC)) { perror("mprotect"); exit(2); }
    }
    return data;
}

int main(int argc, char **argv) {
    size_t size, sizes[64];
    uint64_t slots[64];
    char *image = read_file(argv[1], &size, 1);
    void (*kernel)(void **, int64_t, int64_t, void *);
    char *entry = image + strtoull(argv[2], NULL, 10);
    memcpy(&kernel, &entry, sizeof kernel);
    void *scratch = aligned_alloc(64, (strtoull(argv[5], NULL, 10) + 128) / 64 * 64);
    int count = (argc - 6) / 2;
    for (int i = 0; i < count; i++) {
        if (argv[6 + 2 * i][0] == 'i') slots[i] = strtoull(argv[7 + 2 * i], NULL, 10);
        else slots[i] = (uint64_t)(uintptr_t)read_file(argv[7 + 2 * i], &sizes[i], 0);
    }
    kernel((void **)slots, strtoll(argv[3], NULL, 10), strtoll(argv[4], NULL, 10), scratch);
    for (int i = 0; i < count; i++) {
        if (argv[6 + 2 * i][0] == 'i') continue;
        FILE *file = fopen(argv[7 + 2 * i], "wb");
        fwrite((void *)(uintptr_t)slots[i], 1, sizes[i], file);
        fclose(file);
    }
    return 0;
}

/* The formats that have a codec of their own in C; all others are a layout, or a layout behind a marker. */

#include "fernet/codec.h"

static const Kind *kind_named(const char *name) {
    return strcmp(name, "native") == 0 ? &NATIVE : strcmp(name, "fernet") == 0 ? &FERNET : NULL;
}

/* The native batch codec: stored values of a batch of rows, brought to the target key version, in one call.
 *
 * `batch.py` is the reference: this file accepts nothing that it refuses, and gives the same bytes for the same nonces.
 * Either the whole batch is done, or the answer is None and Python does it and says what is wrong. Each new value is
 * packed as the server takes it; then the packed bytes are parsed and decrypted again, with a key schedule that did
 * nothing else, and compared. AES-GCM is OpenSSL's. Here are only the grammar, base64 and the wire form.
 *
 * Lifetimes. A batch belongs to the caller: a tuple made at the beginning holds its rows, and so their bytes, until the
 * answer is made; while the interpreter's lock is released, nothing of Python is touched but those bytes and the new
 * bytes objects that nobody else knows yet. Keys are read where Python keeps them and copied by nobody but OpenSSL, into
 * its key schedules, which it wipes when they are freed with the `Codec`. Plaintext stands only in `scratch`, which is
 * locked in memory where the limits permit, never dumped, and wiped at the end of each call.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

/* What we use of libcrypto.so.3, as its headers declare it: so no package with headers is needed to build this. */
typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
typedef struct evp_cipher_st EVP_CIPHER;
extern EVP_CIPHER_CTX *EVP_CIPHER_CTX_new(void);
extern void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *);
extern const EVP_CIPHER *EVP_aes_256_gcm(void);
extern int EVP_CipherInit_ex(EVP_CIPHER_CTX *, const EVP_CIPHER *, void *, const uint8_t *, const uint8_t *, int);
extern int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *, int, int, void *);
extern int EVP_CipherUpdate(EVP_CIPHER_CTX *, uint8_t *, int *, const uint8_t *, int);
extern int EVP_CipherFinal_ex(EVP_CIPHER_CTX *, uint8_t *, int *);
extern void OPENSSL_cleanse(void *, size_t);
extern const char *OpenSSL_version(int);
#define EVP_CTRL_AEAD_SET_IVLEN 0x9
#define EVP_CTRL_AEAD_GET_TAG 0x10
#define EVP_CTRL_AEAD_SET_TAG 0x11

/* A test builds this file with something here that damages the packed value, to see that it is noticed. */
#ifndef AFTER_PACKING
#define AFTER_PACKING(element, bytes)
#endif

enum { KEY = 32, NONCE = 12, NONCE_CHARS = 16, TAG = 16, SHORTEST_BODY_CHARS = 24, LONGEST_NAME = 7 };
enum { LONGEST_VALUE = 1 << 30, KEPT_SCRATCH = 1 << 20, OID_TEXT = 25, ARRAY_HEADER = 20 };
enum { GOOD = 0, REFUSED = -1, UNVERIFIED = -2, NO_MEMORY = -3 };

typedef struct {
    char name[LONGEST_NAME + 1]; /* "v2" */
    size_t name_bytes;
    EVP_CIPHER_CTX *decrypt;
} Version;

typedef struct {
    PyObject_HEAD
    Version *versions;
    int count;
    char prefix[LONGEST_NAME + 2]; /* "v2:" of the target */
    size_t prefix_bytes;
    EVP_CIPHER_CTX *encrypt, *verify;
    uint8_t *scratch;
    size_t scratch_bytes, used_bytes;
    int busy;
} Codec;

/* A cell of the batch. `text` NULL: SQL's NULL. */
typedef struct {
    const uint8_t *text;
    size_t bytes;
    int stays; /* NULL, empty, or under the target */
} Cell;

static PyObject *VerificationError;

/* ---- base64, canonical and nothing else (RFC 4648, section 3.5) ---- */

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const uint32_t BAD = 0x80000000u;
static uint32_t DIGIT[4][256]; /* a character's six bits at each of the four places of a group */
static uint8_t PAIR[4096][2];  /* two characters for twelve bits */

static void make_tables(void) {
    for (int place = 0; place < 4; place++) {
        for (int byte = 0; byte < 256; byte++) DIGIT[place][byte] = BAD;
        for (uint32_t digit = 0; digit < 64; digit++) DIGIT[place][(uint8_t)ALPHABET[digit]] = digit << (18 - 6 * place);
    }
    for (int bits = 0; bits < 4096; bits++) {
        PAIR[bits][0] = (uint8_t)ALPHABET[bits >> 6];
        PAIR[bits][1] = (uint8_t)ALPHABET[bits & 63];
    }
}

/* The number of bytes, or -1. `chars` is at least 4 and a multiple of it; `out` has room for three quarters. */
static long from_base64(const uint8_t *text, size_t chars, uint8_t *out) {
    uint8_t *start = out;
    const uint8_t *last = text + chars - 4;
    uint32_t bad = 0, bits;
    for (; text < last; text += 4, out += 3) {
        bits = DIGIT[0][text[0]] | DIGIT[1][text[1]] | DIGIT[2][text[2]] | DIGIT[3][text[3]];
        bad |= bits;
        out[0] = (uint8_t)(bits >> 16), out[1] = (uint8_t)(bits >> 8), out[2] = (uint8_t)bits;
    }
    int padding = text[3] != '=' ? 0 : text[2] != '=' ? 1 : 2;
    bits = DIGIT[0][text[0]] | DIGIT[1][text[1]];
    if (padding < 2) bits |= DIGIT[2][text[2]];
    if (padding < 1) bits |= DIGIT[3][text[3]];
    if ((bad | bits) & BAD) return -1;
    if ((padding == 1 && bits & 0xff) || (padding == 2 && bits & 0xffff)) return -1; /* stray bits */
    *out++ = (uint8_t)(bits >> 16);
    if (padding < 2) *out++ = (uint8_t)(bits >> 8);
    if (padding < 1) *out++ = (uint8_t)bits;
    return out - start;
}

static uint8_t *to_base64(const uint8_t *raw, size_t bytes, uint8_t *out) {
    for (; bytes >= 3; bytes -= 3, raw += 3, out += 4) {
        uint32_t bits = (uint32_t)raw[0] << 16 | (uint32_t)raw[1] << 8 | raw[2];
        memcpy(out, PAIR[bits >> 12], 2);
        memcpy(out + 2, PAIR[bits & 4095], 2);
    }
    if (bytes) {
        uint32_t bits = (uint32_t)raw[0] << 16 | (bytes == 2 ? (uint32_t)raw[1] << 8 : 0);
        memcpy(out, PAIR[bits >> 12], 2);
        out[2] = bytes == 2 ? (uint8_t)ALPHABET[bits >> 6 & 63] : '=';
        out[3] = '=';
        out += 4;
    }
    return out;
}

/* ---- AES-256-GCM, OpenSSL's: a context keeps its key, each value sets its nonce ---- */

static EVP_CIPHER_CTX *keyed(const uint8_t *key, int encrypts) {
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (context && EVP_CipherInit_ex(context, EVP_aes_256_gcm(), NULL, NULL, NULL, encrypts) == 1 &&
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_IVLEN, NONCE, NULL) == 1 &&
        EVP_CipherInit_ex(context, NULL, NULL, key, NULL, encrypts) == 1)
        return context;
    EVP_CIPHER_CTX_free(context);
    return NULL;
}

/* Whether ciphertext ‖ tag is authentic; its text has TAG bytes less. */
static int decrypted(EVP_CIPHER_CTX *context, const uint8_t *nonce, const uint8_t *body, size_t bytes, uint8_t *text) {
    int some, size = (int)(bytes - TAG);
    return EVP_CipherInit_ex(context, NULL, NULL, NULL, nonce, 0) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, TAG, (void *)(body + size)) == 1 &&
           EVP_CipherUpdate(context, text, &some, body, size) == 1 && some == size &&
           EVP_CipherFinal_ex(context, text + size, &some) == 1;
}

static int encrypted(EVP_CIPHER_CTX *context, const uint8_t *nonce, const uint8_t *text, size_t bytes, uint8_t *body) {
    int some, size = (int)bytes;
    return EVP_CipherInit_ex(context, NULL, NULL, NULL, nonce, 1) == 1 &&
           EVP_CipherUpdate(context, body, &some, text, size) == 1 && some == size &&
           EVP_CipherFinal_ex(context, body + size, &some) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG, body + size) == 1;
}

/* ---- memory for plaintext ---- */

static void free_scratch(Codec *codec) {
    if (codec->scratch) {
        OPENSSL_cleanse(codec->scratch, codec->used_bytes);
        munmap(codec->scratch, codec->scratch_bytes);
    }
    codec->scratch = NULL;
    codec->scratch_bytes = codec->used_bytes = 0;
}

/* At least so many bytes. They hold nothing that is still needed. */
static uint8_t *scratch(Codec *codec, size_t bytes) {
    if (codec->scratch_bytes < bytes) {
        free_scratch(codec);
        size_t size = (bytes + 65535) & ~(size_t)65535;
        void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return NULL;
        (void)mlock(memory, size); /* the limit may not permit it */
#ifdef MADV_DONTDUMP
        (void)madvise(memory, size, MADV_DONTDUMP);
#endif
        codec->scratch = memory;
        codec->scratch_bytes = size;
    }
    if (codec->used_bytes < bytes) codec->used_bytes = bytes;
    return codec->scratch;
}

static void leave_scratch(Codec *codec) {
    if (codec->scratch_bytes > KEPT_SCRATCH) free_scratch(codec);
    else if (codec->scratch) OPENSSL_cleanse(codec->scratch, codec->used_bytes);
    codec->used_bytes = 0;
}

/* ---- one value ---- */

static uint32_t number_at(const uint8_t *from) {
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static uint8_t *put_number(uint8_t *to, uint32_t number) {
    to[0] = (uint8_t)(number >> 24), to[1] = (uint8_t)(number >> 16), to[2] = (uint8_t)(number >> 8), to[3] = (uint8_t)number;
    return to + 4;
}

/* Bytes of the name before the first colon; 0 if none is where one must be. */
static size_t name_bytes(const uint8_t *text, size_t bytes) {
    const uint8_t *colon = memchr(text, ':', bytes < LONGEST_NAME + 1 ? bytes : LONGEST_NAME + 1);
    return colon ? (size_t)(colon - text) : 0;
}

/* Take apart what follows "v2:". Returns the bytes of the body, or -1; `body` has room for the whole text. */
static long parse(const uint8_t *text, size_t bytes, uint8_t *nonce, uint8_t *body) {
    if (bytes < NONCE_CHARS + 1 + SHORTEST_BODY_CHARS || text[NONCE_CHARS] != ':') return -1;
    size_t chars = bytes - NONCE_CHARS - 1;
    if (chars & 3 || from_base64(text, NONCE_CHARS, nonce) != NONCE) return -1;
    long size = from_base64(text + NONCE_CHARS + 1, chars, body);
    return size < TAG ? -1 : size;
}

/* Decrypt a stored value into `text`, under the version that it names. Returns the bytes of its body, or -1. `under` is
 * the place of that version. */
static long opened(Codec *codec, const Cell *cell, uint8_t *body, uint8_t *text, int *under) {
    uint8_t nonce[NONCE];
    size_t name = name_bytes(cell->text, cell->bytes);
    for (int at = 0; at < codec->count; at++) {
        Version *version = &codec->versions[at];
        if (version->name_bytes != name || memcmp(version->name, cell->text, name) != 0) continue;
        *under = at;
        long bytes = parse(cell->text + name + 1, cell->bytes - name - 1, nonce, body);
        return bytes >= 0 && decrypted(version->decrypt, nonce, body, (size_t)bytes, text) ? bytes : -1;
    }
    return -1;
}

/* Whether the packed element, as it will be sent, holds this text under the target. `body` and `again` are free. */
static int verified(
    Codec *codec, const uint8_t *element, size_t bytes, const uint8_t *text, size_t size, uint8_t *body, uint8_t *again
) {
    uint8_t nonce[NONCE];
    if (number_at(element) != bytes - 4) return 0;
    element += 4, bytes -= 4;
    if (memcmp(element, codec->prefix, codec->prefix_bytes) != 0) return 0;
    long packed = parse(element + codec->prefix_bytes, bytes - codec->prefix_bytes, nonce, body);
    return packed == (long)(size + TAG) && decrypted(codec->verify, nonce, body, (size_t)packed, again) &&
           memcmp(again, text, size) == 0;
}

/* The element of the array that takes the place of a cell; its bytes are known beforehand. */
static int rewrite_value(Codec *codec, const Cell *cell, const uint8_t *nonce, uint8_t *element, size_t bytes) {
    uint8_t *body = scratch(codec, 3 * cell->bytes + 3 * TAG);
    if (!body) return NO_MEMORY;
    uint8_t *text = body + cell->bytes + TAG, *other = text + cell->bytes + TAG;
    int under;
    long size = opened(codec, cell, body, text, &under);
    if (size < 0) return REFUSED;
    if (!encrypted(codec->encrypt, nonce, text, (size_t)size - TAG, body)) return UNVERIFIED;
    uint8_t *at = put_number(element, (uint32_t)(bytes - 4));
    memcpy(at, codec->prefix, codec->prefix_bytes);
    at = to_base64(nonce, NONCE, at + codec->prefix_bytes);
    *at++ = ':';
    at = to_base64(body, (size_t)size, at);
    AFTER_PACKING(element, bytes);
    return at == element + bytes && verified(codec, element, bytes, text, (size_t)size - TAG, body, other) ? GOOD : UNVERIFIED;
}

/* ---- a batch ---- */

/* One array of the wire form per column; the bytes objects exist, and only this call knows them. */
static int rewrite_columns(Codec *codec, const Cell *cells, Py_ssize_t rows, Py_ssize_t columns, const uint8_t *nonces, uint8_t **arrays) {
    for (Py_ssize_t column = 0; column < columns; column++) {
        uint8_t *at = arrays[column] + ARRAY_HEADER;
        const uint8_t *nonce = nonces + column * rows * NONCE; /* as in Python: values that stay use none */
        for (Py_ssize_t row = 0; row < rows; row++) {
            const Cell *cell = &cells[row * columns + column];
            if (cell->stays) {
                at = put_number(at, 0xffffffffu);
                continue;
            }
            size_t bytes = 4 + codec->prefix_bytes + cell->bytes - name_bytes(cell->text, cell->bytes) - 1;
            int outcome = rewrite_value(codec, cell, nonce, at, bytes);
            if (outcome != GOOD) return outcome;
            at += bytes;
            nonce += NONCE;
        }
    }
    return GOOD;
}

/* Find the cells of a batch. The rows must stay alive as long as the cells. 0, or -1 with an exception. */
static int find_cells(Codec *codec, PyObject *rows, Py_ssize_t count, Py_ssize_t first, Py_ssize_t columns, Cell *cells) {
    for (Py_ssize_t row = 0; row < count; row++) {
        PyObject *tuple = PyTuple_GetItem(rows, row);
        for (Py_ssize_t column = 0; column < columns; column++, cells++) {
            PyObject *value = PyTuple_GetItem(tuple, first + column); /* borrowed; refuses what is no tuple */
            char *text = NULL;
            Py_ssize_t bytes = 0;
            if (!value || (value != Py_None && PyBytes_AsStringAndSize(value, &text, &bytes) < 0)) return -1;
            cells->text = (const uint8_t *)text;
            cells->bytes = (size_t)bytes;
            cells->stays = bytes == 0 || ((size_t)bytes >= codec->prefix_bytes && memcmp(text, codec->prefix, codec->prefix_bytes) == 0);
        }
    }
    return 0;
}

static PyObject *new_array(Py_ssize_t element_bytes, Py_ssize_t rows, long oid, uint8_t **start) {
    PyObject *array = PyBytes_FromStringAndSize(NULL, ARRAY_HEADER + element_bytes);
    if (!array) return NULL;
    uint8_t *at = *start = (uint8_t *)PyBytes_AsString(array);
    /* Dimensions, a flag for NULLs (the server finds them by itself), element type, length, lower bound. */
    at = put_number(put_number(put_number(at, 1), 0), (uint32_t)oid);
    put_number(put_number(at, (uint32_t)rows), 1);
    return array;
}

/* Room for the new values of a column; Py_None (borrowed) if one of them can be no value of ours; NULL: an exception. */
static PyObject *array_for(Codec *codec, const Cell *cells, Py_ssize_t rows, Py_ssize_t columns, uint8_t **start, Py_ssize_t *changed) {
    Py_ssize_t bytes = 0;
    for (const Cell *cell = cells, *end = cells + rows * columns; cell < end; cell += columns) {
        bytes += 4;
        if (cell->stays) continue;
        size_t name = name_bytes(cell->text, cell->bytes);
        if (!name || cell->bytes > LONGEST_VALUE) return Py_None;
        bytes += (Py_ssize_t)(codec->prefix_bytes + cell->bytes - name - 1);
        ++*changed;
    }
    return new_array(bytes, rows, OID_TEXT, start);
}

/* An array of one passed column (row positions, row versions), element by element as it was read. */
static PyObject *passed_array(PyObject *rows, Py_ssize_t count, PyObject *which) {
    Py_ssize_t index, total = 0;
    long oid;
    if (!PyArg_ParseTuple(which, "nl", &index, &oid)) return NULL;
    for (int round = 0;; round++) { /* the first adds up the sizes */
        uint8_t *at = NULL;
        PyObject *array = NULL;
        if (round) {
            array = new_array(total, count, oid, &at);
            if (!array) return NULL;
            at += ARRAY_HEADER;
        }
        for (Py_ssize_t row = 0; row < count; row++) {
            PyObject *value = PyTuple_GetItem(PyTuple_GetItem(rows, row), index);
            char *bytes;
            Py_ssize_t size;
            if (!value || PyBytes_AsStringAndSize(value, &bytes, &size) < 0) {
                Py_XDECREF(array);
                return NULL;
            }
            total += 4 + size;
            if (!round) continue;
            memcpy(put_number(at, (uint32_t)size), bytes, (size_t)size);
            at += 4 + size;
        }
        if (round) return array;
    }
}

/* The rows as a tuple of tuples, which holds them until the caller lets it go. */
static PyObject *held(PyObject *sequence) {
    PyObject *rows = PySequence_Tuple(sequence);
    for (Py_ssize_t row = 0; rows && row < PyTuple_Size(rows); row++)
        if (!PyTuple_Check(PyTuple_GetItem(rows, row))) {
            PyErr_SetString(PyExc_TypeError, "each row is a tuple");
            Py_CLEAR(rows);
        }
    return rows;
}

/* One thread at a time: the key schedules and the scratch memory are the codec's own. */
static int enter(Codec *codec) {
    if (!codec->encrypt) PyErr_SetString(PyExc_TypeError, "the codec was not initialised");
    else if (codec->busy) PyErr_SetString(PyExc_RuntimeError, "a codec is used by one thread at a time");
    else return codec->busy = 1;
    return 0;
}

static PyObject *refused(int outcome) {
    if (outcome == NO_MEMORY) return PyErr_NoMemory();
    if (outcome == REFUSED) Py_RETURN_NONE;
    PyErr_SetString(VerificationError, "a packed value did not decrypt to what was encrypted");
    return NULL;
}

static PyObject *rewrite_held(Codec *codec, PyObject *rows, Py_ssize_t first, Py_ssize_t columns, PyObject *passed, const uint8_t *nonces, Py_ssize_t nonce_bytes) {
    Py_ssize_t count = PyTuple_Size(rows), passing = PyTuple_Size(passed), changed = 0;
    if (passing < 0) return NULL;
    if (nonce_bytes != count * columns * NONCE) return PyErr_Format(PyExc_ValueError, "a nonce of 12 bytes for each value");
    PyObject *arrays = PyTuple_New(passing + columns), *answer = NULL;
    Cell *cells = PyMem_Malloc((size_t)(count * columns + 1) * sizeof *cells);
    uint8_t **starts = PyMem_Malloc((size_t)(columns + 1) * sizeof *starts);
    if (!arrays || !cells || !starts) {
        PyErr_NoMemory();
        goto done;
    }
    if (find_cells(codec, rows, count, first, columns, cells) < 0) goto done;
    for (Py_ssize_t column = 0; column < columns; column++) {
        PyObject *array = array_for(codec, cells + column, count, columns, &starts[column], &changed);
        if (array == Py_None) answer = refused(REFUSED);
        if (!array || array == Py_None || PyTuple_SetItem(arrays, passing + column, array) < 0) goto done;
    }
    for (Py_ssize_t at = 0; at < passing; at++) {
        PyObject *array = passed_array(rows, count, PyTuple_GetItem(passed, at));
        if (!array || PyTuple_SetItem(arrays, at, array) < 0) goto done;
    }
    int outcome;
    PyThreadState *lock = PyEval_SaveThread();
    outcome = rewrite_columns(codec, cells, count, columns, nonces, starts);
    leave_scratch(codec);
    PyEval_RestoreThread(lock);
    answer = outcome == GOOD ? Py_BuildValue("(On)", arrays, changed) : refused(outcome);
done:
    PyMem_Free(starts);
    PyMem_Free(cells);
    Py_XDECREF(arrays);
    return answer;
}

static PyObject *codec_rewrite(PyObject *self, PyObject *arguments) {
    Codec *codec = (Codec *)self;
    PyObject *sequence, *passed;
    Py_ssize_t first, columns, nonce_bytes;
    const char *nonces;
    if (!PyArg_ParseTuple(arguments, "OnnO!y#", &sequence, &first, &columns, &PyTuple_Type, &passed, &nonces, &nonce_bytes))
        return NULL;
    PyObject *rows = held(sequence);
    if (!rows) return NULL;
    PyObject *answer = NULL;
    if (enter(codec)) {
        answer = rewrite_held(codec, rows, first, columns, passed, (const uint8_t *)nonces, nonce_bytes);
        codec->busy = 0;
    }
    Py_DECREF(rows);
    return answer;
}

/* Whether every value decrypts, those under the target too. `counts` has, for each column, the number of empty strings,
 * then that of values under each version in turn. */
static int check_cells(Codec *codec, const Cell *cells, Py_ssize_t count, Py_ssize_t columns, Py_ssize_t *counts) {
    for (Py_ssize_t at = 0; at < count; at++) {
        const Cell *cell = &cells[at];
        Py_ssize_t *held = counts + at % columns * (codec->count + 1);
        if (!cell->bytes) {
            held[0] += cell->text != NULL;
            continue;
        }
        if (cell->bytes > LONGEST_VALUE) return REFUSED;
        int under;
        uint8_t *body = scratch(codec, 2 * cell->bytes + 2 * TAG);
        if (!body) return NO_MEMORY;
        if (opened(codec, cell, body, body + cell->bytes + TAG, &under) < 0) return REFUSED;
        held[1 + under]++;
    }
    return GOOD;
}

static PyObject *as_tuple(const Py_ssize_t *numbers, Py_ssize_t count) {
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t at = 0; tuple && at < count; at++) {
        PyObject *number = PyLong_FromSsize_t(numbers[at]);
        if (!number || PyTuple_SetItem(tuple, at, number) < 0) Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *check_held(Codec *codec, PyObject *rows, Py_ssize_t first, Py_ssize_t columns) {
    if (columns < 1) return PyErr_Format(PyExc_ValueError, "a row has at least one value");
    Py_ssize_t count = PyTuple_Size(rows) * columns, figures = columns * (codec->count + 1);
    Cell *cells = PyMem_Malloc((size_t)(count + 1) * sizeof *cells);
    Py_ssize_t *counts = PyMem_Calloc((size_t)figures, sizeof *counts);
    PyObject *answer = NULL;
    if (!cells || !counts) {
        PyErr_NoMemory();
    } else if (find_cells(codec, rows, PyTuple_Size(rows), first, columns, cells) == 0) {
        int outcome;
        PyThreadState *lock = PyEval_SaveThread();
        outcome = check_cells(codec, cells, count, columns, counts);
        leave_scratch(codec);
        PyEval_RestoreThread(lock);
        answer = outcome == GOOD ? as_tuple(counts, figures) : refused(outcome);
    }
    PyMem_Free(counts);
    PyMem_Free(cells);
    return answer;
}

static PyObject *codec_check(PyObject *self, PyObject *arguments) {
    Codec *codec = (Codec *)self;
    PyObject *sequence, *answer = NULL;
    Py_ssize_t first, columns;
    if (!PyArg_ParseTuple(arguments, "Onn", &sequence, &first, &columns)) return NULL;
    PyObject *rows = held(sequence);
    if (!rows) return NULL;
    if (enter(codec)) {
        answer = check_held(codec, rows, first, columns);
        codec->busy = 0;
    }
    Py_DECREF(rows);
    return answer;
}

/* ---- the type ---- */

static int add_version(Codec *codec, PyObject *entry, const char *target, Py_ssize_t target_bytes) {
    const char *name, *key;
    Py_ssize_t bytes, key_bytes;
    if (!PyArg_ParseTuple(entry, "y#y#", &name, &bytes, &key, &key_bytes)) return -1;
    if (bytes < 1 || bytes > LONGEST_NAME || key_bytes != KEY) {
        PyErr_SetString(PyExc_ValueError, "a version has a name of at most 7 bytes and a key of 32");
        return -1;
    }
    Version *version = &codec->versions[codec->count];
    memcpy(version->name, name, (size_t)bytes);
    version->name_bytes = (size_t)bytes;
    version->decrypt = keyed((const uint8_t *)key, 0);
    if (version->decrypt) codec->count++;
    int good = version->decrypt != NULL;
    if (good && bytes == target_bytes && memcmp(name, target, (size_t)bytes) == 0) {
        memcpy(codec->prefix, name, (size_t)bytes);
        codec->prefix[bytes] = ':';
        codec->prefix_bytes = (size_t)bytes + 1;
        codec->encrypt = keyed((const uint8_t *)key, 1);
        codec->verify = keyed((const uint8_t *)key, 0);
        good = codec->encrypt && codec->verify;
    }
    if (!good) PyErr_SetString(PyExc_RuntimeError, "OpenSSL has no AES-256-GCM");
    return good ? 0 : -1;
}

static int codec_init(PyObject *self, PyObject *arguments, PyObject *keywords) {
    Codec *codec = (Codec *)self;
    PyObject *keys;
    const char *target;
    Py_ssize_t target_bytes;
    (void)keywords;
    if (codec->versions) return PyErr_SetString(PyExc_TypeError, "a codec is made once"), -1;
    if (!PyArg_ParseTuple(arguments, "O!y#", &PyTuple_Type, &keys, &target, &target_bytes)) return -1;
    Py_ssize_t count = PyTuple_Size(keys);
    codec->versions = PyMem_Calloc((size_t)count + 1, sizeof *codec->versions);
    if (!codec->versions) return PyErr_NoMemory(), -1;
    for (Py_ssize_t at = 0; at < count; at++)
        if (add_version(codec, PyTuple_GetItem(keys, at), target, target_bytes) < 0) return -1;
    if (!codec->encrypt) return PyErr_SetString(PyExc_ValueError, "the target is among the keys"), -1;
    return 0;
}

static void codec_dealloc(PyObject *self) {
    Codec *codec = (Codec *)self;
    PyTypeObject *type = Py_TYPE(self);
    for (int at = 0; at < codec->count; at++) EVP_CIPHER_CTX_free(codec->versions[at].decrypt); /* wipes the schedule */
    EVP_CIPHER_CTX_free(codec->encrypt);
    EVP_CIPHER_CTX_free(codec->verify);
    free_scratch(codec);
    PyMem_Free(codec->versions);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *codec_reduce(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return PyErr_Format(PyExc_TypeError, "a codec holds keys and cannot be pickled");
}

static PyMethodDef codec_methods[] = {
    {"rewrite", codec_rewrite, METH_VARARGS, "rewrite(rows, first, columns, ((index, oid), ...), nonces) -> (arrays, changed values) or None"},
    {"check", codec_check, METH_VARARGS, "check(rows, first, columns) -> for each column the number of empty strings, then of values under each version; None if one does not decrypt"},
    {"__reduce__", codec_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot codec_slots[] = {
    {Py_tp_init, codec_init},
    {Py_tp_dealloc, codec_dealloc},
    {Py_tp_methods, codec_methods},
    {Py_tp_doc, "Codec(((name, key), ...), target): keys by the names of their versions"},
    {0, NULL},
};

static PyType_Spec codec_spec = {"_keyrotation_codec.Codec", sizeof(Codec), 0, Py_TPFLAGS_DEFAULT, codec_slots};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_keyrotation_codec", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__keyrotation_codec(void) {
    make_tables();
    PyObject *made = PyModule_Create(&module);
    PyObject *type = made ? PyType_FromSpec(&codec_spec) : NULL;
    if (!VerificationError) VerificationError = PyErr_NewException("_keyrotation_codec.VerificationError", NULL, NULL);
    Py_XINCREF(VerificationError);
    if (type && VerificationError && PyModule_AddObjectRef(made, "Codec", type) == 0 &&
        PyModule_AddObjectRef(made, "VerificationError", VerificationError) == 0 &&
        PyModule_AddStringConstant(made, "LIBRARY", OpenSSL_version(0)) == 0) {
        Py_DECREF(type);
        return made;
    }
    Py_XDECREF(type);
    Py_XDECREF(made);
    return NULL;
}

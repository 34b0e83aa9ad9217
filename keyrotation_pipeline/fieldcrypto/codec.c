/* The native batch codec: stored values of a batch of rows, brought to the target key version, in one call.
 *
 * Each format has its own file and its reference in Python: a format accepts nothing here that the reference refuses, and
 * gives the same bytes for the same nonces. Either the whole batch is done, or the answer is None and Python does it and
 * says what is wrong. Each new value is packed as the server takes it; then the packed bytes are parsed and decrypted
 * again, with a key schedule that did nothing else, and compared. The ciphers are OpenSSL's. Here are only the grammars,
 * base64 and the wire form.
 *
 * Lifetimes. A batch belongs to the caller: a tuple made at the beginning holds its rows, and so their bytes, until the
 * answer is made; while the interpreter's lock is released, nothing of Python is touched but those bytes and the new
 * bytes objects that nobody else knows yet. Keys are read where Python keeps them and copied by nobody but OpenSSL, into
 * its key schedules, which it wipes when they are freed with the `Codec`; what is derived from them here is wiped then,
 * too. Plaintext stands only in `scratch`, which is locked in memory where the limits permit, never dumped, and wiped at
 * the end of each call.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* What we use of libcrypto.so.3, as its headers declare it: so no package with headers is needed to build this. */
typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
typedef struct evp_cipher_st EVP_CIPHER;
typedef struct evp_md_ctx_st EVP_MD_CTX;
typedef struct evp_md_st EVP_MD;
extern EVP_CIPHER_CTX *EVP_CIPHER_CTX_new(void);
extern void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *);
extern const EVP_CIPHER *EVP_aes_256_gcm(void);
extern int EVP_CipherInit_ex(EVP_CIPHER_CTX *, const EVP_CIPHER *, void *, const uint8_t *, const uint8_t *, int);
extern int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *, int, int, void *);
extern int EVP_CipherUpdate(EVP_CIPHER_CTX *, uint8_t *, int *, const uint8_t *, int);
extern int EVP_CipherFinal_ex(EVP_CIPHER_CTX *, uint8_t *, int *);
extern const EVP_CIPHER *EVP_aes_128_cbc(void);
extern const EVP_CIPHER *EVP_aes_256_ecb(void);
extern int EVP_CIPHER_CTX_set_padding(EVP_CIPHER_CTX *, int);
extern EVP_MD_CTX *EVP_MD_CTX_new(void);
extern void EVP_MD_CTX_free(EVP_MD_CTX *);
extern const EVP_MD *EVP_sha256(void);
extern int EVP_DigestInit_ex(EVP_MD_CTX *, const EVP_MD *, void *);
extern int EVP_DigestUpdate(EVP_MD_CTX *, const void *, size_t);
extern int EVP_DigestFinal_ex(EVP_MD_CTX *, uint8_t *, unsigned int *);
extern int EVP_MD_CTX_copy_ex(EVP_MD_CTX *, const EVP_MD_CTX *);
extern void OPENSSL_cleanse(void *, size_t);
extern const char *OpenSSL_version(int);
#define EVP_CTRL_AEAD_SET_IVLEN 0x9
#define EVP_CTRL_AEAD_GET_TAG 0x10
#define EVP_CTRL_AEAD_SET_TAG 0x11

/* A test builds this file with something here that damages the packed element, a length and a value, to see that it is
 * noticed. */
#ifndef AFTER_PACKING
#define AFTER_PACKING(element, bytes)
#endif

enum { KEY = 32, AES_BLOCK = 16, LONGEST_NAME = 8, LONGEST_STAMP = 8, MARKER = 8 };
enum { LONGEST_VALUE = 1 << 30, KEPT_SCRATCH = 1 << 20, OID_TEXT = 25, ARRAY_HEADER = 20, LENGTH_OFFSET = 12 };
enum { LONGEST_ROW = 1024 }; /* of a row's key in bytes; with a longer one Python does the batch */
enum { RUN = 256, REMEMBERED = 8 }; /* see `Derived`; `xaes.py` for the values of a run */
enum { MOST_KEY_SETS = 1600, MOST_VERSIONS = 1 << 20 }; /* a table of PostgreSQL has no more columns */
enum { GOOD = 0, REFUSED = -1, UNVERIFIED = -2, NO_MEMORY = -3 };

/* What a key of the second generation makes of the first half of a nonce: the key of all values of a run. */
typedef struct {
    EVP_CIPHER_CTX *context;    /* which holds it */
    uint8_t half[AES_BLOCK];    /* of the nonce, 12 bytes */
    uint8_t chained[2 * AES_BLOCK]; /* CMAC's state for each half of a commitment, but for the nonce's second half */
    int is_known;               /* the other fields belong together */
} Derived;

/* What an HMAC-SHA256 has left of its key: the states in which its two digests begin, and one to work on. */
typedef struct {
    EVP_MD_CTX *inner, *outer, *work;
} Hmac;

/* What opens the values of one key: OpenSSL's contexts, which hold it. */
typedef struct {
    EVP_CIPHER_CTX *decrypt;
    Hmac hmac; /* where the cipher does not authenticate */
    EVP_CIPHER_CTX *block; /* of the second generation: single blocks, from which the keys of its values are derived */
    uint8_t subkey[AES_BLOCK]; /* CMAC's first, with it */
    int binds_row; /* its values are bound to the key of their row */
    Derived derived[REMEMBERED]; /* of the last first halves; neighbouring rows may be of several runs */
    int recent, oldest;
} Secret;

typedef struct {
    char name[LONGEST_NAME + 1]; /* "v2" or "v2x" */
    size_t name_bytes;
    uint8_t marker[MARKER]; /* by which values name its key, where another library wrote them: see `codec_marked.h` */
    Secret secret;
} Version;

/* A cell of the batch. `text` NULL: SQL's NULL. */
typedef struct {
    const uint8_t *text;
    size_t bytes;
    const uint8_t *row; /* its row's key in hex, where values of our own may be bound to it */
    size_t row_chars;
    int stays; /* NULL, empty, or under the target; some formats know the last only when the value is opened */
    int is_plaintext; /* of a column that is yet to be encrypted, and no value of ours */
} Cell;

/* What the values of one column are authenticated with in the second generation: bytes of Python that the codec holds. */
typedef struct {
    const uint8_t *text;
    size_t bytes;
} Label;

/* How an application lays out its AES-GCM values: see `codec_layout.h`. */
enum { LONGEST_LITERAL = 64, MOST_PARTS = 4 };
enum { B64, B64URL, HEX, RAW, PADDED_B64, PADDED_B64URL, B64LINES }; /* of the first two, each value may have its padding or not */

typedef struct {
    int encoding, count, grows; /* `grows`: the ciphertext is in it */
    char parts[MOST_PARTS];     /* 'n', 't', 'c', 'm': nonce, tag, ciphertext, marker */
    size_t fixed_bytes;         /* all but the ciphertext */
    size_t fixed_chars;         /* written; of a group that grows 0 */
    size_t after_bytes;
    char after[LONGEST_LITERAL];
} Group;

typedef struct {
    size_t nonce_bytes, head_bytes, fixed_chars; /* all characters but those of the group with the ciphertext */
    int nonces;                                  /* see `codec_marked.h` */
    char head[LONGEST_LITERAL];
    int count;
    Group groups[MOST_PARTS];
    int is_bound; /* each value comes with its associated data */
} Layout;

/* The keys of a column's values, where columns have keys of their own; else of all. */
typedef struct {
    Version *versions;
    EVP_CIPHER_CTX *encrypt, *verify; /* of the target */
} Keys;

typedef struct codec Codec;
typedef struct index Index;

/* A format: what differs between values. */
typedef struct {
    size_t nonce_bytes;                                       /* random ones that each new value needs; see `Codec` */
    int (*set_key)(const char *name, const uint8_t *key, Secret *secret); /* 0: OpenSSL cannot */
    int (*set_target)(Codec *codec, const uint8_t *key);      /* the same, for what encrypts and verifies */
    int (*stays)(const Codec *codec, const Cell *cell);       /* see `Cell` */
    size_t (*room)(const Codec *codec, const Cell *cell);     /* that a new value takes; 0: no value of ours */
    int (*check)(Codec *codec, const Cell *cell, int *under); /* opens a value: the place of its version */
    /* Write the value that takes the place of a cell, of `*bytes`; none if that is 0: it stays. At least four bytes of the
     * array are before it. */
    int (*rewrite)(Codec *codec, const Cell *cell, const uint8_t *nonce, uint8_t *value, size_t *bytes);
} Kind;

struct codec {
    PyObject_HEAD
    const Kind *kind;
    Layout layout; /* where one was declared */
    Keys *keys;    /* they hold every key; what is below is that of the present column */
    int key_sets;
    Py_ssize_t key_columns; /* which have one set each; 0: there is one for all */
    Version *versions;
    int count;
    int target;                    /* its place */
    int recent;                    /* the place of the version that opened the last value, where the value does not name it */
    char prefix[LONGEST_NAME + 2]; /* "v2:" or "v2x:" of the target */
    size_t prefix_bytes;
    EVP_CIPHER_CTX *encrypt;
    Hmac sign;
    uint8_t chain[AES_BLOCK]; /* where CBC encrypts: the last block of ciphertext */
    Secret sealing, verify; /* the target's: each does nothing else */
    size_t nonce_bytes; /* of a new value */
    size_t run;         /* new values that take their nonces from one that was drawn, counting on; 1: each has its own */
    PyObject *held_labels; /* NULL: there are none */
    Label *labels;         /* one for each column */
    Py_ssize_t label_count;
    const uint8_t *bound; /* that of the present column */
    size_t bound_bytes;
    Py_ssize_t since; /* of the first version whose values are bound to their row, the number; 0: there is none */
    uint8_t row[1 + LONGEST_ROW]; /* of the present value: a zero byte and the row's key */
    size_t row_bytes;
    const uint8_t *arrays; /* for each column of the batch, whether its values are elements of arrays; NULL: none are */
    const uint8_t *plaintext; /* likewise, whether what is no value of ours is encrypted */
    uint8_t stamp[LONGEST_STAMP];
    size_t stamp_bytes; /* of the time of new values; 0: each keeps its own */
    Index *indexes; /* that new values get; NULL: none */
    int index_count;
    size_t text_at, text_bytes; /* where in `scratch` the text of the last new value is */
    uint8_t *scratch;
    size_t scratch_bytes, used_bytes;
    int busy;
};

static PyObject *VerificationError, *UnavailableError;

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

/* ---- the formats ---- */

static uint32_t number_at(const uint8_t *from) {
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static uint8_t *put_number(uint8_t *to, uint32_t number) {
    to[0] = (uint8_t)(number >> 24), to[1] = (uint8_t)(number >> 16), to[2] = (uint8_t)(number >> 8), to[3] = (uint8_t)number;
    return to + 4;
}

static long from_hex(const uint8_t *text, size_t chars, uint8_t *out, int *cases);

#include "codec_base64.h"
#include "codec_native.h"
#include "formats/codecs.h"
#include "codec_layout.h"
#include "codec_marked.h"

/* ---- a batch ---- */

static int is_array(const Codec *codec, Py_ssize_t column) {
    return codec->arrays && codec->arrays[column];
}

static void use_keys(Codec *codec, const Keys *keys) {
    codec->versions = keys->versions;
    codec->encrypt = keys->encrypt;
    codec->verify.decrypt = keys->verify;
}

/* From now on values are of this column. Called without the interpreter's lock. */
static void bind(Codec *codec, Py_ssize_t column) {
    if (codec->key_columns) use_keys(codec, &codec->keys[column]);
    if (!codec->labels) return;
    codec->bound = codec->labels[column].text;
    codec->bound_bytes = codec->labels[column].bytes;
}

static int knows_columns(const Codec *codec, Py_ssize_t columns) {
    if ((!codec->labels || codec->label_count == columns) && (!codec->key_columns || codec->key_columns == columns)) return 1;
    PyErr_SetString(PyExc_ValueError, "a label, or keys, for each column");
    return 0;
}

/* The nonce of a batch's value by its number. In a run it is the one that was drawn, its last 96 bits counted on. */
static const uint8_t *nonce_at(const Codec *codec, const uint8_t *drawn, size_t number, uint8_t *counted) {
    const uint8_t *start = drawn + number / codec->run * codec->nonce_bytes;
    if (codec->run == 1) return start;
    memcpy(counted, start, LONG_NONCE);
    size_t carry = number % codec->run;
    for (int at = LONG_NONCE - 1; at >= LONG_NONCE - NONCE; at--, carry >>= 8) counted[at] = (uint8_t)(carry += counted[at]);
    return counted;
}

#include "codec_arrays.h"
#include "codec_index.h"

/* Write the element of one cell, a length and a value. `*bytes` 0: it stays, and none was written. */
static int rewrite_cell(Codec *codec, const Cell *cell, const uint8_t *nonce, uint8_t *element, size_t *bytes) {
    put_number(element, (uint32_t)codec->kind->room(codec, cell));
    int outcome = codec->kind->rewrite(codec, cell, nonce, element + 4, bytes);
    return outcome == GOOD && *bytes && number_at(element) != *bytes ? UNVERIFIED : outcome;
}

/* One array of the wire form per column; the bytes objects exist, and only this call knows them. Afterwards `arrays` says
 * how far each was written. */
static int rewrite_columns(
    Codec *codec, Cell *cells, Py_ssize_t rows, Py_ssize_t columns, const size_t *values, const uint8_t *nonces,
    uint8_t **arrays, Py_ssize_t *changed, IndexText *indexed
) {
    uint8_t counted[LONG_NONCE];
    size_t first = 0;
    for (Py_ssize_t column = 0; column < columns; first += values[column++]) {
        uint8_t *at = arrays[column] + ARRAY_HEADER;
        bind(codec, column);
        size_t number = first; /* as in Python: values that stay use none */
        for (Py_ssize_t row = 0; row < rows; row++) {
            Cell *cell = &cells[row * columns + column];
            size_t bytes = 0;
            int outcome = GOOD;
            if (!cell->stays && is_array(codec, column)) {
                outcome = rewrite_array(codec, cell, nonces, &number, at + 4, &bytes);
                if (bytes) put_number(at, (uint32_t)bytes);
            } else if (!cell->stays) {
                outcome = rewrite_cell(codec, cell, nonce_at(codec, nonces, number, counted), at, &bytes);
                number += bytes != 0;
                if (outcome == GOOD && codec->indexes) outcome = index_value(codec, column, &indexed[row * codec->index_count]);
            }
            if (outcome != GOOD) return outcome;
            if (!bytes) {
                cell->stays = 1;
                at = put_number(at, 0xffffffffu);
                continue;
            }
            at += 4 + bytes;
            ++*changed;
        }
        arrays[column] = at;
    }
    return GOOD;
}

/* Take the key of its row from the beginning of a cell's text. The bytes that are left, which may be 0: it has none. */
static Py_ssize_t take_row(Cell *cell) {
    const uint8_t *colon = memchr(cell->text, ':', cell->bytes);
    if (!colon) return 0;
    cell->row = cell->text;
    cell->row_chars = (size_t)(colon - cell->text);
    cell->text = colon + 1;
    cell->bytes -= cell->row_chars + 1;
    return (Py_ssize_t)cell->bytes;
}

/* Find the cells of a batch. The rows must stay alive as long as the cells. GOOD, REFUSED, or NO_MEMORY with an exception.
 * `values`: for each column, how many values it has, NULLs included. */
static int find_cells(
    Codec *codec, PyObject *rows, Py_ssize_t count, Py_ssize_t first, Py_ssize_t columns, Cell *cells, size_t *values
) {
    memset(values, 0, (size_t)columns * sizeof *values);
    for (Py_ssize_t row = 0; row < count; row++) {
        PyObject *tuple = PyTuple_GetItem(rows, row);
        for (Py_ssize_t column = 0; column < columns; column++, cells++) {
            PyObject *value = PyTuple_GetItem(tuple, first + column); /* borrowed; refuses what is no tuple */
            char *text = NULL;
            Py_ssize_t bytes = 0;
            if (!value || (value != Py_None && PyBytes_AsStringAndSize(value, &text, &bytes) < 0)) return NO_MEMORY;
            cells->text = (const uint8_t *)text;
            cells->bytes = (size_t)bytes;
            cells->row = NULL;
            cells->is_plaintext = 0;
            if (codec->since && bytes && !(bytes = take_row(cells))) return REFUSED;
            if (bytes && codec->plaintext && codec->plaintext[column]) {
                cells->is_plaintext = is_no_value(codec, cells);
                if (cells->is_plaintext < 0) return PyErr_NoMemory(), NO_MEMORY;
            }
            int within = is_array(codec, column);
            long elements = !within ? 1 : bytes ? count_elements(codec, cells) : 0;
            if (elements < 0) return REFUSED;
            cells->stays = bytes == 0 || (!within && codec->kind->stays(codec, cells));
            values[column] += (size_t)elements;
        }
    }
    return GOOD;
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
static PyObject *array_for(
    Codec *codec, const Cell *cells, Py_ssize_t rows, Py_ssize_t columns, int within, uint8_t **start
) {
    size_t (*room_of)(const Codec *codec, const Cell *cell) = within ? array_room : codec->kind->room;
    Py_ssize_t bytes = 4 * rows;
    for (const Cell *cell = cells, *end = cells + rows * columns; cell < end; cell += columns) {
        if (cell->stays) continue;
        size_t room = cell->bytes > LONGEST_VALUE ? 0 : room_of(codec, cell);
        if (!room) return Py_None;
        bytes += (Py_ssize_t)room;
    }
    return new_array(bytes, rows, OID_TEXT, start);
}

/* The rows with a new value: all that are to be written. */
static PyObject *changed_rows(PyObject *rows, const Cell *cells, Py_ssize_t columns) {
    PyObject *found = PyList_New(0);
    for (Py_ssize_t row = 0, count = PyTuple_Size(rows); found && row < count; row++, cells += columns) {
        Py_ssize_t column = 0;
        while (column < columns && cells[column].stays) column++;
        if (column < columns && PyList_Append(found, PyTuple_GetItem(rows, row)) < 0) Py_CLEAR(found);
    }
    PyObject *changed = found ? PySequence_Tuple(found) : NULL;
    Py_XDECREF(found);
    return changed;
}

/* Leave out of a column's array the other rows, which have a NULL there. Returns its new end. */
static uint8_t *leave_out_rows(uint8_t *array, const Cell *cells, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t left) {
    uint8_t *to = array + ARRAY_HEADER, *from = to;
    for (Py_ssize_t row = 0; row < rows; row++, cells += columns) {
        Py_ssize_t column = 0;
        while (column < columns && cells[column].stays) column++;
        size_t bytes = number_at(from) == 0xffffffffu ? 4 : 4 + (size_t)number_at(from);
        if (column < columns) {
            memmove(to, from, bytes);
            to += bytes;
        }
        from += bytes;
    }
    put_number(array + LENGTH_OFFSET, (uint32_t)left);
    return to;
}

/* Give back what a column did not need, since some of its values stay. 0, or -1 with an exception. */
static int shrink(PyObject *arrays, Py_ssize_t at, const uint8_t *end) {
    PyObject *array = PyTuple_GetItem(arrays, at); /* borrowed */
    Py_ssize_t bytes = end - (const uint8_t *)PyBytes_AsString(array);
    if (bytes == PyBytes_Size(array)) return 0;
    PyObject *shorter = PyBytes_FromStringAndSize(PyBytes_AsString(array), bytes);
    return shorter ? PyTuple_SetItem(arrays, at, shorter) : -1;
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

/* Nonces for some values, as Python's `draw` makes them: bytes, or NULL with an exception. */
static PyObject *drawn_nonces(const Codec *codec, PyObject *draw, const size_t *values, Py_ssize_t columns) {
    size_t total = 0;
    for (Py_ssize_t column = 0; column < columns; column++) total += values[column];
    Py_ssize_t bytes = (Py_ssize_t)((total + codec->run - 1) / codec->run * codec->nonce_bytes);
    PyObject *nonces = PyObject_CallFunction(draw, "n", bytes);
    if (nonces && (!PyBytes_Check(nonces) || PyBytes_Size(nonces) != bytes)) {
        PyErr_SetString(PyExc_ValueError, "a nonce for each value or run");
        Py_CLEAR(nonces);
    }
    return nonces;
}

static PyObject *rewrite_held(Codec *codec, PyObject *rows, Py_ssize_t first, Py_ssize_t columns, PyObject *passed, PyObject *draw) {
    Py_ssize_t count = PyTuple_Size(rows), passing = PyTuple_Size(passed), changed = 0;
    if (passing < 0 || !knows_columns(codec, columns)) return NULL;
    for (int at = 0; at < codec->index_count; at++)
        if (codec->indexes[at].column >= columns) return PyErr_Format(PyExc_ValueError, "an index is of a column that the batch does not have");
    PyObject *arrays = PyTuple_New(passing + columns), *nonces = NULL, *written = NULL, *answer = NULL;
    Cell *cells = PyMem_Malloc((size_t)(count * columns + 1) * sizeof *cells);
    size_t *values = PyMem_Malloc((size_t)(columns + 1) * sizeof *values);
    uint8_t **starts = PyMem_Malloc((size_t)(columns + 1) * sizeof *starts);
    IndexText *indexed = PyMem_Calloc((size_t)(count * codec->index_count) + 1, sizeof *indexed);
    if (!arrays || !cells || !values || !starts || !indexed) {
        PyErr_NoMemory();
        goto done;
    }
    int outcome = find_cells(codec, rows, count, first, columns, cells, values);
    if (outcome == GOOD && !are_indexed(codec, cells, count, columns)) outcome = REFUSED;
    if (outcome == REFUSED) answer = refused(REFUSED);
    if (outcome != GOOD) goto done;
    nonces = drawn_nonces(codec, draw, values, columns);
    if (!nonces) goto done;
    const uint8_t *each_nonce = (const uint8_t *)PyBytes_AsString(nonces);
    for (Py_ssize_t column = 0; column < columns; column++) {
        PyObject *array = array_for(codec, cells + column, count, columns, is_array(codec, column), &starts[column]);
        if (array == Py_None) answer = refused(REFUSED);
        if (!array || array == Py_None || PyTuple_SetItem(arrays, passing + column, array) < 0) goto done;
    }
    PyThreadState *lock = PyEval_SaveThread();
    outcome = rewrite_columns(codec, cells, count, columns, values, each_nonce, starts, &changed, indexed);
    leave_scratch(codec);
    PyEval_RestoreThread(lock);
    if (outcome != GOOD) {
        answer = refused(outcome);
        goto done;
    }
    written = changed_rows(rows, cells, columns);
    if (!written) goto done;
    Py_ssize_t left = PyTuple_Size(written);
    for (Py_ssize_t column = 0; column < columns; column++) {
        uint8_t *array = (uint8_t *)PyBytes_AsString(PyTuple_GetItem(arrays, passing + column));
        uint8_t *end = left == count ? starts[column] : leave_out_rows(array, cells, count, columns, left);
        if (shrink(arrays, passing + column, end) < 0) goto done;
    }
    for (Py_ssize_t at = 0; at < passing; at++) {
        PyObject *array = passed_array(written, left, PyTuple_GetItem(passed, at));
        if (!array || PyTuple_SetItem(arrays, at, array) < 0) goto done;
    }
    PyObject *lists = index_lists(codec, indexed, cells, count, columns);
    if (lists) answer = Py_BuildValue("(OnnN)", arrays, left, changed, lists);
done:
    PyMem_Free(indexed);
    PyMem_Free(starts);
    PyMem_Free(values);
    PyMem_Free(cells);
    Py_XDECREF(nonces);
    Py_XDECREF(written);
    Py_XDECREF(arrays);
    return answer;
}

static PyObject *codec_rewrite(PyObject *self, PyObject *arguments) {
    Codec *codec = (Codec *)self;
    PyObject *sequence, *passed, *draw;
    Py_ssize_t first, columns, array_count, plaintext_count, stamp_bytes;
    const char *arrays, *plaintext, *stamp;
    if (!PyArg_ParseTuple(
            arguments, "Onny#y#O!Oy#", &sequence, &first, &columns, &arrays, &array_count, &plaintext, &plaintext_count,
            &PyTuple_Type, &passed, &draw, &stamp, &stamp_bytes
        ))
        return NULL;
    if (columns < 1) return PyErr_Format(PyExc_ValueError, "a row has at least one value");
    if ((array_count && array_count != columns) || (plaintext_count && plaintext_count != columns))
        return PyErr_Format(PyExc_ValueError, "a byte for each column, or none");
    if (plaintext_count && (array_count || codec->kind != &NATIVE))
        return PyErr_Format(PyExc_ValueError, "plaintext becomes values of our own, which are columns");
    if (stamp_bytes && stamp_bytes != LONGEST_STAMP) return PyErr_Format(PyExc_ValueError, "a time has 8 bytes, or none");
    PyObject *rows = held(sequence);
    if (!rows) return NULL;
    PyObject *answer = NULL;
    if (enter(codec)) {
        memcpy(codec->stamp, stamp, (size_t)stamp_bytes);
        codec->stamp_bytes = (size_t)stamp_bytes;
        codec->arrays = array_count ? (const uint8_t *)arrays : NULL;
        codec->plaintext = plaintext_count ? (const uint8_t *)plaintext : NULL;
        answer = rewrite_held(codec, rows, first, columns, passed, draw);
        leave_scratch(codec); /* of a batch that was refused before its values were */
        codec->arrays = codec->plaintext = NULL;
        codec->busy = 0;
    }
    Py_DECREF(rows);
    return answer;
}

static int check_value(Codec *codec, const Cell *cell, Py_ssize_t *held) {
    if (!cell->bytes) return held[0] += cell->text != NULL, GOOD;
    int under, outcome = codec->kind->check(codec, cell, &under);
    if (outcome == GOOD) held[1 + under]++;
    return outcome;
}

/* Whether every value decrypts, those under the target too. `counts` has, for each column, the number of empty strings,
 * then that of values under each version in turn. */
static int check_cells(Codec *codec, const Cell *cells, Py_ssize_t count, Py_ssize_t columns, Py_ssize_t *counts) {
    for (Py_ssize_t at = 0; at < count; at++) {
        Py_ssize_t column = at % columns, *held = counts + column * (codec->count + 1);
        int outcome = cells[at].bytes > LONGEST_VALUE ? REFUSED : GOOD;
        bind(codec, column);
        if (!is_array(codec, column)) outcome = outcome == GOOD ? check_value(codec, &cells[at], held) : outcome;
        else if (cells[at].bytes)
            for (Elements in = elements_of(&cells[at]); outcome == GOOD && next_element(codec, &in) > 0;)
                outcome = check_value(codec, &in.element, held);
        if (outcome != GOOD) return outcome;
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
    if (!knows_columns(codec, columns)) return NULL;
    Py_ssize_t count = PyTuple_Size(rows) * columns, figures = columns * (codec->count + 1);
    Cell *cells = PyMem_Malloc((size_t)(count + 1) * sizeof *cells);
    size_t *values = PyMem_Malloc((size_t)columns * sizeof *values);
    Py_ssize_t *counts = PyMem_Calloc((size_t)figures, sizeof *counts);
    PyObject *answer = NULL;
    if (!cells || !values || !counts) {
        PyErr_NoMemory();
        goto done;
    }
    int outcome = find_cells(codec, rows, PyTuple_Size(rows), first, columns, cells, values);
    if (outcome == NO_MEMORY) goto done;
    if (outcome == GOOD) {
        PyThreadState *lock = PyEval_SaveThread();
        outcome = check_cells(codec, cells, count, columns, counts);
        leave_scratch(codec);
        PyEval_RestoreThread(lock);
    }
    answer = outcome == GOOD ? as_tuple(counts, figures) : refused(outcome);
done:
    PyMem_Free(counts);
    PyMem_Free(values);
    PyMem_Free(cells);
    return answer;
}

static PyObject *codec_check(PyObject *self, PyObject *arguments) {
    Codec *codec = (Codec *)self;
    PyObject *sequence, *answer = NULL;
    Py_ssize_t first, columns, array_count;
    const char *arrays;
    if (!PyArg_ParseTuple(arguments, "Onny#", &sequence, &first, &columns, &arrays, &array_count)) return NULL;
    if (columns < 1) return PyErr_Format(PyExc_ValueError, "a row has at least one value");
    if (array_count && array_count != columns) return PyErr_Format(PyExc_ValueError, "a byte for each column, or none");
    PyObject *rows = held(sequence);
    if (!rows) return NULL;
    if (enter(codec)) {
        codec->arrays = array_count ? (const uint8_t *)arrays : NULL;
        answer = check_held(codec, rows, first, columns);
        codec->arrays = NULL;
        codec->busy = 0;
    }
    Py_DECREF(rows);
    return answer;
}

/* ---- the type ---- */

static int binds_row(const Codec *codec, const char *name, size_t bytes) {
    return codec->since && generation_of((const uint8_t *)name, bytes) == &SECOND && atol(name + 1) >= codec->since;
}

static int add_version(Codec *codec, Keys *keys, PyObject *entry, const char *target, Py_ssize_t target_bytes) {
    const char *name, *key, *marker = "";
    Py_ssize_t bytes, key_bytes, marker_bytes = 0;
    if (!PyArg_ParseTuple(entry, "y#y#|y#", &name, &bytes, &key, &key_bytes, &marker, &marker_bytes)) return -1;
    if (bytes < 1 || bytes > LONGEST_NAME || key_bytes != KEY || marker_bytes != (codec->kind == &MARKED ? MARKER : 0)) {
        PyErr_SetString(PyExc_ValueError, "a version has a name of at most 8 bytes, a key of 32, and a marker of 8 or none");
        return -1;
    }
    Version *version = &keys->versions[codec->count], *same = &codec->keys->versions[codec->count];
    if (keys != codec->keys && (same->name_bytes != (size_t)bytes || memcmp(same->name, name, (size_t)bytes) != 0)) {
        PyErr_SetString(PyExc_ValueError, "each column has keys of the same versions");
        return -1;
    }
    memcpy(version->name, name, (size_t)bytes);
    version->name_bytes = (size_t)bytes;
    memcpy(version->marker, marker, (size_t)marker_bytes);
    codec->count++;
    int good = codec->kind->set_key(version->name, (const uint8_t *)key, &version->secret);
    version->secret.binds_row = binds_row(codec, version->name, (size_t)bytes);
    if (good && bytes == target_bytes && memcmp(name, target, (size_t)bytes) == 0) {
        codec->target = codec->count - 1;
        memcpy(codec->prefix, name, (size_t)bytes);
        codec->prefix[bytes] = ':';
        codec->prefix_bytes = (size_t)bytes + 1;
        codec->versions = keys->versions;
        codec->encrypt = codec->verify.decrypt = NULL;
        good = codec->kind->set_target(codec, (const uint8_t *)key);
        codec->sealing.binds_row = codec->verify.binds_row = version->secret.binds_row;
        keys->encrypt = codec->encrypt;
        keys->verify = codec->verify.decrypt;
    }
    if (!good) PyErr_SetString(UnavailableError, "OpenSSL lacks a cipher of this format");
    return good ? 0 : -1;
}

static int set_labels(Codec *codec, PyObject *labels) {
    Py_ssize_t count = PyTuple_Size(labels);
    codec->labels = PyMem_Calloc((size_t)count + 1, sizeof *codec->labels);
    if (!codec->labels) return PyErr_NoMemory(), -1;
    Py_INCREF(labels);
    codec->held_labels = labels;
    codec->label_count = count;
    for (Py_ssize_t at = 0; at < count; at++) {
        PyObject *label = PyTuple_GetItem(labels, at); /* borrowed; seen to be bytes */
        codec->labels[at].text = (const uint8_t *)PyBytes_AsString(label);
        codec->labels[at].bytes = (size_t)PyBytes_Size(label);
    }
    return 0;
}

/* `columns` sets of keys, one behind another, or one that is for all columns. */
static int set_keys(Codec *codec, PyObject *keys, Py_ssize_t columns, const char *target, Py_ssize_t target_bytes) {
    Py_ssize_t sets = columns ? columns : 1, total = PyTuple_Size(keys), each = total / sets;
    int is_good = columns >= 0 && columns <= MOST_KEY_SETS && each * sets == total && each <= MOST_VERSIONS;
    if (!is_good || (columns && codec->kind != &LAYOUT12 && codec->kind != &LAYOUT16))
        return PyErr_SetString(PyExc_ValueError, "the same number of keys for each column, of values with a layout"), -1;
    codec->keys = PyMem_Calloc((size_t)sets, sizeof *codec->keys);
    if (!codec->keys) return PyErr_NoMemory(), -1;
    codec->key_sets = (int)sets;
    codec->key_columns = columns;
    for (Py_ssize_t set = 0; set < sets; set++) {
        Keys *here = &codec->keys[set];
        here->versions = PyMem_Calloc((size_t)each + 1, sizeof *here->versions);
        if (!here->versions) return PyErr_NoMemory(), -1;
        codec->count = 0;
        for (Py_ssize_t at = 0; at < each; at++)
            if (add_version(codec, here, PyTuple_GetItem(keys, set * each + at), target, target_bytes) < 0) return -1;
        if (!here->encrypt) return PyErr_SetString(PyExc_ValueError, "the target is among the keys"), -1;
    }
    use_keys(codec, codec->keys);
    return 0;
}

static int codec_init(PyObject *self, PyObject *arguments, PyObject *keywords) {
    Codec *codec = (Codec *)self;
    PyObject *keys, *layout = NULL, *labels = NULL;
    const char *target, *kind = "native";
    Py_ssize_t target_bytes, columns = 0;
    (void)keywords;
    if (codec->keys) return PyErr_SetString(PyExc_TypeError, "a codec is made once"), -1;
    if (!PyArg_ParseTuple(arguments, "O!y#|sOOnn", &PyTuple_Type, &keys, &target, &target_bytes, &kind, &layout, &labels, &columns, &codec->since))
        return -1;
    if (layout == Py_None) layout = NULL;
    if (labels == Py_None) labels = NULL;
    if (labels && !PyTuple_Check(labels)) return PyErr_SetString(PyExc_TypeError, "labels are a tuple"), -1;
    if (layout && !PyTuple_Check(layout)) return PyErr_SetString(PyExc_TypeError, "a layout is a tuple"), -1;
    for (Py_ssize_t at = 0; labels && at < PyTuple_Size(labels); at++)
        if (!PyBytes_Check(PyTuple_GetItem(labels, at))) return PyErr_SetString(PyExc_TypeError, "a label is bytes"), -1;
    if (layout && set_layout(&codec->layout, layout, strcmp(kind, "marked") == 0) < 0) return -1;
    if (layout) codec->kind = strcmp(kind, "marked") == 0 ? &MARKED : codec->layout.nonce_bytes == 12 ? &LAYOUT12 : &LAYOUT16;
    else codec->kind = kind_named(kind);
    if (!codec->kind) return PyErr_SetString(PyExc_ValueError, "there is no such format"), -1;
    codec->nonce_bytes = codec->kind->nonce_bytes;
    codec->run = 1;
    if (labels && PyTuple_Size(labels) && set_labels(codec, labels) < 0) return -1;
    if (set_keys(codec, keys, columns, target, target_bytes) == 0) return 0;
    codec->encrypt = NULL; /* nobody uses what is incomplete */
    return -1;
}

/* OpenSSL wipes what it frees. */
static void free_hmac(Hmac *hmac) {
    EVP_MD_CTX_free(hmac->inner);
    EVP_MD_CTX_free(hmac->outer);
    EVP_MD_CTX_free(hmac->work);
}

static void forget(Secret *secret) {
    EVP_CIPHER_CTX_free(secret->decrypt);
    EVP_CIPHER_CTX_free(secret->block);
    for (int at = 0; at < REMEMBERED; at++) EVP_CIPHER_CTX_free(secret->derived[at].context);
    OPENSSL_cleanse(secret->derived, sizeof secret->derived);
    OPENSSL_cleanse(secret->subkey, sizeof secret->subkey);
    free_hmac(&secret->hmac);
}

static void codec_dealloc(PyObject *self) {
    Codec *codec = (Codec *)self;
    PyTypeObject *type = Py_TYPE(self);
    for (int set = 0; set < codec->key_sets; set++) {
        Keys *keys = &codec->keys[set];
        for (Version *each = keys->versions; each && each->name_bytes; each++) forget(&each->secret);
        EVP_CIPHER_CTX_free(keys->encrypt);
        EVP_CIPHER_CTX_free(keys->verify);
        PyMem_Free(keys->versions);
    }
    codec->verify.decrypt = NULL; /* it was one of these */
    forget(&codec->sealing);
    forget(&codec->verify);
    PyMem_Free(codec->labels);
    Py_XDECREF(codec->held_labels);
    free_hmac(&codec->sign);
    for (int at = 0; at < codec->index_count; at++) free_hmac(&codec->indexes[at].hmac);
    PyMem_Free(codec->indexes);
    free_scratch(codec);
    PyMem_Free(codec->keys);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *codec_reduce(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return PyErr_Format(PyExc_TypeError, "a codec holds keys and cannot be pickled");
}

static PyMethodDef codec_methods[] = {
    {"rewrite", codec_rewrite, METH_VARARGS, "rewrite(rows, first, columns, arrays, plaintext, ((index, oid), ...), draw, time) -> (arrays of the rows with a new value, such rows, new cells, a list for each index) or None"},
    {"index", codec_index, METH_O, "index(((column, key, bytes, 1 strip | 2 lower | 4 NFC), ...)): what is indexed; said once"},
    {"check", codec_check, METH_VARARGS, "check(rows, first, columns, arrays) -> for each column the number of empty strings, then of values under each version; None if one does not decrypt"},
    {"__reduce__", codec_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot codec_slots[] = {
    {Py_tp_init, codec_init},
    {Py_tp_dealloc, codec_dealloc},
    {Py_tp_methods, codec_methods},
    {Py_tp_doc, "Codec(((name, key), ...), target, format, layout, labels, columns, since): keys by the names of their versions, for all columns or, one behind another, for each of so many; what the values of each column are authenticated with; the number of the first version whose values are bound to their row"},
    {0, NULL},
};

static PyType_Spec codec_spec = {"_keyrotation_codec.Codec", sizeof(Codec), 0, Py_TPFLAGS_DEFAULT, codec_slots};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_keyrotation_codec", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__keyrotation_codec(void) {
    make_tables(&STANDARD);
    make_tables(&URL_SAFE);
    choose_base64();
    PyObject *made = PyModule_Create(&module);
    PyObject *type = made ? PyType_FromSpec(&codec_spec) : NULL;
    if (!VerificationError) VerificationError = PyErr_NewException("_keyrotation_codec.VerificationError", NULL, NULL);
    if (!UnavailableError) UnavailableError = PyErr_NewException("_keyrotation_codec.UnavailableError", NULL, NULL);
    if (type && VerificationError && UnavailableError && PyModule_AddObjectRef(made, "Codec", type) == 0 &&
        PyModule_AddObjectRef(made, "VerificationError", VerificationError) == 0 &&
        PyModule_AddObjectRef(made, "UnavailableError", UnavailableError) == 0 &&
        PyModule_AddStringConstant(made, "LIBRARY", OpenSSL_version(0)) == 0) {
        Py_DECREF(type);
        return made;
    }
    Py_XDECREF(type);
    Py_XDECREF(made);
    return NULL;
}

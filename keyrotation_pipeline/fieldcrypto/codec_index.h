/* Search indexes of the values that are rewritten: `search_index.py` is the reference. Only what becomes of ASCII is known
 * here; a text with other characters that is to be normalised is for Python, value by value.
 */

enum { STRIPS = 1, LOWERS = 2, NORMALISES = 4 };
enum { LONGEST_MAC = 32, LONGEST_INDEX = LONGEST_NAME + 1 + 44, MOST_INDEXES = 1600 };

/* One index of a table, under the target. */
struct index {
    Py_ssize_t column; /* of its texts */
    Hmac hmac;
    size_t bytes; /* of the MAC that are kept */
    int normalised;
};

/* What one row gets. */
typedef struct {
    uint8_t is_for_python, bytes; /* 0 bytes: nothing */
    uint8_t text[LONGEST_INDEX];
} IndexText;

/* As Python's `str.strip` takes it. */
static int is_space(uint8_t character) {
    return (character >= 9 && character <= 13) || (character >= 28 && character <= 32);
}

/* Normalise in place. 0: it is not ASCII. */
static int normalised(const Index *index, uint8_t **text, size_t *bytes) {
    if (!index->normalised) return 1;
    for (size_t at = 0; at < *bytes; at++)
        if ((*text)[at] & 0x80) return 0;
    if (index->normalised & STRIPS) {
        while (*bytes && is_space((*text)[*bytes - 1])) --*bytes;
        for (; *bytes && is_space(**text); ++*text) --*bytes;
    }
    if (index->normalised & LOWERS)
        for (size_t at = 0; at < *bytes; at++)
            if ((*text)[at] >= 'A' && (*text)[at] <= 'Z') (*text)[at] |= 0x20;
    return 1;
}

/* Compute the index of the text that was encrypted last; the text is changed. */
static int index_text(const Codec *codec, const Index *index, IndexText *to) {
    uint8_t mac[LONGEST_MAC], *text = codec->scratch + codec->text_at;
    size_t bytes = codec->text_bytes;
    if (!normalised(index, &text, &bytes)) return to->is_for_python = 1, GOOD;
    if (!mac_of(&index->hmac, text, bytes, mac)) return UNVERIFIED;
    memcpy(to->text, codec->prefix, codec->prefix_bytes);
    to->bytes = (uint8_t)(to_base64(&STANDARD, mac, index->bytes, to->text + codec->prefix_bytes) - to->text);
    return GOOD;
}

/* The indexes of a column's value that was rewritten. `row`: the first of its row's. */
static int index_value(Codec *codec, Py_ssize_t column, IndexText *row) {
    for (int at = 0; at < codec->index_count; at++) {
        /* Two indexes of one column: the second would normalise what the first has. `set_index` refuses that. */
        if (codec->indexes[at].column != column) continue;
        int outcome = index_text(codec, &codec->indexes[at], &row[at]);
        if (outcome != GOOD) return outcome;
    }
    return GOOD;
}

/* Whether each text that is indexed is rewritten, or there is none. */
static int are_indexed(const Codec *codec, const Cell *cells, Py_ssize_t rows, Py_ssize_t columns) {
    for (int at = 0; at < codec->index_count; at++)
        for (Py_ssize_t row = 0; row < rows; row++) {
            const Cell *cell = &cells[row * columns + codec->indexes[at].column];
            if (cell->bytes && (cell->stays || is_array(codec, codec->indexes[at].column))) return 0;
        }
    return 1;
}

/* Of one index a list: for each row that is written its text, None, or the number of the row, which Python indexes. */
static PyObject *index_list(const Codec *codec, const IndexText *texts, int index, const Cell *cells, Py_ssize_t rows, Py_ssize_t columns) {
    PyObject *list = PyList_New(0);
    for (Py_ssize_t row = 0; list && row < rows; row++, cells += columns) {
        const IndexText *text = &texts[row * codec->index_count + index];
        Py_ssize_t column = 0;
        while (column < columns && cells[column].stays) column++;
        if (column == columns) continue;
        PyObject *item = text->is_for_python ? PyLong_FromSsize_t(row)
                         : text->bytes       ? PyBytes_FromStringAndSize((const char *)text->text, text->bytes)
                                             : Py_NewRef(Py_None);
        if (!item || PyList_Append(list, item) < 0) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *index_lists(const Codec *codec, const IndexText *texts, const Cell *cells, Py_ssize_t rows, Py_ssize_t columns) {
    PyObject *lists = PyTuple_New(codec->index_count);
    for (int at = 0; lists && at < codec->index_count; at++) {
        PyObject *list = index_list(codec, texts, at, cells, rows, columns);
        if (!list || PyTuple_SetItem(lists, at, list) < 0) Py_CLEAR(lists);
    }
    return lists;
}

static int set_index(Codec *codec, PyObject *entry) {
    const char *key;
    Py_ssize_t key_bytes, bytes;
    Index *index = &codec->indexes[codec->index_count];
    if (!PyArg_ParseTuple(entry, "ny#ni", &index->column, &key, &key_bytes, &bytes, &index->normalised)) return -1;
    int good = index->column >= 0 && key_bytes == KEY && bytes >= 1 && bytes <= LONGEST_MAC;
    for (int at = 0; at < codec->index_count; at++) good = good && codec->indexes[at].column != index->column;
    if (!good) return PyErr_SetString(PyExc_ValueError, "a column without another index, a key of 32 bytes, 1 to 32 bytes"), -1;
    index->bytes = (size_t)bytes;
    codec->index_count++; /* so that what was made is freed */
    if (set_hmac(&index->hmac, (const uint8_t *)key, KEY)) return 0;
    return PyErr_SetString(UnavailableError, "OpenSSL lacks a digest"), -1;
}

static PyObject *codec_index(PyObject *self, PyObject *entries) {
    Codec *codec = (Codec *)self;
    Py_ssize_t count = PyTuple_Size(entries); /* refuses what is no tuple */
    if (count < 0) return NULL;
    if (codec->kind != &NATIVE || codec->indexes || codec->busy || count > MOST_INDEXES)
        return PyErr_Format(PyExc_TypeError, "values of our own are indexed, which is said once");
    codec->indexes = PyMem_Calloc((size_t)count + 1, sizeof *codec->indexes);
    if (!codec->indexes) return PyErr_NoMemory();
    for (Py_ssize_t at = 0; at < count; at++)
        if (set_index(codec, PyTuple_GetItem(entries, at)) < 0) {
            codec->encrypt = NULL; /* nobody uses what is incomplete */
            return NULL;
        }
    Py_RETURN_NONE;
}

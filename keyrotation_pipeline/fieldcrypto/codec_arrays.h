/* Columns whose values are the elements of arrays: a cell is the text of an array as the server writes it, and so is what
 * takes its place. What is between the elements stays, and so does an element that is NULL, empty, or under the target.
 * `arrays.py` is the reference.
 *
 * Texts with a backslash are for Python: no value of ours has one, nor anything else that is escaped within quotes.
 */

/* Where a whole number ends; NULL where none begins. */
static const uint8_t *after_number(const uint8_t *at, const uint8_t *end) {
    if (at < end && *at == '-') at++;
    const uint8_t *digits = at;
    while (at < end && *at >= '0' && *at <= '9') at++;
    return at > digits ? at : NULL;
}

/* Bytes before the first brace: dimensions with their lower bounds, as in ``[0:2][-1:5]=``, where these are not 1; -1 if
 * they are none. */
static long bounds_bytes(const uint8_t *text, size_t bytes) {
    const uint8_t *at = text, *end = text + bytes;
    while (at < end && *at == '[') {
        if (!(at = after_number(at + 1, end)) || at == end || *at != ':') return -1;
        if (!(at = after_number(at + 1, end)) || at == end || *at != ']') return -1;
        at++;
    }
    if (at == text) return 0;
    return at < end && *at == '=' ? at + 1 - text : -1;
}

/* The elements of an array, one after another. */
typedef struct {
    const uint8_t *at, *end;
    const uint8_t *start; /* of the present element as it is written, quotes included; it ends at `at` */
    Cell element;         /* its value */
    long depth;           /* how many braces are open */
} Elements;

static Elements elements_of(const Cell *cell) {
    return (Elements){.at = cell->text + bounds_bytes(cell->text, cell->bytes), .end = cell->text + cell->bytes};
}

/* Go to the next element. 0: there is none; -1: this is no array. */
static int next_element(const Codec *codec, Elements *in) {
    for (; in->at < in->end && (*in->at == '{' || *in->at == '}' || *in->at == ','); in->at++)
        in->depth += *in->at == '{' ? 1 : *in->at == '}' ? -1 : 0;
    if (in->at == in->end) return 0;
    const uint8_t *start = in->start = in->at;
    if (*start == '"') {
        const uint8_t *quote = memchr(start + 1, '"', (size_t)(in->end - start - 1));
        if (!quote) return -1;
        in->element = (Cell){.text = start + 1, .bytes = (size_t)(quote - start - 1)};
        in->at = quote + 1;
    } else {
        while (in->at < in->end && *in->at != '{' && *in->at != '}' && *in->at != ',' && *in->at != '"') in->at++;
        in->element = (Cell){.text = start, .bytes = (size_t)(in->at - start)};
        if (in->element.bytes == 4 && memcmp(start, "NULL", 4) == 0) in->element = (Cell){.stays = 1};
    }
    in->element.stays = in->element.bytes == 0 || codec->kind->stays(codec, &in->element);
    return 1;
}

/* How many elements an array has, NULLs included; -1 if this is none that is taken apart here. */
static long count_elements(const Codec *codec, const Cell *cell) {
    if (bounds_bytes(cell->text, cell->bytes) < 0 || memchr(cell->text, '\\', cell->bytes)) return -1;
    Elements in = elements_of(cell);
    if (in.at == in.end || *in.at != '{') return -1;
    long count = 0;
    for (int found; (found = next_element(codec, &in)); count++)
        if (found < 0) return -1;
    return in.depth ? -1 : count;
}

/* Room for a new array; 0 if one of its elements can be no value of ours. */
static size_t array_room(const Codec *codec, const Cell *cell) {
    size_t room = cell->bytes;
    for (Elements in = elements_of(cell); next_element(codec, &in) > 0;) {
        if (in.element.stays) continue;
        size_t value = codec->kind->room(codec, &in.element), old = (size_t)(in.at - in.start);
        if (!value) return 0;
        if (value + 2 > old) room += value + 2 - old; /* in quotes */
    }
    return room;
}

/* Write the array that takes the place of a cell, of `*bytes`; none if that is 0: it stays. `*number`: of the next nonce. */
static int rewrite_array(Codec *codec, const Cell *cell, const uint8_t *nonces, size_t *number, uint8_t *array, size_t *bytes) {
    const uint8_t *copied = cell->text;
    uint8_t *to = array, counted[LONG_NONCE];
    *bytes = 0;
    for (Elements in = elements_of(cell); next_element(codec, &in) > 0;) {
        if (in.element.stays) continue;
        size_t before = (size_t)(in.start - copied), new_bytes = 0;
        uint8_t *value = to + before + 1;
        int outcome = codec->kind->rewrite(codec, &in.element, nonce_at(codec, nonces, *number, counted), value, &new_bytes);
        if (outcome != GOOD) return outcome;
        if (!new_bytes) continue; /* under the target, which some formats know only now */
        if (memchr(value, '"', new_bytes) || memchr(value, '\\', new_bytes)) return REFUSED; /* to be escaped */
        memcpy(to, copied, before);
        value[-1] = value[new_bytes] = '"';
        to = value + new_bytes + 1;
        copied = in.at;
        *bytes += new_bytes;
        ++*number;
    }
    if (!*bytes) return GOOD;
    size_t rest = (size_t)(cell->text + cell->bytes - copied);
    memcpy(to, copied, rest);
    *bytes = (size_t)(to - array) + rest;
    return GOOD;
}
